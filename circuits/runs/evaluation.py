"""What came out of an evaluation, and how it is written down (`evaluation.json`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from circuits.evaluation.completeness import Completeness, Minimality
from circuits.evaluation.curves import FaithfulnessCurves
from circuits.evaluation.faithfulness import Faithfulness
from circuits.evaluation.hypothesis import HypothesisTests
from circuits.evaluation.randomisation import Randomisation
from circuits.evaluation.score_quality import Sensitivity
from circuits.evaluation.stability import Stability
from circuits.files.untrusted import check_schema
from circuits.question.answers import Answers
from circuits.results.provenance import finite
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
        """As JSON can hold it."""
        told: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "run",
                "task",
                "model",
                "n_pairs",
                "fresh",
                "n_edges",
                "ablation",
                "metric",
                "skipped",
                "seconds",
            )
        }
        told["schema"] = SCHEMA
        told["warnings"] = list(self.warnings)
        if (answers := self.answers) is not None:
            told["answers"] = {
                "accuracy": answers.accuracy, "top_1_rate": answers.top_1_rate, "median_rank": answers.median_rank
            }  # fmt: skip
        told["faithfulness"] = {name: _faithfulness(of) for name, of in self.faithfulness.items()}
        if self.same_layers is not None:
            told["same_layers"] = _faithfulness(self.same_layers)
        if self.completeness is not None:
            of = self.completeness
            told["completeness"] = {
                "value": finite(of.value), "complement": finite(of.complement), "incompleteness": finite(of.incompleteness),
                "circuit_without": [finite(x) for x in of.circuit_without.tolist()],
                "model_without": [finite(x) for x in of.model_without.tolist()], "undefined": of.undefined,
            }  # fmt: skip
        if self.minimality is not None:
            part = self.minimality
            stderr = (
                part.effects.std(1) / part.effects.shape[1] ** 0.5
                if part.effects.shape[1] > 1
                else [None] * len(part.edges)
            )
            errors = stderr if isinstance(stderr, list) else stderr.tolist()
            told["minimality"] = {
                "effects": dict(zip(part.edges, part.values.tolist(), strict=True)),
                "stderr": dict(zip(part.edges, errors, strict=True)), "idle": list(part.idle()),
            }  # fmt: skip
        told |= {name: of.to_dict() for name in ("curves", "hypothesis") if (of := getattr(self, name)) is not None}
        if self.complexity is not None:
            told["complexity"] = self.complexity
        if self.sensitivity is not None:
            told["sensitivity"] = vars(self.sensitivity)
        if self.recovery is not None:
            told["recovery"] = self.recovery.to_dict()
        if stability := self._stability():
            told["stability"] = stability
        if self.randomisation is not None:
            of = self.randomisation
            told["randomisation"] = {
                "layers": list(of.layers), "k": of.k, "rank": [finite(x) for x in of.rank],
                "jaccard": [finite(x) for x in of.jaccard],
            }  # fmt: skip
        return told

    def _stability(self) -> dict[str, Any]:
        told = {} if self.variations is None else self.variations.to_dict()
        if self.prompts is not None:
            of = self.prompts
            told["prompts"] = {
                "resamples": len(of.runs), "k": of.k, "jaccard": of.mean_jaccard, "rank": finite(of.mean_rank),
                "always": list(of.always),
            }  # fmt: skip
        return told


def _faithfulness(of: Faithfulness) -> dict[str, Any]:
    return {
        "name": of.name, "ratio_of_means": finite(of.value), "mean_of_ratios": finite(of.mean_of_ratios),
        "clean": float(of.clean.mean()), "ablated": float(of.ablated.mean()), "circuit": float(of.circuit.mean()),
        "random_circuits": of.random_kind, "random": [float(x) for x in of.random],
        "random_faithfulness": finite(of.random_value), "p": finite(of.p_value),
        "undefined": of.undefined, "too_few_random": of.too_few_random,
    }  # fmt: skip
