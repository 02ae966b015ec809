"""One run of a study, in any process: it is returned as the contents of its files."""

import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from circuits.errors import InputError, of_machine
from circuits.files.untrusted import read_text
from circuits.measure.divided import ModelSource
from circuits.methods.catalogue import METHODS
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.source import find_pairs
from circuits.question.doubts import collected
from circuits.quiet import quiet_libraries
from circuits.runs.directory import RunDirectory
from circuits.runs.discover import discover
from circuits.runs.evaluate import evaluate_run
from circuits.runs.parts import USUAL
from circuits.runs.read import read_run
from circuits.study.address import Identity, identity_of, model_state, package_versions
from circuits.study.request import Request
from circuits.workers.workers import Workers

FRESH_SEED = 10**9
"""Added to a run's seed, for the fresh prompts that it is evaluated on."""


@dataclass(frozen=True)
class Task:
    """A run to make, or to evaluate.

    Attributes:
        request, identity: the run.
        files: the files of the run, if it is finished and only its evaluation is missing.
        store: a directory for the record of a run that can be resumed; used only if the worker sees it, which `token` shows:
            a worker on another machine may not.
        token: path and contents of a file of the study's directory.
    """

    request: Request
    identity: Identity
    files: Mapping[str, bytes] | None = None
    store: Path | None = None
    token: tuple[Path, str] | None = None


@dataclass(frozen=True)
class Performed:
    """The outcome of a `Task`.

    Attributes:
        files: the files of the run by name; None: they were given, or the run failed.
        evaluation: `evaluation.json`, as a dictionary; None: not requested, or failed.
        failure: why it failed, in one line.
        trace: the traceback, if the failure is a bug.
    """

    files: dict[str, bytes] | None = None
    evaluation: dict[str, Any] | None = None
    failure: str | None = None
    trace: str | None = None


@dataclass(frozen=True)
class Identified:
    """Identities of several requests of one model, by the requests' numbers.

    Attributes:
        identities: the hashes of those that could be loaded.
        refused: for the other requests, why there is none.
    """

    identities: dict[int, Identity] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)


def source_of(request: Request) -> ModelSource:
    """From where a worker loads a request's model."""
    state = model_state(request.model_source, request.revision)
    return ModelSource(
        request.model_source, request.dtype, request.device, request.device_map, request.revision, state=state
    )


def identify(versions: str, asked: Sequence[tuple[int, Request]]) -> Identified:
    """Loads a model and makes its prompts, for their hashes.

    Args:
        versions: `package_versions` of the main process.
        asked: requests of one model, by number.
    """
    done = Identified()
    with quiet_libraries():
        try:
            _check_versions(versions)
            model = source_of(asked[0][1]).load()
        except Exception as problem:
            return Identified({}, {number: _reason(problem) for number, _ in asked})
        find = cache(find_pairs)  # looking a task up takes longer than making its prompts
        for number, request in asked:
            try:
                prompts = request.pairs(model, find), request.reference_pairs(model, find)
                done.identities[number] = identity_of(model, *prompts)
            except Exception as problem:
                done.refused[number] = _reason(problem)
    return done


def _check_versions(versions: str) -> None:
    if versions != package_versions():
        raise InputError(
            "this worker has other versions of torch, transformers or mech-circuits than the process that runs the study"
        )


def _reason(problem: Exception) -> str:
    """An error in one line."""
    message = of_machine(problem) or f"a bug: {traceback.format_exception_only(problem)[-1]}"
    return " ".join((str(problem) if isinstance(problem, InputError) else message).split())


def perform(workers: Workers | None, task: Task) -> Performed:
    """Makes a run and its evaluation. An error is returned, not raised, so that the other runs continue.

    Args:
        workers: workers to divide the run among, if its method can be divided; None: this process makes it.
        task: the run.
    """
    request = task.request
    files: dict[str, bytes] | None = None
    try:
        with quiet_libraries():
            _check_versions(task.identity.versions)
            model = source_of(request).load()
            pairs, reference = request.pairs(model), request.reference_pairs(model)
            if identity_of(model, pairs, reference) != task.identity:
                raise InputError(
                    f"{request.model} or the prompts of {request.task} differ from those at the start of the study: other "
                    "weights or configuration, another kind of device, or another version of the task"
                )
            files = _discovered(task, model, pairs, reference, workers) if task.files is None else None
            evaluation = None
            if request.evaluation is not None:
                evaluation = _evaluated(request, model, pairs, task.files if files is None else files)
    except Exception as problem:
        trace = None if isinstance(problem, InputError) or of_machine(problem) else traceback.format_exc()
        return Performed(files, failure=_reason(problem), trace=trace)
    return Performed(files, evaluation)


def _discovered(
    task: Task, model: Model, pairs: PromptPairs, reference: PromptPairs | None, workers: Workers | None
) -> dict[str, bytes]:
    request = task.request
    options = request.method_options
    method = METHODS[request.method]
    recorded = task.store is not None and method.keeps_record(options) and _sees(task.token)
    with collected():  # the run's own record has them
        result = discover(
            model, pairs, method=request.method, metric=request.metric, ablation=request.ablation, seed=request.seed,
            reference=reference, batch_size=request.batch_size, workers=workers if method.divided else None,
            store=task.store if recorded else None, **options,
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        out = RunDirectory(Path(directory) / "run").write(result, pairs)
        # Each page holds megabytes of plotly; `circuits view` and `circuits report` make pages from any run.
        return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.suffix != ".html"}


def _evaluated(request: Request, model: Model, pairs: PromptPairs, files: Mapping[str, bytes] | None) -> dict[str, Any]:
    assert files is not None
    assert request.evaluation is not None
    options = dict(request.evaluation)
    fresh, seed = options.pop("fresh", None), options.pop("seed", 1)
    if fresh is not None:
        other = find_pairs(request.task_source)
        if other.task is None:
            raise InputError(f"fresh pairs come from a task, and {request.task} is a file")
        pairs = other(model, fresh, (FRESH_SEED + request.seed) % 2**63, request.one_length)
    with tempfile.TemporaryDirectory() as directory, collected():
        run = Path(directory) / "run"
        run.mkdir()
        for name, contents in files.items():
            (run / name).write_bytes(contents)
        evaluation = evaluate_run(
            read_run(run), model, pairs, fresh=fresh is not None, parts=options.pop("parts", USUAL),
            n_random=options.pop("random_circuits", 20), seed=seed, batch_size=request.batch_size, **options,
        )  # fmt: skip
    return evaluation.to_dict()


def _sees(token: tuple[Path, str] | None) -> bool:
    """Whether this process sees the study's own directory."""
    if token is None:
        return False
    try:
        return read_text(token[0]) == token[1]
    except InputError:
        return False
