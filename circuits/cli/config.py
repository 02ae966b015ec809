"""Options from a TOML file, and the options of a run as TOML.

    circuits discover --config study.toml          # every option by its long name, `_` and `-` the same
    circuits discover ioi --config study.toml --n 8    # command-line options override the file

An unknown option is refused, with the nearest known one. A run keeps its options as `config.toml`, from which it can be
repeated.
"""

import json
import math
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.files.untrusted import read_toml, shown
from circuits.prompts.pair import LARGEST

NOT_CONFIGURED = (
    "config", "overwrite", "resume", "out", "json", "on", "workers", "cpus_per_worker", "gpus_per_worker",
)  # fmt: skip
"""Options of one call, which do not describe the run."""


def read_config(context: Any, path: Path | None) -> Path | None:
    """Makes the file's values the defaults of the command; typer's callback for `--config`.

    Raises:
        InputError: the file cannot be read, is not TOML, or holds something that is not an option.
    """
    if path is None:
        return None
    given = read_toml(path)
    known = {str(parameter.name) for parameter in context.command.params} - {"config"}
    several = {parameter.name for parameter in context.command.params if getattr(parameter, "multiple", False)}
    values = {name: [value] if name in several else value for name, value in _checked(given, known, path).items()}
    context.default_map = {**(context.default_map or {}), **values}
    return path


def _checked(given: Mapping[str, Any], known: set[str], path: Path) -> dict[str, Any]:
    checked = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in known:
            near = get_close_matches(name[:40], known, n=1)
            hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
            raise InputError(f"{path}: there is no option {shown(key)}{hint}")
        if not isinstance(value, str | int | float | bool):
            raise InputError(f"{path}: {key} is {type(value).__name__}; every option is text, a number, true or false")
        if isinstance(value, str) and "\0" in value:
            raise InputError(f"{path}: {key} is {shown(value)}; an option cannot contain NUL")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise InputError(f"{path}: {key} is {shown(value)}; a number has at most 63 bits")
        # As text: an option for whole numbers cannot take "inf", and says so.
        checked[name] = value if not isinstance(value, float) or math.isfinite(value) else str(value)
    return checked


def config_text(given: Mapping[str, Any]) -> str:
    """A command's options as TOML: those with a value, in the order of their declaration."""
    lines = []
    for name, value in given.items():
        if value is None or name in NOT_CONFIGURED:
            continue
        written = value if isinstance(value, bool | int | float | str) else str(value)
        text = repr(written) if isinstance(written, float) else json.dumps(written, ensure_ascii=False)
        lines.append(f"{name.replace('_', '-')} = {text.replace(chr(127), chr(92) + 'u007f')}")
    # A file name that is not UTF-8 cannot be written here.
    return ("\n".join(lines) + "\n").encode("utf-8", "replace").decode("utf-8")
