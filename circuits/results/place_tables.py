"""Tables of edges over places, taken to other places and to the model's graph."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.graph.places import PlacedGraph


def taken(
    table: Float[Tensor, "writer column"] | Bool[Tensor, "writer column"], columns: Int[Tensor, " other"]
) -> Float[Tensor, "writer other"] | Bool[Tensor, "writer other"]:
    """The columns of a table with these numbers; those with number -1 are NaN, or False."""
    chosen = table[:, columns.clamp(min=0)]
    return chosen.masked_fill(columns < 0, False if table.dtype == torch.bool else torch.nan)


def without_places(
    graph: PlacedGraph, mask: Bool[Tensor, "writer column"], scores: Float[Tensor, "writer column"] | None
) -> tuple[Bool[Tensor, "writer reader"], Float[Tensor, "writer reader"] | None]:
    """The edges of the model's graph that are kept at some place, and the sum of each one's scores there, NaN for other edges."""
    base = graph.base
    readers = torch.tensor([r for r, _ in graph.columns])
    kept = torch.zeros(base.n_writers, base.n_readers, dtype=torch.long)
    kept.index_add_(1, readers, mask.long())
    if scores is None:
        return kept > 0, None
    known = torch.where(mask, scores.nan_to_num(), 0.0)
    summed = torch.zeros(kept.shape, dtype=known.dtype).index_add_(1, readers, known)
    return kept > 0, summed.masked_fill(kept == 0, torch.nan)
