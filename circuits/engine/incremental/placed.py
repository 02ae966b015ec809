"""`Incremental` over places: every edge is kept or ablated at the tokens of each span (`circuits.graph.places`).

Columns of `keep` are readers at places. Node by node, a token of the line has one span, and an edge's change reaches only the tokens
at whose span it is kept. With destinations, a key or value is a reader of its own for each span of queries (a slot of
`engine.by_query`), and a head's output at a query is computed from the keys and values of the query's span. Nodes are computed if
something that reaches `logits` depends on them at some span. An architecture without a description by node makes a whole pass for each
row.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.ablate_places import ablated_at_places
from circuits.engine.architecture import Architecture
from circuits.engine.by_query import slot_columns
from circuits.engine.capture import Writes
from circuits.engine.incremental import Edge, Incremental, Trial, switched_rows
from circuits.engine.incremental.node_functions import NodeFunctions
from circuits.engine.incremental.node_state import NodeState
from circuits.engine.incremental.query_spans import QuerySpans
from circuits.engine.prefix import Suffix
from circuits.graph.graph import Reader
from circuits.graph.places import PlacedGraph


class PlacedNodeState(NodeState):
    """`NodeState` over places. Its readers are slots: see `engine.by_query`."""

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
        self.queries = QuerySpans(functions.line, spans) if graph.places.destinations else None
        self._columns = [
            [(column, span) for span, column in enumerate(of_slot) if column >= 0]
            for of_slot in slot_columns(graph).t().tolist()
        ]
        self._slot_of = np.empty(len(graph.columns), dtype=np.int64)
        for slot, columns in enumerate(self._columns):
            self._slot_of[[column for column, _ in columns]] = slot
        self._readers = tuple(graph.base.reader_nodes[graph.columns[columns[0][0]][0]] for columns in self._columns)
        self._order = np.argsort(self._slot_of, kind="stable")
        self._first = np.searchsorted(self._slot_of[self._order], np.arange(len(self._columns)))
        self._source = np.array([place.source for _, place in graph.columns])
        self._reaches = np.zeros((len(graph.columns), len(graph.places.spans)), dtype=bool)
        for column, (r, place) in enumerate(graph.columns):
            attended = graph.base.reader_nodes[r].part in ("k", "v")
            after = graph.places.after(place.source) if attended else (place.source,)
            self._reaches[column, list(after) if place.destination is None else place.destination] = True
        self._tokens: dict[tuple[int, int], Tensor] = {}
        self._clean: dict[str, Tensor] = {}
        super().__init__(functions, replacement)

    @property
    def readers(self) -> tuple[Reader, ...]:
        return self._readers

    @property
    def edge_mask(self) -> Bool[Tensor, "writer column"]:
        return self.placed.edge_mask

    def reader_of(self, column: int) -> int:
        return int(self._slot_of[column])

    def by_reader(self, keep: Bool[np.ndarray, "*writer column"]) -> Bool[np.ndarray, "*writer reader"]:
        """Whether an edge is kept at some place where it is read."""
        return np.logical_or.reduceat((keep & self._read)[..., self._order], self._first, axis=-1)

    def is_read(self, r: int) -> bool:
        return bool(self._read[[column for column, _ in self._columns[r]]].any())

    def outdated(self) -> Sequence[int]:
        grown = np.unique(self._slot_of[self._read & ~self._right])
        self._right = self._read
        return grown.tolist()

    def is_elsewhere(self, w: int) -> bool:
        return super().is_elsewhere(w) or not np.array_equal(self._live_at(w, self.keep), self._live[w])

    def restart(self, keep: Bool[Tensor, "writer column"]) -> None:
        super().restart(keep)
        self._right = self._read

    def _reach(self, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._find_read(keep)
        return super()._reach(keep)

    def _find_read(self, keep: np.ndarray) -> None:
        """Finds the spans at which each writer reaches `logits` (`_live`), and the columns on such paths (`_read`)."""
        n_spans = len(self.placed.places.spans)
        self._live = np.zeros((self.graph.n_writers, n_spans), dtype=bool)
        self._read = self._slot_of == len(self._columns) - 1
        for w in range(self.graph.n_writers - 1, -1, -1):
            group = self.groups[w]
            self._live[w] = self._live_at(w, keep)
            if w == group[0]:
                live = self._live[group].any(0)
                fed = self._fed_by[w]
                self._read[fed] |= (self._reaches[fed] & live).any(1)

    @cached_property
    def _fed_by(self) -> list[Int[np.ndarray, " column"]]:
        """Per writer the columns on which it depends, and what is computed with it."""
        slots = [{r for each in group for r in self.readers_of[each]} for group in self.groups]
        return [np.array([c for r in sorted(of) for c, _ in self._columns[r]], dtype=np.int64) for of in slots]

    def _live_at(self, w: int, keep: np.ndarray) -> Bool[np.ndarray, " span"]:
        live = np.zeros(len(self.placed.places.spans), dtype=bool)
        live[self._source[keep[w] & self._read]] = True
        return live

    def projected(self, r: int) -> Float[Tensor, "1 *seen d_head"]:
        reader = self.readers[r]
        if self.queries is None or reader.part not in ("k", "v") or any(p in self.inputs for p in self.peers(r)):
            return super().projected(r)
        if reader.name not in self._clean:  # the same for all queries
            self._clean[reader.name] = self.project(r, self.input)[r]
        return self._clean[reader.name]

    def mixed(self, w: int, projected: Callable[[int], Tensor]) -> Float[Tensor, "row token d_head"]:
        if self.queries is None:
            return super().mixed(w, projected)
        writer = self.graph.writer_nodes[w]
        assert writer.head is not None
        query, *others = self.readers_of[w]
        keys, values = others[: len(others) // 2], others[len(others) // 2 :]
        q, parts = projected(query), []
        slots = self.functions.line.to_slots(q)
        for span, (key, value) in enumerate(zip(keys, values, strict=True)):
            at = self.queries.in_span(span, q.shape[1])
            if at is not None and self.start[key] < self.dead:
                seen = projected(key), projected(value)
                z = self.functions.attended(writer.layer, writer.head, slots, *seen, at=at.slots)
                parts.append((at.tokens, z[:, at.pair, at.rank]))
        out = q.new_zeros(max((len(z) for _, z in parts), default=1), *q.shape[1:])
        for tokens, z in parts:
            out[:, tokens] = z
        return out

    def shift(self, r: int, edges: Sequence[Edge]) -> Float[Tensor, "#row token d_model"]:
        start = int(self.start[r])
        total = torch.zeros_like(self.input(r))
        for column, span in self._columns[r]:
            here = [edge for edge in edges if edge[1] == column]
            tokens = self._at(span, start)
            if here and len(tokens) and self._read[column]:
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
        columns = [column for column, _ in self._columns[r]]
        kept, read, start = self.keep[:, columns], self._read[columns], int(self.start[r])
        if bool(read.all() and (kept == kept[:, :1]).all()):
            return self._summed_input(r, kept[:, 0], slice(start, None))
        x = self.run.seen_by(self.readers[r])[:, start:].clone()
        for (_, span), edges, is_read in zip(self._columns[r], kept.T, read, strict=True):
            tokens = self._at(span, start)
            summed = self._summed_input(r, edges, tokens) if is_read and len(tokens) else None
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
