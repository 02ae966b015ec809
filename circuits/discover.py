"""The main job: from a model and pairs to a scored, tested circuit, and the directory that holds it.

The command line parses and prints; everything it does is here, so that a notebook can do the same in one call.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuits.circuit import Circuit
from circuits.errors import InputError
from circuits.evaluation.faithfulness import Faithfulness, circuit_metric, faithfulness
from circuits.methods.edge_attribution import edge_attribution
from circuits.model import Model
from circuits.pairs import PromptPairs
from circuits.provenance import plain
from circuits.question import Progress, Question
from circuits.scores import EdgeScores, check_ranking

METHODS = ("eap", "eap-ig")
RUN_FILE = "run.json"
RUN_FILES = ("pairs.jsonl", "scores.safetensors", "circuit.json", "circuit.graphml", "circuit.html")

StageProgress = Callable[[str], contextlib.AbstractContextManager[Progress]]
"""Called with a stage's name; gives what is called with (done, in all) during the stage."""


@contextlib.contextmanager
def _silent(stage: str) -> Iterator[Progress]:
    yield lambda done, total: None


@dataclass(frozen=True, eq=False)
class Discovery:
    """What `discover` found.

    Attributes:
        scores: every edge's effect.
        circuit: the chosen edges.
        faithfulness: the circuit against the model, against everything ablated, and against random circuits.
        accuracy: share of prompts on which the model prefers an answer to every distractor; None without distractors.
        options: how it was asked for.
        seconds: wall time per stage.
    """

    scores: EdgeScores
    circuit: Circuit
    faithfulness: Faithfulness
    accuracy: float | None
    options: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The numbers of the summary table, as plain JSON values."""
        faith = self.faithfulness
        return {
            "accuracy": self.accuracy,
            "metric": faith.metric,
            "ablation": faith.ablation,
            "clean": float(faith.clean.mean()),
            "ablated": float(faith.ablated.mean()),
            "circuit": float(faith.circuit.mean()),
            "faithfulness": _number(faith.value),
            "random_circuits": [float(value) for value in faith.random],
            "random_faithfulness": _number(faith.random_value),
            "edges": len(self.circuit),
            "nodes": len(self.circuit.nodes),
            "edges_in_graph": self.circuit.graph.n_edges,
            "strongest": [
                {"edge": edge, "score": score, "stderr": _number(stderr), "in_circuit": edge in self.circuit}
                for edge, score, stderr in self.scores.strongest(10)
            ],
        }


def _number(value: float) -> float | None:
    """NaN as None, which JSON can say."""
    return None if value != value else value


def discover(
    model: Model,
    pairs: PromptPairs,
    *,
    method: str = "eap-ig",
    edges: int = 200,
    by: str = "abs",
    steps: int = 5,
    quadrature: str = "midpoint",
    metric: str | None = None,
    ablation: str = "interchange",
    n_random: int = 5,
    seed: int = 0,
    batch_size: int | None = None,
    stage: StageProgress = _silent,
) -> Discovery:
    """Scores all edges, chooses a circuit and tests it.

    Args:
        model, pairs: what is asked.
        method: `eap` or `eap-ig`.
        edges: how many edges to choose.
        by: by absolute value or signed.
        steps, quadrature: of `eap-ig`.
        metric: None: the one the task prefers.
        ablation: what replaces an ablated value.
        n_random: random circuits to compare with.
        seed: of the random circuits.
        batch_size: pairs at a time; None: chosen by size.
        stage: progress reporting.

    Raises:
        InputError: an option that cannot be used.
    """
    if method not in METHODS:
        raise InputError(f"there is no method {method!r}; one of {', '.join(METHODS)}")
    if not 1 <= edges <= model.graph.n_edges:
        raise InputError(f"edges must be between 1 and the graph's {model.graph.n_edges}, got {edges}")
    check_ranking(by)
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    question.metric.require_gradient(f"method {method}", at_clean=method == "eap")
    seconds: dict[str, float] = {}
    with _timed(seconds, "attribution"), stage("scoring edges") as progress:
        scores = edge_attribution(
            model, pairs, gradient="clean" if method == "eap" else "ig", steps=steps, quadrature=quadrature,
            metric=question.metric, ablation=question.ablation, batch_size=batch_size, progress=progress,
        )  # fmt: skip
    circuit = scores.top(edges, by=by)
    with _timed(seconds, "evaluation"), stage("testing the circuit") as progress:
        faith = faithfulness(
            model, pairs, circuit, metric=question.metric, ablation=question.ablation, n_random=n_random, seed=seed,
            batch_size=batch_size, progress=progress,
        )  # fmt: skip
        accuracy = None
        if all(pairs.distractors):
            everything = Circuit.full(model.graph)
            accuracy = float(circuit_metric(model, pairs, everything, "accuracy", ablation, batch_size).mean())
    options = {"method": method, "edges": edges, "by": by, "n_random": n_random, "seed": seed}
    if method == "eap-ig":
        options |= {"steps": steps, "quadrature": quadrature}
    return Discovery(scores, circuit, faith, accuracy, options, seconds)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 3)


def check_out(out: str | Path, overwrite: bool) -> Path:
    """Whether a run may be written to this directory; asked before any work is done.

    Raises:
        InputError: it holds a finished run and `overwrite` is not set, or something that is no run, or cannot be written.
    """
    out = Path(out)
    try:
        if out.is_symlink() and not out.exists():
            raise InputError(f"{out} is a link to nothing")
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file; --out names a directory")
        if out.is_dir() and any(out.iterdir()):
            if not _is_run(out):
                raise InputError(f"{out} holds files that are no run of ours; choose another --out")
            if not overwrite:
                raise InputError(f"{out} holds a finished run; use --overwrite to replace it, or choose another --out")
        parent = out.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=parent)).rmdir()
        if out.resolve() == Path.cwd():
            raise InputError(f"{out} is the current directory, which cannot be replaced as a whole; name a new one")
    except OSError as problem:
        raise InputError(f"cannot write to {out}: {problem.strerror or problem}") from None
    return out


def _is_run(directory: Path) -> bool:
    """Whether all files here are a run's, and `run.json` is one of ours."""
    if not {path.name for path in directory.iterdir()} <= {RUN_FILE, *RUN_FILES}:
        return False
    try:
        run = json.loads((directory / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(run, dict) and run.get("schema") == 1 and "provenance" in run


def write_run(discovery: Discovery, pairs: PromptPairs, out: str | Path, *, overwrite: bool = False) -> Path:
    """Writes a run directory: it appears whole, under its final name, or not at all.

    Files: `run.json` (options, provenance, numbers, timings), `pairs.jsonl`, `scores.safetensors`, `circuit.json`,
    `circuit.graphml`, `circuit.html`.

    Raises:
        InputError: see `check_out`.
    """
    from circuits.plots import circuit_figure, write_html

    out = check_out(out, overwrite)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.absolute().parent))
    try:
        pairs.to_jsonl(temporary / "pairs.jsonl")
        discovery.scores.save(temporary / "scores.safetensors")
        discovery.circuit.to_json(temporary / "circuit.json")
        discovery.circuit.to_graphml(temporary / "circuit.graphml")
        write_html(circuit_figure(discovery.circuit, title=_title(discovery)), temporary / "circuit.html")
        run = {
            "schema": 1,
            "options": discovery.options,
            "provenance": plain(discovery.circuit.provenance),
            "summary": discovery.summary(),
            "seconds": discovery.seconds,
        }
        (temporary / RUN_FILE).write_text(json.dumps(run, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        _move_into_place(temporary, out, overwrite)
    except OSError as problem:
        raise InputError(f"cannot write {out}: {problem.strerror or problem}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _title(discovery: Discovery) -> str:
    origin = discovery.circuit.provenance
    return (
        f"{origin.get('task') or 'circuit'} in {origin.get('model')}: {len(discovery.circuit)} edges by "
        f"{discovery.options.get('method')}, faithfulness {discovery.faithfulness.value:.2f}"
    )


def _move_into_place(temporary: Path, out: Path, overwrite: bool) -> None:
    """One rename; it fails if another run got there first, unless that is to be replaced."""
    check_out(out, overwrite)
    if not (overwrite and out.exists()):
        os.rename(temporary, out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.absolute().parent))
    try:
        os.rename(out, old / out.name)
        os.rename(temporary, out)
    finally:
        shutil.rmtree(old, ignore_errors=True)
