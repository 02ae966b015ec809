"""ACDC's record: `steps.jsonl`, one line a test in the order made, written as it goes.

A killed run leaves whole lines and at most one torn one. A run that finds them replays the decisions, layer by layer, and
begins to compute with the first layer whose tests are not all there: that layer's lines are cut off and made again, so
that the file ends the same, byte by byte, wherever a run was killed.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from circuits.errors import InputError
from circuits.export.atomic import replacing
from circuits.provenance import Provenance, plain
from circuits.untrusted import open_regular

STEPS_FILE = "steps.jsonl"
QUESTION_FILE = "question.json"


class Step(NamedTuple):
    """One test.

    Attributes:
        writer: the edge's writer; None: the reader's whole input was tested at once.
        reader: the reader.
        change: of the loss, when the edge (or the input) was ablated.
        kept: whether it stays.
    """

    writer: str | None
    reader: str
    change: float
    kept: bool


class EndOfRecordError(Exception):
    """The record holds no further test."""


class Record:
    """The file of one search; without a directory nothing is kept."""

    def __init__(self, directory: str | Path | None, origin: Provenance) -> None:
        """Opens or makes the record of a question.

        Raises:
            InputError: the directory holds another question's record, or cannot be used.
        """
        self._file = None
        if directory is None:
            return
        directory = Path(directory)
        asked = {key: value for key, value in plain(origin).items() if key != "versions"}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _claim(directory, asked)
            (directory / STEPS_FILE).touch()
            self._file = (directory / STEPS_FILE).open("r+b")
        except OSError as problem:
            raise InputError(f"cannot use {directory} as a store: {problem.strerror or problem}") from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def mark(self) -> int:
        """The place in the file."""
        return 0 if self._file is None else self._file.tell()

    def next(self) -> Step:
        """The next test of an earlier run.

        Raises:
            EndOfRecordError: there is none, or it is torn.
        """
        line = b"" if self._file is None else self._file.readline()
        if not line.endswith(b"\n"):
            raise EndOfRecordError
        try:
            return _step(json.loads(line))
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{self._name}: {line[:80]!r} is no step of ACDC; remove the store to start anew"
            ) from None

    def cut(self, mark: int) -> None:
        """Forgets what was recorded behind `mark`."""
        if self._file is not None:
            self._file.seek(mark)
            self._file.truncate()

    def write(self, steps: list[Step]) -> None:
        """Appends tests; they survive the death of this process."""
        if self._file is not None:
            self._file.write(b"".join(json.dumps(step._asdict()).encode() + b"\n" for step in steps))
            self._file.flush()

    @property
    def _name(self) -> str:
        return "" if self._file is None else os.fspath(self._file.name)


def _claim(directory: Path, asked: dict[str, Any]) -> None:
    """Writes down whose record this is, or finds it written."""
    path = directory / QUESTION_FILE
    if not path.exists():
        if any(directory.iterdir()):
            raise InputError(f"{directory} holds files that are no record of ACDC; choose another store")
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(asked), encoding="utf-8")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if found != asked:
        raise InputError(
            f"{directory} holds the record of another question ({_difference(found, asked)}); choose another store"
        )


def read_steps(path: str | Path) -> Iterator[Step]:
    """The tests in a `steps.jsonl`.

    Raises:
        InputError: no such file, or a line is no test.
    """
    try:
        with open_regular(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    yield _step(json.loads(line.decode()))
                except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                    raise InputError(f"{path}, line {number}: {line[:80]!r} is no step of ACDC") from None
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror or problem}") from None


def _step(data: Any) -> Step:
    step = Step(data["writer"], data["reader"], float(data["change"]), data["kept"])
    if not isinstance(step.reader, str) or not isinstance(step.kept, bool) or not isinstance(step.writer, str | None):
        raise ValueError
    return step


def _difference(found: Any, asked: dict[str, Any]) -> str:
    if not isinstance(found, dict):
        return "it is not ours"
    names = [key for key in {**asked, **found} if found.get(key) != asked.get(key)]
    return ", ".join(f"{name}: {str(found.get(name))[:60]!r}, now {str(asked.get(name))[:60]!r}" for name in names[:3])
