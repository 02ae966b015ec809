"""Methods of the main job that score all edges, choose a circuit by its scores, and test it."""

import warnings
from pathlib import Path
from typing import Any

from circuits.errors import AttributionWarning, InputError
from circuits.graph.graph import Graph
from circuits.methods.edge_attribution import edge_attribution
from circuits.methods.exact_edges import exact_edge_effects
from circuits.methods.information_flow import information_flow
from circuits.methods.refine import refine as refined
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.selection import check_choice
from circuits.runs.job import Job, tested
from circuits.runs.result import Discovery

EDGES = 200
"""To choose, unless told; in a smaller graph all."""
AT_CLEAN = ("clean", "relp")
"""Gradients at the clean run, where some metrics have none."""


def edge_attribution_job(
    job: Job,
    *,
    method: str = "edge-attribution",
    gradient: str = "ig",
    steps: int | None = None,
    quadrature: str | None = None,
    attention: str | None = None,
    edges: int | None = None,
    threshold: float | None = None,
    select: str | None = None,
    by: str | None = None,
    fill: bool = False,
    share: float | None = None,
    refine: str | None = None,
    refine_top: int | None = None,
    random_circuits: int = 5,
) -> Discovery:
    """`circuits.edge_attribution` by any of its rules; the strongest edges estimated again, if asked."""
    asked = {"gradient": gradient, "steps": steps, "quadrature": quadrature, "attention": attention}
    rule = {name: value for name, value in asked.items() if value is not None}
    choice = _Choice(job.question.model.graph, edges, threshold, select, by, fill, share)
    job.question.metric.require_gradient(f"method {method}", at_clean=gradient in AT_CLEAN)
    scores, notes = _attributed(job, rule)
    if refine is not None:
        refine_top = EDGES if refine_top is None else refine_top
        with job.timed("refinement", "refining edges") as progress:
            model, pairs = job.question.model, job.question.pairs
            scores = refined(model, pairs, scores, top=refine_top, how=refine, progress=progress, **job.asked)
    options = {"method": method, **rule, "refine": refine, "refine_top": refine_top}
    return _discovery(job, scores, choice, random_circuits, options, notes)


def information_flow_job(
    job: Job,
    *,
    edges: int | None = None,
    threshold: float | None = None,
    select: str | None = None,
    fill: bool = False,
    random_circuits: int = 5,
) -> Discovery:
    """`circuits.information_flow`: the circuit is chosen without the metric, and tested by it."""
    question = job.question
    choice = _Choice(question.model.graph, edges, threshold, select, None, fill, None)
    with job.timed("attribution", "scoring edges") as progress:
        scores = information_flow(question.model, question.pairs, batch_size=job.batch_size, progress=progress)
    return _discovery(job, scores, choice, random_circuits, {"method": "information-flow"}, ())


def exact_edges_job(
    job: Job,
    *,
    edges: int | None = None,
    threshold: float | None = None,
    select: str | None = None,
    by: str | None = None,
    fill: bool = False,
    share: float | None = None,
    random_circuits: int = 5,
    store: str | Path | None = None,
) -> Discovery:
    """`circuits.exact_edge_effects` of every edge; with a `store`, a killed run goes on."""
    model, pairs = job.question.model, job.question.pairs
    choice = _Choice(model.graph, edges, threshold, select, by, fill, share)
    with job.timed("ablation", "ablating edges") as progress:
        found = exact_edge_effects(model, pairs, store=store, workers=job.workers, progress=progress, **job.asked)
    return _discovery(job, found.to_scores(), choice, random_circuits, {"method": "exact-edges"}, ())


class _Choice:
    """How scores become a circuit; refuses what cannot be before anything is computed.

    Attributes:
        options: what of this goes into the run's record.
    """

    def __init__(
        self,
        graph: Graph,
        edges: int | None,
        threshold: float | None,
        select: str | None,
        by: str | None,
        fill: bool,
        share: float | None,
    ) -> None:
        self._rule = check_choice(edges, threshold, select, by, fill, share)
        self._edges, self._threshold, self._select = edges, threshold, select
        if threshold is None:
            self._edges, self._select = min(EDGES, graph.n_edges) if edges is None else edges, select or "top"
            if not 1 <= self._edges <= graph.n_edges:
                raise InputError(f"edges must be between 1 and the graph's {graph.n_edges}, got {edges}")
        self.options = {"edges": self._edges, "threshold": threshold, "select": self._select, **self._rule}

    def circuit(self, scores: EdgeScores) -> Circuit:
        if self._threshold is not None:
            return scores.threshold(self._threshold, **self._rule)
        assert self._edges is not None
        assert self._select is not None
        return scores.select(self._edges, self._select, **self._rule)


def _attributed(job: Job, rule: dict[str, Any]) -> tuple[EdgeScores, tuple[str, ...]]:
    """Scores, and what the method warned of."""
    with job.timed("attribution", "scoring edges") as progress, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AttributionWarning)
        scores = edge_attribution(job.question.model, job.question.pairs, progress=progress, **job.asked, **rule)
    notes = []
    for warning in caught:
        if issubclass(warning.category, AttributionWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return scores, tuple(notes)


def _discovery(
    job: Job,
    scores: EdgeScores,
    choice: _Choice,
    random_circuits: int,
    options: dict[str, Any],
    notes: tuple[str, ...],
) -> Discovery:
    """Chooses and tests."""
    circuit = choice.circuit(scores)
    faith, accuracy = tested(job, circuit, random_circuits)
    options = options | choice.options | {"random_circuits": random_circuits, "seed": job.seed}
    return Discovery(scores, circuit, faith, accuracy, options, job.seconds, remarks=notes)
