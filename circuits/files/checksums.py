"""Checksums, so that a file that was cut short or altered is never taken for whole.

A sealed file holds its own SHA-256: as an entry of a JSON object, or in the header of a safetensors file, where it counts
as 64 zeros while the sum is made. Every byte is covered.
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
"""Bytes of the header of a sealed tensor, of which one of eight dimensions takes 170."""


def file_sum(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits; InputError for a pipe or a device, see `open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sum(path: Path) -> str:
    """The SHA-256 that a text file had before its line ends became CRLF; our own files have LF alone. Raises as `file_sum`."""
    return hashlib.sha256(read_bytes(path).replace(b"\r\n", b"\n")).hexdigest()


def json_sum(data: Mapping[str, Any]) -> str:
    """The SHA-256 of a JSON object, whatever the order of its keys and its white space."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its own sum as one more entry."""
    return {**data, SUM: json_sum(data)}


def sealed_json(data: Mapping[str, Any], indent: int | None = None) -> str:
    """The same as JSON; whatever JSON makes of it, `unsealed` knows it again.

    >>> unsealed(json.loads(sealed_json({"a": (1, 2), 3: None})))
    {'a': [1, 2], '3': None}
    """
    return json.dumps(sealed(json.loads(json.dumps(data, allow_nan=False))), indent=indent)


def unsealed(data: Any) -> dict[str, Any] | None:
    """What was sealed; None if it is not that, or not any more."""
    if not isinstance(data, dict):
        return None
    rest = {key: value for key, value in data.items() if key != SUM}
    return rest if data.get(SUM) == json_sum(rest) else None


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What a file of a sealed object holds; None if it is damaged, or no such file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return unsealed(parse_json(read_text(path)))
    except InputError:
        if path.is_file():
            return None
        raise


def sealed_tensor(tensor: "Tensor", key: str) -> bytes:
    """A safetensors file of one tensor, sealed.

    Args:
        tensor: any.
        key: what it is the answer to: it goes into the sum, so that a file in the place of another is noticed as well.
    """
    from safetensors.torch import save

    raw = save({"effects": tensor.contiguous()}, {SUM: BLANK})
    return raw.replace(BLANK.encode(), _sum(raw, key).encode(), 1)


def unsealed_tensor(raw: bytes, key: str) -> "Tensor | None":
    """The tensor in a file of `sealed_tensor`; None if a byte differs, or the key."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    length = int.from_bytes(raw[:8], "little")
    if length > LONGEST_HEADER:
        return None
    try:
        header = json.loads(raw[8 : 8 + length])
        said = header["__metadata__"][SUM]
        if len(said) != len(BLANK) or _sum(raw.replace(said.encode(), BLANK.encode(), 1), key) != said:
            return None
        return load(raw)["effects"]
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError, SafetensorError):
        return None


def _sum(raw: bytes, key: str) -> str:
    return hashlib.sha256(key.encode() + b"\n" + raw).hexdigest()
