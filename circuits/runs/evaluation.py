"""The result of an evaluation, and its file (`evaluation.json`)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuits.evaluation.completeness import Completeness, Minimality
from circuits.evaluation.curves import FaithfulnessCurves
from circuits.evaluation.faithfulness import Faithfulness
from circuits.evaluation.families import Families
from circuits.evaluation.feature_faithfulness import FeatureFaithfulness
from circuits.evaluation.hypothesis import HypothesisTests
from circuits.evaluation.randomisation import Randomisation
from circuits.evaluation.score_quality import Sensitivity
from circuits.evaluation.specificity import Specificity
from circuits.evaluation.stability import Stability
from circuits.question.answers import Answers
from circuits.runs.files import EVALUATION_SCHEMA
from circuits.runs.object_parts import Certified
from circuits.runs.recovery import Recovered
from circuits.runs.variations import Variations

ABOUT = ("run", "task", "model", "n_pairs", "fresh", "n_edges", "ablation", "metric", "skipped", "seconds")
RESULTS = (
    "answers", "faithfulness", "features", "same_layers", "completeness", "minimality", "curves", "hypothesis", "complexity",
    "sensitivity", "recovery", "certificate", "families", "specificity", "stability", "randomisation",
)  # fmt: skip
"""Parts of the file, in its order."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The results; parts that were not requested, or that do not apply to the run, are None or empty.

    Attributes:
        run, task, model: what was evaluated.
        n_pairs: the number of pairs; `fresh`: they are not the run's own.
        n_edges: the number of edges of the circuit.
        ablation, metric: the run's own.
        faithfulness: by ablation, against random connected circuits.
        features: of a run with dictionaries, by ablation: with the circuit's errors, with all, and with none.
        same_layers: under the run's own ablation, against the circuit with heads exchanged.
        completeness, minimality, curves, hypothesis: see `circuits.evaluation`.
        complexity, sensitivity: of the scores.
        recovery: against the circuit that the task knows.
        certificate: edges that stay in the circuit without some of the prompts.
        families: of the run's own prompts.
        specificity: what the circuit costs other tasks.
        prompts: stability of the scores over resampled prompts.
        variations: results of the method with one thing changed at a time.
        randomisation: results of the method in a model whose last layers are shuffled.
        answers: where the model ranks the answers; None: not measured.
        warnings: what speaks against the pairs, see `circuits.question.doubts`.
        skipped: what could not be measured, and why.
        seconds: wall time per part.
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
    features: dict[str, FeatureFaithfulness] | None = None
    same_layers: Faithfulness | None = None
    completeness: Completeness | None = None
    minimality: Minimality | None = None
    curves: FaithfulnessCurves | None = None
    hypothesis: HypothesisTests | None = None
    complexity: float | None = None
    sensitivity: Sensitivity | None = None
    recovery: Recovered | None = None
    certificate: Certified | None = None
    families: Families | None = None
    specificity: Specificity | None = None
    prompts: Stability | None = None
    variations: Variations | None = None
    randomisation: Randomisation | None = None
    answers: Answers | None = None
    warnings: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def stability(self) -> dict[str, Any] | None:
        """Of runs of the method with one thing changed, and of the scores over resampled prompts; None: neither."""
        variations = {} if self.variations is None else self.variations.to_dict()
        return (variations if self.prompts is None else {**variations, "prompts": self.prompts.to_dict()}) or None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what was not measured is left out."""
        about = {name: getattr(self, name) for name in ABOUT}
        results = {name: _plain(getattr(self, name)) for name in RESULTS}
        measured = {name: value for name, value in results.items() if value is not None}
        return {**about, "schema": EVALUATION_SCHEMA, "warnings": list(self.warnings), **measured}

    def write(self, directory: str | Path) -> None:
        """Writes `evaluation.json`, sealed, and `evaluation.html` into a run directory."""
        from circuits.pages.evaluation import write_evaluation

        write_evaluation(self.to_dict(), Path(directory))


def _plain(value: Any) -> Any:
    """A result as JSON values."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return value.to_dict() if hasattr(value, "to_dict") else value
