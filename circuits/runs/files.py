"""What a run directory holds, and whether it is as it was written.

`run.json` names every other file of the run with its SHA-256. A run is whole when all of them are there and unaltered; two
things are allowed, since they change no result. Pages (`.html`) may be deleted or changed: any command makes them again, and
runs of a study have none. The options in `config.toml` are for the reader, so an edited one is read as it is. Line ends may
become CRLF in text files, as git and editors write them on Windows.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from circuits.errors import InputError
from circuits.files.atomic import PART
from circuits.files.checksums import SUM, file_sum, text_sum, unsealed
from circuits.files.untrusted import check_plain, check_regular, check_schema, open_regular, read_json, text_or_none

RUN_FILE, CONFIG_FILE = "run.json", "config.toml"
SCHEMA = 1
RUN_FILES = (
    "pairs.jsonl", "scores.safetensors", "steps.jsonl", "circuit.json", "circuit.graphml", "circuit.html", "heatmap.html",
    "evaluation.json", "evaluation.html", "view.html", "report.html", CONFIG_FILE,
)  # fmt: skip
"""What a run may hold besides `run.json`; a directory with anything else is not replaced."""
HEAD = b'{\n "schema": 1,\n "options": {'
"""How a `run.json` begins."""
TEXT = (".json", ".jsonl", ".graphml")
"""Files whose line ends may be changed."""
ALTERED = "was cut short or altered since the run was written; take it from a copy, or compute the run again"
MISSING = "is missing, and the run's run.json names it; take it from a copy, or compute the run again"


class Fault(NamedTuple):
    """What is wrong with a file of a run: `str` is the message for a user."""

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def read_run_file(directory: str | Path) -> dict[str, Any]:
    """A run's `run.json`, unaltered.

    Raises:
        InputError: there is none that can be read, it is no run's, it is not as it was written, or another version wrote it.
    """
    path = Path(directory) / RUN_FILE
    if Path(directory).is_file():
        raise InputError(
            f"{directory} is a file and not a run directory; circuits and scores in files are read by circuits export and view"
        )
    try:
        told = check_plain(read_json(path), RUN_FILE)
        if not isinstance(told, dict) or "provenance" not in told:
            raise InputError("it has no provenance")
    except InputError:
        raise InputError(f"{directory} is not a run directory: it has no {RUN_FILE} that can be read") from None
    check_schema(told.get("schema"), SCHEMA, str(path))
    if not isinstance(told["provenance"], dict):
        raise InputError(f"{path} does not say where its result comes from")
    for name in ("model", "revision", "dtype", "metric", "ablation"):
        text_or_none(told["provenance"].get(name), f"{path}: {name}")
    if SUM in told and unsealed(told) is None:
        raise InputError(f"{path} {ALTERED}")
    return told


def faults(directory: str | Path, told: Mapping[str, Any]) -> Iterator[Fault]:
    """Files of a run that are missing or not as they were written; of runs without checksums nothing is known.

    Args:
        directory: the run.
        told: its `run.json`.

    Raises:
        InputError: one cannot be read.
    """
    files = told.get("files")
    for name, expected in files.items() if isinstance(files, dict) else ():
        path = Path(directory) / str(name)
        if name not in RUN_FILES or path.suffix == ".html":
            continue
        try:
            if not path.exists():
                yield Fault(path, MISSING)
            elif not _as_written(path, expected):
                yield Fault(path, ALTERED)
        except OSError as problem:
            raise InputError(f"cannot read {path}: {problem.strerror or problem}") from None


def _as_written(path: Path, expected: Any) -> bool:
    if path.name == CONFIG_FILE:
        check_regular(path)
        return True
    return file_sum(path) == expected or (path.suffix in TEXT and text_sum(path) == expected)


def config_is_as_written(directory: str | Path, told: Mapping[str, Any]) -> bool:
    """Whether a run's `config.toml` holds the options that it was written with.

    Raises:
        OSError: it cannot be read.
    """
    files, path = told.get("files"), Path(directory) / CONFIG_FILE
    expected = files.get(CONFIG_FILE) if isinstance(files, dict) else None
    return expected is None or expected in (file_sum(path), text_sum(path))


def check_files(directory: str | Path, told: Mapping[str, Any]) -> None:
    """Whether the files of a run are all there, as they were written; see `faults`.

    Raises:
        InputError: a file is missing, was cut short or altered, or cannot be read.
    """
    for fault in faults(directory, told):
        raise InputError(str(fault))


def is_whole(directory: Path) -> bool:
    """Whether a finished run is there, with all its files as they were written."""
    try:
        check_files(directory, read_run_file(directory))
    except InputError:
        return False
    return True


def is_run(directory: Path) -> bool:
    """Whether all files here are a run's, or what was being written to one, and `run.json` is one of ours, or what a power cut
    leaves of one: nothing, zeros, or its beginning."""
    if not holds_ours(directory):
        return False
    try:
        with open_regular(directory / RUN_FILE) as file:
            begins = file.read(len(HEAD)).rstrip(b"\0")
        if HEAD.startswith(begins):
            return True
        run = read_json(directory / RUN_FILE)
    except (InputError, OSError):
        return False
    # By its type too: 1.0 and true are equal to 1, and no schema of ours.
    return isinstance(run, dict) and repr(run.get("schema")) == repr(SCHEMA) and "provenance" in run


def holds_ours(directory: Path) -> bool:
    """Whether all files here are a run's, or what was being written to one."""
    ours = {RUN_FILE, *RUN_FILES}
    return all(path.name in ours or path.name.endswith(PART) for path in directory.iterdir())
