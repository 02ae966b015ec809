"""One ACDC search: its tests, their order, and the decisions. `methods.acdc` explains the rules.

Tests are made speculatively, and decisions of an earlier run are replayed from its record. Both give the result of the sequential
search.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from circuits.errors import InputError
from circuits.graph.graph import Graph
from circuits.graph.paths import live_nodes
from circuits.methods.acdc.loss import Loss
from circuits.methods.acdc.record import EndOfRecordError, Record, Step
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.provenance import Provenance

FIRST_ROWS, MOST_ROWS = 4, 32
"""Number of tests in a batch: at the beginning of a layer, and at most."""
NEAR = 0.5
"""A batch ends with a test if the last test of its kind changed the loss by more than this share of the threshold."""
Test = tuple[int | None, int]
"""(writer, reader); None as writer: the reader's whole input."""


@dataclass(frozen=True)
class Rules:
    """How edges are tested.

    Attributes:
        threshold: edges that change the loss by less are removed.
        absolute: compare the size of the change, so that harmful edges are kept too.
        reader_tests: first test the whole inputs of q, k and v readers.
        start_layer: the lowest layer whose readers are visited; edges into earlier layers are kept.
        order: test the edges of a reader in increasing order of these absolute scores; None: from the latest writer.
        most_rows: largest number of tests at once; 1: one after the other. Does not change the result.
    """

    threshold: float
    absolute: bool = False
    reader_tests: bool = True
    start_layer: int = 0
    order: EdgeScores | None = None
    most_rows: int = MOST_ROWS


@dataclass(frozen=True)
class Tally:
    """Progress of a search.

    Attributes:
        readers, readers_done: number of readers in total, and visited so far.
        tests: number of tests so far, of edges and of whole inputs.
        edges_tested, edges_kept: numbers so far.
        loss: loss with the current edges.
        closest: smallest distance of a change from the threshold.
    """

    readers: int
    readers_done: int = 0
    tests: int = 0
    edges_tested: int = 0
    edges_kept: int = 0
    loss: float = 0.0
    closest: float = math.inf


Report = Callable[[Tally], None]


class Search:
    """One pass over all readers.

    Attributes:
        mask: True at the current edges.
        changes: change of the loss in each edge's test; NaN: not tested.

    Over places, a reader is a reader at a place: the last heads come first, and of a head the last places.
    """

    def __init__(self, loss: Loss, rules: Rules, start: Circuit, record: Record, report: Report | None) -> None:
        self.loss, self.rules, self.record, self.report = loss, rules, record, report
        self.graph: Graph = start.graph
        self.mask = start.mask.clone()
        self.changes = torch.full(self.mask.shape, torch.nan, dtype=torch.float64)
        self.coupled = loss.coupled
        visited = [reader for reader in self.graph.reader_nodes if reader.layer >= rules.start_layer]
        self.tally = Tally(len(visited))
        self.rows = min(FIRST_ROWS, rules.most_rows)
        self._last: dict[tuple[int | None, str, str | None], float] = {}
        self._readers: dict[tuple[int, str], list[int]] = {}
        for r in reversed(range(self.graph.n_readers)):
            reader = self.graph.reader_nodes[r]
            self._readers.setdefault((reader.layer, reader.part), []).append(r)

    def run(self, origin: Provenance) -> Circuit:
        self.loss.reset(self.mask)
        initial = self.loss.value()
        self.tally = replace(self.tally, loss=initial)
        for layer in range(self.graph.n_layers, self.rules.start_layer - 1, -1):
            self._visit(layer)
        circuit = Circuit(self.graph, self._without_dead_ends(), self.changes, None, origin)
        self.loss.reset(circuit.mask)
        tally = self.tally
        summary = {
            "initial_loss": initial,
            "final_loss": self.loss.value(),
            "tests": tally.tests,
            "edges_tested": tally.edges_tested,
            "edges_kept": tally.edges_kept,
            "closest": tally.closest if math.isfinite(tally.closest) else None,
            "by_node": self.loss.by_node,
        }
        return circuit.with_provenance(search=summary)

    def _visit(self, layer: int) -> None:
        """Makes all tests of one layer: replays them from an earlier run's record, or computes them from the current edges."""
        mask, tally, last, mark = self.mask.clone(), self.tally, dict(self._last), self.record.mark()
        try:
            self._tests_of_layer(layer, self._replay)
        except EndOfRecordError:
            self.mask, self.tally, self._last = mask, tally, last
            self.record.cut(mark)
            self.rows = min(FIRST_ROWS, self.rules.most_rows)
            self.loss.reset(self.mask)
            self.tally = replace(self.tally, loss=self.loss.value())
            self._tests_of_layer(layer, self._test)
        done = sum(reader.layer >= layer for reader in self.graph.reader_nodes)
        self._reported(readers_done=done)

    def _tests_of_layer(self, layer: int, decide: Callable[[list[Test]], list[bool]]) -> None:
        graph = self.graph
        if layer == graph.n_layers:
            decide(self._edges(self._readers[layer, "logits"]))
            return
        live = self._live()
        decide(self._edges([r for r in self._readers.get((layer, "mlp"), ()) if self._feeds(r, live)]))
        live, readers = self._live(), []
        for part in ("v", "k", "q"):
            readers += [r for r in self._readers[layer, part] if self.mask[:, r].any() and self._feeds(r, live)]
        if self.rules.reader_tests:
            stays = decide([(None, r) for r in readers])
            readers = [r for r, kept in zip(readers, stays, strict=True) if kept]
        decide(self._edges(readers))

    def _edges(self, readers: Sequence[int]) -> list[Test]:
        """The tests of the edges into these readers, in order."""
        tests: list[Test] = []
        for r in readers:
            writers = self.mask[:, r].nonzero()[:, 0].tolist()[::-1]
            if self.rules.order is not None:
                size = self.rules.order.values[:, r].abs().tolist()
                writers.sort(key=lambda w, size=size: size[w])
            tests += [(w, r) for w in writers]
        return tests

    def _feeds(self, r: int, live: set[str]) -> bool:
        """Whether something that depends on a reader reaches the logits."""
        return any(output in live for output in self.graph.outputs_of(self.graph.reader_nodes[r], self.coupled))

    def _live(self) -> set[str]:
        return live_nodes(self.graph, self.mask, self.coupled)

    def _without_dead_ends(self) -> Tensor:
        """The mask without edges into nodes that lost all their out-edges."""
        live = self._live()
        return self.mask & torch.tensor([self._feeds(r, live) for r in range(self.graph.n_readers)])

    # --- decisions ------------------------------------------------------------------------------------------------------

    def _replay(self, tests: list[Test]) -> list[bool]:
        """The recorded decisions of an earlier run."""
        kept = []
        for test in tests:
            step = self.record.next()
            if (step.writer, step.reader) != self._names(test):
                raise InputError(
                    f"the record tests {step.writer} -> {step.reader} where this search tests {self._names(test)}; "
                    "delete the store to start again"
                )
            self._decided([(test, step.change, step.kept)])
            kept.append(step.kept)
        return kept

    def _test(self, tests: list[Test]) -> list[bool]:
        """Makes the tests in batches; each batch is read up to the first edge that is kept."""
        kept: list[bool] = []
        while len(kept) < len(tests):
            batch = self._next_batch(tests, len(kept))
            decided = list(self._one_trial(batch))
            kept += [stays for _, _, stays in decided]
            self._decided(decided)
            self.record.write([Step(*self._names(test), change, stays) for test, change, stays in decided])
            self._reported()
            self.rows = max(1, self.rows // 2) if kept[-1] else min(2 * self.rows, self.rules.most_rows)
        return kept

    def _next_batch(self, tests: list[Test], first: int) -> list[Test]:
        """As many tests as will probably remove their edges, and no more than are efficient in one pass."""
        batch: list[Test] = []
        worth = self.rows
        for test in tests[first : first + self.rows]:
            worth = min(worth, self.loss.rows_worth(test[1]))
            if len(batch) >= worth and batch:
                break
            batch.append(test)
            if self._last.get(self._kind(test), 0.0) > NEAR * self.rules.threshold:
                break
        return batch

    def _kind(self, test: Test) -> tuple[int | None, str, str | None]:
        """The class of a test; tests of one class often have the same outcome: a writer's edges into values (keys, queries, MLPs)."""
        reader = self.graph.reader_nodes[test[1]]
        return test[0], reader.part, reader.place

    def _one_trial(self, tests: list[Test]) -> Iterator[tuple[Test, float, bool]]:
        trial = self.loss.trial([self._edges_of(test) for test in tests])
        now, accepted = self.tally.loss, -1
        for row, test in enumerate(tests):
            value = trial.value(row)
            change = value - now
            stays = not (abs(change) if self.rules.absolute else change) < self.rules.threshold
            yield test, change, stays
            if stays:
                break
            now, accepted = value, row
        if accepted >= 0:
            trial.accept(accepted)
        self.tally = replace(self.tally, loss=now)

    def _edges_of(self, test: Test) -> list[tuple[int, int]]:
        writer, reader = test
        writers = self.mask[:, reader].nonzero()[:, 0].tolist() if writer is None else [writer]
        return [(w, reader) for w in writers]

    def _names(self, test: Test) -> tuple[str | None, str]:
        writer, reader = test
        return None if writer is None else self.graph.writer_names[writer], self.graph.reader_names[reader]

    def _decided(self, decided: Sequence[tuple[Test, float, bool]]) -> None:
        """Applies decisions to the mask and the tally."""
        tally = self.tally
        tested, stayed, closest = tally.edges_tested, tally.edges_kept, tally.closest
        for (writer, reader), change, stays in decided:
            change_counted = abs(change) if self.rules.absolute else change
            self._last[self._kind((writer, reader))] = change_counted
            closest = min(closest, abs(change_counted - self.rules.threshold))
            if writer is not None:
                tested, stayed = tested + 1, stayed + stays
                self.changes[writer, reader] = change
                self.mask[writer, reader] = stays
            elif not stays:
                self.mask[:, reader] = False
        self.tally = replace(
            tally, tests=tally.tests + len(decided), edges_tested=tested, edges_kept=stayed, closest=closest
        )

    def _reported(self, **changes: Any) -> None:
        self.tally = replace(self.tally, **changes)
        if self.report is not None:
            self.report(self.tally)
