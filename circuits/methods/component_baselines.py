"""Baselines of COAR: scores of components from gradients, as in its paper (Shah, Ilyas & Madry 2024, 2404.11534).

| | |
|---|---|
| `gradient_times_parameter` | Σ over the component's parameters θ of θ · ∂metric/∂θ, at the clean run: to first order, the effect of setting them to zero |
| `neuron_conductance` | Σ_k gradient_k · (y_{k+1} - y_k) along the straight path of the embedding from ablated to clean, y the component's value (Dhamdhere et al. 2018, 1805.12233, eq. 2) |
| `internal_influence` | the mean gradient along that path, summed over the component's entries (Leino et al. 2018, 1802.03788, eq. 1) |

Internal influence is in the metric's unit per unit of activation: the sensitivity of the metric, not the effect of the component.
The paper's fourth baseline is `leave_one_out`.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.live_run import Key, LiveRun
from circuits.errors import InputError
from circuits.graph.nodes import Site, select_sites
from circuits.measure.node_effects import BatchEffects, node_effects
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.question import Batch, Question
from circuits.results.node_scores import NodeScores
from circuits.results.quantity import Quantity
from circuits.results.recorded import Recorded


@on_model
def gradient_times_parameter(
    model: Model,
    pairs: PromptPairs,
    *,
    nodes: str | Sequence[str] = "heads+mlps",
    metric: MetricLike | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """Σ θ · ∂metric/∂θ over each component's own parameters, per prompt.

    A linear map's weights and biases together contribute exactly Σ output · ∂metric/∂output, so one backward pass serves all
    prompts and components. A head has the parameters of its query, key and value projections and of its part of `W_O`. Keys and
    values that heads share are divided equally between them. An output bias of attention belongs to no head. The weights of norms
    (before or after a component, or on queries and keys) belong to no component.

    Args:
        model: a loaded model.
        pairs: the prompts to explain.
        nodes: heads, MLPs, queries, keys, values, neurons (their rows of the input matrices), rows or input rows.
        metric: None: the task's preferred metric. It must have a gradient at the clean run.
        batch_size, progress: see `circuits.coar`.

    Raises:
        InputError: `input`, which shares its parameters with all other components, or an MLP of experts.
    """
    question = Question.ask(model, pairs, metric, "zero", batch_size)
    question.metric.require_gradient("gradient times parameter")
    sites = select_sites(model.graph, nodes, model.widths)
    terms = [_linear_maps(model, site) for site in sites]
    keys = sorted({(site.layer, point) for site, maps in zip(sites, terms, strict=True) for point, _, _ in maps})

    def measure(batch: Batch) -> BatchEffects:
        run = question.live_run(batch, keys)
        gradients, _ = run.gradients(keys)
        wide = question.sum_dtype
        products = {key: run.values[key].detach().to(wide) * gradients[key].to(wide) for key in keys}
        effects = [
            sum(
                (share * _summed(question, batch, products[site.layer, point][where]) for point, where, share in maps),
                start=_zeros(question, batch),
            )
            for site, maps in zip(sites, terms, strict=True)
        ]
        return _batch_effects(run, effects)

    names = [site.name for site in sites]
    return node_effects(question, "gradient_times_parameter", _options(nodes), names, None, measure, progress)


@on_model
def neuron_conductance(
    model: Model,
    pairs: PromptPairs,
    *,
    nodes: str | Sequence[str] = "heads+mlps",
    steps: int = 5,
    metric: MetricLike | None = None,
    ablation: AblationLike = "zero",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """Conductance of each component as the embedding moves from ablated to clean, per prompt.

    Args:
        model, pairs, metric: see `gradient_times_parameter`.
        nodes: see `circuits.graph.nodes`.
        steps: number of pieces of the path, each with a gradient at its midpoint.
        ablation: the start of the embedding's path; `zero` as in the paper.
        batch_size, progress: see `circuits.coar`.
    """

    def measure(question: Question, batch: Batch, sites: Sequence[Site], keys: list[Key]) -> BatchEffects:
        start, end = _ends(question, batch)
        path = [torch.lerp(start, end, k / steps) for k in range(steps + 1)]
        at = [question.live_run(batch, keys, embedding=point).detached for point in path]
        effects = [_zeros(question, batch)] * len(sites)
        for k in range(steps):
            run = question.live_run(batch, keys, embedding=torch.lerp(start, end, (k + 0.5) / steps))
            gradients, _ = run.gradients(keys)
            wide = question.sum_dtype
            products = {key: gradients[key].to(wide) * (at[k + 1][key] - at[k][key]).to(wide) for key in keys}
            effects = [
                effect + _summed(question, batch, products[s.layer, s.point][s.where])
                for effect, s in zip(effects, sites, strict=True)
            ]
        return _batch_effects(question.live_run(batch, keys), effects)

    question = Question.ask(model, pairs, metric, ablation, batch_size)
    return _along_path(question, "neuron_conductance", nodes, steps, progress, measure)


@on_model
def internal_influence(
    model: Model,
    pairs: PromptPairs,
    *,
    nodes: str | Sequence[str] = "heads+mlps",
    steps: int = 5,
    metric: MetricLike | None = None,
    ablation: AblationLike = "zero",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """The mean gradient at each component along the embedding's path, summed over its entries and positions, per prompt.

    All positions count, including those before the first token that differs in a pair: the gradient is not multiplied by a
    difference, which would be zero there.

    Args:
        model, pairs, metric, nodes, steps, ablation, batch_size, progress: see `neuron_conductance`.
    """

    def measure(question: Question, batch: Batch, sites: Sequence[Site], keys: list[Key]) -> BatchEffects:
        start, end = _ends(question, batch)
        effects = [_zeros(question, batch)] * len(sites)
        for k in range(steps):
            run = question.live_run(batch, keys, embedding=torch.lerp(start, end, (k + 0.5) / steps))
            gradients, _ = run.gradients(keys)
            effects = [
                effect + _summed(question, batch, gradients[s.layer, s.point][s.where]) / steps
                for effect, s in zip(effects, sites, strict=True)
            ]
        return _batch_effects(question.live_run(batch, keys), effects)

    question = Question.ask(model, pairs, metric, ablation, batch_size).again(whole_prompts=True)
    return _along_path(question, "internal_influence", nodes, steps, progress, measure)


def _along_path(
    question: Question, method: str, nodes: str | Sequence[str], steps: int, progress: Progress | None,
    measure: Callable[[Question, Batch, Sequence[Site], list[Key]], BatchEffects],
) -> NodeScores:  # fmt: skip
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    question.metric.require_gradient(method.replace("_", " "), at_clean=False)
    sites = select_sites(question.model.graph, nodes, question.model.widths)
    keys = sorted({(site.layer, site.point) for site in sites})
    return node_effects(
        question, method, _options(nodes) | {"steps": steps}, [site.name for site in sites], None,
        lambda batch: measure(question, batch, sites, keys), progress,
    )  # fmt: skip


_Maps = list[tuple[str, tuple[slice | int, ...], float]]
"""Hook points after linear maps, the component's own part of each, and its share of that part."""


def _linear_maps(model: Model, site: Site) -> _Maps:
    block, graph = model.architecture.blocks[site.layer], model.graph
    every = (slice(None), slice(None))
    if site.point == "resid_pre":
        raise InputError("the embedding's parameters belong to no component alone; leave `input` out")
    if site.is_input_row:  # a matrix times its input is linear in each row, without the biases
        return [(site.point, site.where, 1.0)]
    if site.point == "z":
        assert site.index is not None
        group = graph.n_heads // graph.n_kv_heads
        shared = (*every, site.index // group)
        return [("q", site.where, 1.0), ("k", shared, 1 / group), ("v", shared, 1 / group), ("z", site.where, 1.0)]
    if site.point == "neurons" or (site.point == "mlp_out" and site.index is None):
        if block.inner is None:
            raise InputError(
                f"layer {site.layer}: its MLP shows no input matrix (experts?), so its parameters are unknown"
            )
        inner: _Maps = [("inner", site.where, 1.0)] + ([("gate", site.where, 1.0)] if block.gate is not None else [])
        return inner if site.point == "neurons" else [*inner, ("mlp_projected", every, 1.0)]
    projected = {"attn_out": "attn_projected", "mlp_out": "mlp_projected"}
    return [(projected.get(site.point, site.point), site.where, 1.0)]


def _ends(question: Question, batch: Batch) -> tuple[Tensor, Tensor]:
    """The embedding, ablated and clean."""
    clean = question.clean_writes(batch)
    return question.replacement(batch.suffix, clean).embedding.to(clean.embedding), clean.embedding


def _zeros(question: Question, batch: Batch) -> Float[Tensor, " pair"]:
    return torch.zeros(len(batch), dtype=question.sum_dtype, device=question.model.device)


def _summed(question: Question, batch: Batch, part: Float[Tensor, "row pos *entry"]) -> Float[Tensor, " pair"]:
    return batch.per_pair(part.to(question.sum_dtype).flatten(1).sum(1).to(question.model.device))


def _batch_effects(run: LiveRun, effects: Sequence[Tensor]) -> BatchEffects:
    return BatchEffects(torch.stack(list(effects)), run.metric.detach())


def _options(nodes: str | Sequence[str]) -> dict[str, object]:
    return {"nodes": nodes if isinstance(nodes, str) else list(nodes)}


INTERNAL_INFLUENCE = Recorded(
    quantity=Quantity("influence", positive="raises the metric", negative="lowers the metric"), metric_units=False
)
