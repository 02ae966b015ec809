"""Directories in the user's cache that are either whole or absent.

A conversion takes seconds and can be interrupted, run twice at once, or fill the disk. So it writes to a directory next to the
final one, is hashed and synced to disk, and is then renamed, which is atomic. `provenance.json` has the size and SHA-256 of
every file, to detect later damage.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from circuits.errors import DamageWarning
from circuits.files.durable import sync_directory, sync_tree
from circuits.files.untrusted import read_bytes
from circuits.zoo.entry import Progress, no_progress

PROVENANCE = "provenance.json"
MISSING = "it is not there"
CHUNK = 1 << 20  # bytes


def sha256(path: Path, progress: Progress = no_progress, stage: str = "check") -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits, with a report of progress."""
    import hashlib

    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            done += len(piece)
            progress(stage, done, total)
    return digest.hexdigest()


def problem(directory: Path, files: Collection[str], full: bool = False) -> str | None:
    """The fault of a directory written by `ensure`, or None; `MISSING` if it does not exist.

    Sizes are always compared (microseconds), SHA-256 sums only if `full` (a second per gigabyte).
    """
    if not os.path.lexists(directory):
        return MISSING
    try:
        recorded = json.loads(read_bytes(directory / PROVENANCE))["files"]
        sums = {name: (int(recorded[name]["bytes"]), str(recorded[name]["sha256"])) for name in files}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        return f"{PROVENANCE} cannot be used ({type(error).__name__}: {error})"
    for name, (nbytes, expected) in sums.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != nbytes:
            return f"{name} has {path.stat().st_size:,} bytes, expected {nbytes:,}"
        if full and sha256(path) != expected:
            return f"{name} has another SHA-256 than when it was written"
    return None


def ensure(
    final: Path,
    files: Collection[str],
    facts: dict[str, Any],
    build: Callable[[Path, Path, Progress], None],
    progress: Progress = no_progress,
    full: bool = False,
) -> Path:
    """Builds the directory `final` unless it is whole, and returns it.

    Args:
        final: the directory, which appears atomically.
        files: names that `build` must write.
        facts: entries of `provenance.json`.
        build: `build(scratch, output, progress)`; its errors are passed on, and leave no files.
        progress: called with stage, bytes done and total bytes.
        full: compare the SHA-256 sums of an existing directory, not only sizes.

    A damaged directory is built again, with a warning; the old one is deleted when the new one is ready. Of several processes
    one builds, and the others wait.

    Raises:
        OSError: the cache cannot be written.
    """
    if problem(final, files, full) is None:
        _tidy(final)
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with _lock(final, progress) as locked:
        fault = problem(final, files, full)
        if fault is None:
            return final
        if fault != MISSING:
            warnings.warn(f"{final} is damaged ({fault}); building it again", DamageWarning, stacklevel=3)
        if locked:
            _sweep(final)
        work = final.parent / f".{final.name}.tmp-{os.getpid()}-{os.urandom(4).hex()}"
        scratch, output = work / "scratch", work / "output"
        try:
            scratch.mkdir(parents=True)
            output.mkdir()
            build(scratch, output, progress)
            _seal(output, files, facts, progress)
            _publish(output, final, work / "replaced", files)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return final


@contextmanager
def _lock(final: Path, progress: Progress) -> Iterator[bool]:
    """Locks a directory; the system releases the lock when the process ends. False if the file system has no locks."""
    from filelock import FileLock, Timeout

    lock = FileLock(final.parent / f".{final.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress("wait for another process", 0, 0)
        lock.acquire()
    except NotImplementedError:  # some network file systems; two simultaneous builds are then slower, but correct
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _sweep(final: Path) -> None:
    """Removes what killed processes left; to be called with the lock."""
    for left in final.parent.glob(f".{final.name}.tmp-*"):
        shutil.rmtree(left, ignore_errors=True)


def _tidy(final: Path) -> None:
    """Removes what a process left that was killed after the rename."""
    from filelock import FileLock, Timeout

    if not any(final.parent.glob(f".{final.name}.tmp-*")):
        return
    with suppress(Timeout, OSError, NotImplementedError), FileLock(final.parent / f".{final.name}.lock", timeout=0):
        _sweep(final)


def _seal(output: Path, files: Collection[str], facts: dict[str, Any], progress: Progress) -> None:
    """Writes `provenance.json` with the size and hash of every file, and syncs the directory."""
    sums = {}
    for name in sorted(files):
        path = output / name
        sums[name] = {"bytes": path.stat().st_size, "sha256": sha256(path, progress, f"hash {name}")}
    text = json.dumps({"schema": 1, **facts, "files": sums}, indent=2, ensure_ascii=False) + "\n"
    (output / PROVENANCE).write_text(text, encoding="utf-8")
    sync_tree(output)


def _publish(output: Path, final: Path, replaced: Path, files: Collection[str]) -> None:
    """Renames `output` to `final`, and an existing damaged directory to `replaced`."""
    if os.path.lexists(final):
        os.replace(final, replaced)
    try:
        os.replace(output, final)
    except OSError:
        if problem(final, files) is not None:  # otherwise another process, without a lock, has built it first
            raise
    sync_directory(final.parent)
