"""`circuits dissociate`: the circuits of several runs, each ablated on the task of every run.

What is measured on one task is one piece of work: stored when it is done (`circuits.measure.store`), and computed by one worker if
there are several. So a measurement of many tasks continues after a kill.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from circuits import plugins
from circuits.errors import InputError
from circuits.evaluation.dissociation import Dissociation, Plan, check_tasks, judged
from circuits.evaluation.sharing import Sharing, sharing
from circuits.measure.divided import ModelSource
from circuits.measure.store import Pieces
from circuits.model import Model
from circuits.progress import StageProgress, silent
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.source import find_pairs
from circuits.question.ablations import Ablation
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.runs.again import asked_about
from circuits.runs.read import Run, read_run
from circuits.workers.workers import Workers

SCHEMA = 1
PARTS = ("values", "random", "rounding")


@dataclass(frozen=True)
class DissociationOptions:
    """Options of `dissociate_runs`; see `circuits.dissociate`."""

    core: float = 1.0
    n_random: int = 20
    random_kind: str = "same_layers"
    margin: float = 0.1
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True, eq=False)
class TaskOfRun:
    """The question of one run, in a form that can be sent to workers."""

    pairs: PromptPairs
    metric: str
    ablation: Ablation


def read_tasks(paths: Sequence[str | Path]) -> dict[str, Run]:
    """Runs of one model with a circuit each, by the names of their tasks; by their directories if two have one task.

    Raises:
        InputError: see `read_run`; or fewer than two runs, a run without a circuit, or runs of different models.
    """
    runs = [read_run(path) for path in paths]
    if len(runs) < 2:
        raise InputError(f"at least two runs, each of one task, are compared; got {len(runs)}")
    for run in runs:
        if not run.circuits:
            raise InputError(f"{run.path} holds scores of nodes and no circuit; give runs of methods for edges")
    hashes = {str(run.provenance.get("weights_sha256")) for run in runs}
    if len(hashes) > 1:
        each = ", ".join(f"{run.path.name}: {run.provenance.get('model')}" for run in runs)
        raise InputError(f"the runs are of different models ({each}); a circuit is ablated in its own model")
    names = [str(run.provenance.get("task") or run.name) for run in runs]
    names = names if len(set(names)) == len(names) else [run.name for run in runs]
    if len(set(names)) < len(names):
        raise InputError(f"two runs are called {max(names, key=names.count)}; rename a directory")
    return dict(zip(names, runs, strict=True))


def circuits_of(runs: Mapping[str, Run]) -> dict[str, Circuit]:
    """The circuit of each run."""
    return {name: next(iter(run.circuits.values())) for name, run in runs.items()}


def share_runs(runs: Mapping[str, Run], seed: int = 0) -> Sharing:
    """What the circuits of runs share."""
    return sharing(circuits_of(runs), seed=seed)


def dissociate_runs(
    runs: Mapping[str, Run],
    model: Model,
    options: DissociationOptions = DissociationOptions(),
    *,
    n: int | None = None,
    pairs_seed: int = 1,
    store: str | Path | None = None,
    batch_size: int | None = None,
    workers: Workers | None = None,
    stage: StageProgress = silent,
) -> Dissociation:
    """Ablates each run's circuit and measures the task of every run, each with the run's own metric and ablation.

    Args:
        runs: from `read_tasks`.
        model: their model.
        options: see `circuits.dissociate`.
        n: new pairs of each run's task; None: the run's own pairs, on which its circuit was found.
        pairs_seed: seed of new pairs.
        store: a directory in which finished tasks are kept; None: nowhere.
        batch_size: pairs per batch.
        workers: where tasks are measured; None: in this process.
        stage: progress reporting.

    Raises:
        InputError: the model is not that of the runs; new pairs of a run whose pairs came from a file; or see `dissociate`.
    """
    for name, run in runs.items():
        if model.weights_hash != run.provenance.get("weights_sha256"):
            raise InputError(f"{model.name} is not the model of {name}: its weights differ")
    circuits = circuits_of(runs)
    check_tasks(circuits, model)
    plan = Plan.draw(list(circuits.values()), options.core, options.n_random, options.random_kind, options.seed)
    tasks = [TaskOfRun(_pairs(name, run, model, n, pairs_seed), *asked_about(run)) for name, run in runs.items()]
    pieces = Pieces(store, _manifest(model, plan, tasks, options), in_memory=True)
    with stage(f"{len(tasks)} tasks") as progress:
        total = sum(len(task.pairs) for task in tasks)
        missing = [i for i in range(len(tasks)) if _stored(pieces, i) is None]
        done = total - sum(len(tasks[i].pairs) for i in missing)
        for i, measured in _measurements(model, plan, tasks, missing, batch_size, workers):
            for part in PARTS:
                pieces.put(_name(i, part), measured[part])
            done += len(tasks[i].pairs)
            if progress is not None:
                progress(done, total)
    stored = [_stored(pieces, i) or {} for i in range(len(tasks))]
    return judged(plan, tuple(runs), stored, options.margin, options.level, seed=options.seed)


def _pairs(name: str, run: Run, model: Model, n: int | None, seed: int) -> PromptPairs:
    if n is None:
        return PromptPairs.from_jsonl(run.path / "pairs.jsonl", model, trust_ids=True)
    task = str(run.provenance.get("task"))
    try:
        plugins.check_task(task)
        return find_pairs(task)(model, n, seed)
    except InputError as problem:
        raise InputError(f"no new pairs can be drawn for {name}: {problem}; leave out the number of pairs") from None


def _manifest(model: Model, plan: Plan, tasks: Sequence[TaskOfRun], options: DissociationOptions) -> dict[str, Any]:
    """The question of the stored pieces."""
    masks = hashlib.sha256()
    for circuit in plan.ablated:
        masks.update(circuit.mask.numpy().tobytes())
        if circuit.places is not None:
            masks.update(json.dumps(circuit.graph.to_dict()).encode())
    return {
        "schema": SCHEMA, "kind": "dissociation", "weights_sha256": model.weights_hash, "dtype": str(model.dtype), "circuits_sha256": masks.hexdigest(),
        "random_kind": options.random_kind, "core": options.core,
        "tasks": [{"pairs_sha256": t.pairs.digest(), "metric": t.metric, "ablation": t.ablation.label} for t in tasks],
    }  # fmt: skip


def _name(i: int, part: str) -> str:
    return f"task-{i}-{part}"


def _stored(pieces: Pieces, i: int) -> dict[str, Tensor] | None:
    parts = {part: pieces.get(_name(i, part)) for part in PARTS}
    known = {part: piece for part, piece in parts.items() if piece is not None}
    return known if len(known) == len(PARTS) else None


def _measurements(
    model: Model,
    plan: Plan,
    tasks: Sequence[TaskOfRun],
    missing: Sequence[int],
    batch_size: int | None,
    workers: Workers | None,
) -> Any:
    """The number of each missing task and what was measured, as they finish."""
    if workers is None:
        return ((i, _measured(model, plan, tasks[i], batch_size)) for i in missing)
    shared = (ModelSource.from_model(model), plan, tasks, batch_size)
    return ((missing[unit], measured) for unit, measured in workers.map(_in_worker, shared, list(missing)))


def _measured(model: Model, plan: Plan, task: TaskOfRun, batch_size: int | None) -> dict[str, Tensor]:
    return plan.measure(Question.ask(model, task.pairs, task.metric, task.ablation, batch_size))


def _in_worker(shared: tuple[ModelSource, Plan, Sequence[TaskOfRun], int | None], i: int) -> dict[str, Tensor]:
    source, plan, tasks, batch_size = shared
    return _measured(source.load(), plan, tasks[i], batch_size)
