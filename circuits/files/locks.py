"""One writer at a time to a directory; a second one gets an error that names the first.

The lock is a lock of the system on the file `.NAME.circuits-lock` beside the directory (for stores, `.lock` inside it). The
system releases it when the process ends, even if it was killed. On file systems without locks, filelock uses the existence of
that file instead; if the process was killed on another machine, delete the file by hand. Where neither works, work continues
without a lock; runs are still complete or absent, since they appear by one rename.
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
"""The locks of this process by thread, which may lock a directory again."""


@contextmanager
def sole_writer(directory: str | Path, inside: bool = False) -> Iterator[bool]:
    """Keeps all other processes and threads from writing to a directory.

    Args:
        directory: need not exist, unless the lock is inside it.
        inside: put the lock file inside the directory.

    Yields:
        whether the directory is locked.

    Raises:
        InputError: another process is writing there; with its number, machine and start time.
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
            f"another process is writing to {directory} ({_who(path)}); wait until it has finished, or choose another directory "
            f"(if that process no longer exists, delete {path})"
        ) from None
    except (OSError, NotImplementedError):  # a read-only place, or a file system without locks
        _held[me] = False
    try:
        if _held[me] and type(lock) is FileLock:  # not a SoftFileLock, which writes its own file
            _sign(path)
        yield _held[me]
    finally:
        if _held.pop(me):
            with suppress(OSError):
                path.unlink(missing_ok=True)  # still locked, so that no other process has it
            lock.release()


def _sign(path: Path) -> None:
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    with suppress(OSError):
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n", encoding="utf-8")


def _who(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        text = ""
    return text[:200] if text.startswith("process ") and text.isprintable() else "which one is not known"
