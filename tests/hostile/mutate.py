"""Files that were valid once: bytes and values put in, taken out, exchanged and repeated, with a taste for what hurts."""

import json
import random
import struct
from typing import Any

WORDS = [
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\\ud800", b"\\u0000", b"NaN", b"-Infinity",
    b"1e999", b"-1", b"9" * 5000, b"0x" + b"f" * 5000, b"[" * 2000, b"{" * 50, b'{"a":' * 2000, b"a." * 200, b'"""', b"'''",
    b"]", b"}", b",", b":", b'"', b"\n", b"\r", b" ", b"->", b"<q>", b"null", b"true", b"[]", b"{}", b"1.0", b"inf", b"nan",
    b"../../x", b"1979-05-27", b"[[a]]", b"__class__",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 7, 10**9, 2**31, 2**63, -(2**63), 2**64, 10**400, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "a", "a" * 300, "\ud800", "\0", "a1.h0", "a0.h1<q>", "input", "logits", "m0", "q", "in", "input->m0",
    "->", "../x", "🙂", "<b>", [], {}, [[]], [0], ["a"], {"a": 1}, {"schema": 1}, {"": {}}, [None, 1, "a", [2]],
]  # fmt: skip
NUMBERS = (0, 1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1, 2**63, 2**64 - 1)


def mutated(data: bytes, draw: random.Random, kind: str) -> bytes:
    """One file, changed a few times.

    Args:
        data: a valid file, or one that was changed before.
        draw: all chance comes from it.
        kind: what else than bytes can be changed: `json`, `jsonl`, `safetensors`, `numbers` (little-endian), `text`.
    """
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        data = _change(data, draw, kind if draw.random() < 0.8 else "text")
    return data


def _change(data: bytes, draw: random.Random, kind: str) -> bytes:
    try:
        if kind == "json":
            return _written(_changed(json.loads(data), draw))
        if kind == "jsonl":
            lines = data.split(b"\n")
            at = draw.randrange(len(lines))
            lines[at] = _written(_changed(json.loads(lines[at]), draw))
            return b"\n".join(lines)
        if kind == "safetensors":
            return _safetensors(data, draw)
    except (
        ValueError,
        TypeError,
        RecursionError,
        struct.error,
    ):  # changed before, so that it is not of its kind any more
        pass
    return _numbers(data, draw) if kind in ("numbers", "safetensors") else _bytes(data, draw)


def _written(value: Any) -> bytes:
    return json.dumps(value).encode()


def _changed(value: Any, draw: random.Random) -> Any:
    """The value with one of its parts changed, at any depth."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        return _deep(draw) if draw.random() < 0.05 else draw.choice(VALUES)
    at = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
    what = draw.random()
    if what < 0.75:
        value[at] = _changed(value[at], draw)
    elif what < 0.83:
        del value[at]
    elif isinstance(value, dict):
        value[str(draw.choice(VALUES))] = value[at] if what < 0.9 else value.pop(at)
    else:
        value.insert(draw.randrange(len(value) + 1), json.loads(json.dumps(value[at])))
    return value


def _deep(draw: random.Random) -> Any:
    value: Any = 1
    for _ in range(draw.choice((20, 40, 200, 400))):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value


def _safetensors(data: bytes, draw: random.Random) -> bytes:
    """Its header changed, and sometimes the length that stands before it."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError
    result = header.get("__metadata__")
    if isinstance(result, dict) and result and draw.random() < 0.7:
        name = draw.choice(list(result))
        result[name] = _written(_changed(json.loads(result[name]), draw)).decode()
    else:
        header = _changed(header, draw)
    text = _written(header)
    length = draw.choice(NUMBERS) if draw.random() < 0.05 else len(text)
    return struct.pack("<Q", length) + text + data[8 + length :]


def _numbers(data: bytes, draw: random.Random) -> bytes:
    """A number of four or eight bytes overwritten."""
    code = draw.choice(("<I", "<Q"))
    size = struct.calcsize(code)
    if len(data) < size or draw.random() < 0.3:
        return _bytes(data, draw)
    at = draw.randrange(len(data) - size + 1)
    return data[:at] + struct.pack(code, draw.choice(NUMBERS) % 2 ** (8 * size)) + data[at + size :]


def _bytes(data: bytes, draw: random.Random) -> bytes:
    at, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    what = draw.randrange(6)
    if what == 0:
        return data[:at]
    if what == 1:
        return data[:at] + data[end:]
    if what == 2:
        return data[:end] + data[at:]
    if what == 3 and data:
        at = draw.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if what == 4:
        return data[:at] + draw.choice(WORDS) + data[at:]
    return data[:at] + draw.choice(WORDS) + data[min(end, at + 8) :]
