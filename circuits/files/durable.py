"""Durable writing: results survive a power cut. Files and directories are synced before their sources are deleted.

After a rename the system may write the new name to the disk before the file's contents: after a power cut the file is then
empty. `fsync` of the file before the rename prevents that, and `fsync` of the directory afterwards makes the new name durable.
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
"""Errors of file systems that cannot sync; some network file systems cannot sync directories."""
_later: ContextVar[bool] = ContextVar("synced later", default=False)


@contextmanager
def synced_later() -> Iterator[None]:
    """In this context files are not synced one by one: the caller calls `sync_tree` at the end, or deletes everything."""
    token = _later.set(True)
    try:
        yield
    finally:
        _later.reset(token)


def sync_file(path: Path) -> None:
    """Writes the contents of a file to the disk; OSError if that fails."""
    if not _later.get():
        _sync(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Writes the names in a directory to the disk; raises as `sync_file`. Windows needs no call."""
    if not _later.get() and os.name != "nt":
        _sync(path, os.O_RDONLY)


def sync_tree(directory: Path) -> None:
    """Writes a directory and the files in it to the disk; raises as `sync_file`."""
    for path in sorted(directory.iterdir()):
        if path.is_file() and not path.is_symlink():
            sync_file(path)
    sync_directory(directory)


def make_directory(path: Path) -> None:
    """Makes a directory and its missing parents durably; OSError if that fails."""
    missing = [place for place in (path, *path.parents) if not place.is_dir()]
    path.mkdir(parents=True, exist_ok=True)
    for place in reversed(missing):
        with suppress(PermissionError):  # a parent that may be written but not read
            sync_directory(place.parent)


def is_emptied(path: Path) -> bool:
    """Whether the file exists and is empty, as a power cut leaves one that was not synced."""
    return path.is_file() and path.stat().st_size == 0


def sync_handle(handle: int) -> None:
    """Writes an open file to the disk; raises as `sync_file`."""
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
