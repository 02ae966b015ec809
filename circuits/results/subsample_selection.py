"""Circuits chosen from many subsamples of the prompts at once: how often each edge is chosen."""

from dataclasses import replace
from functools import lru_cache
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
    for part in weights.split(selections_at_once(scores.graph)):
        chosen = _chosen(scores, part @ per_row, rule, n, options)
        counts += chosen.sum(0)
    return counts


def selections_at_once(graph: Graph) -> int:
    """Number of subsamples whose circuits are chosen together."""
    return max(1, _VALUES_AT_ONCE // graph.n_edges)


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
    n_outputs, fed_by, read_by = _outputs(graph)
    fed = torch.zeros(len(sets), n_outputs, dtype=torch.bool)
    for r, (outputs, read) in enumerate(zip(fed_by, read_by, strict=True)):
        reached = fed[:, read]
        reached[:, 0] = True  # the input
        kept[r, :, : len(read)] &= reached
        if outputs:
            fed[:, outputs] |= kept[r].any(1, keepdim=True)
    live = torch.zeros_like(fed)
    for r in range(graph.n_readers - 1, -1, -1):
        outputs, read = fed_by[r], read_by[r]
        if outputs:
            kept[r] &= live[:, outputs].any(1, keepdim=True)
        live[:, read] |= kept[r, :, : len(read)]
    return kept.permute(1, 2, 0)[:, edge_mask]


@lru_cache(maxsize=4)
def _outputs(graph: Graph) -> tuple[int, list[list[int]], list[list[int]]]:
    """The number of outputs of nodes (over places, of each node at each span); which of them each reader feeds (none: `logits`),
    and which it reads, by writer."""
    numbers: dict[str, int] = {}
    read_by = [
        [numbers.setdefault(graph.output_read(w, reader), len(numbers)) for w in range(reader.n_writers)]
        for reader in graph.reader_nodes
    ]
    fed_by = [
        [numbers.setdefault(output, len(numbers)) for output in graph.outputs_of(reader) if reader.part != "logits"]
        for reader in graph.reader_nodes
    ]
    return len(numbers), fed_by, read_by
