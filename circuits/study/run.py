"""Makes the missing runs of a study, in this process or in workers."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from circuits.errors import InputError
from circuits.progress import StageProgress, silent
from circuits.study.address import package_versions, question_keys, request_key
from circuits.study.directory import Entry, StudyDirectory
from circuits.study.request import Request, Study
from circuits.workers.workers import Workers, torch_threads

if TYPE_CHECKING:
    from circuits.study.perform import Identified, Performed, Task

AT_ONCE = 1000
"""Requests of one model whose identities are computed at once, before they are stored."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a call of `run_study`.

    Attributes:
        made: the number of runs that this call made.
        entries: all requests, with their states.
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
    """Makes the missing runs, and tries the failed ones again.

    Every finished run is written at once. A killed call loses only the runs that it was making, and methods that keep a
    record (acdc, coar, exact-edges, activation-patching) resume these.

    Args:
        study: from `read_study`.
        out: from `StudyDirectory.begin`.
        workers: processes that make one run each at a time; None: this process makes them all.
        divide_runs: this process makes the runs, and divides each among the workers if its method can be divided.
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
                except InputError as problem:  # workers died on these
                    for entry in pending.values():
                        out.fail(str(entry.address), str(problem))
                    break
                entry = pending.pop(number)
                out.keep(entry, performed)
                made += performed.failure is None
                progress(len(tasks) - len(pending), len(tasks), str(entry.request))
    return Outcome(made, status(study, out))


def status(study: Study, out: StudyDirectory) -> tuple[Entry, ...]:
    """The state of each request. No model is loaded."""
    return tuple(out.entry(request) for request in study.requests)


def _identify(
    requests: Sequence[Request], out: StudyDirectory, workers: Workers | None, stage: StageProgress
) -> set[str]:
    """Computes the identities of requests that are not known yet; returns the keys of requests that have none."""
    keys = question_keys(requests)
    names = [request_key(request) for request in requests]
    unknown: dict[str, tuple[str, Request]] = {}
    for key, name, request in zip(keys, names, requests, strict=True):
        if out.identity(key) is None:
            unknown.setdefault(key, (name, request))
    if unknown:
        _compute_identities(unknown, out, workers, stage)
    now = {name: out.identity(key) for key, name in zip(keys, names, strict=True)}
    out.keep_identities({name: identity for name, identity in now.items() if identity is not None})
    return {name for name, identity in now.items() if identity is None}


def _compute_identities(
    unknown: Mapping[str, tuple[str, Request]], out: StudyDirectory, workers: Workers | None, stage: StageProgress
) -> None:
    """Loads models and makes prompts; failures are recorded under the request's key."""
    from circuits.study.perform import identify

    keys, by_model = list(unknown), defaultdict(list)
    for number, (_, request) in enumerate(unknown.values()):
        by_model[request.model].append((number, request))
    # The first model comes last: it is still loaded when its runs begin.
    by_turn = reversed(by_model.values())
    units = [tuple(asked[i : i + AT_ONCE]) for asked in by_turn for i in range(0, len(asked), AT_ONCE)]
    names = [name for name, _ in unknown.values()]
    left = set(range(len(keys)))
    with stage("models and prompts") as progress:
        results: Iterator[tuple[int, Identified]]
        share = package_versions()
        results = workers.map(identify, share, units) if workers else enumerate(identify(share, unit) for unit in units)
        done = 0
        while left:
            try:
                _, identified = next(results)
            except InputError as problem:  # workers died on these
                for number in left:
                    out.fail(names[number], str(problem))
                break
            out.keep_identities({keys[number]: identity for number, identity in identified.identities.items()})
            for number in identified.identities:
                out.forgive(names[number])
            for number, reason in identified.refused.items():
                out.fail(names[number], reason)
            left -= {*identified.identities, *identified.refused}
            done += 1
            progress(done, len(units))


def _wanted(study: Study, out: StudyDirectory, refused: set[str]) -> list[Entry]:
    """The entries to make, each address once."""
    wanted: dict[str, Entry] = {}
    for entry in status(study, out):
        if entry.state != "done" and entry.address is not None and request_key(entry.request) not in refused:
            wanted.setdefault(entry.evaluation or entry.address, entry)
    return list(wanted.values())


@dataclass(frozen=True)
class _Tasks(Sequence["Task"]):
    """A task for each entry; the files of a finished run are read only when it is that task's turn."""

    entries: Sequence[Entry]
    out: StudyDirectory

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: Any) -> Any:
        from circuits.study.perform import Task

        entry, out = self.entries[number], self.out
        assert entry.address is not None
        identity = out.identity(request_key(entry.request))
        assert identity is not None
        files = out.run_files(entry.address) if out.has_run(entry.address) else None
        return Task(entry.request, identity, files, out.store_path(entry.address), out.token)


def _performed(
    tasks: Sequence["Task"], workers: Workers | None, divide_runs: bool
) -> Iterator[tuple[int, "Performed"] | tuple[int, Any]]:
    from circuits.study.perform import perform

    if workers is not None and not divide_runs:
        yield from workers.map(perform, None, tasks)
        return
    for number, task in enumerate(tasks):
        with torch_threads(task.request.threads):
            yield number, perform(workers, task)
