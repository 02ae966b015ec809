"""ACDC's record: `steps.jsonl`, one line per test in order, written during the search.

A killed run leaves whole lines and at most one torn line. The next run replays the decisions layer by layer. At the first layer
without all its tests, it removes that layer's lines and makes its tests again, so the final file is the same, byte by byte,
wherever a run was killed. Altered lines are removed with all lines after them. After a power failure, at most the tests of the
last second (`SYNC_SECONDS`), or of one layer, are made again.
"""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from circuits.errors import DamageWarning, InputError
from circuits.files.atomic import PART, replacing
from circuits.files.checksums import read_sealed, sealed
from circuits.files.durable import make_directory, sync_directory, sync_handle
from circuits.files.locks import sole_writer
from circuits.files.untrusted import check_schema, open_regular, parse_json, read_bytes
from circuits.measure.store import question_of
from circuits.results.provenance import Provenance

STEPS_FILE = "steps.jsonl"
SUMS_FILE = "steps.sha256"
QUESTION_FILE = "question.json"
SCHEMA = 1
"""Schema of a record; records without a schema have the first."""
SYNC_SECONDS = 1.0
"""Shortest time between syncs to the disk: a small model makes thousands of tests per second."""


class Step(NamedTuple):
    """One test.

    Attributes:
        writer: the edge's writer; None: the test ablated the reader's whole input.
        reader: the reader.
        change: change of the loss when the edge (or the input) was ablated.
        kept: whether the edge (or the input) is kept.
    """

    writer: str | None
    reader: str
    change: float
    kept: bool


class EndOfRecordError(Exception):
    """The record has no further test."""


class Record:
    """The file of one search; nothing is stored without a directory.

    Only one process may write to it. `SUMS_FILE` has a line for each write: the number of bytes of steps so far, and their
    SHA-256. Steps that do not match are removed.
    """

    def __init__(self, directory: str | Path | None, origin: Provenance) -> None:
        """Opens or creates the record of a question.

        Raises:
            InputError: the directory has another question's record, cannot be used, or is in use.

        Warns:
            DamageWarning: the record was altered; tests from there on are made again.
        """
        self._open = ExitStack()
        self._files: tuple[int, int] | None = None
        self._content, self._at = bytearray(), 0
        self._sum, self._sums = hashlib.sha256(), [(0, 0)]
        self._synced = -SYNC_SECONDS
        if directory is None:
            return
        self._name = Path(directory) / STEPS_FILE
        asked = question_of(origin)
        with ExitStack() as opened:
            try:
                make_directory(self._name.parent)
                opened.enter_context(sole_writer(directory, inside=True))
                _claim(self._name.parent, asked)
                self._files = (_opened(self._name, opened), _opened(self._name.with_name(SUMS_FILE), opened))
                self._check(read_bytes(self._name), read_bytes(self._name.with_name(SUMS_FILE)))
                sync_directory(self._name.parent)
            except OSError as problem:
                raise InputError(f"cannot use {directory} as a store: {problem.strerror or problem}") from None
            self._open = opened.pop_all()

    def close(self) -> None:
        if self._files is not None:
            with suppress(OSError):  # tests that are not on the disk are made again
                self._sync()
            self._files = None
        self._open.close()

    def _sync(self) -> None:
        """Syncs the steps to the disk, then their sums."""
        assert self._files is not None
        for handle in self._files:
            sync_handle(handle)
        self._synced = time.monotonic()

    def mark(self) -> int:
        """The current position in the file."""
        return self._at

    def next(self) -> Step:
        """The next test of an earlier run.

        Raises:
            EndOfRecordError: there are no more tests.
        """
        end = self._content.find(b"\n", self._at) + 1
        if not end:
            raise EndOfRecordError
        line, self._at = bytes(self._content[self._at : end]), end
        try:
            return _step(json.loads(line))
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{self._name}: {line[:80]!r} is not a step of ACDC; delete the store to start again"
            ) from None

    def cut(self, mark: int) -> None:
        """Removes everything recorded after `mark`."""
        del self._content[mark:]
        self._at = mark
        if self._files is None:
            return
        while self._sums[-1][0] > mark:
            self._sums.pop()
        steps, sums = self._files
        os.ftruncate(sums, self._sums[-1][1])  # first: a kill then leaves steps without sums, never sums without steps
        os.ftruncate(steps, mark)
        self._sum = hashlib.sha256(self._content)
        if self._sums[-1][0] < mark:
            self._note(mark)

    def write(self, steps: list[Step]) -> None:
        """Appends tests; they are not lost if this process is killed.

        Raises:
            InputError: the disk is full.
        """
        if self._files is None:
            return
        data = b"".join(json.dumps(step._asdict()).encode() + b"\n" for step in steps)
        try:
            _append(self._files[0], data)
            self._sum.update(data)
            self._content += data
            self._at += len(data)
            self._note(self._at)
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                self._sync()
        except OSError as problem:
            raise InputError(
                f"cannot write {self._name}: {problem.strerror or problem}; the tests written before are kept, and the same "
                "search continues from them"
            ) from None

    def _note(self, size: int) -> None:
        """Writes the checksum of all steps so far, after the steps."""
        assert self._files is not None
        line = f"{size} {self._sum.hexdigest()}\n".encode()
        _append(self._files[1], line)
        self._sums.append((size, self._sums[-1][1] + len(line)))

    def _check(self, steps: bytes, sums: bytes) -> None:
        """Determines how much of the record is intact, and removes the rest."""
        running = hashlib.sha256()
        size = summed = 0
        for line in sums.splitlines(keepends=True):
            try:
                upto = int(line.split()[0])
            except (ValueError, IndexError):
                break
            further = running.copy()
            further.update(steps[size:upto])
            if not size < upto <= len(steps) or line != f"{upto} {further.hexdigest()}\n".encode():
                break
            running, size, summed = further, upto, summed + len(line)
            self._sums.append((size, summed))
        # A kill leaves at most one write without its sum, or a torn line of sums: neither is damage.
        if summed < len(sums) and sums.endswith(b"\n"):
            damage = f"{self._name} was altered or cut short after {size} bytes; the tests from there on are made again"
            warnings.warn(damage, DamageWarning, stacklevel=4)
        self._content = bytearray(steps[:size])
        self.cut(size)
        self._at = 0


def _opened(path: Path, stack: ExitStack) -> int:
    """Opens a file for appending."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    stack.callback(os.close, handle)
    return handle


def _append(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _claim(directory: Path, asked: dict[str, Any]) -> None:
    """Writes the question of this record, or checks that the stored one is the same."""
    path = directory / QUESTION_FILE
    if not path.exists():
        if any(not file.name.endswith((PART, ".lock")) for file in directory.iterdir()):
            raise InputError(f"{directory} contains files that are not a record of ACDC; choose another store")
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(sealed({"schema": SCHEMA, **asked})), encoding="utf-8")
        return
    stored = read_sealed(path)
    if stored is None:
        raise InputError(
            f"{path} is damaged, or was not written by mech-circuits; delete {directory} to start again, or choose another store"
        )
    check_schema(stored.pop("schema", SCHEMA), SCHEMA, str(path))
    if stored != asked:
        raise InputError(
            f"{directory} holds the record of another question ({_difference(stored, asked)}); choose another store"
        )


def read_steps(path: str | Path) -> Iterator[Step]:
    """The tests in a `steps.jsonl`.

    Raises:
        InputError: the file does not exist, or a line is not a test.
    """
    try:
        with open_regular(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    yield _step(parse_json(line.decode()))
                except (ValueError, KeyError, TypeError, OverflowError):
                    raise InputError(f"{path}, line {number}: {line[:80]!r} is not a step of ACDC") from None
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror or problem}") from None


def _step(data: Any) -> Step:
    step = Step(data["writer"], data["reader"], float(data["change"]), data["kept"])
    if not isinstance(step.reader, str) or not isinstance(step.kept, bool) or not isinstance(step.writer, str | None):
        raise ValueError
    return step


def _difference(stored: dict[str, Any], asked: dict[str, Any]) -> str:
    names = [key for key in {**asked, **stored} if stored.get(key) != asked.get(key)]
    return ", ".join(f"{name}: {str(stored.get(name))[:60]!r}, now {str(asked.get(name))[:60]!r}" for name in names[:3])
