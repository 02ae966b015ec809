"""`circuits evaluate`: what the field asks of a circuit, measured for a finished run.

Parts that run the method again (`stability`, `randomisation`) are bounded unless they are asked for by name: each may take
`AGAIN_SECONDS`, by the time that the run itself took.
"""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from circuits.errors import InputError
from circuits.evaluation.completeness import Completeness, completeness, minimality
from circuits.evaluation.curves import faithfulness_curves
from circuits.evaluation.faithfulness import Faithfulness, faithfulness
from circuits.evaluation.hypothesis import HypothesisTests, hypothesis_tests
from circuits.evaluation.randomisation import randomisation
from circuits.evaluation.score_quality import complexity, sensitivity
from circuits.evaluation.stability import prompt_stability
from circuits.methods.catalogue import DECLARED
from circuits.model import Model
from circuits.progress import StageProgress, silent
from circuits.prompts.pairs import PromptPairs
from circuits.question.doubts import about_prompts, collected, doubt
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores
from circuits.results.random_circuits import KINDS
from circuits.runs.again import ablation_called, asked_about, compared_at_once, own_result, what_was_asked
from circuits.runs.evaluation import Evaluation
from circuits.runs.parts import AGAIN, PARTS, check_parts
from circuits.runs.read import Run
from circuits.runs.recovery import known_circuits, recovered
from circuits.runs.variations import ABLATIONS, too_long, vary

AGAIN_SECONDS = 300.0
RESAMPLES = 100


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
    interrupted: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """Measures what is asked for.

    Args:
        run: from `circuits.runs.read.read_run`.
        model: the run's.
        pairs: the run's own, or `fresh` ones; `recovery`, `stability` and `randomisation` are of the run's own always.
        parts: of `PARTS`; None: all, where running the method again takes no more than `AGAIN_SECONDS` a part.
        ablations: for faithfulness; None: the run's own and interchange, zero, mean, mean_positional, resample.
        n_random: random circuits for faithfulness; the hypothesis tests draw their own number.
        seed: of all that is drawn.
        batch_size: pairs at a time.
        stage: progress reporting.
        interrupted: on KeyboardInterrupt, called with what is measured already; then the exception goes on.

    Raises:
        InputError: an unknown part, or another model than the run's.

    Warns:
        PairsWarning: what speaks against the pairs; also in `warnings` of the result.
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
        if interrupted is not None:
            stopped = {part: "interrupted" for part in left}
            interrupted(replace(work.evaluation(), skipped={**work.skipped, **stopped}))
        raise
    doubt(work.warnings)
    return work.evaluation()


class _Work:
    """The run's own question, asked part by part.

    Attributes:
        found: what is measured, by the names of `Evaluation`.
        skipped: what could not be, and why.
        seconds: wall time a stage.
        warnings: what speaks against the pairs, in order.
    """

    def __init__(
        self,
        run: Run,
        model: Model,
        pairs: PromptPairs,
        fresh: bool,
        seed: int,
        batch_size: int | None,
        stage: StageProgress,
        at_most: float,
    ) -> None:
        self.run, self.model, self.pairs, self.fresh = run, model, pairs, fresh
        self.seed, self.stage, self.batch_size, self.at_most = seed, stage, batch_size, at_most
        self.metric, self.ablation = asked_about(run)
        self.asked: dict[str, Any] = {"metric": self.metric, "batch_size": batch_size}
        self.circuit = next(iter(run.circuits.values()), None)
        self.own = own_result(run)
        self.scores = None if isinstance(self.own, Circuit) else self.own
        self.found: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        named = self.ablation.name if self.ablation.needs_difference else None
        self.warnings = dict.fromkeys(about_prompts(model, pairs, named))

    def evaluation(self) -> Evaluation:
        """What is there."""
        origin = self.run.provenance
        measured = [*self.found.get("faithfulness", {}).values(), self.found.get("same_layers")]
        answers = next((of.answers for of in measured if of is not None), None)
        return Evaluation(
            self.run.path.resolve().name, str(origin.get("task") or "pairs"), str(origin.get("model")), len(self.pairs),
            self.fresh, None if self.circuit is None else len(self.circuit), self.ablation.label, self.metric,
            **self.found, answers=answers, warnings=tuple(self.warnings), skipped=dict(self.skipped), seconds=dict(self.seconds),
        )  # fmt: skip

    def measure(self, part: str, ablations: Sequence[str] | None, n_random: int) -> None:
        """One part, where the run has something for it; warnings about the pairs are kept."""
        with collected() as warnings:
            try:
                self._measure(part, ablations, n_random)
            finally:
                if part not in AGAIN:  # which have other pairs, and models that were altered on purpose
                    self.warnings |= warnings

    def _measure(self, part: str, ablations: Sequence[str] | None, n_random: int) -> None:
        of_circuit = {"completeness": completeness, "minimality": minimality, "hypothesis": hypothesis_tests}
        if part == "faithfulness" and self.circuit is not None:
            self.faithfulness(self.circuit, ablations, n_random)
        elif part in of_circuit and self.circuit is not None:
            self.measured(part, of_circuit[part], self.circuit)
        elif part == "curves" and isinstance(self.scores, EdgeScores):
            self.measured(part, faithfulness_curves, self.scores)
        elif part == "scores" and self.scores is not None:
            self.of_scores(self.scores)
        elif part in AGAIN:
            with self._telling(part):
                getattr(self, part)()

    @contextlib.contextmanager
    def _telling(self, name: str):
        """What is not defined goes into `skipped`, with the reason."""
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

    def measured(self, name: str, function: Any, of: Circuit | EdgeScores) -> None:
        seeded = {} if function is minimality else {"seed": self.seed}
        title = "hypothesis tests" if name == "hypothesis" else name
        with self._telling(title), self._timed(title) as progress:
            found = function(
                self.model, self.pairs, of, ablation=self.ablation, progress=progress, **seeded, **self.asked
            )
            self.found[name] = found
            if isinstance(found, Completeness) and found.undefined is not None:
                self.skipped[title] = found.undefined
            if isinstance(found, HypothesisTests):
                self.skipped |= {f"{title}, {names}": reason for reason, names in found.not_made.items()}

    def faithfulness(self, circuit: Circuit, ablations: Sequence[str] | None, n_random: int) -> None:
        own = self.ablation.label
        if ablations is None:
            ablations = (own, *(name for name in ABLATIONS if name != self.ablation.name))
        for ablation in dict.fromkeys(ablations):
            with self._telling(f"faithfulness under {ablation}"):
                found = self._faithfulness(circuit, ablation, KINDS[0], n_random)
                self.found.setdefault("faithfulness", {})[ablation] = found
                if found.undefined is not None:
                    self.skipped[f"faithfulness under {ablation}"] = found.undefined
                if found.too_few_random is not None:
                    self.skipped["faithfulness, random circuits"] = found.too_few_random
        with self._telling("faithfulness, random circuits of the same layers"):
            found = self.found["same_layers"] = self._faithfulness(circuit, own, KINDS[1], n_random)
            if found.too_few_random is not None:
                self.skipped["faithfulness, random circuits of the same layers"] = found.too_few_random

    def _faithfulness(self, circuit: Circuit, ablation: str, kind: str, n_random: int) -> Faithfulness:
        with self._timed(f"faithfulness, {ablation}, {kind.replace('_', ' ')}") as progress:
            return faithfulness(
                self.model, self.pairs, circuit, ablation=ablation_called(ablation), n_random=n_random, random_kind=kind,
                seed=self.seed, progress=progress, **self.asked,
            )  # fmt: skip

    def of_scores(self, scores: EdgeScores | NodeScores) -> None:
        with self._telling("scores"):
            self.found |= {"complexity": complexity(scores), "sensitivity": sensitivity(scores)}

    def recovery(self) -> None:
        """Where the task knows the circuit."""
        if self.own is None or DECLARED[what_was_asked(self.run).method].partial:
            return  # paths to a few readers are not a circuit
        with self._timed("recovery"):
            task = str(self.run.provenance.get("task"))
            truths = known_circuits(task, self.model, self._own_pairs(), self.ablation, self.metric)
            self.found["recovery"] = recovered(truths, self.scores, self.circuit, self.skipped)

    def stability(self) -> None:
        """Over resampled prompts, and over runs of the method that are asked a little differently."""
        if self.own is None:
            return
        k = compared_at_once(self.own, self.circuit)
        if isinstance(self.own, EdgeScores) and k is not None:
            with self._telling("stability, resampled prompts"):
                self.found["prompts"] = prompt_stability(self.own, k, resamples=RESAMPLES, seed=self.seed)
        start = time.perf_counter()
        for found in vary(
            what_was_asked(self.run), self.own, self.model, self._own_pairs(), k=k, at_most=self.at_most,
            skipped=self.skipped, stage=self.stage, batch_size=self.batch_size,
        ):  # fmt: skip
            self.found["variations"] = found
        self.seconds["stability"] = round(time.perf_counter() - start, 3)

    def randomisation(self) -> None:
        """Of the last layer, of a quarter, of half and of all layers, downwards."""
        if self.own is None:
            return
        asked, pairs, n = what_was_asked(self.run), self._own_pairs(), self.model.graph.n_layers
        layers = sorted({1, math.ceil(n / 4), math.ceil(n / 2), n})
        if (cost := asked.seconds * len(layers)) > self.at_most:
            raise InputError(too_long(cost, self.at_most, "randomisation"))
        with self._timed("randomisation") as progress:
            self.found["randomisation"] = randomisation(
                self.model, lambda model: asked.again(model, pairs, batch_size=self.batch_size), layers=layers,
                k=compared_at_once(self.own, self.circuit), own=self.own, seed=self.seed, progress=progress,
            )  # fmt: skip

    def _own_pairs(self) -> PromptPairs:
        return (
            PromptPairs.from_jsonl(self.run.path / "pairs.jsonl", self.model, trust_ids=True)
            if self.fresh
            else self.pairs
        )
