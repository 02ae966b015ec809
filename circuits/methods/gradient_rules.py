"""The gradient rules of edge attribution: at which points of which path gradients are taken, and which differences they multiply.

The rules, with their sources, are listed in `circuits.methods.edge_attribution`. Each is a function that adds the products of one batch
to a `Contraction`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from circuits.engine.capture import Writes
from circuits.engine.gim_rules import GimRules, interaction_modified
from circuits.engine.hooks import Hook
from circuits.engine.relp_rules import relevance
from circuits.errors import InputError
from circuits.measure.contraction import Contraction
from circuits.measure.sign_check import SignCheck
from circuits.methods.options import OFFSETS

ATTENTION = ("live", "detached")
AT_CLEAN = ("clean", "relp", "gim")
"""Rules that take one gradient, at the clean run."""


@dataclass(frozen=True)
class Rule:
    """A rule for gradients, with its options.

    Attributes:
        function: adds a batch's products to a `Contraction`.
        points: points on the path at which gradients are taken, from 0 (ablated) to 1 (clean).
        attention, gim: see `edge_attribution`.
        options: options for the provenance.
        check: check of the sign of input->m0, if requested.
    """

    function: "Callable[[Contraction, Rule], None]"
    points: tuple[float, ...]
    attention: str
    gim: GimRules
    options: dict[str, object]
    check: SignCheck | None = None

    @property
    def many_passes(self) -> bool:
        """Whether gradients are taken at `steps` points, so that each batch needs many passes."""
        return "steps" in self.options


def gradient_rule(gradient: str, steps: int, quadrature: str, attention: str, gim: GimRules | None) -> Rule:
    if gradient not in GRADIENTS:
        raise InputError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
    if quadrature not in OFFSETS:
        raise InputError(f"quadrature must be one of {', '.join(OFFSETS)}, got {quadrature!r}")
    if attention not in ATTENTION:
        raise InputError(f"attention must be one of {', '.join(ATTENTION)}, got {attention!r}")
    if gim is not None and (gradient != "gim" or not isinstance(gim, GimRules)):
        raise InputError(f"gim are the circuits.GimRules of gradient='gim', got {gim!r} for gradient={gradient!r}")
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    options: dict[str, object] = {"gradient": gradient}
    fixed = {"corrupted": (0.0,), "clean-corrupted": (0.0, 1.0)}
    points = fixed.get(gradient) or tuple((k + OFFSETS[quadrature]) / steps for k in range(steps))
    if gradient in ("ig", "ig-activations", "conductance"):
        options |= {"steps": steps, "quadrature": quadrature}
    if gradient == "relp":
        options["attention"] = attention
    gim = gim or GimRules()
    if gradient == "gim":
        options |= asdict(gim)
    return Rule(GRADIENTS[gradient], points, attention, gim, options)


def _at_clean(contraction: Contraction, rule: Rule) -> None:
    gradients = contraction.gradients()
    replacement = contraction.question.replacement(contraction.batch.suffix, gradients.writes)
    if rule.check is not None:
        rule.check.measure(contraction.batch, gradients, replacement)
    total, difference = contraction.sum(), contraction.difference(gradients.writes, replacement)
    total.add(gradients)
    del gradients, replacement  # as large as the arrays that follow
    contraction.add(total, difference)


def _relevance(contraction: Contraction, rule: Rule) -> None:
    with relevance(contraction.question.model.architecture, rule.attention) as rules:
        gradients = contraction.gradients(hooks=rules.hooks)
        # Computed inside the rules so that both runs round alike: scores are exactly 0 if the replacement equals the clean value.
        replacement = contraction.question.replacement(contraction.batch.suffix, gradients.writes)
    rules.check(gradients)
    total = contraction.sum(rules.architecture)
    total.add(gradients)
    contraction.add(total, contraction.difference(gradients.writes, replacement))


def _interaction_modified(contraction: Contraction, rule: Rule) -> None:
    with interaction_modified(contraction.question.model.architecture, rule.gim) as run:
        gradients = run.at_readers(contraction.gradients(hooks=run.hooks))
        # Inside the rules for the same reason as in `_relevance`.
        replacement = contraction.question.replacement(contraction.batch.suffix, gradients.writes)
    total = contraction.sum(run.architecture)
    total.add(gradients)
    contraction.add(total, contraction.difference(gradients.writes, replacement))


def _along_path(contraction: Contraction, rule: Rule) -> None:
    clean, replacement = contraction.clean_and_replacement()
    total = contraction.sum()
    on_path = [torch.lerp(replacement.embedding, clean.embedding, alpha) for alpha in rule.points]
    for gradients in contraction.gradients_along(on_path):
        total.add(gradients, 1 / len(rule.points))
    contraction.add(total, contraction.difference(clean, replacement))


def _conductance(contraction: Contraction, rule: Rule) -> None:
    clean, replacement = contraction.clean_and_replacement()
    steps = len(rule.points)
    before = contraction.writes(replacement.embedding)
    for k, alpha in enumerate(rule.points, start=1):
        at_end = torch.lerp(replacement.embedding, clean.embedding, k / steps)
        after = clean if k == steps else contraction.writes(at_end)
        total = contraction.sum()
        total.add(contraction.gradients(torch.lerp(replacement.embedding, clean.embedding, alpha)))
        contraction.add(total, contraction.difference(after, before))
        before = after


def _along_activations(contraction: Contraction, rule: Rule) -> None:
    clean, replacement = contraction.clean_and_replacement()
    graph, layers = contraction.graph, range(contraction.graph.n_layers)
    groups: list[tuple[slice, int, str]] = [(slice(0, 1), 0, "input")]
    groups += [(graph.head_writers(layer), layer, "heads") for layer in layers]
    mlps = [(graph.mlp_writer(layer), layer) for layer in layers if graph.mlps[layer]]
    groups += [(slice(mlp, mlp + 1), layer, "mlp") for mlp, layer in mlps]
    difference = contraction.difference(clean, replacement)
    for writers, layer, part in groups:
        total = contraction.sum()
        for alpha in rule.points:
            hooks = _holding(contraction, clean, difference, 1 - alpha, layer, part)
            total.add(contraction.gradients(hooks=hooks), 1 / len(rule.points))
        contraction.add(total, difference, writers)


def _holding(
    contraction: Contraction, clean: Writes, difference: Writes, ablated: float, layer: int, part: str
) -> list[Hook]:
    """Hooks that hold the embedding, the heads or the MLP of a layer at a share `ablated` of the path to their replacement."""
    block = contraction.question.model.architecture.blocks[layer]

    def between(value: Tensor | None, change: Tensor | None) -> Tensor:
        assert value is not None
        assert change is not None
        return (value - ablated * change).to(value.dtype)

    if part == "input":
        held, point = between(clean.embedding, difference.embedding), block.resid_pre
    elif part == "mlp":
        held, point = between(clean.mlps[layer], difference.mlps[layer]), block.mlp_out
    else:
        held, point = between(clean.heads[layer], difference.heads[layer]), block.z
        if not block.linear_heads:
            held, point = held.sum(2), block.attn_out
    assert point is not None
    return [(point, lambda x: held)]


GRADIENTS: dict[str, Callable[[Contraction, Rule], None]] = {
    "clean": _at_clean,
    "corrupted": _along_path,
    "clean-corrupted": _along_path,
    "ig": _along_path,
    "ig-activations": _along_activations,
    "conductance": _conductance,
    "relp": _relevance,
    "gim": _interaction_modified,
}
"""The values of `gradient`."""
