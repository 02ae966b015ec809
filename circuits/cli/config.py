"""Options from a TOML file, and the options of a run as one.

    circuits discover --config study.toml          # every option by its long name, `_` and `-` the same
    circuits discover ioi --config study.toml --n 8    # what is typed goes before what the file says

An unknown option is refused, with the nearest that there is. A run keeps its options as `config.toml`, from which it can be
repeated.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.files.untrusted import parse_toml, read_toml, shown
from circuits.prompts.pair import LARGEST

CONFIG_FILE = "config.toml"
NOT_CONFIGURED = (
    "config", "overwrite", "resume", "out", "json", "on", "workers", "cpus_per_worker", "gpus_per_worker",
)  # fmt: skip
"""Options that belong to a call, not to a run."""
SPEED = ("batch-size", "device", "device-map", "threads")
"""Options that do not change what a run is about."""


def read_config(context: Any, path: Path | None) -> Path | None:
    """Makes the file's values the defaults of the command; typer's callback for `--config`.

    Raises:
        InputError: the file cannot be read, is no TOML, or holds what is no option.
    """
    if path is None:
        return None
    given = read_toml(path)
    known = {str(parameter.name) for parameter in context.command.params} - {"config"}
    context.default_map = {**(context.default_map or {}), **_checked(given, known, path)}
    return path


def _checked(given: Mapping[str, Any], known: set[str], path: Path) -> dict[str, Any]:
    found = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in known:
            near = get_close_matches(name[:40], known, n=1)
            hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
            raise InputError(f"{path}: there is no option {shown(key)}{hint}")
        if not isinstance(value, str | int | float | bool):
            raise InputError(f"{path}: {key} is {type(value).__name__}; every option is text, a number, true or false")
        if isinstance(value, str) and "\0" in value:
            raise InputError(f"{path}: {key} is {shown(value)}; an option holds no NUL")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise InputError(f"{path}: {key} is {shown(value)}; a number has at most 63 bits")
        # As text, since an option that takes whole numbers cannot take "inf", and says so.
        found[name] = value if not isinstance(value, float) or math.isfinite(value) else str(value)
    return found


def config_text(given: Mapping[str, Any]) -> str:
    """A command's options as TOML: those with a value, sorted by how they were declared."""
    lines = []
    for name, value in given.items():
        if value is None or name in NOT_CONFIGURED:
            continue
        written = value if isinstance(value, bool | int | float | str) else str(value)
        text = repr(written) if isinstance(written, float) else json.dumps(written, ensure_ascii=False)
        lines.append(f"{name.replace('_', '-')} = {text.replace(chr(127), chr(92) + 'u007f')}")
    # A file name that is no UTF-8 cannot be written down.
    return ("\n".join(lines) + "\n").encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class Finished:
    """A run that `--resume` finds under the name that it is to write.

    Attributes:
        told: its `run.json`; empty if that is damaged.
        whole: whether all its files are there, as they were written.
    """

    told: Mapping[str, Any]
    whole: bool


def finished_already(out: Path, given: Mapping[str, Any]) -> Finished | None:
    """The run in a directory, if there is one and it has these options; None: there is none.

    Raises:
        InputError: there is one with other options.
    """
    from circuits.runs.files import config_is_as_written, is_run, is_whole, read_run_file

    try:
        if not out.is_dir() or not any(out.iterdir()) or not is_run(out):
            return None
        told = read_run_file(out)
    except OSError:
        return None  # `check_out` says why
    except InputError:
        return Finished({}, False)
    asked = parse_toml(config_text(given), CONFIG_FILE)
    options = told.get("options")
    recorded: dict[str, Any] = {"method": options.get("method")} if isinstance(options, dict) else {}
    try:
        if config_is_as_written(out, told):
            recorded = read_toml(out / CONFIG_FILE)
    except (InputError, OSError):
        pass  # it is missing or damaged; the method is known from `run.json`
    names = {*recorded, *asked} if len(recorded) > 1 else {*recorded}
    differing = sorted(name for name in names - {*SPEED} if recorded.get(name) != asked.get(name))
    if differing:
        name = differing[0]
        raise InputError(
            f"{out} holds a finished run with other options ({name}: {shown(recorded.get(name))}, now {shown(asked.get(name))}); "
            "use --overwrite to replace it, or choose another --out"
        )
    return Finished(told, is_whole(out))
