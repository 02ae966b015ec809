"""Products of differences and gradients by place: `engine.gradient_sum`, with a sum for every span instead of one over all tokens.

A key or value that is read at S for queries at D has the part of the gradient that comes through these queries: its slot for these
queries (`engine.by_query`).
"""

from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.architecture import Architecture, Block
from circuits.engine.by_query import n_queries, slot_columns, slot_ranges
from circuits.engine.capture import Gradients
from circuits.engine.gradient_sum import NO_NORM, GradientSum, Part, along_directions, behind_attention, groups
from circuits.graph.places import PlacedGraph


class PlacedGradientSum(GradientSum):
    """Σ over runs of weight · gradient for every slot; `add` and `tile` are those of `GradientSum`.

    Attributes:
        placed: the graph whose edges get the products.
    """

    def __init__(
        self, architecture: Architecture, dtype: torch.dtype, placed: PlacedGraph, parts: list[Part] | None = None
    ) -> None:
        self.placed = placed
        super().__init__(architecture, dtype, _parts(architecture, n_queries(placed)) if parts is None else parts)
        self._columns = slot_columns(placed)

    def _gradients(self, gradients: Gradients) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.placed.places.destinations:
            yield from super()._gradients(gradients)
            return
        assert gradients.k_by_query is not None
        assert gradients.v_by_query is not None
        for layer, q in enumerate(gradients.q):
            keys, values = (by_query[layer].flatten(2, 3) for by_query in (gradients.k_by_query, gradients.v_by_query))
            yield gradients.resid_pre[layer], torch.cat([q, keys, values], dim=2)
            yield from behind_attention(gradients, layer)
        yield gradients.final, gradients.final[:, :, None]

    def _with(self, parts: list[Part]) -> "PlacedGradientSum":
        return PlacedGradientSum(self.architecture, self.dtype, self.placed, parts)

    def add_products(
        self,
        difference: Float[Tensor, "batch writer pos d_model"],
        spans: Int[Tensor, "batch pos"],
        out: Float[Tensor, "batch writer column"],
        first: int = 0,
    ) -> None:
        """Adds difference · gradient, summed over d_model and over the tokens of each span, to `out`.

        Args:
            difference: differences of neighbouring writers' outputs.
            spans: the span of every token; spans are runs of tokens, in order.
            out: the products so far, for edges of the graph over places.
            first: index of the first of these writers.
        """
        runs = [(b, *run) for b, row in enumerate(spans.tolist()) for run in _runs(row)]
        pieces = [difference[b, :, at].flatten(1) for b, _, at in runs]
        parts = [part for part in self.parts if part.n_writers > first]
        last = first + difference.shape[1]
        for group in groups(parts):
            n = min(last, group[-1].n_writers) - first
            low = group[0].readers.start
            g = difference.new_empty(group[-1].readers.stop - low, *difference[:, 0].shape)
            for part in group:
                part.first_term(g[part.readers.start - low : part.readers.stop - low])
            for (b, span, at), piece in zip(runs, pieces, strict=True):
                slots, columns = self._slots(group, span, out.device)
                if len(slots):
                    seen = g[slots - low, b][:, at].flatten(1)
                    out[b][:n, columns] += piece[:n] @ seen.T
        along = along_directions(parts, difference)
        for part in parts:
            for coefficients in part.coefficients:
                n = min(last, part.n_writers) - first
                here, along_part = coefficients.to(out.device), next(along)
                for b, span, at in runs:
                    slots, columns = self._slots([part], span, out.device)
                    if len(slots):
                        taken = here[b, at][:, slots - part.readers.start]
                        out[b][:n, columns] -= along_part[b, at, :n].T @ taken
        # A group's parts see different numbers of writers.
        out.masked_fill_(~self.placed.edge_mask[first:last].to(out.device), 0.0)

    def _slots(self, group: list[Part], span: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The slots of some parts that have an edge at a span, and the columns of these edges."""
        low, high = group[0].readers.start, group[-1].readers.stop
        columns = self._columns[span][low:high]
        there = (columns >= 0).nonzero()[:, 0]
        return (there + low).to(device), columns[there].to(device)


def _runs(row: list[int]) -> Iterator[tuple[int, slice]]:
    """(span, its tokens) for the tokens of one prompt."""
    start = 0
    for i in range(1, len(row) + 1):
        if i == len(row) or row[i] != row[start]:
            yield row[start], slice(start, i)
            start = i


def _parts(architecture: Architecture, queries: int) -> list[Part]:
    graph, parts = architecture.graph, []
    slots = slot_ranges(graph, queries)
    for block in architecture.blocks:
        seen = graph.n_writers_before_layer(block.layer)
        parts.append(
            Part(slots[block.layer, "attention"], seen, block.attn_norm, partial(_projections, block, queries))
        )
        if block.mlp_in is not None:
            n_writers = graph.reader_nodes[graph.readers_of(block.layer, "mlp").start].n_writers
            parts.append(Part(slots[block.layer, "mlp"], n_writers, block.mlp_norm, tuple))
    parts.append(Part(slots[graph.n_layers, "attention"], graph.n_writers, NO_NORM, tuple))
    return parts


def _projections(block: Block, queries: int) -> list[Float[Tensor, "head d_model d_head"]]:
    keys, values = block.projection("k"), block.projection("v")
    return [block.projection("q"), *[keys] * queries, *[values] * queries]
