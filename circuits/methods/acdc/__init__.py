"""ACDC: ablates edges one after the other and removes those that hardly change the metric (Conmy et al. 2023, 2304.14997).

The loss L is the metric if it is a divergence, and minus the metric if more of it is more of the behaviour. The search starts with
all edges and visits readers from the end: `logits` first, then in each layer, from the last, the MLP, the tests of whole value,
key and query inputs, and the edges into values, keys and queries (last heads first). The edges of one reader are tested from the
latest writer to the earliest. An edge is removed, permanently, if

    L(without it) - L(now) < threshold           (strict, signed; `absolute`: |L(without it) - L(now)| < threshold)

A reader loses its edges untested if its whole input can be ablated at once by the same criterion, and so does a node without
out-edges. All this follows the published reference edge for edge (the tests have golden files). Keys and values that a group
of heads shares are tested once.

With `positions="spans"` an edge is tested at one span at a time: its reader reads the replacement at the tokens of that span only.
A reader at a span is then a reader of its own, with its own test of its whole input. The order is as before, with the spans of a
reader from the last to the first: all edges of `a5.h2<k>@end`, from the latest writer, before those of `a5.h2<k>@S2`. With
`destinations`, keys and values are tested for the queries of one span at a time: of `a5.h2<k>@S2`, `=>end` before `=>S2+`. These
tests take a whole pass each (several, see `engine.by_query`), so they suit small models, and circuits found by another method.

Tests are speculative: row i of a batch assumes that edges 1 … i are removed, and rows are read up to the first edge that is kept.
The result is that of the sequential search. Each row computes only what a change reaches (`engine.incremental`).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from circuits.engine.hooks import inference_state
from circuits.errors import InputError
from circuits.graph.places import PlacedGraph, Places
from circuits.methods.acdc.loss import Loss
from circuits.methods.acdc.record import STEPS_FILE, Record
from circuits.methods.acdc.search import MOST_ROWS, Report, Rules, Search, Tally
from circuits.methods.edge_attribution import edge_attribution_of
from circuits.methods.method import Method
from circuits.methods.options import ABSOLUTE, DESTINATIONS, EDGES, PLACES, RANDOM_CIRCUITS, THRESHOLD, Kind, Option
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import Timed
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.places import PlaceAxis, covering_axis
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.provenance import Provenance, provenance
from circuits.results.quantity import Quantity
from circuits.results.recorded import Recorded

ORDERS = ("eap", "eap-ig")
"""Edge attribution methods whose scores can order the tests of a reader's edges."""


@on_model
def acdc(
    model: Model,
    pairs: PromptPairs,
    threshold: float,
    *,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    positions: str | None = None,
    destinations: bool = False,
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
        model: a loaded model.
        pairs: the prompts to explain.
        threshold: in the metric's unit; edges whose removal raises the loss by less are removed.
        metric: None: the task's preferred metric. The reference uses `kl_divergence`.
        ablation: what replaces an ablated edge's value.
        positions: None, or where edges are tested one by one: `spans` (the pairs' schema) or `each` (every token, for prompts of
            one length). The result is a circuit over places, and numbers of edges count (edge, place) pairs.
        destinations: with `positions`, test edges into keys and values for the queries of one span at a time.
        absolute, reader_tests, order, start_layer, most_rows: see `Rules`.
        start: a circuit to prune further; None: all edges.
        batch_size: pairs in one state; results do not depend on it.
        store: a directory for the record `steps.jsonl`; a call with the same question continues from it.
        progress: called with a `Tally`.

    Returns:
        The circuit. An edge's score is the change measured by its test, in the metric's unit, positive if the edge helps; NaN
        if it was not tested. `provenance["search"]` has the loss before and after, the number of tests, the smallest distance
        of a change from the threshold (in float32, changes vary by about 1e-6 of the metric with the batch size; only float64
        guarantees the same edges), and whether single nodes were recomputed (`by_node`) or whole layers, if the
        architecture has no description by node.

    Raises:
        InputError: an invalid option, or a store that belongs to another question.
        PairsError: the pairs have no such places.
    """
    rules = Rules(float(threshold), absolute, reader_tests, start_layer, order, most_rows)
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    return _acdc_of(question, rules, start, store, progress, _Where(positions, destinations))


def _acdc_of(
    question: Question,
    rules: Rules,
    start: Circuit | None,
    store: str | Path | None,
    progress: Report | None,
    where: "_Where",
) -> Circuit:
    """`acdc` of a question."""
    model, axis = question.model, where.axis(question)
    rules, start = _checked(model, rules, start, axis)
    origin = provenance(question, "acdc", _options(rules, start, question, where))
    with inference_state(model.bridge), torch.no_grad():
        return _searched(Loss(question, axis), rules, start, origin, store, progress)


@on_model
def acdc_sweep(
    model: Model,
    pairs: PromptPairs,
    thresholds: Sequence[float],
    *,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    positions: str | None = None,
    destinations: bool = False,
    start: Circuit | None = None,
    progress: Report | None = None,
    **rules: Any,
) -> tuple[Circuit, ...]:
    """ACDC at several thresholds, from the loosest (most edges) to the tightest; each search prunes the previous circuit further.

    The circuits are nested, and all but the first cost little. The first equals the result of `acdc`; later ones may differ
    from it, since they start with fewer edges.

    Args:
        model, pairs, metric, ablation, batch_size, positions, destinations, start, progress: see `acdc`.
        thresholds: in any order.
        rules: see `Rules`.

    Returns:
        A circuit for each threshold, in the given order.
    """
    if not thresholds:
        raise InputError("a sweep needs at least one threshold")
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    where = _Where(positions, destinations)
    axis = where.axis(question)
    circuits: dict[float, Circuit] = {}
    with inference_state(model.bridge), torch.no_grad():
        loss = Loss(question, axis)
        for threshold in sorted(set(map(float, thresholds))):
            these, start = _checked(model, Rules(threshold, **rules), start, axis)
            origin = provenance(question, "acdc", _options(these, start, question, where))
            start = circuits[threshold] = _searched(loss, these, start, origin, None, progress)
    return tuple(circuits[float(threshold)] for threshold in thresholds)


@on_model
def acdc_of_size(
    model: Model,
    pairs: PromptPairs,
    edges: int,
    *,
    rounds: int = 12,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    positions: str | None = None,
    destinations: bool = False,
    progress: Report | None = None,
    **rules: Any,
) -> Circuit:
    """A circuit of at most `edges` edges; the threshold is found by bisection on a logarithmic scale.

    Each round prunes the smallest circuit so far that is still too large, so all rounds but the first cost little. The result
    is the largest circuit found that is small enough. `provenance["rounds"]` has each round's threshold and number of edges.

    Args:
        model, pairs, metric, ablation, batch_size, positions, destinations, progress: see `acdc`.
        edges: the largest number of edges; over places, of (edge, place) pairs.
        rounds: the largest number of searches.
        rules: see `Rules`.

    Raises:
        InputError: the graph does not have that many edges.
    """
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    where = _Where(positions, destinations)
    return _acdc_of_size(question, edges, where, rounds=rounds, progress=progress, **rules)


def _acdc_of_size(
    question: Question, edges: int, where: "_Where", *, rounds: int = 12, progress: Report | None = None, **rules: Any,
) -> Circuit:  # fmt: skip
    """`acdc_of_size` of a question."""
    model, axis = question.model, where.axis(question)
    graph = model.graph if axis is None else axis.graph
    if not 0 <= edges <= graph.n_edges:
        raise InputError(f"edges must be between 0 and the graph's {graph.n_edges}, got {edges}")
    large, best = (
        Circuit.full(graph),
        Circuit.empty(graph).with_provenance(**provenance(question, "acdc", {"wanted": edges})),
    )
    with inference_state(model.bridge), torch.no_grad():
        loss = Loss(question, axis)
        low, high = 0.0, math.inf
        threshold = loss.range() / FIRST_FRACTION
        tried: list[tuple[float, int]] = []
        for _ in range(rounds):
            these, large = _checked(model, Rules(threshold, **rules), large, axis)
            options = _options(these, large, question, where) | {"wanted": edges}
            circuit = _searched(loss, these, large, provenance(question, "acdc", options), None, progress)
            tried.append((threshold, len(circuit)))
            if len(circuit) > edges:
                large, low = circuit, threshold
            else:
                high = threshold
                best = circuit if len(circuit) >= len(best) else best
            if len(best) == edges or high < low * 1.01:
                break
            threshold = low * 4 if high == math.inf else high / 4 if low == 0.0 else (low * high) ** 0.5
    return best.with_provenance(rounds=tuple(tried))


FIRST_FRACTION = 200
"""A search for a number of edges starts at the metric's range, from clean to everything ablated, divided by this."""


def _checked(model: Model, rules: Rules, start: Circuit | None, axis: PlaceAxis | None) -> tuple[Rules, Circuit]:
    """The rules and the circuit to start from, over the places if there are any; InputError if they cannot be applied."""
    graph = model.graph
    if math.isnan(rules.threshold):
        raise InputError("the threshold is not a number")
    if not 0 <= rules.start_layer <= graph.n_layers:
        raise InputError(f"start_layer must be between 0 and {graph.n_layers} (logits only), got {rules.start_layer}")
    if rules.most_rows < 1:
        raise InputError(f"most_rows must be at least 1, got {rules.most_rows}")
    if axis is not None:
        graph = axis.graph
        start = start.over(graph.places) if start is not None and start.graph.base == model.graph else start
        rules = rules if rules.order is None else replace(rules, order=rules.order.over_places())
    for what, given in (("the circuit to start from", start), ("the scores to order by", rules.order)):
        if given is not None and given.graph != graph:
            places = "" if axis is None else _described(axis.graph.places)
            raise InputError(f"{what} belong to another graph ({given.graph}) than {model.name}{places}")
    return rules, Circuit.full(graph) if start is None else start


def _described(places: Places) -> str:
    return f" at the spans {', '.join(places.spans)}, {'with' if places.destinations else 'without'} destinations"


class _Where(NamedTuple):
    """The options `positions` and `destinations`."""

    positions: str | None
    destinations: bool

    def axis(self, question: Question) -> PlaceAxis | None:
        return covering_axis(question.model.graph, question.pairs, self.positions, self.destinations)

    @property
    def options(self) -> dict[str, Any]:
        placed = {} if self.positions is None else {"positions": self.positions}
        return placed | ({"destinations": True} if self.destinations else {})


def _options(rules: Rules, start: Circuit, question: Question, where: _Where) -> dict[str, Any]:
    """The options that determine the result, and the batch size."""
    return where.options | {
        # JSON has no infinities.
        "threshold": rules.threshold if math.isfinite(rules.threshold) else str(rules.threshold),
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
        return Search(loss, rules, start, record, report).run(origin)
    finally:
        record.close()


def _discovered(
    question: Question,
    *,
    timed: Timed,
    threshold: float | None = None,
    edges: int | None = None,
    order: str | None = None,
    positions: str | None = None,
    destinations: bool = False,
    start_circuit: str | Path | None = None,
    store: str | Path | None = None,
    absolute: bool = False,
    reader_tests: bool = True,
    start_layer: int = 0,
) -> Circuit:
    """ACDC at a threshold or for a number of edges; with a `store`, a killed search can be continued."""
    start = None if start_circuit is None else Circuit.from_json(start_circuit)
    if edges is not None and start is not None:
        raise InputError("start_circuit needs a threshold; it cannot be combined with a number of edges")
    metric, where = question.metric, _Where(positions, destinations)
    rules: dict[str, Any] = {"absolute": absolute, "reader_tests": reader_tests, "start_layer": start_layer}
    if order is not None:
        gradient = "clean" if order == "eap" else "ig"
        metric.require_gradient(f"order {order}", at_clean=order == "eap")
        with timed("attribution", "scoring edges") as progress:
            at = {"positions": positions, "destinations": destinations}
            rules["order"] = edge_attribution_of(question, gradient=gradient, **at, progress=progress)
    with timed("search", "readers") as shown:

        def report(at: Tally) -> None:
            value = -metric.sign * at.loss
            note = f"{at.edges_tested} edges tested, {at.edges_kept} kept, metric {value:.4g}"
            shown(at.readers_done, at.readers, note)

        if edges is not None:
            return _acdc_of_size(question, edges, where, progress=report, **rules)
        assert threshold is not None
        return _acdc_of(question, Rules(float(threshold), **rules), start, store, report, where)


def _notes(circuit: Circuit) -> tuple[str, ...]:
    if circuit.provenance.get("search", {}).get("by_node", True):
        return ()
    if isinstance(circuit.graph, PlacedGraph) and circuit.graph.places.destinations:
        return ("with destinations every test is a whole pass, which is slower than node by node",)
    how = "whole layers were computed" if circuit.places is None else "every test was a whole pass"
    return (f"this architecture has no description node by node: {how}, which is slower",)


METHOD = Method(
    name="acdc",
    function=_discovered,
    gives="circuit",
    help="edges ablated one after the other",
    results=Recorded(title="ACDC", quantity=Quantity("change when tested", preposition="of")),
    resumable=True,
    unrecorded=("edges",),
    keeps=STEPS_FILE,
    one_of=("threshold", "edges"),
    notes=_notes,
    remedy="--absolute keeps edges whose removal moves the metric either way",
    takes=(
        replace(
            THRESHOLD, help="Edges whose ablation raises the loss by less than this are removed.", infinite=True
        ),
        replace(EDGES, help="Instead of a threshold: the largest circuit found with at most so many edges."),
        replace(PLACES, help="spans or each: test each edge at one place at a time."),
        replace(DESTINATIONS, help="Test keys and values for the queries of one span at a time."),
        ABSOLUTE,
        Option("reader_tests", Kind.FLAG, True, "First test all edges of a reader together."),
        Option(
            "order", Kind.TEXT, None, "Test each reader's edges by the size of their score by 'eap' or 'eap-ig'.",
            choices=ORDERS,
        ),
        Option("start_layer", Kind.WHOLE, 0, "First layer to search; edges into earlier layers are kept.", at_least=0),
        Option("start_circuit", Kind.FILE, None, "A circuit.json to start from. Default: all edges."),
        RANDOM_CIRCUITS,
    ),
)  # fmt: skip
