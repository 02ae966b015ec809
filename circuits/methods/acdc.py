"""ACDC: edges are ablated one after the other, and stay away if the metric hardly minds (Conmy et al. 2023, 2304.14997).

The metric is taken as a loss L to be kept low: a divergence as it is, anything of which more is more of the behaviour with
a minus. Starting from all edges, readers are visited from the end, `logits` first; then, per layer from the last: its MLP,
the tests of whole value, key and query inputs, the edges into values, keys and queries (heads from the last). Edges of one
reader go from the latest writer to the earliest. An edge is removed, for good, where

    L(without it) - L(now) < threshold           (strict, signed; `absolute`: |L(without it) - L(now)| < threshold)

A reader whose whole input can be ablated at once in the same way loses its edges untested, and so does a node without
out-edges. All that is as the published reference does it, edge for edge (golden files are among the tests). Keys and values
that a group of heads shares are tested once.

Tests are made speculatively: row i of a batch assumes that the edges 1 … i go; rows are read up to the first edge that
stays. So the result is the sequential one. Each row computes only what a change reaches (`engine.incremental`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.ablations import Ablation
from circuits.circuit import Circuit
from circuits.engine.ablate import live_nodes
from circuits.engine.hooks import inference_state
from circuits.errors import InputError
from circuits.graph import Graph
from circuits.methods.acdc_loss import Loss
from circuits.methods.acdc_record import EndOfRecordError, Record, Step
from circuits.metrics import Metric, MetricFunction
from circuits.model import Model
from circuits.pairs import PromptPairs
from circuits.provenance import Provenance, provenance
from circuits.question import Question
from circuits.scores import EdgeScores

FIRST_ROWS, MOST_ROWS = 4, 32
"""Tests made at once: at the beginning of a layer, and at most."""
Test = tuple[int | None, int]
"""(writer, reader); no writer: the reader's whole input."""


@dataclass(frozen=True)
class Rules:
    """How edges are tested.

    Attributes:
        threshold: edges that change the loss by less go.
        absolute: compare the size of the change, so that edges that hurt stay as well.
        reader_tests: test the whole inputs of q, k and v readers first.
        start_layer: the last layer (counted from the first) whose readers are visited; edges into earlier ones stay.
        order: test the edges of a reader from the smallest absolute score to the largest; None: from the latest writer.
        most_rows: tests made at once at most; 1: one after the other. Does not change the result.
    """

    threshold: float
    absolute: bool = False
    reader_tests: bool = True
    start_layer: int = 0
    order: EdgeScores | None = None
    most_rows: int = MOST_ROWS


@dataclass(frozen=True)
class Tally:
    """How far a search is.

    Attributes:
        readers, readers_done: to be visited in all, and so far.
        tests: made so far, of edges and of whole inputs.
        edges_tested, edges_kept: so far.
        loss: with the edges that are there now.
        closest: how close any change came to the threshold.
    """

    readers: int
    readers_done: int = 0
    tests: int = 0
    edges_tested: int = 0
    edges_kept: int = 0
    loss: float = 0.0
    closest: float = float("inf")


Report = Callable[[Tally], None]


def acdc(
    model: Model,
    pairs: PromptPairs,
    threshold: float,
    *,
    metric: str | Metric | MetricFunction | None = None,
    ablation: str | Ablation = "interchange",
    absolute: bool = False,
    reader_tests: bool = True,
    order: EdgeScores | None = None,
    start_layer: int = 0,
    start: Circuit | None = None,
    batch_size: int | None = None,
    most_rows: int = MOST_ROWS,
    store: str | Path | None = None,
    progress: Report | None = None,
) -> Circuit:
    """Prunes edges one after the other.

    Args:
        model, pairs: what is asked.
        threshold: in the metric's unit; edges whose removal raises the loss by less go.
        metric: None: the one the task prefers. The reference uses `kl_divergence`.
        ablation: what replaces an ablated edge's value.
        absolute, reader_tests, order, start_layer, most_rows: see `Rules`.
        start: a circuit to prune further; None: all edges.
        batch_size: pairs in one state; results do not depend on it.
        store: a directory for the record `steps.jsonl`; a call with the same question continues from it.
        progress: called with a `Tally`.

    Returns:
        The circuit. An edge's score is the change that its test saw, in the metric's unit and positive where the edge
        helps; NaN where it was not tested. `provenance["search"]` tells the loss before and after, the tests made, the
        closest that any change came to the threshold (in float32, changes move by about 1e-6 of the metric with the batch
        size; edge-for-edge equality is promised in float64), and whether single nodes were computed again (`by_node`) or
        whole layers, where the architecture has no description node by node.

    Raises:
        InputError: an option that cannot be used, or a store that belongs to another question.
    """
    rules = Rules(float(threshold), absolute, reader_tests, start_layer, order, most_rows)
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    start = _checked(model, rules, start)
    origin = provenance(question, "acdc", _options(rules, start, question))
    with inference_state(model.bridge), torch.no_grad():
        return _searched(Loss(question), rules, start, origin, store, progress)


def acdc_sweep(
    model: Model,
    pairs: PromptPairs,
    thresholds: Sequence[float],
    *,
    metric: str | Metric | MetricFunction | None = None,
    ablation: str | Ablation = "interchange",
    batch_size: int | None = None,
    start: Circuit | None = None,
    progress: Report | None = None,
    **rules: Any,
) -> tuple[Circuit, ...]:
    """ACDC at several thresholds, from the loosest (most edges) to the tightest, each pruning the circuit before it further.

    So the circuits are nested, and all but the first cost little. The first is what `acdc` gives; a later one need not be,
    since it started from fewer edges.

    Args:
        model, pairs, metric, ablation, batch_size, start, progress: see `acdc`.
        thresholds: in any order.
        rules: see `Rules`.

    Returns:
        A circuit for each threshold, in the order given.
    """
    if not thresholds:
        raise InputError("a sweep needs at least one threshold")
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    found: dict[float, Circuit] = {}
    with inference_state(model.bridge), torch.no_grad():
        loss = Loss(question)
        for threshold in sorted(set(map(float, thresholds))):
            these = Rules(threshold, **rules)
            start = _checked(model, these, start)
            origin = provenance(question, "acdc", _options(these, start, question))
            start = found[threshold] = _searched(loss, these, start, origin, None, progress)
    return tuple(found[float(threshold)] for threshold in thresholds)


def acdc_of_size(
    model: Model,
    pairs: PromptPairs,
    edges: int,
    *,
    rounds: int = 12,
    metric: str | Metric | MetricFunction | None = None,
    ablation: str | Ablation = "interchange",
    batch_size: int | None = None,
    progress: Report | None = None,
    **rules: Any,
) -> Circuit:
    """A circuit of at most that many edges: the threshold is found by bisection, on a logarithmic scale.

    Each round prunes the smallest circuit found so far that is still too large, so that all rounds but the first cost
    little; the circuit is the largest found that is small enough. `provenance["rounds"]` has each round's threshold and
    number of edges.

    Args:
        model, pairs, metric, ablation, batch_size, progress: see `acdc`.
        edges: how many are wanted.
        rounds: searches at most.
        rules: see `Rules`.

    Raises:
        InputError: a number of edges that the graph does not have.
    """
    if not 0 <= edges <= model.graph.n_edges:
        raise InputError(f"edges must be between 0 and the graph's {model.graph.n_edges}, got {edges}")
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    large, best = (
        Circuit.full(model.graph),
        Circuit.empty(model.graph).with_provenance(**provenance(question, "acdc", {"wanted": edges})),
    )
    with inference_state(model.bridge), torch.no_grad():
        loss = Loss(question)
        low, high = 0.0, float("inf")
        threshold = loss.range() / FIRST_FRACTION
        tried: list[tuple[float, int]] = []
        for _ in range(rounds):
            these = Rules(threshold, **rules)
            large = _checked(model, these, large)
            options = _options(these, large, question) | {"wanted": edges}
            found = _searched(loss, these, large, provenance(question, "acdc", options), None, progress)
            tried.append((threshold, len(found)))
            if len(found) > edges:
                large, low = found, threshold
            else:
                high = threshold
                best = found if len(found) >= len(best) else best
            if len(best) == edges or high < low * 1.01:
                break
            threshold = low * 4 if high == float("inf") else high / 4 if low == 0.0 else (low * high) ** 0.5
    return best.with_provenance(rounds=tuple(tried))


FIRST_FRACTION = 200
"""A search for a number of edges begins with the metric's range, clean to everything ablated, divided by this."""


def _checked(model: Model, rules: Rules, start: Circuit | None) -> Circuit:
    """The circuit to begin with; InputError for rules that cannot be followed."""
    graph = model.graph
    if rules.threshold != rules.threshold:
        raise InputError("the threshold is not a number")
    if not 0 <= rules.start_layer <= graph.n_layers:
        raise InputError(f"start_layer must be between 0 and {graph.n_layers} (logits only), got {rules.start_layer}")
    if rules.most_rows < 1:
        raise InputError(f"most_rows must be at least 1, got {rules.most_rows}")
    for what, given in (("the circuit to start from", start), ("the scores to order by", rules.order)):
        if given is not None and given.graph != graph:
            raise InputError(f"{what} belong to another graph ({given.graph}) than {model.name}")
    return Circuit.full(graph) if start is None else start


def _options(rules: Rules, start: Circuit, question: Question) -> dict[str, Any]:
    """The options that decide the result, and the batch size."""
    return {
        # JSON has no infinities.
        "threshold": rules.threshold if abs(rules.threshold) != float("inf") else str(rules.threshold),
        "absolute": rules.absolute,
        "reader_tests": rules.reader_tests,
        "start_layer": rules.start_layer,
        "order": "latest writer first" if rules.order is None else f"scores of {rules.order.provenance.get('method')}",
        "start_edges": len(start),
        "batch_size": question.batch_size,
    }


def _searched(
    loss: Loss, rules: Rules, start: Circuit, origin: Provenance, store: str | Path | None, report: Report | None
) -> Circuit:
    record = Record(store, origin)
    try:
        search = _Search(loss, rules, start, record, report)
        return search.run(origin)
    finally:
        record.close()


class _Search:
    """One pass over all readers.

    Attributes:
        mask: True at the edges that are there now.
        changes: per edge the change its test saw; NaN: not tested.
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

    def run(self, origin: Provenance) -> Circuit:
        self.loss.reset(self.mask)
        initial = self.loss.value()
        self.tally = replace(self.tally, loss=initial)
        for layer in range(self.graph.n_layers, self.rules.start_layer - 1, -1):
            self._visit(layer)
        circuit = Circuit(self.graph, self._without_dead_ends(), self.changes, None, origin)
        self.loss.reset(circuit.mask)
        tally = self.tally
        found = {
            "initial_loss": initial,
            "final_loss": self.loss.value(),
            "tests": tally.tests,
            "edges_tested": tally.edges_tested,
            "edges_kept": tally.edges_kept,
            "closest": tally.closest if tally.tests else None,
            "by_node": self.loss.by_node,
        }
        return circuit.with_provenance(search=found)

    def _visit(self, layer: int) -> None:
        """All tests of one layer: as an earlier run recorded them, or made now from a state that only the mask decides."""
        mask, tally, mark = self.mask.clone(), self.tally, self.record.mark()
        try:
            self._tests_of_layer(layer, self._replay)
        except EndOfRecordError:
            self.mask, self.tally = mask, tally
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
            decide(self._edges([graph.n_readers - 1]))
            return
        if graph.mlps[layer] and f"m{layer}" in self._live():
            decide(self._edges([graph.readers_of(layer, "mlp").start]))
        live, readers = self._live(), []
        for part in ("v", "k", "q"):
            here = graph.readers_of(layer, part)
            readers += [
                r
                for r in reversed(range(here.start, here.stop))
                if self.mask[:, r].any() and any(node in live for node in graph.nodes_fed_by(graph.reader_nodes[r]))
            ]
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

    def _live(self) -> set[str]:
        return live_nodes(self.graph, self.mask, self.coupled)

    def _without_dead_ends(self) -> Tensor:
        """The mask without edges into nodes that lost all their out-edges."""
        live = self._live()
        fed = [self.graph.nodes_fed_by(reader) or ("logits",) for reader in self.graph.reader_nodes]
        return self.mask & torch.tensor([any(node in live for node in nodes) for nodes in fed])

    # --- decisions ------------------------------------------------------------------------------------------------------

    def _replay(self, tests: list[Test]) -> list[bool]:
        """The decisions of an earlier run."""
        kept = []
        for test in tests:
            step = self.record.next()
            if (step.writer, step.reader) != self._names(test):
                raise InputError(
                    f"the record tests {step.writer} -> {step.reader} where this search tests {self._names(test)}; "
                    "remove the store to start anew"
                )
            self._decided([(test, step.change, step.kept)])
            kept.append(step.kept)
        return kept

    def _test(self, tests: list[Test]) -> list[bool]:
        """Makes the tests, many at a time, and stops reading at the first that stays."""
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
        """As many tests as are likely to go, and no more than are worth one pass."""
        batch: list[Test] = []
        for test in tests[first : first + self.rows]:
            if len(batch) >= self.loss.rows_worth(test[1]) and batch:
                break
            batch.append(test)
        return batch

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
        """Takes decisions into the mask and the tally."""
        tally = self.tally
        tested, stayed, closest = tally.edges_tested, tally.edges_kept, tally.closest
        for (writer, reader), change, stays in decided:
            closest = min(closest, abs((abs(change) if self.rules.absolute else change) - self.rules.threshold))
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
