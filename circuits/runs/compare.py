"""`circuits compare`: run directories side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.evaluation.circuit_predictions import CircuitPrediction, predict_circuits
from circuits.evaluation.comparison import Comparison, Judged, comparable, compare
from circuits.evaluation.counterfactual import counterfactuals
from circuits.methods.coar import LinearAttribution
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import said
from circuits.runs.files import check_files, read_run_file
from circuits.runs.job import StageProgress, silent

SAME = {"weights_sha256": "models", "pairs_sha256": "prompts", "metric": "metrics", "dtype": "dtypes"}
"""What runs must share to be compared, and what they are said to have different ones of."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run directory, read.

    Attributes:
        path: where it is.
        provenance: of its result.
        results: its scores by the run's name, and its circuit as `NAME circuit`.
        faithfulness: of that circuit, as the run measured it; None without one.
        told: all that `run.json` says.
    """

    path: Path
    provenance: dict[str, Any]
    results: dict[str, Judged]
    faithfulness: float | None = None
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def circuits(self) -> dict[str, Circuit]:
        return {name: of for name, of in self.results.items() if isinstance(of, Circuit)}


def read_run(path: str | Path) -> Run:
    """Reads the scores and the circuit of a run.

    Raises:
        InputError: the directory is no run of ours, or holds a file that was cut short or altered.
    """
    path = Path(path)
    told = read_run_file(path)
    provenance = told["provenance"]
    check_files(path, told)
    results: dict[str, Judged] = {}
    name = path.resolve().name
    circuit, scores = path / "circuit.json", path / "scores.safetensors"
    if scores.exists():
        results[name] = EdgeScores.load(scores) if circuit.exists() else NodeScores.load(scores)
    if circuit.exists():
        results[f"{name} circuit"] = Circuit.from_json(circuit)
    summary = told.get("summary")
    value = summary.get("faithfulness") if isinstance(summary, dict) else None
    return Run(path, provenance, results, value if isinstance(value, float) else None, told)


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Reads runs that can be compared.

    Raises:
        InputError: two of one name, or runs of different questions.
    """
    runs = [read_run(path) for path in paths]
    names = [name for run in runs for name in run.results]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two runs are called {name}; rename a directory")
    for name, what in SAME.items():
        found = {str(run.provenance.get(name)) for run in runs}
        if len(found) > 1:
            each = ", ".join(f"{run.path.name}: {str(run.provenance.get(name))[:12]}" for run in runs)
            raise InputError(f"the runs have different {what} ({each}); they cannot be compared")
    return runs


def compare_runs(
    runs: Sequence[Run],
    model: Model | None = None,
    *,
    samples: int = 0,
    alphas: Sequence[float] = (0.05, 0.1, 0.2),
    ablation: str = "zero",
    by: str = "abs",
    seed: int = 0,
    stage: StageProgress = silent,
) -> Comparison:
    """Compares runs.

    Args:
        runs: from `read_runs`.
        model: theirs; needed for counterfactual correlations only.
        samples: fresh ablations at each alpha; 0: no counterfactual correlations.
        alphas, ablation: of these.
        by: see `circuits.compare`.
        seed: of the bootstrap; of the ablations it is seed + 1, so that COAR has not seen them.
        stage: progress reporting.
    """
    if len(runs) < 2:
        raise InputError("a comparison needs at least two runs")
    judge, predictions = None, ()
    results = {name: of for run in runs for name, of in run.results.items()}
    comparable(results)  # refused before anything is computed
    faithfulness = {name: run.faithfulness for run in runs if run.faithfulness is not None for name in run.circuits}
    if samples and model is not None:
        if model.weights_hash != runs[0].provenance.get("weights_sha256"):
            raise InputError(f"{model.name} is not the model of these runs: its weights differ")
        pairs = PromptPairs.from_jsonl(runs[0].path / "pairs.jsonl", model)
        with stage("ablating components") as progress:
            judge = counterfactuals(
                model,
                pairs,
                alphas=alphas,
                samples=samples,
                metric=said(runs[0].provenance, "metric"),
                ablation=ablation,
                seed=seed + 1,
                progress=progress,
            )
        predictions = _predictions(model, pairs, runs, results, stage)
    return compare(results, judge=judge, circuits=predictions, faithfulness=faithfulness, by=by, seed=seed)


def _predictions(
    model: Model, pairs: PromptPairs, runs: Sequence[Run], results: dict[str, Judged], stage: StageProgress
) -> tuple[CircuitPrediction, ...]:
    """Of all circuits, by the first COAR fit among the results."""
    linear = next((of for of in results.values() if isinstance(of, LinearAttribution)), None)
    if linear is None:
        return ()
    found: list[CircuitPrediction] = []
    with stage("measuring circuits") as progress:
        for run in runs:
            if run.circuits:
                how, metric = said(run.provenance, "ablation"), said(run.provenance, "metric")
                found += predict_circuits(
                    model, pairs, linear, run.circuits, metric=metric, ablation=how, progress=progress
                )
    return tuple(found)
