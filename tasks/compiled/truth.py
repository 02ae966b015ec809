"""The edges of a model that have an effect, found by brute force for one ablation, one set of pairs and one metric.

| | an edge is in it if |
|---|---|
| structural (`structural_edges`) | its writer's output meets its reader's input, and it lies between `input` and `logits` |
| jointly active (`jointly_active_edges`) | for some set of structural edges, ablating the set and the edge gives another metric than ablating the set |
| active (`active_edges`) | ablating it alone, with all else as it is, changes the metric |

on any of the pairs, by more than 1e-9. Each set is part of the one above it. The inputs of an OR gate are jointly active, but not
active: each is the other's backup. Exact patching of single edges measures the active edges, so its AUROC against them is 1 by
definition (unless effects cancel over the pairs); against the jointly active ones it is not.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.ablate import ablated_logits
from circuits.engine.hooks import inference_state
from circuits.engine.prefix import Suffix
from circuits.errors import InputError
from circuits.evaluation.faithfulness import measure_circuits
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.places import place_axis
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from tasks.compiled.structure import structural_edges

LIMIT = 1e-9
"""In the metric's unit: smaller differences are rounding."""
MOST = 12
"""Structural edges whose subsets are all tried."""
ROWS = 256
"""Prompts in one forward pass."""


def active_edges(
    model: Model,
    pairs: PromptPairs,
    ablation: AblationLike = "interchange",
    *,
    metric: MetricLike | None = None,
    positions: str | None = None,
    destinations: bool = False,
) -> tuple[str, ...]:
    """The edges of the graph, structural or not, whose ablation alone changes the metric of a pair.

    For small models: every edge costs a forward pass of all pairs.

    Args:
        model: a loaded model.
        pairs: the prompts.
        ablation: how an edge is ablated.
        metric: None: the metric of the task.
        positions: `spans` or `each`: structural edges at places (`circuits.graph.places`), each ablated at one place alone.
        destinations: for `spans` and `each`, take keys and values apart by the span of the query.
    """
    graph = model.graph
    if positions is not None:
        return _active_at_places(Question.ask(model, pairs, metric, ablation), positions, destinations)
    without = graph.edge_mask.repeat(graph.n_edges + 1, 1, 1)
    for i, (w, r) in enumerate(graph.edge_mask.nonzero().tolist(), 1):
        without[i, w, r] = False
    values = _metrics(Question.ask(model, pairs, metric, ablation), without)
    mask = torch.zeros_like(graph.edge_mask)
    mask[graph.edge_mask] = (values[1:] - values[0]).abs().amax(1) > LIMIT
    return graph.edge_names(mask)


def _active_at_places(question: Question, positions: str, destinations: bool) -> tuple[str, ...]:
    model = question.model
    axis = place_axis(model.graph, question.pairs, positions, destinations)
    if axis is None:
        raise InputError(f"positions must be 'spans' or 'each', got {positions!r}")
    full, structural = Circuit.full(axis.graph), structural_edges(model)
    names = axis.graph.edge_names(axis.graph.mask_of(structural))
    without = [full - Circuit.from_edges(axis.graph, [name]) for name in names]
    values = measure_circuits(question, [full, *without]).values
    changed = (values[1:] - values[0]).abs().amax(1) > LIMIT
    return tuple(name for name, change in zip(names, changed.tolist(), strict=True) if change)


def jointly_active_edges(
    model: Model,
    pairs: PromptPairs,
    ablation: AblationLike = "interchange",
    *,
    metric: MetricLike | None = None,
) -> tuple[str, ...]:
    """The structural edges that change the metric of a pair when some set of others is ablated.

    All subsets of the structural edges are ablated, 2^n for n of them.

    Args:
        model, pairs, ablation, metric: see `active_edges`.

    Raises:
        InputError: the model has more than 12 structural edges.
    """
    edges = structural_edges(model)
    if len(edges) > MOST:
        raise InputError(
            f"{model.name} has {len(edges)} structural edges; all their subsets are tried for at most {MOST}"
        )
    graph, n = model.graph, len(edges)
    kept = (torch.arange(1 << n)[:, None] >> torch.arange(n)) % 2 == 1
    circuits = graph.edge_mask.repeat(len(kept), 1, 1)
    for i, edge in enumerate(edges):
        circuits[:, *graph.edge_index(edge)] = kept[:, i]
    values = _metrics(Question.ask(model, pairs, metric, ablation), circuits)
    active = []
    for i, edge in enumerate(edges):
        there = kept[:, i].nonzero()[:, 0]
        if float((values[there] - values[there - (1 << i)]).abs().max()) > LIMIT:
            active.append(edge)
    return tuple(active)


def _metrics(question: Question, kept: Bool[Tensor, "circuit writer reader"]) -> Float[Tensor, "circuit prompt"]:
    """The metric with everything outside each circuit ablated, with many circuits in each forward pass."""
    model = question.model
    values = torch.empty(len(kept), len(question.pairs), dtype=torch.float64)
    with inference_state(model.bridge):
        for batch in question.batches(share_prefix=False):
            suffix, n = batch.suffix, len(batch)
            _, clean = question.clean_run(suffix)
            replacement = question.replacement(suffix, clean)
            index, at_once = suffix.batch.index.cpu(), max(1, ROWS // n)
            for start in range(0, len(kept), at_once):
                circuits = kept[start : start + at_once]
                k = len(circuits)
                tiled = Suffix(
                    suffix.clean.repeat(k, 1),
                    None if suffix.corrupted is None else suffix.corrupted.repeat(k, 1),
                    suffix.position.repeat(k),
                    0,
                    suffix.batch,
                )
                other = replacement.map(lambda x, k=k: x.repeat(k, *[1] * (x.ndim - 1)))
                each = circuits.repeat_interleave(n, 0)
                logits = ablated_logits(model.architecture, tiled, other, each)
                for row, part in enumerate(logits.reshape(k, n, -1), start):
                    values[row, index] = question.metric(part, batch.targets).to("cpu", torch.float64)
    return values
