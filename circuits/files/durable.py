"""What is written survives a power cut: files and directories are synced before anything that could make them again is deleted.

A rename makes a file appear whole to other processes, but the system may write the new name to the disk before the file's
contents: after a power cut the file is then there and empty. `fsync` of the file before the rename prevents it, and `fsync` of the
directory after it makes the new name last.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import sha256
from pathlib import Path

LONGEST_NAME = 255
"""Bytes of a file's name, on nearly all file systems."""
CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""How a file system answers that cannot sync what it was asked to, as some network file systems cannot sync directories."""
_later: ContextVar[bool] = ContextVar("synced later", default=False)


@contextmanager
def synced_later() -> Iterator[None]:
    """What is written meanwhile is not synced file by file: the caller calls `sync_tree` on the whole, or throws it away."""
    token = _later.set(True)
    try:
        yield
    finally:
        _later.reset(token)


def sync_file(path: Path) -> None:
    """Has the contents of a file on the disk.

    Raises:
        OSError: they cannot be written there.
    """
    if not _later.get():
        _sync(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Has the names in a directory on the disk; raises as `sync_file`. Windows does so by itself."""
    if not _later.get() and os.name != "nt":
        _sync(path, os.O_RDONLY)


def sync_tree(directory: Path) -> None:
    """Has a directory on the disk with the files in it; raises as `sync_file`."""
    for path in sorted(directory.iterdir()):
        if path.is_file() and not path.is_symlink():
            sync_file(path)
    sync_directory(directory)


def make_directory(path: Path) -> None:
    """Makes a directory and those above it, where they are missing, each with its name on the disk.

    Raises:
        OSError: it cannot be made.
    """
    missing = [place for place in (path, *path.parents) if not place.is_dir()]
    path.mkdir(parents=True, exist_ok=True)
    for place in reversed(missing):
        with suppress(PermissionError):  # a directory above that may be written to and not be read
            sync_directory(place.parent)


def is_emptied(path: Path) -> bool:
    """Whether a file is there and empty, as a power cut leaves one that was not synced."""
    return path.is_file() and path.stat().st_size == 0


def sync_handle(handle: int) -> None:
    """Has what was written to an open file on the disk; raises as `sync_file`."""
    try:
        os.fsync(handle)
    except OSError as problem:
        if problem.errno not in CANNOT_SYNC:
            raise


def _sync(path: Path, how: int) -> None:
    handle = os.open(path, how)
    try:
        sync_handle(handle)
    finally:
        os.close(handle)


def beside(path: Path, suffix: str) -> Path:
    """The hidden name `.NAME` + suffix in the directory of `path`; a long name is shortened, with a hash of all of it.

    >>> str(beside(Path("runs/ioi"), ".unfinished")), len(beside(Path("n" * 250), ".unfinished").name)
    ('runs/.ioi.unfinished', 255)
    """
    name = os.fsencode(path.name)
    room = LONGEST_NAME - 1 - len(suffix)
    if len(name) <= room:
        return path.with_name(f".{path.name}{suffix}")
    digest = sha256(name).hexdigest()[:16]
    begins = name[: room - 17].decode("utf-8", "ignore")
    return path.with_name(f".{begins}~{digest}{suffix}")
