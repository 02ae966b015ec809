"""Runs what a study asks for and is missing, here or among workers."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuits.errors import InputError
from circuits.progress import StageProgress, silent
from circuits.study.address import package_versions, question_keys, request_key
from circuits.study.directory import Entry, StudyDirectory
from circuits.study.perform import Identified, Performed, Task, identify, perform
from circuits.study.request import Request, Study
from circuits.workers.workers import Workers, torch_threads

AT_ONCE = 1000
"""Of how many requests of one model it is found out at once which they are; then they are remembered."""


@dataclass(frozen=True)
class Outcome:
    """What a call of `run_study` did.

    Attributes:
        made: runs made by this call; those that were there already are not among them.
        entries: all requests, with what is there of them now.
    """

    made: int
    entries: tuple[Entry, ...]

    @property
    def states(self) -> Counter[str]:
        """How many requests are done, missing and failed."""
        return Counter(entry.state for entry in self.entries)


def run_study(
    study: Study,
    out: StudyDirectory,
    *,
    workers: Workers | None = None,
    divide_runs: bool = False,
    stage: StageProgress = silent,
) -> Outcome:
    """Makes the runs that are missing, and tries again those that failed.

    Every finished run is written at once; a call that is killed loses no more than the runs that it was at, and of these
    methods that keep a record (acdc, coar, exact-edges, activation-patching) go on where they were.

    Args:
        study: from `read_study`.
        out: from `StudyDirectory.begin`.
        workers: who makes runs, one each at a time; None: this process, one after the other.
        divide_runs: this process makes the runs, and each is divided among the workers where its method can be.
        stage: progress reporting.

    Raises:
        InputError: another process runs a study there, or the directory cannot be written to.
    """
    with out.locked():
        out.keep_study(study)
        refused = _identify(study.requests, out, workers, stage)
        wanted = _wanted(study, out, refused)
        tasks = _Tasks(wanted, out)
        made = 0
        with stage("runs") as progress:
            progress(0, len(tasks))
            pending = dict(enumerate(wanted))
            results = _performed(tasks, workers, divide_runs)
            while pending:
                try:
                    number, performed = next(results)
                except InputError as problem:  # workers died over these
                    for entry in pending.values():
                        out.fail(str(entry.address), str(problem))
                    break
                entry = pending.pop(number)
                out.keep(entry, performed)
                made += performed.failure is None
                progress(len(tasks) - len(pending), len(tasks), str(entry.request))
    return Outcome(made, status(study, out))


def status(study: Study, out: StudyDirectory) -> tuple[Entry, ...]:
    """What is there of each request. No model is loaded."""
    return tuple(out.entry(request) for request in study.requests)


def _identify(
    requests: Sequence[Request], out: StudyDirectory, workers: Workers | None, stage: StageProgress
) -> set[str]:
    """Finds out models and prompts of requests where they are not known; gives the keys of those that cannot be."""
    keys = question_keys(requests)
    names = [request_key(request) for request in requests]
    unknown: dict[str, tuple[str, Request]] = {}
    for key, name, request in zip(keys, names, requests, strict=True):
        if out.identity(key) is None:
            unknown.setdefault(key, (name, request))
    if unknown:
        _find_out(unknown, out, workers, stage)
    now = {name: out.identity(key) for key, name in zip(keys, names, strict=True)}
    out.keep_identities({name: identity for name, identity in now.items() if identity is not None})
    return {name for name, identity in now.items() if identity is None}


def _find_out(
    unknown: Mapping[str, tuple[str, Request]], out: StudyDirectory, workers: Workers | None, stage: StageProgress
) -> None:
    """Loads models and makes prompts; what cannot be is noted under the request's key."""
    keys, by_model = list(unknown), defaultdict(list)
    for number, (_, request) in enumerate(unknown.values()):
        by_model[request.model].append((number, request))
    # The first model last: it is still loaded when its runs begin.
    by_turn = reversed(by_model.values())
    units = [tuple(asked[i : i + AT_ONCE]) for asked in by_turn for i in range(0, len(asked), AT_ONCE)]
    names = [name for name, _ in unknown.values()]
    left = set(range(len(keys)))
    with stage("models and prompts") as progress:
        found: Iterator[tuple[int, Identified]]
        share = package_versions()
        found = workers.map(identify, share, units) if workers else enumerate(identify(share, unit) for unit in units)
        done = 0
        while left:
            try:
                _, identified = next(found)
            except InputError as problem:  # workers died over these
                for number in left:
                    out.fail(names[number], str(problem))
                break
            out.keep_identities({keys[number]: identity for number, identity in identified.found.items()})
            for number in identified.found:
                out.forgive(names[number])
            for number, reason in identified.refused.items():
                out.fail(names[number], reason)
            left -= {*identified.found, *identified.refused}
            done += 1
            progress(done, len(units))


def _wanted(study: Study, out: StudyDirectory, refused: set[str]) -> list[Entry]:
    """What is to be made, each address once."""
    wanted: dict[str, Entry] = {}
    for entry in status(study, out):
        if entry.state != "done" and entry.address is not None and request_key(entry.request) not in refused:
            wanted.setdefault(entry.evaluation or entry.address, entry)
    return list(wanted.values())


@dataclass(frozen=True)
class _Tasks(Sequence[Task]):
    """What is to be done for each entry; a finished run's files are read only when its turn has come."""

    entries: Sequence[Entry]
    out: StudyDirectory

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: Any) -> Any:
        entry, out = self.entries[number], self.out
        assert entry.address is not None
        identity = out.identity(request_key(entry.request))
        assert identity is not None
        files = out.run_files(entry.address) if out.has_run(entry.address) else None
        return Task(entry.request, identity, files, out.store_path(entry.address), out.token)


def _performed(
    tasks: Sequence[Task], workers: Workers | None, divide_runs: bool
) -> Iterator[tuple[int, Performed] | tuple[int, Any]]:
    if workers is not None and not divide_runs:
        yield from workers.map(perform, None, tasks)
        return
    for number, task in enumerate(tasks):
        with torch_threads(task.request.threads):
            yield number, perform(workers, task)
