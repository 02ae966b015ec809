"""Attribution patching (AtP): every node's effect from one forward and one backward pass on the clean prompt.

For node n and one pair of prompts (Nanda 2023; Kramár et al. 2024, 2403.00745, eq. 4-5),

    effect(n) ≈ (clean_n - corrupted_n) · ∂metric/∂n        at the clean run

per prompt, signed; positive = the node helps. `NodeScores.values` is the signed mean over prompts. `NodeScores.contributions` is
the mean of absolute values (inside the expectation), by which the paper ranks nodes. The effect of a node equals the sum of EAP
over its out-edges.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.graph.nodes import Site, select_sites
from circuits.measure.node_effects import BatchEffects, at_positions, node_effects, other_run
from circuits.methods.method import Method
from circuits.methods.options import NODES, POSITIONS
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike, RunAblation
from circuits.question.metrics import MetricLike
from circuits.question.positions import position_axis
from circuits.question.question import Batch, Question
from circuits.results.node_scores import NodeScores


@on_model
def attribution_patching(
    model: Model,
    pairs: PromptPairs,
    *,
    nodes: str | Sequence[str] = "heads+mlps",
    positions: str | Sequence[str] | None = None,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """Estimates the effect of noising each node.

    Args:
        model, pairs, nodes, ablation, batch_size, progress: see `circuits.activation_patching`.
        positions: None: all positions together; `each`, `spans`, `roles` or names of these: see `circuits.question.positions`.
        metric: None: the task's preferred metric. It must have a gradient at the clean run.

    Raises:
        InputError: an unknown node, a metric without a gradient, or an ablation without a run of its own.
    """
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    return attribution_patching_of(question, nodes=nodes, positions=positions, progress=progress)


def attribution_patching_of(
    question: Question, *, nodes: str | Sequence[str] = "heads+mlps", positions: str | Sequence[str] | None = None,
    progress: Progress | None = None,
) -> NodeScores:  # fmt: skip
    """`attribution_patching` of a question."""
    model = question.model
    question.metric.require_gradient("attribution patching")
    other = other_run(question, "attribution patching")
    sites = select_sites(model.graph, nodes, model.widths)
    labels = position_axis(question.pairs, positions)
    options = {"nodes": nodes if isinstance(nodes, str) else list(nodes), "positions": labels}
    return node_effects(
        question, "attribution_patching", options, [site.name for site in sites], labels,
        lambda batch: _attribute(question, other, batch, sites, labels), progress,
    )  # fmt: skip


def _attribute(
    question: Question, other: RunAblation, batch: Batch, sites: Sequence[Site], labels: tuple[str, ...] | None
) -> BatchEffects:
    logits, corrupted = other.values(question.model, batch.suffix, sites)
    corrupted_metric = question.metric(logits, batch.targets)
    keys = sorted({(site.layer, site.point) for site in sites})
    live = question.live_run(batch, keys)
    gradients, _ = live.gradients(keys)
    wide = question.sum_dtype
    products = {key: (live.values[key].detach().to(wide) - corrupted[key]) * gradients[key].to(wide) for key in keys}
    per_site = [_of_site(products[site.layer, site.point], site) for site in sites]
    by_position = torch.stack([effects.to(batch.suffix.clean.device) for effects in per_site])
    effects = at_positions(by_position, labels, batch, question.pairs)
    return BatchEffects(effects, live.metric.detach(), corrupted_metric)


def _of_site(product: Tensor, site: Site) -> Float[Tensor, "batch pos"]:
    part = product[site.where]
    return part if part.ndim == 2 else part.sum(-1)


METHOD = Method(
    name="attribution-patching", function=attribution_patching_of, gives="nodes", stage=("attribution", "scoring nodes"),
    help="estimates from gradients", takes=(NODES, POSITIONS),
)  # fmt: skip
