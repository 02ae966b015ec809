"""Attribution patching (AtP): every node's effect from one forward and one backward pass on the clean prompt.

For node n and one pair of prompts (Nanda 2023; Kramár et al. 2024, 2403.00745, eq. 4-5),

    effect(n) ≈ (clean_n - corrupted_n) · ∂metric/∂n        at the clean run

per prompt, signed; positive = the node helps. `NodeScores.values` is the signed mean over prompts. `NodeScores.contributions` is
the mean of absolute values (inside the expectation), by which the paper ranks nodes. The effect of a node equals the sum of EAP
over its out-edges.

With `gradient`, the gradient is an average over `steps` points of a path instead:

- `ig`: the input of the first block goes from its corrupted to its clean value (Hanna et al. 2024, 2403.17806, for edges).
- `ig-activations`: the activation that the node belongs to goes from its corrupted to its clean value, the rest of the run is clean
  (Marks et al. 2024, 2403.19647, section 3). All heads of a layer move together, and so do all features and the error of a
  dictionary; the effects at one such activation therefore add up to metric(clean) - metric(clean with it patched), as steps grow.
  This takes `steps` passes for each activation that has nodes.

A feature f_i of an inserted dictionary writes f_i W_dec[i], so ∂metric/∂f_i = W_dec[i] · ∂metric/∂(what is decomposed): the model's own
gradient. The encoder has no part in it.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.insert import with_dictionaries
from circuits.engine.inserted import edits, whole_key
from circuits.engine.insertion import Key
from circuits.engine.live_run import LiveRun
from circuits.engine.patch import Values
from circuits.errors import InputError
from circuits.graph.nodes import Site, find_site
from circuits.measure.chosen_sites import chosen_sites
from circuits.measure.node_effects import BatchEffects, at_positions, node_effects, other_run
from circuits.methods.method import Method
from circuits.methods.options import FEATURES, NODES, OFFSETS, POSITIONS, QUADRATURE, STEPS, Kind, Option
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike, RunAblation
from circuits.question.metrics import MetricLike
from circuits.question.positions import position_axis
from circuits.question.question import Batch, Question
from circuits.results.node_scores import NodeScores

GRADIENTS = ("clean", "ig", "ig-activations")


@on_model
def attribution_patching(
    model: Model,
    pairs: PromptPairs,
    *,
    nodes: str | Sequence[str] = "heads+mlps",
    positions: str | Sequence[str] | None = None,
    gradient: str = "clean",
    steps: int = 5,
    quadrature: str = "midpoint",
    dictionaries: Sequence[Dictionary] = (),
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """Estimates the effect of noising each node.

    Args:
        model, pairs, nodes, dictionaries, ablation, batch_size, progress: see `circuits.activation_patching`.
        positions: None: all positions together; `each`, `spans`, `roles` or names of these: see `circuits.question.positions`.
        gradient: `clean`, `ig` or `ig-activations`; see the module docstring.
        steps: points on the path, for `ig` and `ig-activations`.
        quadrature: location of the point in each of the `steps` equal pieces of the path from corrupted to clean: `left`,
            `midpoint`, `right`.
        metric: None: the task's preferred metric. With `clean`, it must have a gradient at the clean run.

    Raises:
        InputError: an unknown node or option, a metric without a gradient, or an ablation without a run of its own.
    """
    question = Question.ask(with_dictionaries(model, dictionaries), pairs, metric, ablation, batch_size)
    return attribution_patching_of(
        question, nodes=nodes, positions=positions, gradient=gradient, steps=steps, quadrature=quadrature, progress=progress
    )  # fmt: skip


def attribution_patching_of(
    question: Question, *, nodes: str | Sequence[str] = "heads+mlps", positions: str | Sequence[str] | None = None,
    gradient: str = "clean", steps: int = 5, quadrature: str = "midpoint", progress: Progress | None = None,
) -> NodeScores:  # fmt: skip
    """`attribution_patching` of a question."""
    points = _points(gradient, steps, quadrature)
    question.metric.require_gradient("attribution patching", at_clean=gradient == "clean")
    other = other_run(question, "attribution patching")
    sites = chosen_sites(question, nodes)
    labels = position_axis(question.pairs, positions)
    options = {"nodes": nodes if isinstance(nodes, str) else list(nodes), "positions": labels}
    if gradient != "clean":
        options |= {"gradient": gradient, "steps": steps, "quadrature": quadrature}
    return node_effects(
        question, "attribution_patching", options, [site.name for site in sites], labels,
        lambda batch: _attribute(question, other, batch, sites, labels, gradient, points), progress,
    )  # fmt: skip


def _points(gradient: str, steps: int, quadrature: str) -> tuple[float, ...]:
    """Points on the path, from 0 (corrupted) to 1 (clean)."""
    if gradient not in GRADIENTS:
        raise InputError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
    if quadrature not in OFFSETS:
        raise InputError(f"quadrature must be one of {', '.join(OFFSETS)}, got {quadrature!r}")
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    return tuple((k + OFFSETS[quadrature]) / steps for k in range(steps))


def _attribute(
    question: Question, other: RunAblation, batch: Batch, sites: Sequence[Site], labels: tuple[str, ...] | None,
    gradient: str, points: tuple[float, ...],
) -> BatchEffects:  # fmt: skip
    keys = sorted({(site.layer, site.point) for site in sites})
    # What moves along the path: the input, or the activation that each node belongs to.
    moved = (
        [Site("path", *key, None) for key in dict.fromkeys(map(whole_key, keys))]
        if gradient == "ig-activations"
        else []
    )
    moved += [find_site(question.model.graph, "input")] if gradient == "ig" else []
    logits, corrupted = other.values(question.model, batch.suffix, [*sites, *moved], batch.tokens)
    corrupted_metric = question.metric_of(batch, logits)
    ends = [(site.layer, site.point) for site in moved]
    live = question.live_run(batch, sorted({*keys, *ends}))
    clean, metric = live.detached, live.metric.detach()
    if gradient == "clean":
        gradients = live.gradients(keys)[0]
    else:
        del live
        gradients = _along_path(question, batch, keys, ends, clean, corrupted, points)
    wide = question.sum_dtype
    products = {key: (clean[key].to(wide) - corrupted[key]) * gradients[key].to(wide) for key in keys}
    by_position = _of_sites(products, sites, batch)
    return BatchEffects(at_positions(by_position, labels, batch, question.pairs), metric, corrupted_metric)


def _along_path(
    question: Question, batch: Batch, keys: Sequence[Key], ends: Sequence[Key], clean: Values, corrupted: Values,
    points: tuple[float, ...],
) -> Values:  # fmt: skip
    """The gradients at the keys, averaged over the points of the path of each of the activations in `ends`."""
    architecture, total = question.model.architecture, dict[Key, Tensor]()
    for end in ends:
        of_end = [key for key in keys if end[1] == "resid_pre" or whole_key(key) == end]
        for alpha in points:
            held = torch.lerp(corrupted[end], clean[end], alpha).detach().requires_grad_()
            run: LiveRun
            if end[1] == "resid_pre":
                run = question.live_run(batch, keys, embedding=held)
            else:
                run = question.live_run(batch, of_end, before=edits(architecture, {end: partial(_held, held)}))
            for key, gradient in run.gradients(of_end)[0].items():
                total[key] = total[key] + gradient / len(points) if key in total else gradient / len(points)
    return total


def _held(value: Tensor, x: Tensor) -> Tensor:
    return value


def _of_sites(products: Values, sites: Sequence[Site], batch: Batch) -> Float[Tensor, "node batch pos"]:
    """Each node's product, summed over its entries; many parts of one activation are read at once."""
    device = batch.suffix.clean.device
    dtype = next(iter(products.values())).dtype
    rows = torch.zeros(len(sites), *batch.suffix.clean.shape, dtype=dtype, device=device)
    features: dict[Key, list[int]] = {}
    for i, site in enumerate(sites):
        if site.point.startswith("f:"):
            features.setdefault((site.layer, site.point), []).append(i)
        else:
            part = products[site.layer, site.point][site.where]
            rows[i] = (part if part.ndim == 2 else part.sum(-1)).to(device)
    for key, numbers in features.items():
        chosen = [sites[i].index for i in numbers]
        rows[numbers] = products[key][..., chosen].permute(2, 0, 1).to(device)
    return rows


METHOD = Method(
    name="attribution-patching", function=attribution_patching_of, gives="nodes", stage=("attribution", "scoring nodes"),
    help="estimates from gradients", takes=(
        NODES, POSITIONS,
        Option(
            "gradient", Kind.TEXT, "clean", "Where gradients are computed: at the clean run, or along a path of inputs or activations.",
            choices=GRADIENTS,
        ),
        STEPS, QUADRATURE,
        *FEATURES,
    ),
)  # fmt: skip
