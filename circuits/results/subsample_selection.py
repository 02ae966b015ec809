"""Circuits chosen from many subsamples of the prompts at once: how often each edge is chosen."""

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


def selection_counts(
    scores: EdgeScores, rows: Bool[Tensor, "sample row"], rule: str, n: int, options: dict[str, Any]
) -> Int[Tensor, " edge"]:
    """In how many subsamples of the rows of `scores.per_prompt` each edge is chosen, edges in graph order.

    Each choice is that of `scores.select(n, rule, **options)`, or of `scores.threshold(**options)`, if there were only these
    prompts; without any prompts nothing is chosen. `top` and `threshold` take matrix products; other rules run once per sample.
    """
    assert scores.per_prompt is not None
    per_row = scores.per_prompt.double().cpu()
    weights = rows.double() * row_sizes(scores.n_prompts, scores.group)
    weights = weights[rows.any(1)]
    weights = weights / weights.sum(1, keepdim=True)
    counts = torch.zeros(per_row.shape[1], dtype=torch.long)
    for part in weights.split(max(1, _VALUES_AT_ONCE // per_row.shape[1])):
        chosen = _chosen(scores, part @ per_row, rule, n, options)
        counts += chosen.sum(0)
    return counts


def _chosen(
    scores: EdgeScores, means: Float[Tensor, "sample edge"], rule: str, n: int, options: dict[str, Any]
) -> Bool[Tensor, "sample edge"]:
    graph = scores.graph
    if rule == "top" and not options.get("fill"):
        strength = means.abs() if options.get("by", "abs") == "abs" else means
        return pruned_sets(graph, strongest(strength, n))
    if rule == "threshold":
        strength = means.abs() if options.get("by", "abs") == "abs" else means
        return pruned_sets(graph, strength >= options["tau"])
    return torch.stack([_select(scores, row, rule, n, options)[graph.edge_mask] for row in means])


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
    edge_mask = graph.edge_mask
    dense = torch.zeros(len(sets), *edge_mask.shape, dtype=torch.bool)
    dense[:, edge_mask] = sets
    kept = dense.permute(2, 0, 1).contiguous()  # [reader, sample, writer]
    fed_by = [[graph.writer_index(node) for node in graph.nodes_fed_by(reader)] for reader in graph.reader_nodes]
    fed = torch.zeros(len(sets), graph.n_writers, dtype=torch.bool)
    fed[:, 0] = True
    for r, nodes in enumerate(fed_by):
        kept[r] &= fed
        if nodes:
            fed[:, nodes] |= kept[r].any(1, keepdim=True)
    live = torch.zeros_like(fed)
    for r in range(graph.n_readers - 1, -1, -1):
        if fed_by[r]:
            kept[r] &= live[:, fed_by[r]].any(1, keepdim=True)
        live |= kept[r]
    return kept.permute(1, 2, 0)[:, edge_mask]
