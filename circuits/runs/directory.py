"""Run directories: they appear whole, under their final name, or not at all; what is not a run of ours is never touched.

A run `NAME` is written to `.NAME.circuits-part`, synced to the disk and renamed; one that it replaces waits in
`.NAME.circuits-old` meanwhile. Both belong to whoever holds the lock of `NAME` (`circuits.files.locks`), who first clears away, or puts
back, what a killed run left. Where `NAME` is a link, all this happens where it leads, and the link stays.
"""

import os
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from circuits.errors import DamageWarning, InputError, SchemaError
from circuits.files.atomic import PART, check_writable
from circuits.files.checksums import file_sum, sealed_json
from circuits.files.durable import beside, is_emptied, make_directory, sync_directory, sync_tree, synced_later
from circuits.files.locks import sole_writer
from circuits.measure.store import MANIFEST_FILE
from circuits.methods.acdc.record import QUESTION_FILE
from circuits.methods.catalogue import DECLARED
from circuits.prompts.pairs import PromptPairs
from circuits.results.provenance import Provenance, plain
from circuits.runs.files import RUN_FILE, SCHEMA, check_files, holds_ours, is_run, is_whole, read_run_file

OLD = ".circuits-old"


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
        out = _followed(out)
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file; --out names a directory")
        if out.is_dir() and any(out.iterdir()):
            _check_replaceable(out, overwrite)
        make_directory(out.absolute().parent)
        check_writable(out.absolute())
        if out.resolve() == Path.cwd():
            raise InputError(f"{out} is the current directory, which cannot be replaced as a whole; name a new one")
    except OSError as problem:
        raise InputError(f"cannot write to {out}: {problem.strerror or problem}") from None
    return out


def _check_replaceable(out: Path, overwrite: bool) -> None:
    """Whether a directory that holds something may be replaced as a whole."""
    if not is_run(out):
        if holds_ours(out):
            try:
                read_run_file(out)
            except SchemaError:
                raise
            except InputError:
                pass
        raise InputError(f"{out} is not empty and not a run directory; choose another --out")
    if overwrite:
        return
    try:
        check_files(out, read_run_file(out))
    except InputError as problem:
        raise InputError(f"{out} holds a damaged run ({problem}); --overwrite replaces it") from None
    raise InputError(f"{out} holds a finished run; use --overwrite to replace it, or choose another --out")


def _followed(out: Path) -> Path:
    """Where a run is written: the directory that a link leads to, so that the link stays one."""
    return Path(os.path.realpath(out)) if os.path.islink(out) else out


@contextmanager
def writing_run(out: str | Path) -> Iterator[bool]:
    """Nobody else writes to this run directory meanwhile, and what killed runs left beside it is cleared away.

    Yields:
        whether a lock could be had; see `circuits.files.locks`.

    Raises:
        InputError: another run is writing there.
    """
    out = _followed(Path(out))
    with suppress(OSError):  # told by `check_out`
        make_directory(out.absolute().parent)
    with sole_writer(out) as alone:
        if alone:
            with suppress(OSError):
                _mend(out)
        yield alone


def _mend(out: Path) -> None:
    """Clears away what a killed run left; a run that was being replaced is put back, unless the new one is there and whole."""
    part, old = _beside(out, PART), _beside(out, OLD)
    if part.is_dir() and holds_ours(part):
        shutil.rmtree(part)
    elif part.is_file():
        part.unlink()
    if not old.is_dir() or any(path.name != out.name for path in old.iterdir()):
        return
    waiting = old / out.name
    if waiting.is_dir() and out.is_dir() and is_run(out) and not is_whole(out) and is_whole(waiting):
        shutil.rmtree(out)
    if waiting.is_dir() and not os.path.lexists(out):
        os.rename(waiting, out)
    if not waiting.exists() or holds_ours(waiting):
        _sync(out)
        shutil.rmtree(old)


def _sync(out: Path) -> None:
    """Has a run on the disk, with its name: before what could make it again is deleted."""
    if out.is_dir():
        sync_tree(out)
    sync_directory(out.absolute().parent)


def _beside(out: Path, suffix: str) -> Path:
    return beside(out.absolute(), suffix)


def _workspace(out: Path, suffix: str, alone: bool) -> Path:
    """A new directory beside the run; without a lock its name is random, as others may be at work."""
    made = _beside(out, suffix)
    while not alone or made.exists():
        made, alone = _beside(out, f".{secrets.token_hex(4)}{suffix}"), True
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
            methods = [
                name + (f" without {' or '.join(one.unrecorded)}" if one.unrecorded else "")
                for name, one in DECLARED.items()
                if one.resumable
            ]
            raise InputError(
                f"--resume continues a killed run of method {', '.join(methods)}; this run keeps no record"
            )
        return None
    record = _beside(_followed(out), ".unfinished")
    if resume:
        mend_record(record)
    elif record.exists():
        if not overwrite:
            raise InputError(f"a run into {out} was killed; use --resume to continue it, or --overwrite to begin anew")
        try:
            shutil.rmtree(record)
        except OSError as problem:
            raise InputError(f"cannot delete {record}: {problem.strerror or problem}") from None
    return record


def mend_record(record: Path) -> None:
    """Makes a record usable again of which a power cut left files empty; the pieces and steps in it are checked by who reads them.

    Warns:
        DamageWarning: it was the question of a record of ACDC, whose steps cannot be used without it: the search begins anew.
    """
    manifest, question = record / MANIFEST_FILE, record / QUESTION_FILE
    with suppress(OSError):
        if is_emptied(manifest):  # it is written again: the pieces know their question themselves
            manifest.unlink()
        if is_emptied(question):
            warnings.warn(f"{question} is empty; the search begins anew", DamageWarning, stacklevel=2)
            shutil.rmtree(record)


def forget_record(record: Path | None) -> None:
    """The run is written, and on the disk (`write_run`); its record is not needed any more."""
    if record is not None:
        shutil.rmtree(record, ignore_errors=True)


def finish(out: str | Path, record: Path | None) -> None:
    """Deletes the record of a run that was finished already, and killed before it had tidied up.

    Raises:
        InputError: the run cannot be synced to the disk; the record stays.
    """
    if record is None or not record.exists():
        return
    try:
        _sync(_followed(Path(out)))
    except OSError as problem:
        raise InputError(f"cannot sync {out}: {problem.strerror or problem}") from None
    forget_record(record)


def write_run(
    result: Result,
    pairs: PromptPairs,
    out: str | Path,
    *,
    overwrite: bool = False,
    more: Mapping[str, str] | None = None,
) -> Path:
    """Writes a run directory: it appears whole, under its final name, or not at all, and is on the disk then.

    Files: `run.json` (options, provenance, numbers, timings, the SHA-256 of all files), `pairs.jsonl`, and the result's own.

    Args:
        result, pairs: what was found, on which pairs.
        out: the directory.
        overwrite: replace a finished run.
        more: further text files, by name.

    Raises:
        InputError: see `check_out`.
    """
    given, out = Path(out), _followed(Path(out))
    with writing_run(out) as alone:
        check_out(given, overwrite)
        try:
            temporary = _workspace(out, PART, alone)
        except OSError as problem:
            raise InputError(f"cannot write {out}: {problem.strerror or problem}") from None
        try:
            with synced_later():
                _write_files(result, pairs, temporary, more or {})
            temporary.chmod(0o755)
            sync_tree(temporary)
            _move_into_place(temporary, out, overwrite, alone)
        except OSError as problem:
            raise InputError(f"cannot write {out}: {problem.strerror or problem}") from None
        except InputError as problem:  # told of the file's final place
            raise InputError(str(problem).replace(str(temporary), str(out))) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return given


def _write_files(result: Result, pairs: PromptPairs, directory: Path, more: Mapping[str, str]) -> None:
    pairs.to_jsonl(directory / "pairs.jsonl")
    result.write_files(directory)
    for name, text in more.items():
        (directory / name).write_text(text, encoding="utf-8")
    run = {
        "schema": SCHEMA,
        "options": result.options,
        "provenance": plain(result.provenance),
        "summary": result.summary(),
        "seconds": result.seconds,
        **({} if pairs.unfit is None else {"pairs": pairs.unfit.to_dict()}),
        "files": {path.name: file_sum(path) for path in sorted(directory.iterdir())},
    }
    (directory / RUN_FILE).write_text(sealed_json(run, indent=1) + "\n", encoding="utf-8")


def place_files(files: Mapping[str, bytes], out: Path) -> None:
    """Writes a run directory made elsewhere: it appears whole, under its final name, or not at all, and is on the disk then.

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
            sync_tree(temporary)
            os.rename(temporary, out)
            sync_directory(out.absolute().parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as problem:
        raise InputError(f"cannot write {out}: {problem.strerror or problem}") from None


def _move_into_place(temporary: Path, out: Path, overwrite: bool, alone: bool) -> None:
    """One rename; it fails if another run got there first, unless that is to be replaced."""
    check_out(out, overwrite)
    if not (overwrite and out.exists()):
        os.rename(temporary, out)
        sync_directory(out.absolute().parent)
        return
    old = _workspace(out, OLD, alone)
    os.rename(out, old / out.name)
    try:
        os.rename(temporary, out)
    except OSError:
        os.rename(old / out.name, out)
        shutil.rmtree(old, ignore_errors=True)
        raise
    sync_directory(out.absolute().parent)
    shutil.rmtree(old, ignore_errors=True)
