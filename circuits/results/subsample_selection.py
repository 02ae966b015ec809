"""Circuits chosen from many subsamples of the prompts at once: how often each edge is chosen."""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.graph.graph import Graph
from circuits.results import selection
from circuits.results.edge_scores import EdgeScores
from circuits.stats.bootstrap import row_sizes

_VALUES_AT_ONCE = 2**22
"""Means of edges in memory at a time."""
_MORE = 1000
"""Edges, beside twice as many as are chosen, whose nth strongest mean is a bound for all."""
_ROUNDING = 1e-9
"""Relative error allowed for in a mean of effects."""


def selection_counts(
    scores: EdgeScores, rows: Bool[Tensor, "sample row"], rule: str, n: int, options: dict[str, Any]
) -> Int[Tensor, " edge"]:
    """In how many subsamples of the rows of `scores.per_prompt` each edge is chosen, edges in graph order.

    Each choice is that of `scores.select(n, rule, **options)`, or of `scores.threshold(**options)`, if there were only these
    prompts; without any prompts nothing is chosen. `top` and `threshold` take matrix products of the edges that can be chosen at
    all; other rules run once per sample.
    """
    assert scores.per_prompt is not None
    per_row = scores.per_prompt.double().cpu()
    weights = rows.double() * row_sizes(scores.n_prompts, scores.group)
    weights = weights[rows.any(1)]
    weights = weights / weights.sum(1, keepdim=True)
    counts = torch.zeros(per_row.shape[1], dtype=torch.long)
    if rule not in _FAST or options.get("fill"):
        for part in weights.split(selections_at_once(scores.graph)):
            chosen = [_select(scores, means, rule, n, options)[scores.graph.edge_mask] for means in part @ per_row]
            counts += torch.stack(chosen).sum(0)
        return counts
    if (rule == "top" and n == 0) or not len(weights):
        return counts
    edges = _eligible(per_row, weights, rule, n, options)
    per_row = per_row[:, edges]
    for part in weights.split(max(1, _VALUES_AT_ONCE // max(1, len(edges)))):
        strength = _strength(part @ per_row, options)
        chosen = strongest(strength, n) if rule == "top" else strength >= options["tau"]
        used = chosen.any(0)
        counts[edges[used]] += _pruned(scores.graph, edges[used], chosen[:, used]).sum(0)
    return counts


_FAST = ("top", "threshold")


def _strength(means: Float[Tensor, "sample edge"], options: dict[str, Any]) -> Float[Tensor, "sample edge"]:
    return means.abs() if options.get("by", "abs") == "abs" else means


def _eligible(
    per_row: Float[Tensor, "row edge"], weights: Float[Tensor, "sample row"], rule: str, n: int, options: dict[str, Any]
) -> Int[Tensor, " eligible"]:
    """The edges that can be chosen from some sample.

    A mean is at most the largest of its terms. The nth strongest of some edges is at most the nth strongest of all, so an edge whose
    largest effect is below it in every sample is never among the n strongest.
    """
    most = _strength(per_row, options).max(0).values
    least = float(options["tau"]) if rule == "threshold" else math.inf
    if rule == "top":
        some = per_row[:, most.topk(min(len(most), 2 * n + _MORE)).indices]
        for part in weights.split(max(1, _VALUES_AT_ONCE // some.shape[1])):
            nth = _strength(part @ some, options).topk(n, dim=1).values[:, -1]
            least = min(least, float(nth.min()))
    return (most >= least - _ROUNDING * abs(least)).nonzero()[:, 0]


def selections_at_once(graph: Graph) -> int:
    """Number of subsamples whose circuits are chosen together."""
    return max(1, _VALUES_AT_ONCE // graph.n_edges)


def _select(
    scores: EdgeScores, means: Float[Tensor, " edge"], rule: str, n: int, options: dict[str, Any]
) -> Bool[Tensor, "writer reader"]:
    """The slow way: one circuit."""
    values = torch.zeros_like(scores.values, dtype=torch.float64)
    values[scores.graph.edge_mask] = means
    one = replace(scores, values=values, by_position=None, by_position_stderr=None, positions=None, per_prompt=None)
    circuit = one.threshold(**options) if rule == "threshold" else selection.select(one, n, rule, **options)
    return circuit.mask


def strongest(values: Float[Tensor, "sample edge"], n: int) -> Bool[Tensor, "sample edge"]:
    """The n largest values of each sample; ties in the order of the edges, as in `circuits.results.selection.ranking`."""
    if n == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    last = values.topk(n, dim=1, sorted=True).values[:, -1:]
    above, level = values > last, values == last
    missing = n - above.sum(1, keepdim=True)
    if bool((level.sum(1, keepdim=True) > missing).any()):
        level &= level.cumsum(1) <= missing
    return above | level


def pruned_sets(graph: Graph, sets: Bool[Tensor, "sample edge"]) -> Bool[Tensor, "sample edge"]:
    """`Circuit.pruned` of many sets of edges: only the edges on a path from `input` to `logits`."""
    used = sets.any(0).nonzero()[:, 0]
    pruned = torch.zeros_like(sets)
    pruned[:, used] = _pruned(graph, used, sets[:, used])
    return pruned


def _pruned(
    graph: Graph, edges: Int[Tensor, " used"], sets: Bool[Tensor, "sample used"]
) -> Bool[Tensor, "sample used"]:
    """`pruned_sets` of sets that contain these edges only, given by their numbers in graph order."""
    into: dict[int, list[tuple[int, int]]] = {}
    for i, (w, r) in enumerate(graph.edge_mask.nonzero()[edges].tolist()):
        into.setdefault(r, []).append((i, w))
    numbers: dict[str, int] = {}  # of outputs: of nodes, or over places of each node at each span
    steps: list[tuple[list[int], list[int], list[int], list[int]]] = []
    for r in sorted(into):
        reader = graph.reader_nodes[r]
        read = [numbers.setdefault(graph.output_read(w, reader), len(numbers)) for _, w in into[r]]
        outputs = [] if reader.part == "logits" else graph.outputs_of(reader)
        fed = [numbers.setdefault(output, len(numbers)) for output in outputs]
        steps.append(([i for i, _ in into[r]], [at for at, (_, w) in enumerate(into[r]) if w == 0], read, fed))
    kept = sets.clone()
    reached = torch.zeros(len(sets), len(numbers), dtype=torch.bool)
    for columns, from_input, read, fed in steps:
        arriving = reached[:, read]
        arriving[:, from_input] = True
        kept[:, columns] &= arriving
        reached[:, fed] |= kept[:, columns].any(1, keepdim=True)
    live = torch.zeros_like(reached)
    for columns, _, read, fed in reversed(steps):
        if fed:  # not `logits`
            kept[:, columns] &= live[:, fed].any(1, keepdim=True)
        live[:, read] |= kept[:, columns]
    return kept
