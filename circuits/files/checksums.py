"""Checksums, which detect files that are incomplete or were changed.

A sealed file holds its own SHA-256: as an entry of a JSON object, or in the header of a safetensors file, where 64 zeros
take its place while the sum is computed. Every byte is covered.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

from circuits.errors import InputError
from circuits.files.untrusted import open_regular, parse_json, read_bytes, read_text

SUM = "sha256"
BLANK = "0" * 64
LONGEST_HEADER = 1024
"""Bytes of the header of a sealed tensor; eight dimensions need 170."""


def file_sum(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits; InputError for a pipe or a device, see `open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sum(path: Path) -> str:
    """The SHA-256 of a text file with LF line ends, even if they have become CRLF. Raises as `file_sum`."""
    return hashlib.sha256(read_bytes(path).replace(b"\r\n", b"\n")).hexdigest()


def json_sum(data: Mapping[str, Any]) -> str:
    """The SHA-256 of a JSON object; the order of keys and white space do not count."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its own sum as a further entry."""
    return {**data, SUM: json_sum(data)}


def sealed_json(data: Mapping[str, Any], indent: int | None = None) -> str:
    """The same as JSON text; `unsealed` accepts it whatever the values become in JSON.

    >>> unsealed(json.loads(sealed_json({"a": (1, 2), 3: None})))
    {'a': [1, 2], '3': None}
    """
    return json.dumps(sealed(json.loads(json.dumps(data, allow_nan=False))), indent=indent)


def unsealed(data: Any) -> dict[str, Any] | None:
    """The object without its sum; None if it was not sealed, or was changed."""
    if not isinstance(data, dict):
        return None
    rest = {key: value for key, value in data.items() if key != SUM}
    return rest if data.get(SUM) == json_sum(rest) else None


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The object in a sealed file; None if the file is damaged. InputError if it cannot be read."""
    try:
        return unsealed(parse_json(read_text(path)))
    except InputError:
        if path.is_file():
            return None
        raise


def sealed_tensor(tensor: "Tensor", key: str) -> bytes:
    """A sealed safetensors file of one tensor. The key of the tensor is part of the sum, so that exchanged files are detected."""
    from safetensors.torch import save

    raw = save({"effects": tensor.contiguous()}, {SUM: BLANK})
    return raw.replace(BLANK.encode(), _sum(raw, key).encode(), 1)


def unsealed_tensor(raw: bytes, key: str) -> "Tensor | None":
    """The tensor in a file of `sealed_tensor`; None if a byte or the key differs."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    length = int.from_bytes(raw[:8], "little")
    if length > LONGEST_HEADER:
        return None
    try:
        header = json.loads(raw[8 : 8 + length])
        recorded = header["__metadata__"][SUM]
        if len(recorded) != len(BLANK) or _sum(raw.replace(recorded.encode(), BLANK.encode(), 1), key) != recorded:
            return None
        return load(raw)["effects"]
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError, SafetensorError):
        return None


def _sum(raw: bytes, key: str) -> str:
    return hashlib.sha256(key.encode() + b"\n" + raw).hexdigest()
