"""Kills work with SIGKILL at some moment of its life, lets it go on, and compares what comes out with an undisturbed result.

Work runs in a process forked from this one, so that imports and models cost nothing. Its moments are counted, and are the same
every time: before and after each file of its folder is opened for writing, before it is renamed, deleted, cut or locked, in
the middle of each `os.write`, and at each progress report. So a seed says where it is killed, and nothing waits.

    survives(work, tmp_path, kills, result)     the whole test: many kills, each continued to the end
    attempt(work, folder, moment)               one go, killed at that moment, or whole
    at_work(work)                               work that another process holds on to meanwhile, until it is killed
    kill_command(arguments, seconds)            for commands that start processes: all of them are killed after a time
"""

import builtins
import gc
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from circuits.runs.read import read_run

Progress = Callable[..., None]
Work = Callable[[Progress], object]
"""Starts or continues something in the current directory. Its argument takes anything, and is a moment to be killed at."""

MOST_SECONDS = 300
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
WITH_PATH = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "shutil.rmtree", "shutil.copyfile")
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "opened")
ON_HANDLES = ("fcntl.flock", "os.truncate")


class Attempt(NamedTuple):
    """How one go ended.

    Attributes:
        killed: or it came to its end.
        moments: what happened at each, if it came to its end.
    """

    killed: bool
    moments: tuple[str, ...] = ()


def attempt(work: Work, folder: Path, moment: int | None = None) -> Attempt:
    """Runs work in a process of its own, in `folder`, and kills it at a moment, counted from 1 (None: at none).

    Raises:
        AssertionError: it failed; with its traceback.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks in processes with threads
        pid = os.fork()
    if pid == 0:
        os.close(reading)
        _live(work, folder, moment, writing)
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as pipe:
        result = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == -signal.SIGKILL:
        return Attempt(True)
    assert status == 0, f"exit status {status} at {folder}, to be killed at moment {moment}:\n{result}"
    return Attempt(False, tuple(result.split()))


def survives(
    work: Work,
    folder: Path,
    kills: int,
    result: Callable[[Path], Any],
    *,
    seed: int = 0,
    prepare: Callable[[Path], object] | None = None,
    check: Callable[[Path], object] | None = None,
) -> None:
    """Work killed at any moment, and perhaps again when it goes on, ends with what it ends with undisturbed.

    Args:
        work: see `Work`; called again, it must go on where it was.
        folder: an empty directory; each life has one of its own below it.
        kills: lives; see `spread` for their first deaths. With as many as there are moments, each has its turn.
        result: what must be equal, from a life's directory. Files whose names begin with a dot must be gone at the end.
        seed: of the moments.
        prepare: what is there before; called with a new directory.
        check: what must hold after each death; called with the directory.
    """
    begin = prepare or (lambda place: place.mkdir())
    begin(folder / "here")
    with chdir(folder / "here"):
        work(lambda *_, **__: None)  # so that later lives find everything imported
    wanted = result(folder / "here")
    begin(folder / "whole")
    moments = attempt(work, folder / "whole").moments
    assert result(folder / "whole") == wanted, "without any kill, two results differ"
    draw = random.Random(seed)
    for life, moment in enumerate(spread(moments, kills, draw)):
        place = folder / f"life-{life}"
        begin(place)
        at = f"killed at moment {moment} of {len(moments)} ({moments[moment - 1]})"
        assert attempt(work, place, moment).killed, f"it ended before it was {at}"
        if check is not None:
            check(place)
        again = draw.randint(1, len(moments))
        if draw.random() < 0.5 and attempt(work, place, again).killed and check is not None:
            check(place)
        attempt(work, place)
        assert result(place) == wanted, at
        left = [str(path.relative_to(place)) for path in place.rglob(".*")]
        assert not left, f"{at}, it left {left}"
        shutil.rmtree(place)


def spread(moments: Sequence[str], kills: int, draw: random.Random) -> list[int]:
    """So many moments, counted from 1: half of them over all, half over those at which a directory changes.

    Both are drawn from equal parts. There are many progress reports and few renames, and it is there that things go wrong.
    """
    every = range(1, len(moments) + 1)
    assert every, "this work has no moments"
    if kills >= len(every):
        return list(every)
    few = [moment for moment in every if moments[moment - 1] in CHANGES] or every
    chosen = []
    for pool, n in ((every, (kills + 1) // 2), (few, kills // 2)):
        chosen += [pool[min(len(pool) - 1, int((i + draw.random()) * len(pool) / n))] for i in range(n)]
    return chosen


@contextmanager
def at_work(work: Work, folder: Path) -> Iterator[int]:
    """Another process that has come as far as its first progress report, and waits there; it is killed at the end.

    Yields:
        its number.
    """
    reading, writing = os.pipe()

    def wait(*_: object, **__: object) -> None:
        os.write(writing, b"!")
        while True:
            signal.pause()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(reading)
        _guarded(lambda: work(wait), folder, writing)
    os.close(writing)
    try:
        result = os.read(reading, 1 << 16)
        assert result == b"!", result.decode(errors="replace") or "it ended without a progress report"
        yield pid
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def kill_command(
    arguments: Sequence[str],
    seconds: float,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    victim: Callable[[int], int | None] | None = None,
) -> int:
    """Starts a command, and after some seconds kills it with all that it started; or one process only.

    Args:
        arguments: the command.
        seconds: to live.
        cwd, environment: of the command; the environment adds to this process's own.
        victim: chooses the process to be killed, from the command's number (None: there is none yet, ask again); the
            command is then waited for.

    Returns:
        the command's exit code; -9: it was killed.
    """
    process = subprocess.Popen(
        list(arguments), cwd=cwd, env={**os.environ, **(environment or {})}, start_new_session=True
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        if victim is None:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            while process.poll() is None and (chosen := victim(process.pid)) is None:
                time.sleep(0.02)
            if process.poll() is None and chosen is not None:
                os.kill(chosen, signal.SIGKILL)
    return process.wait(MOST_SECONDS)


def files(folder: Path, *names: str) -> dict[str, bytes]:
    """The bytes of files, by name; of all below the folder where none are named."""
    paths = [folder / name for name in names] or [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(paths)}


class _Moments:
    """Counts, and ends the process at the one it was told."""

    def __init__(self, folder: Path, last: int | None) -> None:
        self.folder, self.last = str(folder.resolve()), last
        self.seen: list[str] = []
        self.write = os.write

    def progress(self, *_: object, **__: object) -> None:
        self.one("progress")

    def one(self, what: str) -> None:
        self.seen.append(what)
        if len(self.seen) == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def torn(self, handle: int, data: bytes) -> int:
        """`os.write`, which may die half-way."""
        if len(self.seen) + 1 == self.last:
            self.write(handle, data[: len(data) // 2])
        self.one("os.write")
        return self.write(handle, data)

    def opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """`open`, which may die when the file is there and empty."""

        def opened(path: Any, *more: Any, **named: Any) -> Any:
            before = len(self.seen)
            file = real(path, *more, **named)
            if len(self.seen) > before:  # it was for writing
                self.one("opened")
            return file

        return opened

    def audit(self, event: str, given: tuple[Any, ...]) -> None:
        if event in ON_HANDLES or (
            (event in WITH_PATH or (event == "open" and given[2] & WRITING)) and self._mine(given[0])
        ):
            self.one(event)

    def _mine(self, path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.folder + os.sep)


def _live(work: Work, folder: Path, moment: int | None, pipe: int) -> NoReturn:
    moments = _Moments(folder, moment)

    def life() -> None:
        write, io.open, os.open = os.write, moments.opening(io.open), moments.opening(os.open)
        os.write, builtins.open = moments.torn, io.open  # type: ignore[assignment]
        sys.addaudithook(moments.audit)
        work(moments.progress)
        moments.last = None
        write(pipe, " ".join(moments.seen).encode())

    _guarded(life, folder, pipe)


def _guarded(life: Callable[[], object], folder: Path, pipe: int) -> NoReturn:
    """Lives in the folder; never returns into the tests of the parent."""
    write = os.write
    try:
        gc.disable()  # it would touch, and so copy, all that the parent has
        signal.alarm(MOST_SECONDS)
        os.chdir(folder)
        life()
        os._exit(0)
    except BaseException:
        write(pipe, traceback.format_exc().encode())
        os._exit(1)
    finally:
        os._exit(1)


def run_of(place):
    """A run, but for what tells time, and for figures, which have a random name inside."""
    run = place / "RUN"
    read_run(run)
    record = json.loads((run / "run.json").read_text())
    record["files"] = {name: content for name, content in record["files"].items() if not name.endswith(".html")}
    del record["seconds"], record["sha256"]
    return record, sorted(path.name for path in run.iterdir()), files(run, *record["files"])
