"""Attribution patching (AtP): every node's effect from one forward and one backward pass on the clean prompt.

For node n and one pair of prompts (Nanda 2023; Kramár et al. 2024, 2403.00745, eq. 4-5),

    effect(n) ≈ (clean_n - corrupted_n) · ∂metric/∂n        at the clean run

per prompt, signed; positive = the node helps. `NodeScores.values` is the signed mean over prompts, and
`NodeScores.contributions` the mean of absolute values (inside the expectation), by which the paper ranks nodes. The sum
of EAP over a node's out-edges is the same number.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.ablations import Ablation, RunAblation
from circuits.effects import BatchEffects, node_effects, other_run
from circuits.engine.hooks import Hook, run
from circuits.engine.patch import Values, hook_point, record_values
from circuits.metrics import Metric, MetricFunction
from circuits.model import Model
from circuits.node_scores import NodeScores
from circuits.nodes import Site, select_sites
from circuits.pairs import PromptPairs
from circuits.positions import place, position_axis
from circuits.question import Batch, Progress, Question


def attribution_patching(
    model: Model,
    pairs: PromptPairs,
    *,
    nodes: str | Sequence[str] = "heads+mlps",
    positions: str | Sequence[str] | None = None,
    metric: str | Metric | MetricFunction | None = None,
    ablation: str | Ablation = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """Estimates the effect of noising each node.

    Args:
        model, pairs: what is asked.
        nodes: names, or groups joined by `+`: `heads`, `mlps`, `input`, `q`, `k`, `v`, `neurons`.
        positions: None: all positions together; `each`, `roles` or names of roles: see `circuits.positions`.
        metric: None: the one the task prefers. It must have a gradient at the clean run.
        ablation: where corrupted values come from: `interchange`, `gaussian` or `resample`.
        batch_size, progress: see `activation_patching`.

    Raises:
        InputError: an unknown node, a metric without a gradient, or an ablation that is no run of the model.
    """
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    question.metric.require_gradient("attribution patching")
    other = other_run(question, "attribution patching")
    sites = select_sites(model.graph, nodes, model.n_neurons)
    labels = position_axis(pairs, positions)
    options = {"nodes": nodes if isinstance(nodes, str) else list(nodes), "positions": labels}
    return node_effects(
        question, "attribution_patching", options, [site.name for site in sites], labels,
        lambda batch: _attribute(question, other, batch, sites, labels), progress,
    )  # fmt: skip


def _attribute(
    question: Question, other: RunAblation, batch: Batch, sites: Sequence[Site], labels: tuple[str, ...] | None
) -> BatchEffects:
    model, suffix = question.model, batch.suffix
    tokens, noise = other.run(model, suffix)
    logits, corrupted = record_values(
        model.bridge, model.architecture, tokens, suffix.position, sites, suffix.cache(), noise
    )
    corrupted_metric = question.metric(logits, batch.targets)
    clean, gradients, clean_metric = values_and_gradients(question, batch, sites)
    products = {
        key: ((clean[key] - corrupted[key]).to(question.sum_dtype) * gradients[key].to(question.sum_dtype))
        for key in clean
    }
    by_position = torch.stack([_of_site(products[site.layer, site.point], site) for site in sites])
    if labels is None:
        return BatchEffects(by_position.sum(-1), clean_metric, corrupted_metric)
    columns = []
    for label in labels:
        where = place(label, batch, question.pairs)
        at = where.clamp(min=0).expand(len(sites), -1)[..., None]
        columns.append(by_position.gather(2, at)[..., 0] * (where >= 0))
    return BatchEffects(torch.stack(columns, dim=1), clean_metric, corrupted_metric)


def _of_site(product: Tensor, site: Site) -> Float[Tensor, "batch pos"]:
    part = product if site.index is None else product[:, :, site.index]
    return part if part.ndim == 2 else part.sum(-1)


def values_and_gradients(
    question: Question, batch: Batch, sites: Sequence[Site]
) -> tuple[Values, Values, Float[Tensor, " batch"]]:
    """Activations and gradients of the summed metric at the sites' hook points on the clean run, and the metric."""
    model, suffix = question.model, batch.suffix
    keys = sorted({(site.layer, site.point) for site in sites})
    values: Values = {}

    def keep(key: tuple[int, str]) -> Hook:
        def hook(x: Tensor) -> Tensor:
            values[key] = x.view_as(x)  # a view of its own: see engine.capture
            return values[key]

        return hook_point(model.architecture, *key), hook

    start: Hook = (model.architecture.blocks[0].resid_pre, lambda x: x.detach().requires_grad_())
    with torch.enable_grad():
        logits = run(
            model.bridge, model.architecture.unembed, suffix.clean, suffix.position,
            [start, *(keep(key) for key in keys)], suffix.cache(),
        )  # fmt: skip
        metric = question.metric(logits, batch.targets)
        found = torch.autograd.grad(metric.sum(), [values[key] for key in keys], allow_unused=True)
    gradients = {k: torch.zeros_like(values[k]) if g is None else g for k, g in zip(keys, found, strict=True)}
    return {key: value.detach() for key, value in values.items()}, gradients, metric.detach()
