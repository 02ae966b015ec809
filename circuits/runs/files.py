"""The files of a run directory, and whether they are as they were written.

`run.json` names every other file of the run with its SHA-256. A run is whole if all of them are there and unaltered. Two changes
are allowed, since they change no result. Pages (`.html`) may be deleted or changed: any command can make them again, and
runs of a study have none. `config.toml` may be edited, since its options are only for the reader. Line ends of text files may
become CRLF, as git and editors write them on Windows.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from circuits.errors import InputError, refusing
from circuits.files.atomic import PART
from circuits.files.checksums import SUM, file_sum, text_sum, unsealed
from circuits.files.untrusted import check_plain, check_regular, check_schema, open_regular, read_json, text_or_none

RUN_FILE, CONFIG_FILE, EVALUATION_FILE = "run.json", "config.toml", "evaluation.json"
REFERENCE_FILE = "reference.jsonl"
CONSTANTS_FILE = "constants.safetensors"
FEATURES_FILE = "features.json"
"""The circuit of a run with dictionaries."""
DESCRIPTION_FILE, LABELS_FILE = "description.json", "labels.json"
SCHEMA = 1
EVALUATION_SCHEMA, OLD_EVALUATION_SCHEMA = 2, 1
RUN_FILES = (
    "pairs.jsonl", "scores.safetensors", "steps.jsonl", "circuit.json", "circuit.graphml", "circuit.html", "heatmap.html",
    EVALUATION_FILE, "evaluation.html", "view.html", "report.html", CONFIG_FILE, REFERENCE_FILE, CONSTANTS_FILE,
    DESCRIPTION_FILE, LABELS_FILE, FEATURES_FILE,
)  # fmt: skip
"""What a run may hold besides `run.json`; a directory with any other file is not replaced."""
HEAD = b'{\n "schema": 1,\n "options": {'
"""How a `run.json` begins."""
TEXT = (".json", ".jsonl", ".graphml")
"""Files whose line ends may change."""
ALTERED = "was cut short or altered since the run was written; take it from a copy, or compute the run again"
MISSING = "is missing, and the run's run.json names it; take it from a copy, or compute the run again"


class Fault(NamedTuple):
    """A file of a run that is not as it was written; `str` is the message for a user."""

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def read_run_file(directory: str | Path) -> dict[str, Any]:
    """A run's `run.json`, unaltered.

    Raises:
        InputError: it is missing, cannot be read, is not a run's, was altered, or another version wrote it.
    """
    path = Path(directory) / RUN_FILE
    if Path(directory).is_file():
        raise InputError(
            f"{directory} is a file and not a run directory; circuits and scores in files are read by circuits export and view"
        )
    try:
        record = check_plain(read_json(path), RUN_FILE)
        if not isinstance(record, dict) or "provenance" not in record:
            raise InputError("it has no provenance")
    except InputError:
        raise InputError(f"{directory} is not a run directory: it has no {RUN_FILE} that can be read") from None
    check_schema(record.get("schema"), SCHEMA, str(path))
    if not isinstance(record["provenance"], dict):
        raise InputError(f"{path} has no provenance of its result")
    for name in ("model", "revision", "dtype", "metric", "ablation"):
        text_or_none(record["provenance"].get(name), f"{path}: {name}")
    if SUM in record and unsealed(record) is None:
        raise InputError(f"{path} {ALTERED}")
    return record


def read_whole(directory: str | Path) -> dict[str, Any]:
    """A run's `run.json`, if all files of the run are there as they were written.

    Raises:
        InputError: see `read_run_file`; or a file is missing, was cut short or altered, or cannot be read.
    """
    record = read_run_file(directory)
    for fault in faults(directory, record):
        raise InputError(str(fault))
    return record


def check_source(path: Path) -> None:
    """Checks that a run directory, whole, or a file is there.

    Raises:
        InputError: neither is there, or see `read_whole`.
    """
    if path.is_dir():
        read_whole(path)
    elif not path.is_file():
        raise InputError(f"there is no run directory or file {path}")


def faults(directory: str | Path, record: Mapping[str, Any]) -> Iterator[Fault]:
    """Files of a run that are missing or not as they were written; runs without checksums have none.

    Args:
        directory: the run.
        record: its `run.json`.

    Raises:
        InputError: a file cannot be read.
    """
    files = record.get("files")
    for name, expected in files.items() if isinstance(files, dict) else ():
        path = Path(directory) / str(name)
        if name not in RUN_FILES or path.suffix == ".html":
            continue
        with refusing(f"read {path}"):
            if not path.exists():
                yield Fault(path, MISSING)
            elif not _as_written(path, expected):
                yield Fault(path, ALTERED)


def _as_written(path: Path, expected: Any) -> bool:
    if path.name == CONFIG_FILE:
        check_regular(path)
        return True
    return file_sum(path) == expected or (path.suffix in TEXT and text_sum(path) == expected)


def config_is_as_written(directory: str | Path, record: Mapping[str, Any]) -> bool:
    """Whether a run's `config.toml` holds the options that it was written with.

    Raises:
        OSError: it cannot be read.
    """
    files, path = record.get("files"), Path(directory) / CONFIG_FILE
    expected = files.get(CONFIG_FILE) if isinstance(files, dict) else None
    return expected is None or expected in (file_sum(path), text_sum(path))


def check_evaluation(measured: Mapping[str, Any], what: str) -> None:
    """Whether this version reads an `evaluation.json`; one without a schema is an old one.

    Raises:
        SchemaError: another version wrote it; `what` names the file.
    """
    schema = measured.get("schema", OLD_EVALUATION_SCHEMA)
    is_old = type(schema) is int and schema == OLD_EVALUATION_SCHEMA
    check_schema(schema, OLD_EVALUATION_SCHEMA if is_old else EVALUATION_SCHEMA, what)


def is_whole(directory: Path) -> bool:
    """Whether a finished run is there, with all its files as they were written."""
    try:
        read_whole(directory)
    except InputError:
        return False
    return True


def is_run(directory: Path) -> bool:
    """Whether all files here may be a run's, and `run.json` is one of ours, or what a power cut leaves of one: an empty file,
    zeros, or its beginning."""
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
    # By its type too: 1.0 and true are equal to 1, but are not a schema.
    return isinstance(run, dict) and repr(run.get("schema")) == repr(SCHEMA) and "provenance" in run


def holds_ours(directory: Path) -> bool:
    """Whether all files here may be a run's, or the unfinished part of one."""
    ours = {RUN_FILE, *RUN_FILES}
    return all(path.name in ours or path.name.endswith(PART) for path in directory.iterdir())
