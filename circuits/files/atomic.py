"""Files appear whole or not at all: written under a temporary name beside the target, synced to the disk, then renamed.

The temporary name of `NAME` is `.NAME.circuits-part`. Its writer holds a lock on it, which the system takes back when the process
dies, however it dies: so what a killed process left is taken over by the next writer of the same file, and what a living
one is writing is never touched (a second writer takes `.NAME.1.circuits-part`). Where files cannot be locked, names are random.
"""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.errors import InputError
from circuits.files.durable import beside, sync_directory, sync_file

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PART = ".circuits-part"
"""How the names of our temporary files end; nobody else's may."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to; renamed to `path` at the end, deleted if the block fails.

    Raises:
        InputError: the directory is missing or cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        handle, temporary = _claim(path)
    except OSError as problem:
        raise InputError(f"cannot write {path}: {problem.strerror or problem}") from None
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        sync_file(temporary)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except BaseException as problem:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(problem, OSError):
            raise InputError(f"cannot write {path}: {problem.strerror or problem}") from None
        raise
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; raises as `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(path: str | Path) -> None:
    """Whether a file could be written here; asked before long work.

    Raises:
        OSError: it could not.
    """
    handle, temporary = _claim(Path(path))
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
    os.close(handle)


def write_tensors(tensors: Mapping[str, "Tensor"], path: str | Path, header: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, whole or not at all, and the same bytes for the same content.

    (safetensors' own `save_file` puts the header in any order, writes to a further temporary file, and its errors do not
    say what the system said.)
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
    """An empty temporary file for `path` that nobody else writes to, and the open handle that holds its lock."""
    with suppress(FileNotFoundError):
        os.lstat(path)  # a name that is too long, and would be refused by the rename only
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
    """Locks a file that was opened under this name; False if another holds it, or has renamed it meanwhile."""
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
    """Removes what two writers at once left when both were killed."""
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
