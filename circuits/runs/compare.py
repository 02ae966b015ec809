"""`circuits compare`: run directories side by side."""

from collections.abc import Sequence
from typing import Any

from circuits.errors import InputError
from circuits.evaluation.circuit_predictions import CircuitPrediction, predict_circuits
from circuits.evaluation.comparison import Comparison, Judged, comparable, compare
from circuits.evaluation.counterfactual import counterfactuals
from circuits.evaluation.curves import FaithfulnessCurves, curves_over_places
from circuits.model import Model
from circuits.progress import StageProgress, silent
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import Predicts
from circuits.results.provenance import required
from circuits.runs.again import asked_about
from circuits.runs.read import Run


def compare_runs(
    runs: Sequence[Run],
    model: Model | None = None,
    *,
    samples: int = 0,
    alphas: Sequence[float] = (0.05, 0.1, 0.2),
    ablation: str | None = None,
    by: str = "abs",
    seed: int = 0,
    stage: StageProgress = silent,
) -> Comparison:
    """Compares runs.

    Args:
        runs: from `read_runs`.
        model: the runs' model; only needed for counterfactual correlations, and for curves over places.
        samples: fresh ablations at each alpha; 0: no counterfactual correlations.
        alphas, ablation: ablation probabilities per component, and the ablation; None: that of the runs, or zero if they differ in it.
        by: see `circuits.compare`.
        seed: random seed of the bootstrap; the ablations use seed + 1, so that COAR was not fitted on them.
        stage: progress reporting.
    """
    if len(runs) < 2:
        raise InputError("a comparison needs at least two runs")
    judge, predictions, curves = None, (), {}
    results = {name: result for run in runs for name, result in run.results.items()}
    comparable(results)  # a refusal comes before anything is computed
    faithfulness = {name: run.faithfulness for run in runs if run.faithfulness is not None for name in run.circuits}
    if model is not None:
        if model.weights_hash != runs[0].provenance.get("weights_sha256"):
            raise InputError(f"{model.name} is not the model of these runs: its weights differ")
        pairs = PromptPairs.from_jsonl(runs[0].path / "pairs.jsonl", model, trust_ids=True)
        curves = _over_places(model, pairs, runs, seed, stage)
    if samples and model is not None:
        with stage("ablating components") as progress:
            judge = counterfactuals(
                model, pairs, alphas=alphas, samples=samples, metric=required(runs[0].provenance, "metric"),
                ablation=ablation or _shared_ablation(runs), seed=seed + 1, progress=progress,
            )  # fmt: skip
        predictions = _predictions(model, pairs, runs, results, stage)
    return compare(
        results, judge=judge, circuits=predictions, faithfulness=faithfulness, over_places=curves, by=by, seed=seed
    )


def _shared_ablation(runs: Sequence[Run]) -> AblationLike:
    if len({str(run.provenance.get("ablation")) for run in runs}) > 1:
        return "zero"
    return asked_about(runs[0])[1]


def know_places(runs: Sequence[Run]) -> bool:
    """Whether some run has scores of edges at places, which are compared by the model at equal numbers of (edge, place) pairs."""
    return any(isinstance(one, EdgeScores) and one.places for run in runs for one in run.results.values())


def _over_places(
    model: Model, pairs: PromptPairs, runs: Sequence[Run], seed: int, stage: StageProgress
) -> dict[str, FaithfulnessCurves]:
    """Curves of all edge scores at equal numbers of (edge, place) pairs, if some run knows places."""
    if not know_places(runs):
        return {}
    edges = {name: one for run in runs for name, one in run.results.items() if isinstance(one, EdgeScores)}
    metric, how = asked_about(runs[0])
    with stage("circuits over places") as progress:
        return curves_over_places(model, pairs, edges, metric=metric, ablation=how, seed=seed, progress=progress)


def _predictions(
    model: Model, pairs: PromptPairs, runs: Sequence[Run], results: dict[str, Judged], stage: StageProgress
) -> tuple[CircuitPrediction, ...]:
    """Predictions for all circuits, by the first scores that can predict."""
    linear: Any = next((result for result in results.values() if isinstance(result, Predicts)), None)
    if linear is None:
        return ()
    predictions: list[CircuitPrediction] = []
    with stage("measuring circuits") as progress:
        for run in runs:
            if run.circuits:
                metric, how = asked_about(run)
                predictions += predict_circuits(
                    model, pairs, linear, run.circuits, metric=metric, ablation=how, progress=progress
                )
    return tuple(predictions)
