"""`circuits evaluate`: what the field asks of a circuit, measured for a finished run."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from circuits.circuit import Circuit
from circuits.compare_runs import Run
from circuits.errors import InputError
from circuits.evaluation.completeness import Completeness, Minimality, completeness, minimality
from circuits.evaluation.curves import FaithfulnessCurves, faithfulness_curves
from circuits.evaluation.faithfulness import Faithfulness, faithfulness
from circuits.evaluation.hypothesis import HypothesisTests, hypothesis_tests
from circuits.evaluation.score_quality import Sensitivity, complexity, sensitivity
from circuits.evaluation.stability import Stability, prompt_stability
from circuits.job import StageProgress, silent
from circuits.model import Model
from circuits.node_scores import NodeScores
from circuits.pairs import PromptPairs
from circuits.provenance import finite, said
from circuits.random_circuits import KINDS
from circuits.scores import EdgeScores

PARTS = ("faithfulness", "completeness", "minimality", "curves", "hypothesis", "scores")
ABLATIONS = ("interchange", "zero", "mean", "mean_positional", "resample")


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
        stability, complexity, sensitivity: of the scores.
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
    stability: Stability | None = None
    complexity: float | None = None
    sensitivity: Sensitivity | None = None
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
        told["schema"] = 1
        told["faithfulness"] = {name: _faithfulness(of) for name, of in self.faithfulness.items()}
        if self.same_layers is not None:
            told["same_layers"] = _faithfulness(self.same_layers)
        if self.completeness is not None:
            of = self.completeness
            told["completeness"] = {
                "value": finite(of.value), "complement": finite(of.complement), "incompleteness": finite(of.incompleteness),
                "circuit_without": [finite(x) for x in of.circuit_without.tolist()],
                "model_without": [finite(x) for x in of.model_without.tolist()],
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
        if self.stability is not None:
            told["stability"] = {
                "resamples": len(self.stability.runs), "k": self.stability.k, "jaccard": self.stability.mean_jaccard,
                "rank": self.stability.mean_rank, "always": list(self.stability.always),
            }  # fmt: skip
        if self.complexity is not None:
            told["complexity"] = self.complexity
        if self.sensitivity is not None:
            told["sensitivity"] = vars(self.sensitivity)
        return told


def evaluate_run(
    run: Run,
    model: Model,
    pairs: PromptPairs,
    *,
    fresh: bool = False,
    parts: Sequence[str] = PARTS,
    ablations: Sequence[str] | None = None,
    n_random: int = 20,
    seed: int = 0,
    batch_size: int | None = None,
    stage: StageProgress = silent,
) -> Evaluation:
    """Measures what is asked for.

    Args:
        run: from `circuits.compare_runs.read_run`.
        model: the run's.
        pairs: the run's own, or `fresh` ones.
        parts: of `PARTS`.
        ablations: for faithfulness; None: the run's own and all of `ABLATIONS`.
        n_random: random circuits for faithfulness; the hypothesis tests draw their own number.
        seed: of all that is drawn.
        batch_size: pairs at a time.
        stage: progress reporting.

    Raises:
        InputError: an unknown part, or another model than the run's.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise InputError(f"parts must be of {', '.join(PARTS)}, got {', '.join(unknown) or 'none'}")
    if model.weights_hash != run.provenance.get("weights_sha256"):
        raise InputError(f"{model.name} is not the model of {run.path}: its weights differ")
    work = _Work(run, model, pairs, seed, batch_size, stage)
    found: dict[str, Any] = {}
    if work.circuit is not None:
        if "faithfulness" in parts:
            found |= work.faithfulness(ablations, n_random)
        if "completeness" in parts:
            found["completeness"] = work.measured("completeness", completeness)
        if "minimality" in parts:
            found["minimality"] = work.measured("minimality", minimality)
        if "hypothesis" in parts:
            found["hypothesis"] = work.measured("hypothesis tests", hypothesis_tests)
    if "curves" in parts and isinstance(work.scores, EdgeScores):
        found["curves"] = work.measured("curves", faithfulness_curves, work.scores)
    if "scores" in parts and work.scores is not None:
        found |= work.of_scores(work.scores)
    origin = run.provenance
    return Evaluation(
        run.path.resolve().name, str(origin.get("task") or "pairs"), str(origin.get("model")), len(pairs), fresh,
        None if work.circuit is None else len(work.circuit), said(origin, "ablation"), said(origin, "metric"), **found,
        skipped=work.skipped, seconds=work.seconds,
    )  # fmt: skip


class _Work:
    """The run's own question, asked part by part."""

    def __init__(
        self, run: Run, model: Model, pairs: PromptPairs, seed: int, batch_size: int | None, stage: StageProgress
    ) -> None:
        self.model, self.pairs, self.seed, self.stage = model, pairs, seed, stage
        self.ablation, self.metric = said(run.provenance, "ablation"), said(run.provenance, "metric")
        self.asked: dict[str, Any] = {"metric": self.metric, "batch_size": batch_size}
        self.circuit = next(iter(run.circuits.values()), None)
        self.scores: EdgeScores | NodeScores | None = next(
            (of for of in run.results.values() if isinstance(of, EdgeScores | NodeScores)), None
        )
        self.skipped: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def _timed(self, name: str):
        import time

        start = time.perf_counter()
        with self.stage(name) as progress:
            yield progress
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def measured(self, name: str, function: Any, of: Any = None) -> Any:
        """One part; None, with the reason in `skipped`, where it is not defined."""
        given = self.circuit if of is None else of
        seeded = {} if function is minimality else {"seed": self.seed}
        try:
            with self._timed(name) as progress:
                return function(
                    self.model, self.pairs, given, ablation=self.ablation, progress=progress, **seeded, **self.asked
                )
        except InputError as reason:
            self.skipped[name] = str(reason)
            return None

    def faithfulness(self, ablations: Sequence[str] | None, n_random: int) -> dict[str, Any]:
        assert self.circuit is not None
        wanted = dict.fromkeys((self.ablation, *ABLATIONS)) if ablations is None else dict.fromkeys(ablations)
        found: dict[str, Faithfulness] = {}
        for ablation in wanted:
            try:
                found[ablation] = self._faithfulness(self.circuit, ablation, KINDS[0], n_random)
            except InputError as reason:
                self.skipped[f"faithfulness under {ablation}"] = str(reason)
        same = self._faithfulness(self.circuit, self.ablation, KINDS[1], n_random)
        return {"faithfulness": found, "same_layers": same}

    def _faithfulness(self, circuit: Circuit, ablation: str, kind: str, n_random: int) -> Faithfulness:
        with self._timed(f"faithfulness, {ablation}, {kind.replace('_', ' ')}") as progress:
            return faithfulness(
                self.model, self.pairs, circuit, ablation=ablation, n_random=n_random, random_kind=kind, seed=self.seed,
                progress=progress, **self.asked,
            )  # fmt: skip

    def of_scores(self, scores: EdgeScores | NodeScores) -> dict[str, Any]:
        found: dict[str, Any] = {}
        try:
            found |= {"complexity": complexity(scores), "sensitivity": sensitivity(scores)}
            if isinstance(scores, EdgeScores):
                size = len(self.circuit) if self.circuit is not None and len(self.circuit) else 100
                k = min(size, scores.graph.n_edges)
                found["stability"] = prompt_stability(scores, k, resamples=100, seed=self.seed)
        except InputError as reason:
            self.skipped["scores"] = str(reason)
        return found


def _faithfulness(of: Faithfulness) -> dict[str, Any]:
    return {
        "name": of.name, "ratio_of_means": finite(of.value), "mean_of_ratios": finite(of.mean_of_ratios),
        "clean": float(of.clean.mean()), "ablated": float(of.ablated.mean()), "circuit": float(of.circuit.mean()),
        "random_circuits": of.random_kind, "random": [float(x) for x in of.random],
        "random_faithfulness": finite(of.random_value), "p": finite(of.p_value),
    }  # fmt: skip
