"""mech-circuits: which parts of a transformer language model produce a behaviour, and how they are wired.

Everything public is here; it is imported when it is first used, so that `import circuits` costs nothing. The names are listed in
`__init__.pyi`. The import has one effect: torch's threads sleep while they wait (`circuits.threads`).
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from circuits.threads import sleep_soon

sleep_soon()

_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_WHERE = {name: module for module, name in re.findall(r"^from (\S+) import (\w+) as", _STUB, re.MULTILINE)}

__all__ = sorted(_WHERE)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'circuits' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_WHERE]
