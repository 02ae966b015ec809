"""Ensembles as a method: scores of several gradients, or of several finished runs, combined by `circuits.results.ensemble`.

`circuits.ensemble` combines any scores in Python. Here the members are rules of edge attribution, computed on the question itself, or
run directories of the same model; of a run that gives a circuit without scores, its edges count 1 and all others 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.methods.edge_attribution import GRADIENTS, edge_attribution_of
from circuits.methods.method import Method
from circuits.methods.options import CHOICE, RANDOM_CIRCUITS, REFINE, REFINE_TOP, Kind, Option
from circuits.progress import Progress
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.ensemble import HOW, NORMALISATIONS, ensemble
from circuits.results.quantity import Quantity
from circuits.results.recorded import Recorded, method_name


def ensemble_of(
    question: Question, *, gradients: Sequence[str] | None = None, runs: Sequence[str] | None = None, how: str = "mean",
    normalise: str | None = None, progress: Progress | None = None,
) -> EdgeScores:  # fmt: skip
    """Combined scores.

    Args:
        question: model, pairs, metric and ablation of the gradients; runs keep their own.
        gradients: rules of `circuits.edge_attribution`, with their defaults.
        runs: run directories of the same model.
        how, normalise: see `circuits.ensemble`.
        progress: called with (pairs done, in total), over all gradients.

    Raises:
        InputError: an unknown gradient, a directory that is not a run of edges, or another model's.
    """
    members: list[EdgeScores | Circuit] = [_read(Path(run), question) for run in runs or ()]
    names = list(gradients or ())
    for name in names:
        if name not in GRADIENTS:
            raise InputError(f"gradients must be some of {', '.join(GRADIENTS)}, got {name!r}")
    n = len(question.pairs)
    for number, name in enumerate(names):
        report = None if progress is None else _part(progress, number * n, len(names) * n)
        members.append(edge_attribution_of(question, gradient=name, check_sign=False, progress=report))
    return ensemble(members, how, normalise=normalise)


def _part(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def _read(run: Path, question: Question) -> EdgeScores | Circuit:
    """The scores of a run's edges, or its circuit if it has no such scores."""
    circuit, scores = run / "circuit.json", run / "scores.safetensors"
    if not circuit.is_file():
        raise InputError(f"{run} is not a run directory with scores of edges or a circuit")
    result = EdgeScores.load(scores) if scores.is_file() else Circuit.from_json(circuit)
    weights = result.provenance.get("weights_sha256")
    if result.graph != question.model.graph or weights not in (None, question.model.weights_hash):
        raise InputError(f"{run} is a run of another model than {question.model.name}, or has edges at places")
    return result


def _title(origin: Mapping[str, Any]) -> str:
    options, parts = origin.get("options"), origin.get("of") or ()
    members = [method_name(one) for one in parts if isinstance(one, Mapping)]
    how = (options.get("how") if isinstance(options, Mapping) else None) or "mean"
    return f"{how} of {', '.join(members[:-1])} and {members[-1]}" if len(members) > 1 else "ensemble"


METHOD = Method(
    name="ensemble",
    function=ensemble_of,
    results=Recorded(title=_title, quantity=Quantity("combined score", preposition="for"), metric_units=False),
    gives="edges",
    help="scores of several methods or runs, combined",
    one_of=("gradients", "runs"),
    takes=(
        Option("gradients", Kind.NAMES, None, "Rules of edge attribution to combine, comma separated, such as ig,gim."),
        Option("runs", Kind.PATHS, None, "Run directories to combine, comma separated."),
        Option("how", Kind.TEXT, "mean", "How the scores of an edge are combined.", choices=HOW),
        Option(
            "normalise", Kind.TEXT, None, "How scores are made comparable. Default: rank for rank-mean, otherwise scale.",
            choices=NORMALISATIONS,
        ),
        *CHOICE, REFINE, REFINE_TOP, RANDOM_CIRCUITS,
    ),
)  # fmt: skip
