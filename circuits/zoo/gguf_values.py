"""Reads single values of a GGUF file, with checked lengths and a budget for the whole file.

Three limits bound the cost of any file: a length is compared with the bytes left before it is used, Python objects may take
eight times the size of the file, and the turns of Python loops are counted.
"""

import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from circuits.errors import InputError

ARRAY, STRING, BOOL = 9, 8, 7
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d"}

MAX_NESTING = 4
MAX_TURNS = 1 << 19  # of the shortest loop, over the strings of an array: half a second
MEMORY_FACTOR, MEMORY_FLOOR = 8, 1 << 16  # Python objects may take 8 times the file, or 64 KiB
POINTER_BYTES, LENGTH_BYTES, INNER_ARRAY_BYTES = 8, 8, 12  # of the latter two, the least in the file
ARRAY_COST = 192  # bytes of a Python list or numpy array without its contents, rounded up
INNER_ARRAY_TURNS = 4


class GGUFError(InputError):
    """A GGUF file that cannot be used.

    Attributes:
        path: the file.
        offset: the byte at which the fault was seen; None if it is not at one place.
    """

    def __init__(self, path: Path | str, message: str, offset: int | None = None) -> None:
        place = "" if offset is None else f" (at byte {offset:,})"
        super().__init__(f"{path}: {message}{place}")
        self.path = Path(path)
        self.offset = offset


def quote(text: str) -> str:
    """Text from the file for a message: escaped and short."""
    return ascii(text) if len(text) <= 80 else ascii(text[:77] + "...")


class Cursor:
    """A position in the file, and the budget left for reading it.

    `memory` (bytes of Python objects) and `turns` (of Python loops) only decrease; below zero the file is refused.
    """

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path, self.data, self.at = path, data, 0
        self.memory = max(MEMORY_FLOOR, MEMORY_FACTOR * len(data))
        self.turns = MAX_TURNS

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        raise GGUFError(self.path, message, self.at if at is None else at)

    def need(self, nbytes: int, what: str) -> None:
        """Refuses the file if fewer bytes are left in it."""
        left = len(self.data) - self.at
        if nbytes > left:
            self.fail(f"{what} needs {nbytes:,} bytes and {left:,} are left: the file is truncated or altered")

    def spend(self, memory: int, turns: int = 0) -> None:
        self.memory -= memory
        self.turns -= turns
        if self.memory < 0:
            self.fail(f"its lists would take over {MEMORY_FACTOR} times the {len(self.data):,} bytes of the file")
        if self.turns < 0:
            self.fail("its lists are longer than those of any model file")

    def number(self, code: str, what: str) -> Any:
        """A number; `code` is its letter in the `struct` module."""
        nbytes = struct.calcsize("<" + code)
        self.need(nbytes, what)
        (number,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += nbytes
        return number

    def string(self, what: str, limit: int | None = None) -> str:
        """UTF-8 text after its length, of at most `limit` bytes."""
        length = self.number("Q", what)
        if limit is not None and length > limit:
            self.fail(f"{what} of {length:,} bytes, where at most {limit:,} are allowed", self.at - LENGTH_BYTES)
        self.need(length, what)
        try:
            text = str(self.data[self.at : self.at + length], "utf-8")
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not UTF-8 ({error.reason})", self.at + error.start)
        self.at += length
        self.spend(sys.getsizeof(text))
        return text

    def value(self, kind: int, what: str) -> Any:
        """A number, boolean, string or array, by the number of its type (which was just read)."""
        if kind == STRING:
            return self.string(what)
        if kind == ARRAY:
            return self.array(what, nesting=1)
        if kind not in SCALARS:
            self.fail(f"{what} has the unknown type {kind}", self.at - 4)
        if kind == BOOL and self.at < len(self.data) and self.data[self.at] > 1:
            self.fail(f"{what} is a truth value of {self.data[self.at]}, where 0 or 1 is allowed")
        return self.number(SCALARS[kind], what)

    def array(self, what: str, nesting: int) -> Any:
        """An array after its type and length: numbers as a read-only numpy array, other elements as a list."""
        if nesting > MAX_NESTING:
            self.fail(f"{what} is an array nested over {MAX_NESTING} deep")
        kind, count = self.number("I", what), self.number("Q", what)
        if kind in SCALARS:
            return self.numbers(SCALARS[kind], count, what)
        if kind == STRING:
            return self.strings(count, what)
        if kind != ARRAY:
            self.fail(f"{what} is an array of the unknown type {kind}", self.at - INNER_ARRAY_BYTES)
        self.need(count * INNER_ARRAY_BYTES, what)
        self.spend(ARRAY_COST + POINTER_BYTES * count, INNER_ARRAY_TURNS * count)
        return [self.array(what, nesting + 1) for _ in range(count)]

    def strings(self, count: int, what: str) -> list[str]:
        """Strings. A vocabulary has 100,000, so the code of `string` is inlined here; it is called to report faults."""
        self.need(count * LENGTH_BYTES, what)
        self.spend(ARRAY_COST + POINTER_BYTES * count, count)
        data, size, length_at, texts = self.data, len(self.data), struct.Struct("<Q").unpack_from, [""] * count
        for index in range(count):
            start = self.at + LENGTH_BYTES
            end = start + length_at(data, self.at)[0] if start <= size else size + 1
            try:
                text = str(data[start:end], "utf-8") if end <= size else None
            except UnicodeDecodeError:
                text = None
            if text is None or sys.getsizeof(text) > self.memory:
                self.string(what)  # raises
            else:
                texts[index] = text
                self.at = end
                self.memory -= sys.getsizeof(text)
        return texts

    def numbers(self, code: str, count: int, what: str) -> np.ndarray:
        dtype = np.dtype(np.bool_ if code == "?" else "<" + code)
        nbytes = count * dtype.itemsize
        self.need(nbytes, what)
        self.spend(ARRAY_COST + nbytes)
        raw = np.frombuffer(self.data[self.at : self.at + nbytes], dtype=np.uint8)
        if code == "?" and count and raw.max() > 1:
            self.fail(f"{what} has a truth value of {raw.max()}", self.at + int(raw.argmax()))
        numbers = raw.copy().view(dtype)
        numbers.flags.writeable = False
        self.at += nbytes
        return numbers
