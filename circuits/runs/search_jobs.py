"""Methods of the main job that search for a circuit, rather than score all edges and choose."""

import math
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.evaluation.faithfulness import Faithfulness
from circuits.methods.acdc import ORDERS, acdc, acdc_of_size
from circuits.methods.acdc.record import STEPS_FILE
from circuits.methods.acdc.search import Tally
from circuits.methods.edge_attribution import edge_attribution
from circuits.methods.edge_pruning import PruningStep, edge_pruning
from circuits.results.circuit import Circuit
from circuits.runs.job import Job, tested
from circuits.runs.result import Discovery


def acdc_job(
    job: Job,
    *,
    threshold: float | None = None,
    edges: int | None = None,
    absolute: bool = False,
    reader_tests: bool = True,
    order: str | None = None,
    start_layer: int = 0,
    start_circuit: str | Path | None = None,
    random_circuits: int = 5,
    store: str | Path | None = None,
) -> Discovery:
    """ACDC at a threshold, or for a number of edges; with a `store`, a killed search goes on."""
    model, pairs = job.question.model, job.question.pairs
    if order is not None and order not in ORDERS:
        raise InputError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    start = None if start_circuit is None else Circuit.from_json(start_circuit)
    rules: dict[str, Any] = {"absolute": absolute, "reader_tests": reader_tests, "start_layer": start_layer}
    if order is not None:
        gradient = "clean" if order == "eap" else "ig"
        job.question.metric.require_gradient(f"order {order}", at_clean=order == "eap")
        with job.timed("attribution", "scoring edges") as progress:
            rules["order"] = edge_attribution(model, pairs, gradient=gradient, progress=progress, **job.asked)
    with job.timed("search", "readers") as progress:

        def report(at: Tally) -> None:
            value = -job.question.metric.sign * at.loss
            note = f"{at.edges_tested} edges tested, {at.edges_kept} kept, metric {value:.4g}"
            progress(at.readers_done, at.readers, note)

        if edges is None:
            assert threshold is not None
            found = acdc(model, pairs, threshold, start=start, store=store, progress=report, **rules, **job.asked)
        elif start is not None:
            raise InputError("a circuit to start from goes with a threshold, not with a number of edges")
        else:
            found = acdc_of_size(model, pairs, edges, progress=report, **rules, **job.asked)
    faith, accuracy = tested(job, found, random_circuits)
    options = {
        "method": "acdc", "threshold": threshold if threshold is None or math.isfinite(threshold) else str(threshold),
        "edges": edges, **rules, "order": order,
        "start_circuit": None if start_circuit is None else str(start_circuit),
        "random_circuits": random_circuits, "seed": job.seed,
    }  # fmt: skip
    steps = None if store is None or edges is not None else Path(store) / STEPS_FILE
    return Discovery(None, found, faith, accuracy, options, job.seconds, steps, _acdc_notes(found, faith))


def _acdc_notes(found: Circuit, faith: Faithfulness) -> tuple[str, ...]:
    """What the numbers alone do not tell."""
    notes = _past_the_model(faith, "--absolute keeps edges whose removal moves the metric either way")
    if not found.provenance.get("search", {}).get("by_node", True):
        notes.append("this architecture has no description node by node: whole layers were computed, which is slower")
    return tuple(notes)


PAST_THE_MODEL = 1.1
"""A faithfulness above this is told."""


def _past_the_model(faith: Faithfulness, remedy: str) -> list[str]:
    if not faith.value > PAST_THE_MODEL:
        return []
    return [
        f"the circuit's {faith.metric} ({float(faith.circuit.mean()):.4g}) is past the model's own "
        f"({float(faith.clean.mean()):.4g}): edges that hurt the metric were removed with the others. Such a circuit is "
        f"improved, not faithful; {remedy}"
    ]


def edge_pruning_job(
    job: Job,
    *,
    edges: int = 200,
    objective: str = "kl_divergence",
    steps: int = 300,
    learning_rate: float = 0.2,
    absolute: bool = False,
    random_circuits: int = 5,
) -> Discovery:
    """Masks trained on the objective; the circuit is tested by the job's own metric."""
    training: dict[str, Any] = {
        "steps": steps, "learning_rate": learning_rate, "absolute": absolute, "seed": job.seed
    }  # fmt: skip
    with job.timed("training", "steps") as progress:

        def report(at: PruningStep) -> None:
            progress(at.done, at.steps, f"{at.expected:.0f} edges open, {objective} {at.metric:.4g}")

        asked: dict[str, Any] = {**job.asked, "metric": objective}
        found = edge_pruning(job.question.model, job.question.pairs, edges, progress=report, **training, **asked)
    faith, accuracy = tested(job, found, random_circuits)
    options = {
        "method": "edge-pruning", "edges": edges, "objective": objective, **training, "random_circuits": random_circuits
    }  # fmt: skip
    notes = _past_the_model(faith, "masks trained on kl_divergence, or with --absolute, stay closer to the model")
    return Discovery(None, found, faith, accuracy, options, job.seconds, remarks=tuple(notes))
