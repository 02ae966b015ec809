"""One writer at a time to a directory: the second is told at once who the first is.

The lock is the system's, on the file `.NAME.circuits-lock` beside the directory (`.lock` inside it, for stores): it goes when the process dies, however it dies, so
that nothing a killed run leaves can block the next. On file systems without such locks filelock marks the place with that
file instead, and after a kill on another machine the file has to be deleted by hand; where even that cannot be had, work
goes on without a lock. Runs are then still whole or not there, since they appear by one rename.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from circuits.errors import InputError
from circuits.files.durable import beside

_held: dict[tuple[int, Path], bool] = {}
"""What this process holds, by thread: who holds a lock may ask for it again."""


@contextmanager
def sole_writer(directory: str | Path, inside: bool = False) -> Iterator[bool]:
    """Keeps all other processes and threads from writing to a directory.

    Args:
        directory: which need not exist, unless its lock is inside.
        inside: where the lock is.

    Yields:
        whether a lock could be had.

    Raises:
        InputError: another process is writing there; with its number, machine and start.
    """
    from filelock import FileLock, Timeout

    place = Path(directory).resolve()
    me = threading.get_ident(), place
    if me in _held:
        yield _held[me]
        return
    path = place / ".lock" if inside else beside(place, ".circuits-lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
        _held[me] = True
    except Timeout:
        raise InputError(
            f"another process is writing to {directory} ({_who(path)}); wait until it is done, or choose another place "
            f"(if there is no such process any more, delete {path})"
        ) from None
    except (OSError, NotImplementedError):  # a place that cannot be written, or without locks
        _held[me] = False
    try:
        if _held[me] and type(lock) is FileLock:  # not filelock's own mark, where the system has no locks
            _sign(path)
        yield _held[me]
    finally:
        if _held.pop(me):
            with suppress(OSError):
                path.unlink(missing_ok=True)  # while it is held, so that it is nobody else's
            lock.release()


def _sign(path: Path) -> None:
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    with suppress(OSError):
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n", encoding="utf-8")


def _who(path: Path) -> str:
    try:
        found = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        found = ""
    return found[:200] if found.startswith("process ") and found.isprintable() else "which one is not known"
