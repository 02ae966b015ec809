"""`circuits evaluate`: the tests that the field expects of a circuit, measured for a finished run.

Parts that run the method again (`stability`, `randomisation`) may take up to `AGAIN_SECONDS` each, predicted from the time of the
run itself; if they are requested by name, they may take any time.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from circuits.errors import InputError, refusing
from circuits.evaluation.completeness import Completeness, completeness_of, minimality_of
from circuits.evaluation.curves import faithfulness_curves_of
from circuits.evaluation.faithfulness import Faithfulness, faithfulness_of
from circuits.evaluation.feature_comparison import groups_of
from circuits.evaluation.feature_faithfulness import feature_faithfulness_of
from circuits.evaluation.hypothesis import HypothesisTests, hypothesis_tests_of
from circuits.evaluation.randomisation import MethodResult, randomisation
from circuits.evaluation.score_quality import complexity, sensitivity
from circuits.evaluation.stability import prompt_stability
from circuits.files.atomic import check_writable
from circuits.files.locks import sole_writer
from circuits.methods.catalogue import DECLARED
from circuits.model import Model
from circuits.progress import StageProgress, silent
from circuits.prompts.pairs import PromptPairs
from circuits.question.doubts import about_prompts, collected, doubt
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.feature_circuit import FeatureCircuit
from circuits.results.node_scores import NodeScores
from circuits.results.random_circuits import KINDS
from circuits.runs.again import ablation_called, asked_about, compared_at_once, own_result, own_scores, what_was_asked
from circuits.runs.evaluation import Evaluation
from circuits.runs.feature_source import is_feature_source, model_of_run, read_features
from circuits.runs.files import EVALUATION_FILE
from circuits.runs.object_parts import certified, families_of_run, specific
from circuits.runs.parts import AGAIN, PARTS, check_parts
from circuits.runs.read import Run, read_run
from circuits.runs.recovery import known_circuits, recovered
from circuits.runs.variations import ABLATIONS, too_long, vary

AGAIN_SECONDS = 300.0
RESAMPLES = 100


@contextlib.contextmanager
def evaluating(path: str | Path) -> Iterator[Run]:
    """A run to be evaluated; in this block no other process writes into its directory.

    Raises:
        InputError: see `read_run`; or the directory cannot be written to, or another process writes to it.
    """
    with sole_writer(path), collected():
        run = read_run(path)
        with refusing(f"write to {path}"):
            check_writable(run.path / EVALUATION_FILE)
        yield run


def evaluate_run(
    run: Run,
    model: Model,
    pairs: PromptPairs,
    *,
    fresh: bool = False,
    parts: Sequence[str] | None = None,
    ablations: Sequence[str] | None = None,
    n_random: int = 20,
    seed: int = 0,
    batch_size: int | None = None,
    stage: StageProgress = silent,
    write: bool = False,
    interrupted: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """Measures a run's circuit and scores.

    Args:
        run: from `circuits.runs.read.read_run`.
        model: the run's model.
        pairs: the run's own pairs, or `fresh` ones; `recovery`, `certificate`, `families`, `stability` and
            `randomisation` always use its own.
        parts: some of `PARTS`; None: all, if running the method again takes no more than `AGAIN_SECONDS` a part.
        ablations: for faithfulness; None: the run's own and interchange, zero, mean, mean_positional, resample.
        n_random: random circuits for faithfulness; the hypothesis tests draw their own number.
        seed: random seed.
        batch_size: pairs per batch.
        stage: progress reporting.
        write: write `evaluation.json` and `evaluation.html` into the run directory; see `evaluating`.
        interrupted: on KeyboardInterrupt, called with the parts that were measured, if any; then the exception goes on.

    Raises:
        InputError: an unknown part, or the model is not the run's.

    Warns:
        PairsWarning: the pairs tell little; also in `warnings` of the result.
    """
    wanted = check_parts(parts)
    if model.weights_hash != run.provenance.get("weights_sha256"):
        raise InputError(f"{model.name} is not the model of {run.path}: its weights differ")
    work = _Work(run, model, pairs, fresh, seed, batch_size, stage, math.inf if parts is not None else AGAIN_SECONDS)
    left = [part for part in PARTS if part in wanted]
    try:
        while left:
            work.measure(left[0], ablations, n_random)
            left.pop(0)
    except KeyboardInterrupt:
        if work.seconds:
            stopped = {part: "interrupted" for part in left}
            measured = replace(work.evaluation(), skipped={**work.skipped, **stopped})
            if write:
                measured.write(run.path)
            if interrupted is not None:
                interrupted(measured)
        raise
    doubt(work.warnings)
    evaluation = work.evaluation()
    if write:
        evaluation.write(run.path)
    return evaluation


class _Work:
    """The evaluation of one run, part by part.

    Attributes:
        results: results, by the names of `Evaluation`.
        skipped: what could not be measured, and why.
        seconds: wall time per stage.
        warnings: what speaks against the pairs, in order.
    """

    def __init__(
        self, run: Run, model: Model, pairs: PromptPairs, fresh: bool, seed: int, batch_size: int | None,
        stage: StageProgress, at_most: float,
    ) -> None:  # fmt: skip
        self.run, self.model, self.pairs, self.fresh = run, model_of_run(model, run), pairs, fresh
        self.seed, self.stage, self.batch_size, self.at_most = seed, stage, batch_size, at_most
        self.metric, self.ablation = asked_about(run)
        self.circuit = next(iter(run.circuits.values()), None)
        self.features = read_features(run.path) if is_feature_source(run.path) else None
        self.own = own_result(run)
        self.scores = None if isinstance(self.own, Circuit) else self.own
        self._questions: dict[str, Question] = {}
        self.results: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        named = self.ablation.name if self.ablation.needs_difference else None
        self.warnings = dict.fromkeys(about_prompts(model, pairs, named))

    def evaluation(self) -> Evaluation:
        """All results so far."""
        origin = self.run.provenance
        measured = [*self.results.get("faithfulness", {}).values(), self.results.get("same_layers")]
        answers = next((one.answers for one in measured if one is not None), None)
        return Evaluation(
            self.run.path.resolve().name, str(origin.get("task") or "pairs"), str(origin.get("model")), len(self.pairs),
            self.fresh, None if self.circuit is None else len(self.circuit), self.ablation.label, self.metric,
            **self.results, answers=answers, warnings=tuple(self.warnings), skipped=dict(self.skipped), seconds=dict(self.seconds),
        )  # fmt: skip

    def measure(self, part: str, ablations: Sequence[str] | None, n_random: int) -> None:
        """Measures one part, if the run has something for it; warnings about the pairs are kept."""
        edges = self.scores if isinstance(self.scores, EdgeScores) else None
        # Of each part: what it measures (None: the run does not have it), and how.
        table: dict[str, tuple[Any, Callable[[Any], None]]] = {
            "faithfulness": (self.circuit, lambda circuit: self.faithfulness(circuit, ablations, n_random)),
            "features": (self.features, lambda circuit: self.of_features(circuit, ablations)),
            "completeness": (self.circuit, lambda circuit: self.measured("completeness", completeness_of, circuit)),
            "minimality": (self.circuit, lambda circuit: self.measured("minimality", minimality_of, circuit)),
            "curves": (edges, lambda scores: self.measured("curves", faithfulness_curves_of, scores)),
            "hypothesis": (self.circuit, lambda circuit: self.measured("hypothesis", hypothesis_tests_of, circuit)),
            "scores": (self.scores, self.of_scores),
            "recovery": (self.own, self.recovery),
            "certificate": (None if self.circuit is None else edges, self.certificate),
            "families": (None if self.circuit is None else edges, self.families),
            "specificity": (self.circuit, self.specificity),
            "stability": (self.own, self.stability),
            "randomisation": (self.own, self.randomisation),
        }
        result, function = table[part]
        if result is None:
            return
        with collected() as warnings, self._noting(part):
            try:
                function(result)
            finally:
                if part not in AGAIN:  # these use other pairs, and models that are altered on purpose
                    self.warnings |= warnings

    def question(self, ablation: str) -> Question:
        """The run's question under the ablation of that label; InputError where the pairs do not support it."""
        if ablation not in self._questions:
            own, asked = self.ablation, next(iter(self._questions.values()), None)
            chosen = own if ablation == own.label else ablation_called(ablation)
            self._questions[ablation] = (
                Question.ask(self.model, self.pairs, self.metric, chosen, self.batch_size)
                if asked is None
                else asked.again(ablation=chosen)
            )
        return self._questions[ablation]

    @contextlib.contextmanager
    def _noting(self, name: str):
        """An InputError of its block goes into `skipped`, as the reason."""
        try:
            yield
        except InputError as reason:
            self.skipped[name] = str(reason)

    @contextlib.contextmanager
    def _timed(self, name: str):
        start = time.perf_counter()
        with self.stage(name) as progress:
            yield progress
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def measured(self, name: str, function: Any, subject: Circuit | EdgeScores) -> None:
        seeded = {} if function is minimality_of else {"seed": self.seed}
        title = "hypothesis tests" if name == "hypothesis" else name
        with self._noting(title), self._timed(title) as progress:
            result = function(self.question(self.ablation.label), subject, progress=progress, **seeded)
            self.results[name] = result
            if isinstance(result, Completeness) and result.undefined is not None:
                self.skipped[title] = result.undefined
            if isinstance(result, HypothesisTests):
                self.skipped |= {f"{title}, {names}": reason for reason, names in result.not_made.items()}

    def faithfulness(self, circuit: Circuit, ablations: Sequence[str] | None, n_random: int) -> None:
        own = self.ablation.label
        if ablations is None:
            ablations = (own, *(name for name in ABLATIONS if name != self.ablation.name))
        for ablation in dict.fromkeys(ablations):
            with self._noting(f"faithfulness under {ablation}"):
                result = self._faithfulness(circuit, ablation, KINDS[0], n_random)
                self.results.setdefault("faithfulness", {})[ablation] = result
                if result.undefined is not None:
                    self.skipped[f"faithfulness under {ablation}"] = result.undefined
                if result.too_few_random is not None:
                    self.skipped["faithfulness, random circuits"] = result.too_few_random
        with self._noting("faithfulness, random circuits of the same layers"):
            result = self.results["same_layers"] = self._faithfulness(circuit, own, KINDS[1], n_random)
            if result.too_few_random is not None:
                self.skipped["faithfulness, random circuits of the same layers"] = result.too_few_random

    def _faithfulness(self, circuit: Circuit, ablation: str, kind: str, n_random: int) -> Faithfulness:
        with self._timed(f"faithfulness, {ablation}, {kind.replace('_', ' ')}") as progress:
            return faithfulness_of(
                self.question(ablation), circuit, n_random=n_random, random_kind=kind, seed=self.seed, progress=progress
            )

    def of_features(self, circuit: FeatureCircuit, ablations: Sequence[str] | None) -> None:
        """With and without errors, under each ablation."""
        assert isinstance(self.own, NodeScores)
        groups, own = groups_of(self.model, self.own), self.ablation.label
        for ablation in dict.fromkeys((own, "interchange", "zero", "mean") if ablations is None else ablations):
            with self._noting(f"faithfulness under {ablation}"), self._timed(f"faithfulness, {ablation}"):
                result = feature_faithfulness_of(self.question(ablation), circuit.nodes, groups)
                self.results["features"] = (self.results.get("features") or {}) | {ablation: result}

    def of_scores(self, scores: EdgeScores | NodeScores) -> None:
        self.results |= {"complexity": complexity(scores), "sensitivity": sensitivity(scores)}

    def recovery(self, own: MethodResult) -> None:
        """Against the circuit that the task knows, if it knows one."""
        if DECLARED[what_was_asked(self.run).method].partial:
            return  # paths to a few readers are not a circuit
        with self._timed("recovery"):
            task = str(self.run.provenance.get("task"))
            truths = known_circuits(task, self.model, self._own_pairs(), self.ablation, self.metric)
            scores = next(iter(own_scores(self.run)), None)
            self.results["recovery"] = recovered(truths, scores, self.circuit, self.skipped)

    def certificate(self, scores: EdgeScores) -> None:
        """Of the selection that chose the circuit, over the run's own prompts."""
        assert self.circuit is not None
        with self._timed("certificate"):
            self.results["certificate"] = certified(scores, self.circuit, self.seed)

    def families(self, scores: EdgeScores) -> None:
        """Of the run's own prompts."""
        assert self.circuit is not None
        question = Question.ask(self.model, self._own_pairs(), self.metric, self.ablation, self.batch_size)
        with self._timed("families") as progress:
            self.results["families"] = families_of_run(
                question, scores, self.circuit, self.seed, self.at_most, progress
            )

    def specificity(self, circuit: Circuit) -> None:
        """Against the first few other tasks that the model does."""
        task = str(self.run.provenance.get("task"))
        with self._timed("specificity") as progress:
            question = self.question(self.ablation.label)
            self.results["specificity"] = specific(question, task, circuit, self.seed, progress)

    def stability(self, own: MethodResult) -> None:
        """Over resampled prompts, and over runs of the method with one thing changed."""
        k = compared_at_once(own, self.circuit)
        if isinstance(own, EdgeScores) and k is not None:
            with self._noting("stability, resampled prompts"):
                self.results["prompts"] = prompt_stability(own, k, resamples=RESAMPLES, seed=self.seed)
        start = time.perf_counter()
        for variations in vary(
            what_was_asked(self.run), own, self.model, self._own_pairs(), k=k, at_most=self.at_most,
            skipped=self.skipped, stage=self.stage, batch_size=self.batch_size,
        ):  # fmt: skip
            self.results["variations"] = variations
        self.seconds["stability"] = round(time.perf_counter() - start, 3)

    def randomisation(self, own: MethodResult) -> None:
        """Of the last layer, then of a quarter, half and all of the layers, from the top."""
        asked, pairs, n = what_was_asked(self.run), self._own_pairs(), self.model.graph.n_layers
        layers = sorted({1, math.ceil(n / 4), math.ceil(n / 2), n})
        if (cost := asked.seconds * len(layers)) > self.at_most:
            raise InputError(too_long(cost, self.at_most, "randomisation"))
        with self._timed("randomisation") as progress:
            self.results["randomisation"] = randomisation(
                self.model, lambda model: asked.again(model, pairs, batch_size=self.batch_size), layers=layers,
                k=compared_at_once(own, self.circuit), own=own, seed=self.seed, progress=progress,
            )  # fmt: skip

    def _own_pairs(self) -> PromptPairs:
        return (
            PromptPairs.from_jsonl(self.run.path / "pairs.jsonl", self.model, trust_ids=True)
            if self.fresh
            else self.pairs
        )
