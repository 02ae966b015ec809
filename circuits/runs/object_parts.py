"""The parts of `circuits evaluate` that ask whether a circuit is a stable one, one circuit, and its own task's only."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from circuits import plugins
from circuits.errors import InputError
from circuits.evaluation.certificate import Certificate, certify
from circuits.evaluation.faithfulness import measure_circuits
from circuits.evaluation.families import SIZES, Families, families
from circuits.evaluation.specificity import Specificity, specificity_of
from circuits.evaluation.task import check_pairs
from circuits.model import Model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.runs.variations import too_long

CERTIFIED_RULES = ("top", "threshold")
"""Rules that are fast enough to run a thousand times."""
GROUPINGS = 20
SAMPLES = 1000
"""Subsamples of a certificate."""
OTHERS, PAIRS, ACCURACY, RANDOM = 4, 16, 0.8, 5
"""Of specificity: other tasks, pairs of each, the accuracy that the model must have on them, and random circuits."""


@dataclass(frozen=True, eq=False)
class Certified:
    """A certificate beside a run's circuit.

    Attributes:
        certificate: of the run's selection.
        n_circuit: number of edges of the run's circuit.
        n_certified: how many of these stay in, whichever prompt (or group of prompts) is deleted.
    """

    certificate: Certificate
    n_circuit: int
    n_certified: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**self.certificate.to_dict(), "circuit": self.n_circuit, "certified": self.n_certified}


def certified(scores: EdgeScores, circuit: Circuit, seed: int) -> Certified:
    """The certificate of the selection that chose a run's circuit.

    Raises:
        InputError: the selection is unknown or takes too long to run a thousand times; or see `circuits.certify`.
    """
    chosen: Mapping[str, Any] = circuit.provenance.get("selection") or {}
    rule = chosen.get("rule")
    if rule not in CERTIFIED_RULES or chosen.get("fill"):
        raise InputError(
            f"edges were chosen by {rule or 'no rule'}; certificates are measured for {' and '.join(CERTIFIED_RULES)}"
        )
    options = {"by": chosen.get("by", "abs")} | ({"tau": chosen["tau"]} if rule == "threshold" else {})
    certificate = certify(scores, rule, chosen.get("n"), seed=seed, samples=SAMPLES, **options)
    return Certified(certificate, len(circuit), len(certificate.circuit(radius=1) & circuit))


def families_of_run(
    question: Question, scores: EdgeScores, circuit: Circuit, seed: int, at_most: float, progress: Progress | None
) -> Families:
    """Families of a run's own prompts.

    Raises:
        InputError: the tests would take longer than `at_most` seconds; or see `circuits.families`.
    """
    edges = max(1, int((circuit.provenance.get("selection") or {}).get("n", len(circuit))))
    start = time.perf_counter()
    measure_circuits(question, [circuit])
    cost = 2 * len(SIZES) * (1 + GROUPINGS) * (time.perf_counter() - start)
    if cost > at_most:
        raise InputError(too_long(cost, at_most, "families"))
    return families(
        question.model, question.pairs, scores, seed=seed, edges=edges, groupings=GROUPINGS, metric=question.metric,
        ablation=question.ablation, batch_size=question.asked_size, progress=progress,
    )  # fmt: skip


def specific(question: Question, task: str, circuit: Circuit, seed: int, progress: Progress | None) -> Specificity:
    """What the circuit costs its own task, and the first few other tasks that the model does.

    Raises:
        InputError: the model does no other task.
    """
    others, left_out = _other_tasks(question.model, task, seed)
    if not others:
        raise InputError(f"there is no other task that {question.model.name} does")
    asked = {
        name: Question.ask(question.model, pairs, None, question.ablation, question.asked_size)
        for name, pairs in others.items()
    }
    return specificity_of(
        (task, question), asked, circuit, n_random=RANDOM, seed=seed, left_out=left_out, progress=progress
    )


def _other_tasks(model: Model, task: str, seed: int) -> tuple[dict[str, PromptPairs], dict[str, str]]:
    """Pairs of other tasks that the model does, and why others that were tried were left out."""
    references: dict[str, PromptPairs] = {}
    left_out: dict[str, str] = {}
    for name in plugins.task_names():
        if name == task or len(references) == OTHERS:
            continue
        try:
            other = plugins.load_task(name)
            if getattr(other, "model", None) not in (None, model.name) or (model.tokenizer is None and "/" not in name):
                continue
            pairs = other.pairs(model, n=PAIRS, seed=seed)
            accuracy = check_pairs(model, pairs).accuracy
        except InputError as problem:
            left_out[name] = str(problem)
            continue
        if accuracy is None or accuracy.clean.value < ACCURACY:
            left_out[name] = f"the model's accuracy is below {ACCURACY:g}"
        else:
            references[name] = pairs
    return references, left_out
