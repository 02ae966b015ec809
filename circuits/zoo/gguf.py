"""A reader of GGUF files, the format of the default model, that checks everything.

The usual readers are a further dependency, trust the counts in the file, and keep weights packed. Here every length, count and
offset is compared with the size of the file before anything is allocated or visited. A truncated, changed or hostile file ends
in `GGUFError`, never in another exception, a long wait, or memory out of proportion to the file. Tensors are unpacked one at a
time, on request.

The layout, little-endian: `GGUF`, version, number of tensors, number of metadata entries; the entries (key, type,
value); the tensors (name, dimensions, type, offset); padding; the tensors' data, each padded to `general.alignment`.
As in the format's reference implementation, the tensors' data must follow one another in the order of the list.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from circuits.zoo.gguf_values import Cursor, GGUFError, quote

__all__ = ["GGUF", "GGUFError", "TensorInfo", "read_gguf"]

TENSOR_TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 3: ("Q4_1", 32, 20), 8: ("Q8_0", 32, 34)}  # name, values, bytes

DEFAULT_ALIGNMENT = 32
MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 64
MAX_DIMENSIONS = 4
HEADER_BYTES, ENTRY_BYTES, TENSOR_BYTES = 24, 14, 25  # the least each can take in the file
ENTRY_COST, TENSOR_COST = 256, 768  # bytes of Python objects for each, without its strings, rounded up
ENTRY_TURNS, TENSOR_TURNS = 8, 16


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor in the file.

    Attributes:
        name: its name in the file.
        shape: row-major, the reverse of the order in the file: `[out, in]` for a linear layer.
        type: `F32`, `F16`, `Q4_1` or `Q8_0`.
        offset: its first byte, from the start of the file.
        nbytes: its packed size, without padding.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int


@dataclass(frozen=True, eq=False)
class GGUF:
    """An open GGUF file, which stays mapped as long as this object exists.

    Attributes:
        path: the file.
        version: of the format, 2 or 3.
        metadata: key -> int, float, bool, str; arrays of numbers are read-only numpy arrays, other arrays lists.
        tensors: name -> `TensorInfo`, in the order of the file.
    """

    path: Path
    version: int
    metadata: dict[str, Any]
    tensors: Mapping[str, TensorInfo]
    _data: np.ndarray = field(repr=False)

    def tensor(self, name: str) -> np.ndarray:
        """The tensor as a new float32 array of `tensors[name].shape`; GGUFError for an unknown name."""
        if name not in self.tensors:
            raise GGUFError(self.path, f"none of its {len(self.tensors)} tensors is named {quote(name)}")
        info = self.tensors[name]
        packed = np.asarray(self._data[info.offset : info.offset + info.nbytes])
        with np.errstate(all="ignore"):  # infinities and NaN in the file are kept
            return _UNPACK[info.type](packed).reshape(info.shape)


def read_gguf(path: Path | str) -> GGUF:
    """Reads the metadata and the list of tensors of a GGUF file, but no tensors.

    Raises:
        GGUFError: the file cannot be opened, is not GGUF version 2 or 3, is truncated, is inconsistent, uses an unsupported
            type, or needs more memory or time than a file of its size should.
    """
    data = _open(path)
    cursor = Cursor(Path(path), data.data)
    version, tensor_count, entry_count = _header(cursor)
    metadata = _metadata(cursor, entry_count)
    tensors = _tensors(cursor, tensor_count, _alignment(cursor, metadata))
    return GGUF(Path(path), version, metadata, MappingProxyType(tensors), data)


def _open(path: Path | str) -> np.ndarray:
    """The mapped bytes of a regular file; opening a pipe would wait forever."""
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise GGUFError(path, "is not a regular file")
        if status.st_size < HEADER_BYTES:
            raise GGUFError(path, f"has {status.st_size} bytes, and a GGUF header alone {HEADER_BYTES}", status.st_size)
        return np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, OverflowError) as error:
        raise GGUFError(path, f"cannot be read: {error}") from error
    except GGUFError:
        raise
    except ValueError as error:  # a null byte in the path; a file emptied between the two calls
        raise GGUFError(repr(path), f"cannot be read: {error}") from error


def _header(cursor: Cursor) -> tuple[int, int, int]:
    magic = bytes(cursor.data[:4])
    if magic != b"GGUF":
        cursor.fail(f"starts with {magic!r}; expected b'GGUF'")
    cursor.at = 4
    version = cursor.number("I", "the version")
    if version not in (2, 3):
        order = " (a big-endian file?)" if version in (2 << 24, 3 << 24) else ""
        cursor.fail(f"GGUF version {version}{order}, but only versions 2 and 3, little-endian, can be read", 4)
    tensors, entries = cursor.number("Q", "the tensor count"), cursor.number("Q", "the entry count")
    cursor.need(
        entries * ENTRY_BYTES + tensors * TENSOR_BYTES, f"a list of {entries:,} entries and {tensors:,} tensors"
    )
    return version, tensors, entries


def _metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        start = cursor.at
        cursor.spend(ENTRY_COST, ENTRY_TURNS)
        key = cursor.string("a metadata key", limit=MAX_KEY_BYTES)
        if not key or key in metadata:
            cursor.fail(f"the metadata key {quote(key)} is {'given twice' if key else 'empty'}", start)
        metadata[key] = cursor.value(cursor.number("I", f"the type of {quote(key)}"), f"the value of {quote(key)}")
    return metadata


def _alignment(cursor: Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        shown = alignment if isinstance(alignment, (bool, int, float)) else f"of type {type(alignment).__name__}"
        cursor.fail(f"general.alignment is {shown}; it must be a power of two")
    return alignment


def _tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    """The list of tensors, with their offsets checked."""
    listed: dict[str, tuple[tuple[int, ...], str, int, int]] = {}
    expected = 0
    for _ in range(count):
        start = cursor.at
        name, shape, kind, nbytes = _tensor(cursor)
        if name in listed:
            cursor.fail(f"the tensor {quote(name)} occurs twice", start)
        offset = cursor.number("Q", f"the offset of {quote(name)}")
        if offset != expected:
            cursor.fail(f"the tensor {quote(name)} is at offset {offset:,}, expected {expected:,}", cursor.at - 8)
        listed[name] = (shape, kind, offset, nbytes)
        expected = _padded(offset + nbytes, alignment)
    base = _padded(cursor.at, alignment)
    tensors = {name: TensorInfo(name, shape, kind, base + at, size) for name, (shape, kind, at, size) in listed.items()}
    _check_end(cursor, list(tensors.values()), alignment)
    return tensors


def _tensor(cursor: Cursor) -> tuple[str, tuple[int, ...], str, int]:
    """Name, row-major shape, type and packed size of the tensor listed here."""
    start = cursor.at
    cursor.spend(TENSOR_COST, TENSOR_TURNS)
    name = cursor.string("a tensor name", limit=MAX_NAME_BYTES)
    quoted = quote(name)
    dimensions = cursor.number("I", f"the number of dimensions of {quoted}")
    if not name:
        cursor.fail("a tensor has no name", start)
    if dimensions > MAX_DIMENSIONS:
        cursor.fail(
            f"the tensor {quoted} has {dimensions:,} dimensions, where at most {MAX_DIMENSIONS} are allowed", start
        )
    sizes = [cursor.number("Q", f"the dimensions of {quoted}") for _ in range(dimensions)]
    kind = cursor.number("I", f"the type of {quoted}")
    if kind not in TENSOR_TYPES:
        known = ", ".join(f"{number} {name}" for number, (name, _, _) in TENSOR_TYPES.items())
        cursor.fail(f"the tensor {quoted} has type {kind}; these can be read: {known}", cursor.at - 4)
    type_name, block, block_bytes = TENSOR_TYPES[kind]
    values = prod(sizes)
    if values == 0:
        cursor.fail(f"the tensor {quoted} of dimensions {sizes} is empty", start)
    if (sizes[0] if sizes else 1) % block:
        cursor.fail(
            f"the tensor {quoted} of dimensions {sizes} is {type_name}: rows must be in blocks of {block}", start
        )
    nbytes = values // block * block_bytes
    if nbytes > len(cursor.data):
        cursor.fail(f"the tensor {quoted} of dimensions {sizes} takes {nbytes:,} bytes, more than the file", start)
    return name, tuple(reversed(sizes)), type_name, nbytes


def _check_end(cursor: Cursor, tensors: list[TensorInfo], alignment: int) -> None:
    """Checks that the file ends with its last tensor, with or without padding."""
    end = tensors[-1].offset + tensors[-1].nbytes if tensors else cursor.at
    size = len(cursor.data)
    if end > size:
        late = next(info for info in tensors if info.offset + info.nbytes > size)
        cursor.fail(f"the tensor {quote(late.name)} ends at byte {late.offset + late.nbytes:,}: it is truncated", size)
    if size > _padded(end, alignment):
        cursor.fail(f"{size - end:,} bytes follow the last tensor; expected none", end)


def _padded(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _from_q4_1(packed: np.ndarray) -> np.ndarray:
    """Blocks of 32 values `scale · nibble + least`: two float16 and 16 bytes, low nibbles first."""
    blocks = packed.reshape(-1, 20)
    scale, least = (blocks[:, at : at + 2].copy().view("<f2").astype(np.float32) for at in (0, 2))
    values = np.empty((len(blocks), 32), np.float32)
    values[:, :16] = blocks[:, 4:] & 15
    values[:, 16:] = blocks[:, 4:] >> 4
    values *= scale
    values += least
    return values


def _from_q8_0(packed: np.ndarray) -> np.ndarray:
    """Blocks of 32 values `scale · integer`: one float16 and 32 signed bytes."""
    blocks = packed.reshape(-1, 34)
    values = blocks[:, 2:].copy().view(np.int8).astype(np.float32)
    values *= blocks[:, :2].copy().view("<f2").astype(np.float32)
    return values


_UNPACK = {
    "F32": lambda packed: packed.view("<f4").astype(np.float32),
    "F16": lambda packed: packed.view("<f2").astype(np.float32),
    "Q4_1": _from_q4_1,
    "Q8_0": _from_q8_0,
}
