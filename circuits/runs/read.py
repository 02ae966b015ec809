"""Reads run directories."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.evaluation.comparison import CIRCUIT, Judged
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores
from circuits.results.recorded import method_name
from circuits.runs.files import read_whole

SAME = {"weights_sha256": "models", "pairs_sha256": "prompts", "metric": "metrics", "dtype": "dtypes"}
"""What runs must share to be compared, and its name in error messages."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run directory, read.

    Attributes:
        path: the directory.
        provenance: the origin of its result.
        results: its scores by the run's name, and its circuit as `NAME circuit`.
        faithfulness: the circuit's faithfulness, as the run measured it; None without a circuit.
        record: the contents of `run.json`.
        name: of the directory; of the method where several runs are read.
    """

    path: Path
    provenance: dict[str, Any]
    results: dict[str, Judged]
    faithfulness: float | None = None
    record: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def circuits(self) -> dict[str, Circuit]:
        return {name: result for name, result in self.results.items() if isinstance(result, Circuit)}


def read_run(path: str | Path) -> Run:
    """Reads the scores and the circuit of a run.

    Raises:
        InputError: the directory is not a run directory, or holds a file that was cut short or altered.
    """
    path = Path(path)
    record, name = read_whole(path), path.resolve().name
    results: dict[str, Judged] = {}
    circuit, scores = path / "circuit.json", path / "scores.safetensors"
    if scores.exists():
        results[name] = EdgeScores.load(scores) if circuit.exists() else NodeScores.load(scores)
    if circuit.exists():
        results[f"{name}{CIRCUIT}"] = Circuit.from_json(circuit)
    summary = record.get("summary")
    value = summary.get("faithfulness") if isinstance(summary, dict) else None
    return Run(path, record["provenance"], results, value if isinstance(value, float) else None, record, name)


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Reads runs that can be compared; each is called by its method, and where two have one method, by its directory too.

    Raises:
        InputError: two runs have one name, or their questions differ.
    """
    runs = _by_method([read_run(path) for path in paths])
    names = [name for run in runs for name in run.results]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two runs are called {name}; rename a directory")
    for name, what in SAME.items():
        if len({str(run.provenance.get(name)) for run in runs}) > 1:
            each = ", ".join(f"{run.path.name}: {str(run.provenance.get(name))[:12]}" for run in runs)
            raise InputError(f"the runs have different {what} ({each}); they cannot be compared")
    return runs


def _by_method(runs: Sequence[Run]) -> list[Run]:
    methods = [method_name(run.provenance) for run in runs]
    named = []
    for run, method in zip(runs, methods, strict=True):
        name = method if methods.count(method) == 1 else f"{method} ({run.name})"
        results = {name + key.removeprefix(run.name): result for key, result in run.results.items()}
        named.append(replace(run, name=name, results=results))
    return named
