"""Keys and values that differ between the queries that read them.

The prompts are copied: in copy c all keys and values are those that the queries of some spans see, and of its heads' outputs only the
rows of these queries are used. The model's own attention computes every copy, so rotary embeddings, windows, soft caps and norms of
queries and keys are exact.

A slot is a reader, or a key or value for one span of queries. A layer's slots are its queries, then its keys for the first span of
queries, for the second …, then its values likewise, then its MLP; the last slot is `logits`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from circuits.graph.graph import Graph
from circuits.graph.places import PlacedGraph

SlotRanges = dict[tuple[int, str], slice]
"""(layer, `attention` or `mlp`) -> its slots; `logits` is the attention of a layer behind the last."""


@dataclass(frozen=True, eq=False)
class QueryCopies:
    """Copies of some prompts.

    Attributes:
        n: their number.
        copy_of: for every token the copy whose keys and values its query sees.
    """

    n: int
    copy_of: Int[Tensor, "batch pos"]

    def merged(self, copies: Float[Tensor, "copied pos *shape"]) -> Float[Tensor, "batch pos *shape"]:
        """What the heads put out, from that of all copies."""
        if self.n == 1:
            return copies
        copy = self.copy_of.to(copies.device)
        batch, pos = (torch.arange(size, device=copies.device) for size in copy.shape)
        return copies.unflatten(0, (self.n, -1))[copy, batch[:, None], pos]

    def tiled(self, x: Shaped[Tensor, "batch *shape"]) -> Shaped[Tensor, "copied *shape"]:
        """The same for all copies."""
        return x if self.n == 1 else x.repeat(self.n, *[1] * (x.ndim - 1))


def n_queries(graph: PlacedGraph) -> int:
    """The number of slots of a key or value."""
    return len(graph.places.spans) if graph.places.destinations else 1


def slot_ranges(graph: Graph, queries: int) -> SlotRanges:
    """The slots of every layer, with so many for each key and value."""
    ranges: SlotRanges = {}
    slot = 0
    for layer in range(graph.n_layers):
        heads = slice(slot, slot + graph.n_heads + 2 * queries * graph.n_kv_heads)
        ranges[layer, "attention"], slot = heads, heads.stop
        if graph.mlps[layer]:
            ranges[layer, "mlp"] = slice(slot, slot + 1)
            slot += 1
    ranges[graph.n_layers, "attention"] = slice(slot, slot + 1)
    return ranges


def slot_columns(placed: PlacedGraph) -> Int[Tensor, "span slot"]:
    """For every span the column of each slot's edge there; -1: it has none."""
    base, places = placed.base, placed.places
    number = {(r, place.source, place.destination): column for column, (r, place) in enumerate(placed.columns)}
    queries: Sequence[int | None] = range(len(places.spans)) if places.destinations else (None,)
    slots: list[tuple[int, int | None]] = []
    for layer in range(base.n_layers):
        for part in ("q", "k", "v"):
            readers = base.readers_of(layer, part)  # type: ignore[arg-type]
            for query in queries if part != "q" else (None,):
                slots += [(r, query) for r in range(readers.start, readers.stop)]
        mlp = base.readers_of(layer, "mlp")
        slots += [(r, None) for r in range(mlp.start, mlp.stop)]
    slots.append((base.n_readers - 1, None))
    return torch.tensor([[number.get((r, span, query), -1) for r, query in slots] for span in range(len(places.spans))])
