"""The neurons of MLPs: their direct effects, what their output directions promote, and on which tokens of the prompts they fire."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.descriptions.output_values import weighted
from circuits.descriptions.tokens import token_texts
from circuits.engine.final_writes import neurons_point
from circuits.engine.hooks import Hook, TokenBatch, inference_state, run
from circuits.errors import InputError
from circuits.graph.nodes import find_site
from circuits.methods.activation_patching import activation_patching
from circuits.methods.attribution_patching import attribution_patching
from circuits.methods.direct_effects import direct_effects
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.prompts.pairs import PromptPairs
from circuits.question.metrics import MetricLike
from circuits.results.provenance import Provenance, frozen
from circuits.shown import Shown

BY = ("direct", "effect")
PROMOTED = 5
AT_ONCE = 64
"""Neurons whose logits are computed together."""


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class TopNeurons(Shown):
    """The neurons with the largest effects, MLP by MLP.

    Attributes:
        neurons: names, `m5.n7`.
        direct, direct_stderr: direct effect on the metric.
        effect, effect_stderr: exact noising effect; None if neurons were chosen by direct effects.
        promotes, suppresses: tokens whose logits their output directions raise and lower most (for a positive activation).
        fires_on: tokens of the clean prompts with the largest absolute activations.
        provenance: the origin of the direct effects.
    """

    neurons: tuple[str, ...]
    direct: Float[Tensor, " neuron"]
    direct_stderr: Float[Tensor, " neuron"]
    effect: Float[Tensor, " neuron"] | None
    effect_stderr: Float[Tensor, " neuron"] | None
    promotes: tuple[tuple[str, ...], ...]
    suppresses: tuple[tuple[str, ...], ...]
    fires_on: tuple[tuple[str, ...], ...]
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    def rows(self) -> Sequence[dict[str, Any]]:
        """One row per neuron, in the order of the MLPs and then of their effects."""
        rows = []
        for i, name in enumerate(self.neurons):
            row: dict[str, Any] = {
                "node": name,
                "direct effect": float(self.direct[i]),
                "stderr": float(self.direct_stderr[i]),
            }
            if self.effect is not None and self.effect_stderr is not None:
                row |= {"effect": float(self.effect[i]), "effect stderr": float(self.effect_stderr[i])}
            texts = {"promotes": self.promotes, "suppresses": self.suppresses, "fires on": self.fires_on}
            rows.append(row | {what: ", ".join(map(repr, words[i])) for what, words in texts.items()})
        return rows

    def __repr__(self) -> str:
        return f"TopNeurons({len(self.neurons)} neurons)"


@on_model
def top_neurons(
    model: Model,
    pairs: PromptPairs,
    mlps: Sequence[str],
    *,
    top: int = 3,
    by: str = "direct",
    metric: MetricLike | None = None,
    batch_size: int | None = None,
) -> TopNeurons:
    """The neurons of some MLPs that matter most to the metric.

    Args:
        model, pairs, batch_size: see `circuits.direct_effects`.
        mlps: names such as `m5`.
        top: neurons of each MLP.
        by: `direct`: by their direct effects; `effect`: by their effects as attribution patching (AtP) estimates them, and then
            patched one by one for the exact effect.
        metric: None: the task's preferred metric.

    Raises:
        InputError: not an MLP, or an unknown option.
        ModelError: the model does not show its neurons.
    """
    sites = [find_site(model.graph, name, model.widths) for name in mlps]
    wrong = [site.name for site in sites if site.point != "mlp_out" or site.index is not None]
    if wrong or not sites:
        raise InputError(f"expected MLPs such as m5, got {wrong[0] if wrong else 'none'}")
    if by not in BY or top < 1:
        raise InputError(f"by must be one of {', '.join(BY)} and top at least 1, got {by!r} and {top}")
    for site in sites:
        neurons_point(model.architecture.blocks[site.layer])
    names = [f"m{site.layer}.n{i}" for site in sites for i in range(model.n_neurons)]
    direct = direct_effects(model, pairs, nodes=names, metric=metric, batch_size=batch_size)
    ranked = direct
    if by == "effect":
        ranked = attribution_patching(model, pairs, nodes=names, metric=metric, batch_size=batch_size)
    sizes = ranked.values.abs().unflatten(0, (len(sites), -1))
    best = (sizes.topk(min(top, sizes.shape[1])).indices + torch.arange(len(sites))[:, None] * sizes.shape[1]).flatten()
    chosen = [ranked.nodes[i] for i in best.tolist()]
    exact = None
    if by == "effect":
        exact = activation_patching(
            model, pairs, nodes=chosen, direction="noising", metric=metric, batch_size=batch_size
        )
    at = [direct.nodes.index(name) for name in chosen]
    effects = (None, None)
    if exact is not None:
        order = [exact.nodes.index(name) for name in chosen]
        effects = exact.values[order], exact.stderr[order]
    promotes, suppresses = _texts(model, chosen)
    return TopNeurons(
        tuple(chosen), direct.values[at], direct.stderr[at], *effects, promotes, suppresses, _fires(model, pairs, chosen),
        direct.provenance,
    )  # fmt: skip


def _texts(model: Model, names: Sequence[str]) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
    """Per neuron, the tokens that its output direction promotes, and those that it suppresses, through the norms' weights."""
    architecture, writes = model.architecture, []
    with torch.no_grad():
        for name in names:
            layer, index = (int(part[1:]) for part in name.split("."))
            block = architecture.blocks[layer]
            writes.append(weighted(block.mlp_post_norm, block.module.mlp.W_out[index]))
        promotes: list[tuple[str, ...]] = []
        suppresses: list[tuple[str, ...]] = []
        for part in torch.stack(writes).split(AT_ONCE):
            logits = weighted(architecture.final_norm, part) @ architecture.bridge.unembed.W_U
            k = min(PROMOTED, logits.shape[1])
            for texts, sign in ((promotes, 1), (suppresses, -1)):
                texts += [token_texts(model, ids) for ids in (sign * logits).topk(k).indices.tolist()]
    return tuple(promotes), tuple(suppresses)


def _fires(model: Model, pairs: PromptPairs, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The tokens on which neurons have the largest absolute activations, each token once."""
    places = [tuple(int(part[1:]) for part in name.split(".")) for name in names]
    largest: list[dict[int, float]] = [{} for _ in names]
    with inference_state(model.bridge), torch.no_grad():
        for batch in pairs.batches(64, forced=False):
            seen: dict[int, Tensor] = {}
            hooks: list[Hook] = []
            for layer in {layer for layer, _ in places}:
                point = neurons_point(model.architecture.blocks[layer])
                hooks.append((point, lambda x, layer=layer, seen=seen: seen.__setitem__(layer, x)))
            tokens = TokenBatch(batch.clean.to(model.device), batch.position.to(model.device))
            run(model.architecture, tokens, hooks)
            for known, (layer, index) in zip(largest, places, strict=True):
                sizes = seen[layer][..., index].abs().flatten().tolist()
                for token, size in zip(batch.clean.flatten().tolist(), sizes, strict=True):
                    known[token] = max(known.get(token, 0.0), size)
    return tuple(token_texts(model, sorted(known, key=lambda token: -known[token])[:MOST_NAMED]) for known in largest)


MOST_NAMED = 3
