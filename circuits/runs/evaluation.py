"""What came out of an evaluation, and how it is written down (`evaluation.json`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from circuits.evaluation.completeness import Completeness, Minimality
from circuits.evaluation.curves import FaithfulnessCurves
from circuits.evaluation.faithfulness import Faithfulness
from circuits.evaluation.hypothesis import HypothesisTests
from circuits.evaluation.randomisation import Randomisation
from circuits.evaluation.score_quality import Sensitivity
from circuits.evaluation.stability import Stability
from circuits.files.untrusted import check_schema
from circuits.question.answers import Answers
from circuits.runs.recovery import Recovered
from circuits.runs.variations import Variations

SCHEMA, OLD_SCHEMA = 2, 1


def check_evaluation(told: Mapping[str, Any], what: str) -> None:
    """Whether an `evaluation.json` is of a kind that this version reads; one without a schema is an old one.

    Raises:
        SchemaError: another version wrote it; `what` names the file.
    """
    schema = told.get("schema", OLD_SCHEMA)
    check_schema(schema, OLD_SCHEMA if type(schema) is int and schema == OLD_SCHEMA else SCHEMA, what)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came out; parts that were not asked for, or that the run has nothing for, are None or empty.

    Attributes:
        run, task, model: what was evaluated.
        n_pairs: on how many pairs; `fresh`: other pairs than the run's own.
        n_edges: of the circuit.
        ablation, metric: the run's own.
        faithfulness: by ablation, against random connected circuits.
        same_layers: under the run's own ablation, against the circuit with heads exchanged.
        completeness, minimality, curves, hypothesis: see `circuits.evaluation`.
        complexity, sensitivity: of the scores.
        recovery: against the circuit that the task knows.
        prompts: stability of the scores over resampled prompts.
        variations: what the method finds when it is asked a little differently.
        randomisation: what it finds in a model whose last layers are shuffled.
        answers: where the model ranks the answers; None where that was not measured.
        warnings: what speaks against the pairs, see `circuits.question.doubts`.
        skipped: what could not be measured, and why.
        seconds: wall time a part.
    """

    run: str
    task: str
    model: str
    n_pairs: int
    fresh: bool
    n_edges: int | None
    ablation: str
    metric: str
    faithfulness: dict[str, Faithfulness] = field(default_factory=dict)
    same_layers: Faithfulness | None = None
    completeness: Completeness | None = None
    minimality: Minimality | None = None
    curves: FaithfulnessCurves | None = None
    hypothesis: HypothesisTests | None = None
    complexity: float | None = None
    sensitivity: Sensitivity | None = None
    recovery: Recovered | None = None
    prompts: Stability | None = None
    variations: Variations | None = None
    randomisation: Randomisation | None = None
    answers: Answers | None = None
    warnings: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; what was not measured is left out."""
        about = ("run", "task", "model", "n_pairs", "fresh", "n_edges", "ablation", "metric", "skipped", "seconds")
        told: dict[str, Any] = {name: getattr(self, name) for name in about}
        told |= {"schema": SCHEMA, "warnings": list(self.warnings)}
        under = {name: found.to_dict() for name, found in self.faithfulness.items()}
        sensitivity = None if self.sensitivity is None else vars(self.sensitivity)
        measured = {
            "answers": self.answers, "faithfulness": under, "same_layers": self.same_layers,
            "completeness": self.completeness, "minimality": self.minimality, "curves": self.curves,
            "hypothesis": self.hypothesis, "complexity": self.complexity, "sensitivity": sensitivity,
            "recovery": self.recovery, "stability": self._stability() or None, "randomisation": self.randomisation,
        }  # fmt: skip
        for name, found in measured.items():
            if found is not None:
                told[name] = found.to_dict() if isinstance(found, AsJson) else found
        return told

    def _stability(self) -> dict[str, Any]:
        told = {} if self.variations is None else self.variations.to_dict()
        return told if self.prompts is None else {**told, "prompts": self.prompts.to_dict()}


@runtime_checkable
class AsJson(Protocol):
    """A result that knows how it looks in a file."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        ...
