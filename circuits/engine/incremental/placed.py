"""`Incremental` over places: every edge is kept or ablated at the tokens of each span (`circuits.graph.places`).

Columns of `keep` are readers at places. Node by node, a token of the line has one span, and an edge's change reaches only the tokens
at whose span it is kept; which nodes are computed, and from which token on, follows from the edges that are kept at some place. An
architecture without a description by node makes a whole pass for each row, and so does every architecture if edges have destinations.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.ablate_places import ablated_at_places
from circuits.engine.architecture import Architecture
from circuits.engine.capture import Writes
from circuits.engine.incremental import Edge, Incremental, Trial, switched_rows
from circuits.engine.incremental.node_functions import NodeFunctions
from circuits.engine.incremental.node_state import NodeState
from circuits.engine.prefix import Suffix
from circuits.graph.places import PlacedGraph


class PlacedNodeState(NodeState):
    """`NodeState` over places without destinations."""

    def __init__(
        self, functions: NodeFunctions, replacement: Writes, graph: PlacedGraph, spans: Int[Tensor, " token"]
    ) -> None:
        """Starts with every edge kept.

        Args:
            functions, replacement: see `NodeValues`.
            graph: the graph over places.
            spans: the span of every token of the line.
        """
        self.placed, self.spans = graph, spans
        self._readers = [r for r, _ in graph.columns]
        self._first = np.searchsorted(self._readers, np.arange(graph.base.n_readers))
        self._columns: list[list[tuple[int, int]]] = [[] for _ in range(graph.base.n_readers)]
        for column, (r, place) in enumerate(graph.columns):
            self._columns[r].append((column, place.source))
        self._tokens: dict[tuple[int, int], Tensor] = {}
        super().__init__(functions, replacement)

    @property
    def edge_mask(self) -> Bool[Tensor, "writer column"]:
        return self.placed.edge_mask

    def reader_of(self, column: int) -> int:
        return self._readers[column]

    def by_reader(self, keep: Bool[np.ndarray, "*writer column"]) -> Bool[np.ndarray, "*writer reader"]:
        return np.logical_or.reduceat(keep, self._first, axis=-1)

    def shift(self, r: int, edges: Sequence[Edge]) -> Float[Tensor, "#row token d_model"]:
        start = int(self.start[r])
        total = torch.zeros_like(self.input(r))
        for column, span in self._columns[r]:
            here = [edge for edge in edges if edge[1] == column]
            tokens = self._at(span, start)
            if here and len(tokens):
                total[:, tokens - start] = self._shift_in(r, here, tokens)
        return total

    def through(
        self, w: int, r: int, delta: Float[Tensor, "row token d_model"], rows: Mapping[Edge, int]
    ) -> Float[Tensor, "row token d_model"]:
        columns = [column for column, _ in self._columns[r]]
        kept = np.repeat(self.keep[None, w, columns], len(delta), axis=0)
        for i, column in enumerate(columns):
            if (row := rows.get((w, column))) is not None:
                kept[row:, i] ^= True
        if kept.all():
            return delta
        by_span = np.zeros((len(delta), len(self.placed.places.spans)), dtype=bool)
        by_span[:, [span for _, span in self._columns[r]]] = kept
        here = torch.from_numpy(by_span).to(delta.device)[:, self.spans[int(self.start[r]) :]]
        return delta * here[..., None]

    def _kept_input(self, r: int) -> Float[Tensor, "1 token d_model"] | None:
        kept = self.keep[:, [column for column, _ in self._columns[r]]]
        start = int(self.start[r])
        if bool((kept == kept[:, :1]).all()):
            return self._summed_input(r, kept[:, 0], slice(start, None))
        x = self.run.seen_by(self.graph.reader_nodes[r])[:, start:].clone()
        for (_, span), edges in zip(self._columns[r], kept.T, strict=True):
            tokens = self._at(span, start)
            summed = self._summed_input(r, edges, tokens) if len(tokens) else None
            if summed is not None:
                x[:, tokens - start] = summed
        return x

    def _at(self, span: int, start: int) -> Int[Tensor, " some_tokens"]:
        """The tokens of a span from a token of the line on."""
        if (span, start) not in self._tokens:
            self._tokens[span, start] = (self.spans[start:] == span).nonzero()[:, 0] + start
        return self._tokens[span, start]


class PlacedPasses(Incremental):
    """`Incremental` over places by whole passes, one for each row that is read."""

    by_node = False

    def __init__(
        self,
        architecture: Architecture,
        suffix: Suffix,
        replacement: Writes,
        graph: PlacedGraph,
        spans: Int[Tensor, "batch pos"],
        tokens: Int[Tensor, " d_out"] | None = None,
    ) -> None:
        """Starts with every edge kept.

        Args:
            architecture, suffix, replacement, tokens: see `LayerState`.
            graph: the graph over places.
            spans: the span of every token.
        """
        self.architecture, self.suffix, self.replacement = architecture, suffix, replacement
        self.placed, self.spans, self.tokens = graph, spans, tokens
        self.reset(graph.edge_mask)

    def rows_worth(self, reader: int) -> int:
        return 1

    def reset(self, keep: Bool[Tensor, "writer column"]) -> None:
        self.keep = (keep & self.placed.edge_mask).cpu().numpy().copy()

    def logits(self) -> Float[Tensor, "pair d_out"]:
        return self.logits_of(self.keep)

    def logits_of(self, keep: Bool[np.ndarray, "writer column"]) -> Float[Tensor, "pair d_out"]:
        """The logits of one circuit."""
        mask = torch.from_numpy(keep).to(self.spans.device)
        return ablated_at_places(
            self.architecture, self.suffix, self.replacement, self.placed, mask, self.spans, self.tokens
        )

    def trial(self, switches: Sequence[Sequence[Edge]]) -> Trial:
        masks = np.repeat(self.keep[None], len(switches), axis=0)
        for (w, column), row in switched_rows(switches).items():
            masks[row:, w, column] ^= True
        return _Passes(self, masks)


class _Passes(Trial):
    """Rows of `PlacedPasses`."""

    def __init__(self, state: PlacedPasses, masks: Bool[np.ndarray, "row writer column"]) -> None:
        self.state, self.masks = state, masks

    def logits(self, rows: slice) -> Float[Tensor, "row pair d_out"]:
        return torch.stack([self.state.logits_of(mask) for mask in self.masks[rows]])

    def accept(self, row: int) -> None:
        self.state.keep = self.masks[row].copy()
