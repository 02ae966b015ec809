"""Reading untrusted text, JSON, TOML and safetensors files, at a cost in proportion to the file.

Python's parsers accept more than is safe. They wait forever for a pipe, keep the last of two equal keys, accept `NaN` and lone
surrogates (which cannot be written to a file), build objects nested too deeply to walk, need thirty times the size of
`[[],[],…` in memory, and take a minute for the TOML `a.a.a.…`. This module refuses all of that with an `InputError`.
"""

import json
import math
import os
import reprlib
import stat
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from circuits.errors import InputError, SchemaError, locating, refusing

DEEPEST = 32
"""Nesting depth of lists and objects in free data such as a provenance."""
LARGEST_FACTOR, LARGEST_FLOOR = 10, 2**24
"""Upper bound of the bytes of Python objects per byte of JSON; files that need less than the floor are always read. (EAP-IG's
own files need up to 9.5; large ones without white space and with all scores 0 are refused.)"""
LIST, OBJECT, STRING, KEY, NUMBER, ENTRY = 104, 216, 72, 165, 32, 9
"""Bytes at most: a list of up to four entries, an object of up to five keys, a short string, a key in an object of many, a
number, an entry of a list."""
MOST_PER_BYTE, HEADER_ENTRY, HEADER_TEXT = 32, 56, 100
"""Memory for the header of a safetensors file: bytes per byte at most, per entry, and per text."""
MOST_NAMES = 2**14
"""Names of which only one copy is kept; the largest graph that a file may name has fewer nodes."""
LARGEST_TOML, MOST_DOTS = 2**18, 100
"""Limits of a TOML file: characters, and dots on a line (parsing time grows with the square of a key's parts)."""
_SURROGATES = range(0xD800, 0xE000)


class _Short(reprlib.Repr):
    """`reprlib`, for values of any kind, size and depth."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        return f"a number of {x.bit_length()} bits" if x.bit_length() > 256 else super().repr_int(x, level)


_short = _Short()


def shown(value: Any, limit: int = 80) -> str:
    """Any value as short text, for an error message.

    >>> shown([[1, [2.5, "x" * 100]], 10**5000], 40)
    "[[1, [2.5, 'xxxxxxxxxxxxxxxxxxxxxxxxxxx…"
    """
    text = _short.repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        InputError: it is not a regular file, cannot be read, or is not UTF-8; with the reason.
    """
    try:
        with refusing(f"read {path}"):
            return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise InputError(f"{path}: byte {problem.start + 1} is not UTF-8; save the file as UTF-8") from None
    except InputError:
        raise
    except ValueError as problem:  # a NUL in the path
        raise InputError(f"cannot read {str(path)!r}: {problem}") from None


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Opens a regular file for reading.

    Raises:
        InputError: it is a pipe or a device, which may have no end.
        OSError: it cannot be opened.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InputError(f"cannot read {path}: it is not a regular file")
    return file


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """All of a file; raises as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def check_tensors(path: str | os.PathLike[str]) -> None:
    """Refuses a safetensors file that is a pipe or a device, or whose header would need too much memory. Other faults are left
    to the library.

    Raises:
        InputError: see `open_regular` and `check_size`.
    """
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if length * MOST_PER_BYTE < LARGEST_FLOOR or length > os.fstat(file.fileno()).st_size:
            return
        header = file.read(length)
    cost = HEADER_ENTRY * header.count(b",") + HEADER_TEXT * header.count(b'"') // 2
    if cost > max(LARGEST_FLOOR, LARGEST_FACTOR * os.path.getsize(path)):
        raise InputError(
            f"its header has so many small parts that its {length / 1e6:.0f} MB would take {cost / 1e6:.0f} MB"
        )


@contextmanager
def open_tensors(path: str | os.PathLike[str], content: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """An open safetensors file and its header.

    Raises:
        InputError: the file cannot be read, or reading it in the block fails; the message names the file and its expected content.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with refusing(f"read {path}"), locating(f"{path}: "):
            check_tensors(path)
            with safe_open(path, framework="pt") as file:
                yield file, file.metadata() or {}
    except InputError:
        raise
    except (SafetensorError, KeyError, ValueError, RecursionError) as problem:
        raise InputError(f"{path} is not a file of {content}: {problem}") from None


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuses a pipe or a device, before a library opens the file itself; raises as `open_regular`."""
    open_regular(path).close()


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe without waiting for its writer; for regular files this changes nothing."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_json(path: str | Path, known: Iterable[str] = ()) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        known: keys that many of its objects share, which need memory only once.

    Raises:
        InputError: see `read_text` and `parse_json`; the message names the file.
    """
    text = read_text(path)
    with locating(f"{path} "):
        return parse_json(text, known)


def parse_json(text: str, known: Iterable[str] = (), nan: bool = False) -> Any:
    """The content of a JSON text; `known` as for `read_json`, `nan`: whether `NaN`, which JSON does not have, is read.

    Raises:
        InputError: not JSON, a number that is not finite, a duplicate key, or so many small parts that they need over ten
            times the text's size. The message continues a file name ("is not JSON: …").
    """
    check_size(text, known)
    try:
        constant = _nan if nan else _no_constant
        return json.loads(text, object_pairs_hook=_Objects(), parse_constant=constant)
    except RecursionError:
        raise InputError("is not JSON that can be read: nested too deeply") from None
    except InputError as problem:
        raise InputError(f"is refused: {problem}") from None
    except ValueError as problem:  # not JSON, or a number of more digits than Python reads
        raise InputError(f"is not JSON: {problem}") from None


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file of options.

    Raises:
        InputError: see `read_text`; or it is not TOML, or larger than any file of options.
    """
    return parse_toml(read_text(path), str(path))


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """The content of a TOML text; see `read_toml`. `name` names it in errors."""
    if len(text) > LARGEST_TOML:
        raise InputError(f"{name} has {len(text):,} characters; a file of options has at most {LARGEST_TOML:,}")
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MOST_DOTS:
            raise InputError(f"{name}, line {number} has more than {MOST_DOTS} dots")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as problem:
        raise InputError(f"{name} is not TOML: {problem}") from None


def check_size(text: str, known: Iterable[str] = ()) -> None:
    """Refuses JSON that would need over ten times its size in memory; see `parse_json`."""
    if len(text) * 30 < LARGEST_FLOOR:  # no text needs more than 30 times its size
        return
    cost = estimated_memory(text, known)
    if cost > max(LARGEST_FLOOR, LARGEST_FACTOR * len(text)):
        raise InputError(
            f"is refused: it has so many small parts that its {len(text) / 1e6:.0f} MB would take {cost / 1e6:.0f} MB of memory"
        )


def estimated_memory(text: str, known: Iterable[str] = ()) -> int:
    """Upper bound of the memory that the parsed JSON needs, from a count of its characters; `known` as for `read_json`."""
    lists, objects, commas, keys, strings = (text.count(sign) for sign in '[{,:"')
    strings //= 2
    constants = sum(map(text.count, ("true", "false", "null")))
    numbers = max(0, commas + 1 - (strings - keys) - constants)  # at most: lists and objects are counted too
    repeated = sum(text.count(f'"{key}"') for key in known)
    names = sum(text.count(f'"{key}":{gap}"') for key in known for gap in ("", " "))  # of which one copy is kept
    cost = LIST * lists + OBJECT * objects + NUMBER * numbers + ENTRY * commas
    cost += STRING * max(0, strings - repeated - names) + KEY * max(0, keys - repeated)
    return cost + sys.getsizeof(text) - len(text)


def keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `json.loads(…, object_pairs_hook=keys_once)`; InputError for a duplicate key."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise InputError(f"key {shown(twice)} occurs twice in one object")
    return entries


class _Objects:
    """`keys_once`, with one copy of each name that many objects hold as a value (the nodes of edges)."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries, names = keys_once(pairs), self.names
        for key, value in pairs:
            if type(value) is str:
                if value in names:
                    entries[key] = names[value]
                elif len(names) < MOST_NAMES:
                    names[value] = value
        return entries


def _nan(name: str) -> float:
    return math.nan if name == "NaN" else _no_constant(name)


def _no_constant(name: str) -> NoReturn:
    raise InputError(f"it holds {name}, and the numbers of JSON are finite")


def check_plain(value: Any, what: str) -> Any:
    """The value, if it can be walked, shown and written.

    Raises:
        InputError: it is nested more than 32 deep, or holds a lone surrogate; the message names `what`.
    """
    stack = [iter((value,))]  # the innermost list or object last
    while stack:
        entry = next(stack[-1], stack)
        if entry is stack:
            stack.pop()
        elif isinstance(entry, str):
            if not entry.isascii() and any(ord(sign) in _SURROGATES for sign in entry):
                raise InputError(f"{what} holds {shown(entry)}, with half a character (a lone surrogate)")
        elif isinstance(entry, dict | list) and entry:
            if len(stack) > DEEPEST:
                raise InputError(f"{what} is nested more than {DEEPEST} deep")
            stack.append(chain(entry, entry.values()) if isinstance(entry, dict) else iter(entry))
    return value


def check_schema(schema: Any, known: int, what: str) -> None:
    """Refuses a file that another version of the package wrote; `what` names the file.

    Raises:
        SchemaError: it has another schema.
        InputError: it has none.
    """
    if schema is None:
        raise InputError(f"{what} has no schema; this version reads schema {known}")
    if type(schema) is not int or schema != known:
        raise SchemaError(
            f"{what} has schema {shown(schema)}; this version reads schema {known}: read it with the version of mech-circuits "
            "that wrote it"
        )


def text_or_none(value: Any, what: str) -> str | None:
    """A name that may be missing; InputError if it is not text."""
    if value is not None and not isinstance(value, str):
        raise InputError(f"{what} must be text, got {shown(value)}")
    return value


def finite_number(value: Any, what: str) -> float:
    """A number of a file as a float; InputError if it is not a finite number."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{what} must be a finite number, got {shown(value)}")
    return number


def as_object(value: Any, what: str) -> dict[str, Any]:
    """A JSON object that may be missing, which is then empty; InputError if it is anything else."""
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{what} must be an object, got {type(value).__name__}")
    return value or {}
