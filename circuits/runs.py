"""Run directories: they appear whole, under their final name, or not at all; what is not a run of ours is never touched."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from circuits.errors import InputError
from circuits.pairs import PromptPairs
from circuits.provenance import Provenance, plain

RUN_FILE = "run.json"
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
        parent = out.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=parent)).rmdir()
        if out.resolve() == Path.cwd():
            raise InputError(f"{out} is the current directory, which cannot be replaced as a whole; name a new one")
    except OSError as problem:
        raise InputError(f"cannot write to {out}: {problem.strerror or problem}") from None
    return out


def check_record(out: Path, recorded: bool, resume: bool, overwrite: bool) -> Path | None:
    """Where a search that will be written to `out` keeps its record until it is finished: beside it.

    Args:
        out: the run directory.
        recorded: whether this run keeps a record; without, there is none (None).
        resume: continue from a record that is there.
        overwrite: begin anew, whatever is there.

    Raises:
        InputError: a killed run's record is there, and neither was said; or this run keeps no record to resume.
    """
    if not recorded:
        if resume:
            raise InputError(
                "--resume continues a killed run of method activation-patching, coar or exact-edges, or of acdc with a threshold; "
                "this run keeps no record"
            )
        return None
    record = out.absolute().parent / f".{out.name}.unfinished"
    if record.exists() and not resume:
        if not overwrite:
            raise InputError(f"a run into {out} was killed; use --resume to continue it, or --overwrite to begin anew")
        shutil.rmtree(record)
    return record


def forget_record(record: Path | None) -> None:
    """The run is written; its record is not needed any more."""
    if record is not None:
        shutil.rmtree(record, ignore_errors=True)


def _is_run(directory: Path) -> bool:
    """Whether all files here are a run's, and `run.json` is one of ours."""
    if not {path.name for path in directory.iterdir()} <= {RUN_FILE, *RUN_FILES}:
        return False
    try:
        run = json.loads((directory / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(run, dict) and run.get("schema") == 1 and "provenance" in run


def write_run(
    result: Result,
    pairs: PromptPairs,
    out: str | Path,
    *,
    overwrite: bool = False,
    more: Mapping[str, str] | None = None,
) -> Path:
    """Writes a run directory: it appears whole, under its final name, or not at all.

    Files: `run.json` (options, provenance, numbers, timings), `pairs.jsonl`, and the result's own.

    Args:
        result, pairs: what was found, on which pairs.
        out: the directory.
        overwrite: replace a finished run.
        more: further text files, by name.

    Raises:
        InputError: see `check_out`.
    """
    out = check_out(out, overwrite)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.absolute().parent))
    try:
        pairs.to_jsonl(temporary / "pairs.jsonl")
        result.write_files(temporary)
        for name, text in (more or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        run = {
            "schema": 1,
            "options": result.options,
            "provenance": plain(result.provenance),
            "summary": result.summary(),
            "seconds": result.seconds,
        }
        (temporary / RUN_FILE).write_text(json.dumps(run, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        _move_into_place(temporary, out, overwrite)
    except OSError as problem:
        raise InputError(f"cannot write {out}: {problem.strerror or problem}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def place_files(files: Mapping[str, bytes], out: Path) -> None:
    """Writes a run directory made elsewhere: it appears whole, under its final name, or not at all.

    Raises:
        InputError: it cannot be written.
    """
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
        try:
            for name, contents in files.items():
                (temporary / name).write_bytes(contents)
            temporary.chmod(0o755)
            os.rename(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as problem:
        raise InputError(f"cannot write {out}: {problem.strerror or problem}") from None


def _move_into_place(temporary: Path, out: Path, overwrite: bool) -> None:
    """One rename; it fails if another run got there first, unless that is to be replaced."""
    check_out(out, overwrite)
    if not (overwrite and out.exists()):
        os.rename(temporary, out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.absolute().parent))
    try:
        os.rename(out, old / out.name)
        os.rename(temporary, out)
    finally:
        shutil.rmtree(old, ignore_errors=True)
