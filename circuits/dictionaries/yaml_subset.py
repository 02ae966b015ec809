"""The YAML of small configurations: keys with texts or lists of texts. Nothing is executed, and nothing is expanded.

Everything else of YAML (nesting, anchors, tags, flow lists, several documents) is refused.
"""

import re
from pathlib import Path

from circuits.errors import InputError
from circuits.files.untrusted import read_text, shown

LONGEST = 2**20
"""Characters of a configuration."""
_KEY = re.compile(r"([A-Za-z_][\w-]*):(?:\s+(.*))?")
_ITEM = re.compile(r"\s*-\s+(.*)")


def read_yaml(path: Path) -> dict[str, str | list[str]]:
    """The keys of a file.

    Raises:
        InputError: it cannot be read, or holds more than keys with texts or lists of texts.
    """
    text = read_text(path)
    if len(text) > LONGEST:
        raise InputError(f"{path} has {len(text):,} characters; a configuration has at most {LONGEST:,}")
    entries: dict[str, str | list[str]] = {}
    key = ""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#") or (number == 1 and line.strip() == "---"):
            continue
        where = f"{path}, line {number}"
        item, named = _ITEM.fullmatch(line), _KEY.fullmatch(line)
        if item and key:
            values = entries[key]
            if not isinstance(values, list):
                raise InputError(f"{where}: {key} has a text and a list")
            values.append(_scalar(item[1], where))
        elif named:
            key = named[1]
            if key in entries:
                raise InputError(f"{where}: {key} occurs twice")
            value = (named[2] or "").strip()
            entries[key] = [] if not value or value.startswith("#") else _scalar(value, where)
        else:
            raise InputError(
                f"{where}: {shown(line, 40)} is not a key with a text or a list of texts, which is all that is read here"
            )
    return entries


def _scalar(text: str, where: str) -> str:
    text = text.strip()
    if text[:1] in ("'", '"'):
        end = text.find(text[0], 1)
        if end < 0 or "\\" in text or text[end + 1 :].split("#")[0].strip():
            raise InputError(f"{where}: {shown(text, 40)} is not a text in quotes")
        return text[1:end]
    text = text.split(" #")[0].strip()
    if text[:1] in tuple("&*!|>[{%@`") or ": " in text:
        raise InputError(f"{where}: {shown(text, 40)} is YAML that is not read here; expected a plain text")
    return text
