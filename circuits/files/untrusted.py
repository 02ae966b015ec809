"""Text, JSON and TOML that anyone may have written: read, or refused with an `InputError`, at a cost in proportion to the file.

Python's own parser takes more than we want. It waits for ever for a pipe, keeps the last of two equal keys, makes numbers
of `NaN`, lets half a character (a lone surrogate) through that no file can be written with, builds what is nested so deeply
that nothing can walk it, turns `[[],[],…` into thirty times its size, and takes a minute for the TOML `a.a.a.…`. All of that is
refused here, in one place.
"""

import json
import os
import reprlib
import stat
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from circuits.errors import InputError, SchemaError

DEEPEST = 32
"""Lists and objects inside one another, in free data such as a provenance."""
LARGEST_FACTOR, LARGEST_FLOOR = 10, 2**24
"""Bytes of Python objects to a byte of JSON, estimated from above; files that need less than the floor always pass. (EAP-IG's
edges take up to 9.5 as EAP-IG writes them; large files of them without white space and with all scores 0 are refused.)"""
LIST, OBJECT, STRING, KEY, NUMBER, ENTRY = 104, 216, 72, 165, 32, 9
"""Bytes that each takes at most: a list of up to four entries, an object of up to five keys, a short string, a place for a key in an
object of many, a number, a place in a list."""
MOST_PER_BYTE, HEADER_ENTRY, HEADER_TEXT = 32, 56, 100
"""Of the header of a safetensors file: bytes of memory to a byte at the most, to an entry, and to a text."""
MOST_NAMES = 2**14
"""Names of which one copy is kept; the largest graph that a file may name has fewer nodes."""
LARGEST_TOML, MOST_DOTS = 2**18, 100
"""Bytes of a TOML file, and dots on a line of it: the parser's time grows with the square of a key's parts."""
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
    """A value as short text for an error message, whatever it is.

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
        with open_regular(path) as file:
            return file.read().decode("utf-8-sig")
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror or problem}") from None
    except UnicodeDecodeError as problem:
        raise InputError(f"{path}: byte {problem.start + 1} is not UTF-8; save the file as UTF-8") from None
    except InputError:
        raise
    except ValueError as problem:  # a NUL in the path
        raise InputError(f"cannot read {str(path)!r}: {problem}") from None


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Opens a file to be read; whatever `open` raises is passed on.

    Raises:
        InputError: it is a pipe or a device, which may have no end.
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
    """Refuses a safetensors file that its library would wait for, or whose header would take far more than it takes in the file.

    Raises:
        InputError: see `open_regular` and `check_size`; what else is wrong is left to the library.
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


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuses a pipe or a device, for readers that open files themselves; raises as `open_regular`."""
    open_regular(path).close()


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe at once instead of waiting for who writes to it; regular files know no difference."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_json(path: str | Path, known: Iterable[str] = ()) -> Any:
    """What a JSON file holds.

    Args:
        path: the file.
        known: keys that many of its objects share, and so cost their memory once.

    Raises:
        InputError: see `read_text` and `parse_json`; the message names the file.
    """
    text = read_text(path)
    try:
        return parse_json(text, known)
    except InputError as problem:
        raise InputError(f"{path} {problem}") from None


def parse_json(text: str, known: Iterable[str] = ()) -> Any:
    """What a JSON text holds; `known` as for `read_json`.

    Raises:
        InputError: not JSON, with numbers that are not finite, with a key that is there twice, or with so many small parts
            that they would take over ten times the text's size. The message goes on after a name ("is not JSON: …").
    """
    check_size(text, known)
    try:
        return json.loads(text, object_pairs_hook=_Objects(), parse_constant=_no_constant)
    except RecursionError:
        raise InputError("is not JSON that can be read: nested too deeply") from None
    except InputError as problem:
        raise InputError(f"is refused: {problem}") from None
    except ValueError as problem:  # not JSON, or a number of more digits than Python reads
        raise InputError(f"is not JSON: {problem}") from None


def read_toml(path: str | Path) -> dict[str, Any]:
    """What a TOML file of options holds.

    Raises:
        InputError: see `read_text`; or it is no TOML, or larger than any file of options.
    """
    return parse_toml(read_text(path), str(path))


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """What a TOML text of options holds; see `read_toml`. `name` is what errors call it."""
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
    """Refuses JSON that would take over ten times its size in memory; see `parse_json`."""
    if len(text) * 30 < LARGEST_FLOOR:  # nothing takes more
        return
    cost = estimated_memory(text, known)
    if cost > max(LARGEST_FLOOR, LARGEST_FACTOR * len(text)):
        raise InputError(
            f"is refused: it has so many small parts that its {len(text) / 1e6:.0f} MB would take {cost / 1e6:.0f} MB of memory"
        )


def estimated_memory(text: str, known: Iterable[str] = ()) -> int:
    """Bytes that a JSON text takes at most once it is read, from its signs alone; `known` as for `read_json`."""
    lists, objects, commas, keys, strings = (text.count(sign) for sign in '[{,:"')
    strings //= 2
    constants = sum(map(text.count, ("true", "false", "null")))
    numbers = max(0, commas + 1 - (strings - keys) - constants)  # at most, for lists and objects are among them
    repeated = sum(text.count(f'"{key}"') for key in known)
    names = sum(text.count(f'"{key}":{gap}"') for key in known for gap in ("", " "))  # of which one copy is kept
    cost = LIST * lists + OBJECT * objects + NUMBER * numbers + ENTRY * commas
    cost += STRING * max(0, strings - repeated - names) + KEY * max(0, keys - repeated)
    return cost + sys.getsizeof(text) - len(text)


def keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `json.loads(…, object_pairs_hook=keys_once)`; InputError where a key is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise InputError(f"key {shown(twice)} is there twice in one object")
    return found


class _Objects:
    """`keys_once`, which keeps one copy of a name that many objects hold as a value: nodes, of edges."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found, names = keys_once(pairs), self.names
        for key, value in pairs:
            if type(value) is str:
                if value in names:
                    found[key] = names[value]
                elif len(names) < MOST_NAMES:
                    names[value] = value
        return found


def _no_constant(name: str) -> NoReturn:
    raise InputError(f"it holds {name}, and the numbers of JSON are finite")


def check_plain(value: Any, what: str) -> Any:
    """The value, once it is sure that it can be walked, shown and written again.

    Raises:
        InputError: it is nested more than 32 deep, or holds half a character; the message names `what`.
    """
    around = [iter((value,))]  # of what is being walked, the innermost last
    while around:
        entry = next(around[-1], around)
        if entry is around:
            around.pop()
        elif isinstance(entry, str):
            if not entry.isascii() and any(ord(sign) in _SURROGATES for sign in entry):
                raise InputError(f"{what} holds {shown(entry)}, with half a character (a lone surrogate)")
        elif isinstance(entry, dict | list) and entry:
            if len(around) > DEEPEST:
                raise InputError(f"{what} is nested more than {DEEPEST} deep")
            around.append(chain(entry, entry.values()) if isinstance(entry, dict) else iter(entry))
    return value


def check_schema(found: Any, known: int, what: str) -> None:
    """Whether a file was written in the form that this version reads.

    Raises:
        SchemaError: it was not; `what` names the file.
        InputError: it does not say.
    """
    if found is None:
        raise InputError(f"{what} does not say its schema; this version reads schema {known}")
    if type(found) is not int or found != known:
        raise SchemaError(
            f"{what} has schema {shown(found)}; this version reads schema {known}: read it with the version of mech-circuits "
            "that wrote it"
        )


def text_or_none(value: Any, what: str) -> str | None:
    """A name that may be missing.

    Raises:
        InputError: it is no text.
    """
    if value is not None and not isinstance(value, str):
        raise InputError(f"{what} must be text, got {shown(value)}")
    return value
