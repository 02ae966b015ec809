"""Atomic writing: a file is written under a temporary name beside the target, synced to the disk, then renamed.

The temporary name of `NAME` is `.NAME.circuits-part`. Its writer holds a lock on it, which the system releases when the
process ends, even if it was killed. So the next writer of the same file reuses what a killed process left, and never
touches a file that another process is writing (a second writer takes `.NAME.1.circuits-part`). Where files cannot be locked,
names are random.
"""

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.errors import refusing
from circuits.files.durable import beside, sync_directory, sync_file

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PART = ".circuits-part"
"""Ending of the names of temporary files, which nothing else may have."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to; renamed to `path` at the end, deleted if the block fails.

    Raises:
        InputError: the directory is missing or cannot be written, or the disk is full.
    """
    path = Path(path)
    with refusing(f"write {path}"):
        handle, temporary = _claim(path)
        try:
            yield temporary
            os.chmod(temporary, 0o666 & ~_umask())
            sync_file(temporary)
            os.replace(temporary, path)
            sync_directory(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)


def write_text(path: str | Path, text: str | Iterable[str], newline: str = "\n") -> None:
    """Writes a text in UTF-8, or the parts of one, atomically; raises as `replacing`."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline=newline) as file:
        file.writelines([text] if isinstance(text, str) else text)


def check_writable(path: str | Path) -> None:
    """Checks before long work that a file can be written here.

    Raises:
        OSError: it cannot.
    """
    handle, temporary = _claim(Path(path))
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
    os.close(handle)


def write_tensors(tensors: Mapping[str, "Tensor"], path: str | Path, header: dict[str, str] | None = None) -> None:
    """Writes a safetensors file atomically, with the same bytes for the same content.

    (safetensors' own `save_file` orders the header at random, and its errors do not give the system's message.)
    """
    from safetensors.torch import save

    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, header)
    end = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:end])
    text = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(data)[end:])


def _claim(path: Path) -> tuple[int, Path]:
    """An empty temporary file for `path`, and the open handle that holds its lock."""
    with suppress(FileNotFoundError):
        os.lstat(path)  # raises if the name is too long, which the rename would find only later
    if fcntl is None:
        return _random(path)
    for number in count():
        temporary = _name(path, number)
        try:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:
            if os.path.lexists(temporary):  # a directory, a link, or another user's
                continue
            raise
        try:
            held = _lock(handle, temporary)
            if held:
                os.ftruncate(handle, 0)
                _sweep(path, number + 1)
                return handle, temporary
        except OSError:  # some network file systems have no locks
            os.close(handle)
            return _random(path)
        os.close(handle)
    raise AssertionError


def _lock(handle: int, temporary: Path) -> bool:
    """Locks a file that was opened under this name; False if another process has locked or renamed it."""
    assert fcntl is not None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    try:
        there = os.stat(temporary, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)


def _sweep(path: Path, number: int) -> None:
    """Removes what two simultaneous writers left when both were killed."""
    while (temporary := _name(path, number)).is_file():
        with suppress(OSError):
            handle = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if _lock(handle, temporary):
                    temporary.unlink()
            finally:
                os.close(handle)
        number += 1


def _name(path: Path, number: int) -> Path:
    return beside(path, f".{number}{PART}" if number else PART)


def _random(path: Path) -> tuple[int, Path]:
    while True:
        temporary = beside(path, f".{secrets.token_hex(4)}{PART}")
        with suppress(FileExistsError):
            return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), temporary


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
