"""Run directories: they appear whole, under their final name, or not at all; what is not a run of ours is never touched.

A run `NAME` is written to `.NAME.circuits-part` and renamed; one that it replaces waits in `.NAME.circuits-old` meanwhile.
Both belong to whoever holds the lock of `NAME` (`circuits.locks`), who first clears away, or puts back, what a killed run left.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from circuits.checksums import SUM, file_sum, sealed_json, unsealed
from circuits.errors import InputError
from circuits.export.atomic import PART, check_writable
from circuits.locks import sole_writer
from circuits.pairs import PromptPairs
from circuits.provenance import Provenance, plain
from circuits.untrusted import check_plain, read_json, text_or_none

RUN_FILE = "run.json"
OLD = ".circuits-old"
RUN_FILES = (
    "pairs.jsonl", "scores.safetensors", "steps.jsonl", "circuit.json", "circuit.graphml", "circuit.html", "heatmap.html",
    "evaluation.json", "evaluation.html", "view.html", "report.html", "config.toml",
)  # fmt: skip
"""What a run may hold besides `run.json`; a directory with anything else is not replaced."""


@runtime_checkable
class Result(Protocol):
    """What a run directory is made of: a job's options and timings, its numbers, and files of its own."""

    @property
    def options(self) -> dict[str, Any]: ...

    @property
    def seconds(self) -> dict[str, float]: ...

    @property
    def provenance(self) -> Provenance: ...

    def summary(self) -> dict[str, Any]:
        """The numbers of the summary table, as plain JSON values."""
        ...

    def write_files(self, directory: Path) -> None:
        """Writes the files of this kind of run, all of them named in `RUN_FILES`."""
        ...


def check_out(out: str | Path, overwrite: bool) -> Path:
    """Whether a run may be written to this directory; asked before any work is done.

    Raises:
        InputError: it holds a finished run and `overwrite` is not set, or something that is no run, or cannot be written.
    """
    out = Path(out)
    try:
        if out.is_symlink() and not out.exists():
            raise InputError(f"{out} is a link to nothing")
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file; --out names a directory")
        if out.is_dir() and any(out.iterdir()):
            if not _is_run(out):
                raise InputError(f"{out} holds files that are no run of ours; choose another --out")
            if not overwrite:
                raise InputError(f"{out} holds a finished run; use --overwrite to replace it, or choose another --out")
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        check_writable(out.absolute())
        if out.resolve() == Path.cwd():
            raise InputError(f"{out} is the current directory, which cannot be replaced as a whole; name a new one")
    except OSError as problem:
        raise InputError(f"cannot write to {out}: {problem.strerror or problem}") from None
    return out


@contextmanager
def writing_run(out: str | Path) -> Iterator[bool]:
    """Nobody else writes to this run directory meanwhile, and what killed runs left beside it is cleared away.

    Yields:
        whether a lock could be had; see `circuits.locks`.

    Raises:
        InputError: another run is writing there.
    """
    out = Path(out)
    with suppress(OSError):  # told by `check_out`
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(out) as alone:
        if alone:
            with suppress(OSError):
                _mend(out)
        yield alone


def _mend(out: Path) -> None:
    """Clears away what a killed run left; a run that was being replaced is put back, unless the new one is there."""
    part, old = _beside(out, PART), _beside(out, OLD)
    if part.is_dir() and _holds_ours(part):
        shutil.rmtree(part)
    elif part.is_file():
        part.unlink()
    if not old.is_dir() or any(path.name != out.name for path in old.iterdir()):
        return
    waiting = old / out.name
    if waiting.is_dir() and not os.path.lexists(out):
        os.rename(waiting, out)
    if not waiting.exists() or _holds_ours(waiting):
        shutil.rmtree(old)


def _beside(out: Path, suffix: str) -> Path:
    return out.absolute().parent / f".{out.name}{suffix}"


def _workspace(out: Path, suffix: str, alone: bool) -> Path:
    """A new directory beside the run; without a lock its name is random, as others may be at work."""
    made = _beside(out, suffix)
    if not alone or made.exists():
        return Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=suffix, dir=out.absolute().parent))
    made.mkdir(mode=0o700)
    return made


def check_record(out: Path, recorded: bool, resume: bool, overwrite: bool) -> Path | None:
    """Where a search that will be written to `out` keeps its record until it is finished: beside it.

    Args:
        out: the run directory.
        recorded: whether this run keeps a record; without, there is none (None).
        resume: continue from a record that is there.
        overwrite: begin anew, whatever is there.

    Raises:
        InputError: a killed run's record is there, and neither was said, or it cannot be deleted; or this run keeps no record
            to resume.
    """
    if not recorded:
        if resume:
            raise InputError(
                "--resume continues a killed run of method activation-patching, coar or exact-edges, or of acdc with a threshold; "
                "this run keeps no record"
            )
        return None
    record = _beside(out, ".unfinished")
    if record.exists() and not resume:
        if not overwrite:
            raise InputError(f"a run into {out} was killed; use --resume to continue it, or --overwrite to begin anew")
        try:
            shutil.rmtree(record)
        except OSError as problem:
            raise InputError(f"cannot delete {record}: {problem.strerror or problem}") from None
    return record


def forget_record(record: Path | None) -> None:
    """The run is written; its record is not needed any more."""
    if record is not None:
        shutil.rmtree(record, ignore_errors=True)


def _is_run(directory: Path) -> bool:
    """Whether all files here are a run's, or what was being written to one, and `run.json` is one of ours."""
    if not _holds_ours(directory):
        return False
    try:
        run = read_json(directory / RUN_FILE)
    except InputError:
        return False
    return isinstance(run, dict) and run.get("schema") == 1 and "provenance" in run


def _holds_ours(directory: Path) -> bool:
    """Whether all files here are a run's, or what was being written to one."""
    ours = {RUN_FILE, *RUN_FILES}
    return all(path.name in ours or path.name.endswith(PART) for path in directory.iterdir())


def read_run_file(directory: str | Path) -> dict[str, Any]:
    """A run's `run.json`, unaltered.

    Raises:
        InputError: there is none that can be read, it is no run's, or it is not as it was written.
    """
    path = Path(directory) / RUN_FILE
    if Path(directory).is_file():
        raise InputError(
            f"{directory} is a file and no run directory of ours; circuits and scores in files are read by circuits export and view"
        )
    try:
        told = check_plain(read_json(path), RUN_FILE)
        if not isinstance(told, dict) or "provenance" not in told:
            raise InputError("it has no provenance")
    except InputError:
        raise InputError(f"{directory} is no run directory of ours: there is no {RUN_FILE} that can be read") from None
    if not isinstance(told["provenance"], dict):
        raise InputError(f"{path} does not say where its result comes from")
    for name in ("model", "revision", "dtype", "metric", "ablation"):
        text_or_none(told["provenance"].get(name), f"{path}: {name}")
    if SUM in told and unsealed(told) is None:
        raise InputError(f"{path} {ALTERED}")
    return told


def altered_files(directory: str | Path, told: Mapping[str, Any]) -> Iterator[Path]:
    """Files of a run that are not as they were written; those of runs without checksums are believed, and pages are not looked at.

    Args:
        directory: the run.
        told: its `run.json`.

    Raises:
        InputError: one cannot be read; one that is missing is told by who needs it.
    """
    files = told.get("files")
    for name, expected in files.items() if isinstance(files, dict) else ():
        path = Path(directory) / str(name)
        if name not in RUN_FILES or path.suffix == ".html":
            continue
        try:
            if path.exists() and file_sum(path) != expected:
                yield path
        except OSError as problem:
            raise InputError(f"cannot read {path}: {problem.strerror or problem}") from None


def check_files(directory: str | Path, told: Mapping[str, Any]) -> None:
    """Whether the files of a run are as they were written; see `altered_files`.

    Raises:
        InputError: a file was cut short or altered, or cannot be read.
    """
    for path in altered_files(directory, told):
        raise InputError(f"{path} {ALTERED}")


ALTERED = "was cut short or altered since the run was written; take it from a copy, or compute the run again"


def write_run(
    result: Result,
    pairs: PromptPairs,
    out: str | Path,
    *,
    overwrite: bool = False,
    more: Mapping[str, str] | None = None,
) -> Path:
    """Writes a run directory: it appears whole, under its final name, or not at all.

    Files: `run.json` (options, provenance, numbers, timings, the SHA-256 of all files), `pairs.jsonl`, and the result's own.

    Args:
        result, pairs: what was found, on which pairs.
        out: the directory.
        overwrite: replace a finished run.
        more: further text files, by name.

    Raises:
        InputError: see `check_out`.
    """
    out = Path(out)
    with writing_run(out) as alone:
        check_out(out, overwrite)
        try:
            temporary = _workspace(out, PART, alone)
        except OSError as problem:
            raise InputError(f"cannot write {out}: {problem.strerror or problem}") from None
        try:
            _write_files(result, pairs, temporary, more or {})
            temporary.chmod(0o755)
            _move_into_place(temporary, out, overwrite, alone)
        except OSError as problem:
            raise InputError(f"cannot write {out}: {problem.strerror or problem}") from None
        except InputError as problem:  # told of the file's final place
            raise InputError(str(problem).replace(str(temporary), str(out))) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return out


def _write_files(result: Result, pairs: PromptPairs, directory: Path, more: Mapping[str, str]) -> None:
    pairs.to_jsonl(directory / "pairs.jsonl")
    result.write_files(directory)
    for name, text in more.items():
        (directory / name).write_text(text, encoding="utf-8")
    run = {
        "schema": 1,
        "options": result.options,
        "provenance": plain(result.provenance),
        "summary": result.summary(),
        "seconds": result.seconds,
        "files": {path.name: file_sum(path) for path in sorted(directory.iterdir())},
    }
    (directory / RUN_FILE).write_text(sealed_json(run, indent=1) + "\n", encoding="utf-8")


def place_files(files: Mapping[str, bytes], out: Path) -> None:
    """Writes a run directory made elsewhere: it appears whole, under its final name, or not at all.

    The caller sees to it that nobody else does so at the same time; what a killed call left is taken over.

    Raises:
        InputError: it cannot be written.
    """
    temporary = _beside(out, PART)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        try:
            for name, contents in files.items():
                (temporary / name).write_bytes(contents)
            temporary.chmod(0o755)
            os.rename(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as problem:
        raise InputError(f"cannot write {out}: {problem.strerror or problem}") from None


def _move_into_place(temporary: Path, out: Path, overwrite: bool, alone: bool) -> None:
    """One rename; it fails if another run got there first, unless that is to be replaced."""
    check_out(out, overwrite)
    if not (overwrite and out.exists()):
        os.rename(temporary, out)
        return
    old = _workspace(out, OLD, alone)
    os.rename(out, old / out.name)
    try:
        os.rename(temporary, out)
    except OSError:
        os.rename(old / out.name, out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
