"""Reads prompt files as records, by suffix: CSV and TSV, JSON lines, JSON and Parquet.

Files may be malformed or hostile: each reader reports what is wrong and where, and its memory is proportional to the file's size
(`circuits.files.untrusted`).
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from circuits.errors import InputError, PairsError
from circuits.files.untrusted import (
    LARGEST_FACTOR,
    LARGEST_FLOOR,
    check_size,
    keys_once,
    open_regular,
    parse_json,
    read_text,
)
from circuits.prompts.columns import FIELDS, FORMS, LABELS, NEEDED, Record
from circuits.prompts.pair import show
from circuits.prompts.reading import SUFFIXES

MOST_COLUMNS = 1000
MOST_LABELS = 200
MOST_CELLS = 2**17
"""Most delimiters on a line of CSV, quoted or not."""
PARQUET_ROWS = 64
"""Rows of Parquet that are in memory at once; fewer if a row group is smaller."""
ROW, TEXT, ROWS_FLOOR = 700, 3, 2**25
"""Approximate bytes of memory per row and per byte of Parquet's cells, and the memory that is always allowed: 48,000 rows."""
EXAMPLE = '{"clean": "…", "corrupted": "…", "answers": […], "distractors": […]}'
_KNOWN = sorted({*FIELDS, *(column for form in FORMS for column in form.marks)})

Rows = Iterator[tuple[str, Record]]
"""The place of a record ("line 3"), and the record."""


@dataclass
class Table:
    """Records, and properties that they share.

    Attributes:
        name: for messages.
        rows: the records in order, read lazily.
        text: whether every cell is text, as in CSV, so that numbers and lists have to be parsed.
        blanks: whether None stands for an empty cell.
        expected: the expected content, for the message about an empty table.
    """

    name: str
    rows: Rows
    text: bool = False
    blanks: bool = False
    expected: str = f"one JSON object a line with the keys {', '.join(NEEDED)}"


def read_table(path: str | os.PathLike[str], kind: str | None = None) -> Table:
    """The records of a file.

    Args:
        path: the file.
        kind: one of `SUFFIXES`; None: the file's own suffix, and `.jsonl` if that is unknown.

    Raises:
        PairsError: the file cannot be read; raised here, or later while rows are read.
    """
    name = str(path).encode(errors="replace").decode()
    suffix = kind or Path(path).suffix.lower()
    if kind not in (None, *SUFFIXES):
        raise PairsError(f"kind is {show(kind)}; expected one of {', '.join(SUFFIXES)}")
    if suffix in (".csv", ".tsv"):
        return Table(
            name, _guarded(_csv(path, name, "\t" if suffix == ".tsv" else ","), path), True, True, "a header and rows"
        )
    if suffix == ".parquet":
        return Table(name, _guarded(_parquet(path, name), path), blanks=True, expected="rows")
    reader = _json if suffix == ".json" else _lines
    return Table(name, _guarded(reader(path, name), path))


def _guarded(rows: Rows, path: str | os.PathLike[str]) -> Rows:
    """The same rows; errors of the operating system become `PairsError`."""
    try:
        yield from rows
    except PairsError:
        raise
    except InputError as error:
        raise PairsError(f"pairs cannot be read: {error}") from None
    except OSError as error:
        raise PairsError(f"pairs cannot be read from {str(path)!r}: {error.strerror or error}") from error


def _open(path: str | os.PathLike[str]) -> Any:
    try:
        return open_regular(path)
    except (OSError, InputError):
        raise
    except ValueError as error:  # a NUL in the path
        raise PairsError(f"pairs cannot be read from {str(path)!r}: {error}") from error


# --- JSON -------------------------------------------------------------------------------------------------------------------


def _lines(path: str | os.PathLike[str], name: str) -> Rows:
    """JSON lines, read one at a time: a file needs no more memory than its pairs."""
    with _open(path) as file:
        yield from _objects(file, name)


def _objects(lines: Iterable[bytes], name: str) -> Rows:
    for number, raw in enumerate(lines, start=1):
        if raw.strip():
            yield (
                f"line {number}",
                _object(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw, f"{name}, line {number}"),
            )


def _object(raw: bytes, where: str) -> Record:
    """One line as an object."""
    try:
        text = raw.decode()
        check_size(text)
        record = json.loads(text, object_pairs_hook=keys_once, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise PairsError(f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    except RecursionError:
        raise PairsError(f"{where}: nested too deeply; expected an object like {EXAMPLE}") from None
    except InputError as error:
        raise PairsError(f"{where}: {error}") from None
    except json.JSONDecodeError as error:
        what = f"{error.msg} at character {error.pos + 1} of {show(error.doc)}"
        raise PairsError(f"{where}: not JSON: {what}; expected one object a line like {EXAMPLE}") from None
    except ValueError as error:  # an integer with more digits than Python parses
        raise PairsError(f"{where}: {error}; expected an object like {EXAMPLE}") from None
    return _checked(record, where)


def _checked(record: Any, where: str) -> Record:
    if not isinstance(record, dict):
        raise PairsError(f"{where}: found {show(record)} ({type(record).__name__}); expected an object like {EXAMPLE}")
    return record


def _no_constant(name: str) -> NoReturn:
    raise PairsError(f"found {name}; expected token ids, which are whole numbers from 0")


def _json(path: str | os.PathLike[str], name: str) -> Rows:
    """A JSON list of records, auto-circuit's object with the key `prompts`, or JSON lines under another suffix."""
    if _is_lines(path):
        yield from _lines(path, name)
        return
    try:
        content = parse_json(read_text(Path(path)), _KNOWN)
    except InputError as error:
        message = str(error)
        raise PairsError(
            message if message.startswith("cannot read") or message.startswith(name) else f"{name} {message}"
        ) from None
    yield from records_of(content, name, "entry")


def _is_lines(path: str | os.PathLike[str]) -> bool:
    """Whether the first line is a complete object, other than auto-circuit's."""
    with _open(path) as file:
        first = next((line for line in file if line.strip()), b"").removeprefix(b"\xef\xbb\xbf").strip()
    if not (first.startswith(b"{") and first.endswith(b"}")):
        return False
    try:
        return "prompts" not in _object(first, "")
    except PairsError:
        return False


def records_of(content: Any, name: str, what: str) -> Rows:
    """The records of a parsed JSON file; each is released after it was read."""
    shared: Record = {}
    if isinstance(content, dict) and "prompts" in content:
        shared = {key: content[key] for key in LABELS if key in content}
        if any(isinstance(labels, dict | list) and len(labels) > MOST_LABELS for labels in shared.values()):
            raise PairsError(f"{name} has more than {MOST_LABELS} word_idxs or seq_labels, which every pair would get")
        content = content["prompts"]
    if not isinstance(content, list):
        raise PairsError(
            f"{name} holds {show(content)} ({type(content).__name__}); expected a list of objects like {EXAMPLE}, an object with such a list "
            "as 'prompts', or one object a line"
        )
    content.reverse()
    number = 0
    while content:
        yield f"{what} {number}", {**_checked(content.pop(), f"{name}, {what} {number}"), **shared}
        number += 1


# --- CSV --------------------------------------------------------------------------------------------------------------------


def _csv(path: str | os.PathLike[str], name: str, delimiter: str) -> Rows:
    """Rows, keyed by the header; empty cells are None."""
    with _open(path) as file, TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        size, rows = os.fstat(file.fileno()).st_size, 0
        reader = csv.reader(_narrow(text, name, delimiter), delimiter=delimiter, strict=True)
        header: list[str] = []
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise PairsError(
                    f"{name}, line {reader.line_num}: {error}; expected cells separated by {delimiter!r}"
                ) from None
            except UnicodeDecodeError as error:
                raise PairsError(
                    f"{name}, after line {reader.line_num}: {error.reason} (not UTF-8); save the file as UTF-8"
                ) from None
            if row is None:
                return
            if not row:
                continue
            where = f"{name}, line {reader.line_num}"
            if not header:
                header = _header(row, where)
                continue
            if len(row) != len(header):
                raise PairsError(
                    f"{where}: it has {len(row)} cells, and the header {len(header)}; put cells with {delimiter!r} in quotes"
                )
            rows += 1
            _check_cost(ROW * rows, size, name)
            yield f"line {reader.line_num}", {key: cell or None for key, cell in zip(header, row, strict=True) if key}


def _narrow(lines: Iterable[str], name: str, delimiter: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if line.count(delimiter) > MOST_CELLS:
            raise PairsError(f"{name}, line {number} has more than {MOST_CELLS} cells")
        yield line


def _header(row: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in row]
    if len(names) > MOST_COLUMNS:
        raise PairsError(f"{where}: the header has {len(names)} columns; at most {MOST_COLUMNS} are read")
    if twice := next((cell for cell in names if cell and names.count(cell) > 1), None):
        raise PairsError(f"{where}: the header has the column {show(twice)} twice")
    return names


# --- Parquet ----------------------------------------------------------------------------------------------------------------


def _parquet(path: str | os.PathLike[str], name: str) -> Rows:
    """Rows, read in batches; a file that would unpack to far more than its size is refused."""
    import pyarrow
    from pyarrow import parquet

    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            table = parquet.ParquetFile(file, memory_map=False, pre_buffer=False)
            _check_parquet(table, name, size)
            number, cost = 0, 0
            for batch in table.iter_batches(PARQUET_ROWS, use_threads=False):
                cost += ROW * batch.num_rows + TEXT * batch.nbytes
                _check_cost(cost, size, name)
                for row in batch.to_pylist():
                    yield (
                        f"row {number}",
                        {str(key): value for key, value in row.items() if not str(key).startswith("__index_level")},
                    )
                    number += 1
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise PairsError(f"{name} is not Parquet that can be read: {str(error)[:200]}") from None


def _check_cost(cost: int, size: int, name: str) -> None:
    if cost > max(ROWS_FLOOR, LARGEST_FACTOR * size):
        raise PairsError(
            f"{name} is refused: its {size / 1e6:.1f} MB hold so many rows that they would take over {cost / 1e6:.0f} MB of memory; "
            "read some of them with n=… (--n)"
        )


def _check_parquet(table: Any, name: str, size: int) -> None:
    """Refuses too many columns, and files that would take more than ten times their size in memory."""
    facts = table.metadata
    if facts.num_columns > MOST_COLUMNS:
        raise PairsError(f"{name} has {facts.num_columns} columns; at most {MOST_COLUMNS} are read")
    groups = [facts.row_group(i) for i in range(facts.num_row_groups)]
    unpacked = sum(group.column(i).total_uncompressed_size for group in groups for i in range(group.num_columns))
    values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
    if max(unpacked, values) > max(LARGEST_FLOOR, LARGEST_FACTOR * size):
        raise PairsError(
            f"{name} is refused: its {size / 1e6:.1f} MB would unpack to {unpacked / 1e6:.1f} MB and {values:,} values"
        )
