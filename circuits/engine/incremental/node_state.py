"""`Incremental` for architectures that can be computed node by node: the rows of a trial at once."""

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.capture import Writes
from circuits.engine.incremental import Edge, Incremental, Trial, switched_rows
from circuits.engine.incremental.node_functions import NodeFunctions
from circuits.engine.incremental.node_values import NodeValues

TRIAL_TOKENS = 448
"""Tokens per trial at which a core's matrix products run best; more tokens mean more unused rows."""


class NodeState(NodeValues, Incremental):
    """`Incremental`, node by node."""

    by_node = True

    def __init__(self, functions: NodeFunctions, replacement: Writes) -> None:
        super().__init__(functions, replacement)
        self._logits: Tensor | None = None

    def reset(self, keep: Bool[Tensor, "writer reader"]) -> None:
        self.restart(keep)
        self._logits = None

    def rows_worth(self, reader: int) -> int:
        fed = self.fed[self.reader_of(reader)]
        start = min(int(self.need[w]) for w in fed) if fed else self.answers
        return max(1, round(TRIAL_TOKENS / max(1, self.dead - start)))

    def logits(self) -> Float[Tensor, "pair d_out"]:
        if self._logits is None:
            self._logits = self.functions.logits(self.input(len(self.readers) - 1))[0]
        return self._logits

    def trial(self, switches: Sequence[Sequence[Edge]]) -> Trial:
        rows = switched_rows(switches)
        self.widen([edge for edge in rows if not self.keep[edge]])
        return _NodeTrial(self, switches, rows)

    def accept(self, trial: "_NodeTrial", row: int) -> None:
        """Adopts the values of one row of a trial."""
        for theirs, mine in (
            (trial.inputs, self.inputs), (trial.outputs, self.outputs), (trial.projections, self.projections),
            (trial.raw, self.raw),
        ):  # fmt: skip
            for i, value in theirs.items():
                mine[i] = value if len(value) == 1 else value[row : row + 1].clone()
        for r in trial.inputs:
            for peer in self.peers(r):
                if peer not in trial.projections:
                    self.projections.pop(peer, None)
        switched = [edge for edge, at in trial.rows.items() if at <= row]
        for edge in switched:
            self.keep[edge] ^= True
        self._logits = None
        self.settle([w for w, _ in switched])


class _NodeTrial(Trial):
    """Rows of a `NodeState`, and the values that they change."""

    def __init__(self, state: NodeState, switches: Sequence[Sequence[Edge]], rows: dict[Edge, int]) -> None:
        self.state, self.switches, self.rows = state, switches, rows
        self.inputs: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}
        self.projections: dict[int, Tensor] = {}
        self.raw: dict[int, Tensor] = {}
        self._queue: list[int] = []
        for r in sorted({r for _, c in rows if state.start[r := state.reader_of(c)] < state.dead}):
            self.inputs[r] = self._switched_input(r)
            self._queue_nodes(r)
        while self._queue:
            self._compute(heappop(self._queue))

    def _switched_input(self, r: int) -> Float[Tensor, "row token d_model"]:
        x = self.state.input(r)
        rows = x.new_empty(len(self.switches), *x.shape[1:])
        for row, edges in enumerate(self.switches):
            here = [edge for edge in edges if self.state.reader_of(edge[1]) == r]
            if here:
                x = x + self.state.shift(r, here)
            rows[row] = x[0]
        return rows

    def _queue_nodes(self, r: int) -> None:
        for w in self.state.fed[r]:
            first = self.state.groups[w][0]
            if self.state.need[w] < self.state.dead and first not in self._queue:
                heappush(self._queue, first)

    def _seen(self, r: int) -> Tensor:
        return self.inputs[r] if r in self.inputs else self.state.input(r)

    def _project(self, r: int) -> Tensor:
        if not any(peer in self.inputs for peer in self.state.peers(r)):
            return self.state.projected(r)
        if r not in self.projections:
            self.projections |= self.state.project(r, self._seen)
        return self.projections[r]

    def _raw(self, w: int) -> Tensor:
        return self.raw[w] if w in self.raw else self.state.raw_write(w)

    def _compute(self, first: int) -> None:
        """Computes a group, and adds its changes to the inputs of its readers."""
        state = self.state
        arguments = self.inputs.__contains__, self._seen, self._project, self._raw
        outputs, raw = state.compute(state.groups[first], *arguments)
        self.outputs |= outputs
        self.raw |= raw
        for w in outputs:
            self._send(w)

    def _send(self, w: int) -> None:
        state = self.state
        kept = state.by_reader(state.keep[w]).copy()
        kept[[state.reader_of(column) for writer, column in self.rows if writer == w]] = True
        there = (state.start >= state.need[w]) & (state.start < state.dead)
        readers = np.flatnonzero(kept & there).tolist()
        if not readers:
            return
        delta = state.written(w, self.outputs[w] - state.output(w))
        for r in readers:
            arriving = state.through(w, r, delta[:, state.start[r] - state.need[w] :], self.rows)
            if r in self.inputs:
                self.inputs[r].add_(arriving)
            else:
                self.inputs[r] = state.input(r) + arriving
                self._queue_nodes(r)

    def logits(self, rows: slice) -> Float[Tensor, "row pair d_out"]:
        last = len(self.state.readers) - 1
        if last in self.inputs:
            return self.state.functions.logits(self.inputs[last][rows])
        n = len(range(*rows.indices(len(self.switches))))
        return self.state.logits().expand(n, -1, -1)

    def accept(self, row: int) -> None:
        self.state.accept(self, row)
