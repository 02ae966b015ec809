"""A run directory: it appears whole, under its final name, or not at all; files that are not a run's are never touched.

A run `NAME` is written to `.NAME.circuits-part`, synced to the disk and renamed; meanwhile a run that it replaces waits in
`.NAME.circuits-old`. A run that can be resumed keeps its record in `.NAME.unfinished`. All three belong to the process that holds
the lock of `NAME` (`circuits.files.locks`), which first deletes, or puts back, what a killed run left. If `NAME` is a link, all this
happens where it leads, and the link stays.
"""

import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.errors import DamageWarning, InputError, SchemaError, refusing
from circuits.files.atomic import PART, check_writable
from circuits.files.checksums import file_sum, sealed_json
from circuits.files.durable import beside, is_emptied, make_directory, sync_directory, sync_tree, synced_later
from circuits.files.locks import sole_writer
from circuits.files.untrusted import parse_toml, read_toml, shown
from circuits.methods.catalogue import DECLARED
from circuits.results.provenance import plain
from circuits.runs.files import (
    CONFIG_FILE,
    CONSTANTS_FILE,
    REFERENCE_FILE,
    RUN_FILE,
    SCHEMA,
    config_is_as_written,
    holds_ours,
    is_run,
    is_whole,
    read_run_file,
    read_whole,
)

if TYPE_CHECKING:
    from circuits.prompts.pairs import PromptPairs
    from circuits.runs.result import Discovery, NodeDiscovery

OLD, UNFINISHED = ".circuits-old", ".unfinished"
SPEED = ("batch-size", "device", "device-map", "threads")
"""Options that do not change what a run asks."""


class RunDirectory:
    """The place of one run: `claimed`, then `begin`, then, when the run is done, `write`; `read` a run that is finished.

    Args:
        path: the directory.
        overwrite: replace a finished run, and delete the record of a killed one.

    Attributes:
        place: where the run is written: the directory that a link leads to.
        record: where the run keeps its record until it is written; None: it keeps none, or has not begun.
    """

    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        self.path, self.overwrite = Path(path), overwrite
        self.place = Path(os.path.realpath(path)) if os.path.islink(path) else self.path
        self.record: Path | None = None

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """In this block no other process writes here; before it, what killed runs left is cleared away.

        Yields:
            whether a lock could be had; see `circuits.files.locks`.

        Raises:
            InputError: another process is writing here.
        """
        with suppress(OSError):  # `check_free` reports it
            make_directory(self.place.absolute().parent)
        with sole_writer(self.place) as alone:
            if alone:
                with suppress(OSError):
                    self._clear_away()
            yield alone

    def begin(self, recorded: bool, resume: bool, config: str) -> dict[str, Any] | None:
        """Checks, before any work, that a run can be written here.

        Args:
            recorded: whether this run keeps a record.
            resume: continue from the record of a killed run. A damaged run of the same options is made again.
            config: the run's options as TOML.

        Returns:
            With `resume`, the `run.json` of the run if it is finished already; else None.

        Raises:
            InputError: see `check_free`; the run keeps no record to resume, or a finished one has other options; or a killed
                run's record is here, and neither `resume` nor `overwrite` is set, or it cannot be deleted.
        """
        if resume and not recorded:
            raise _no_record()
        self.record = self._beside(UNFINISHED) if recorded else None
        finished = self._finished(config) if resume and not self.overwrite else None
        if finished:
            if self.record is not None and self.record.exists():  # the run was killed before it had deleted it
                with refusing(f"sync {self.path}"):
                    self._sync()
                self.forget_record()
            return finished
        self.overwrite |= finished is not None
        self.check_free()
        if self.record is not None and resume:
            mend_record(self.record)
        elif self.record is not None and self.record.exists():
            if not self.overwrite:
                raise InputError(
                    f"{self.path} has an unfinished run; use --resume to continue it, or --overwrite to start again"
                )
            with refusing(f"delete {self.record}"):
                shutil.rmtree(self.record)
        return None

    def check_free(self) -> None:
        """Checks that a run may be written here.

        Raises:
            InputError: a finished run is here and `overwrite` is not set, or something else is here, or the place cannot be
                written to.
        """
        out = self.place
        with refusing(f"write to {self.path}"):
            if self.path.is_symlink() and not self.path.exists():
                raise InputError(f"{self.path} is a broken link")
            if out.exists() and not out.is_dir():
                raise InputError(f"{out} is a file; --out names a directory")
            if out.is_dir() and any(out.iterdir()):
                self._check_replaceable()
            make_directory(out.absolute().parent)
            check_writable(out.absolute())
            if out.resolve() == Path.cwd():
                raise InputError(f"{out} is the current directory, which cannot be replaced as a whole; name a new one")

    def _check_replaceable(self) -> None:
        out = self.place
        if not is_run(out):
            if holds_ours(out):
                try:
                    read_run_file(out)
                except SchemaError:
                    raise
                except InputError:
                    pass
            raise InputError(f"{out} is not empty and not a run directory; choose another --out")
        if self.overwrite:
            return
        try:
            self.read()
        except InputError as problem:
            raise InputError(f"{out} holds a damaged run ({problem}); --overwrite replaces it") from None
        raise InputError(f"{out} holds a finished run; use --overwrite to replace it, or choose another --out")

    def _finished(self, config: str) -> dict[str, Any] | None:
        """The `run.json` of the run that is here, if it has these options; empty: it is damaged; None: no run is here.

        Raises:
            InputError: a run with other options is here.
        """
        out = self.place
        try:
            if not out.is_dir() or not any(out.iterdir()) or not is_run(out):
                return None
            record = read_run_file(out)
        except OSError:
            return None  # `check_free` reports it
        except InputError:
            return {}
        asked, options = parse_toml(config, CONFIG_FILE), record.get("options")
        recorded: dict[str, Any] = {"method": options.get("method")} if isinstance(options, dict) else {}
        with suppress(InputError, OSError):  # it is missing or damaged; the method is known from `run.json`
            if config_is_as_written(out, record):
                recorded = read_toml(out / CONFIG_FILE)
        names = {*recorded, *asked} if len(recorded) > 1 else {*recorded}
        for name in sorted(names - {*SPEED}):
            if recorded.get(name) != asked.get(name):
                raise InputError(
                    f"{self.path} holds a finished run with other options ({name}: {shown(recorded.get(name))}, now "
                    f"{shown(asked.get(name))}); use --overwrite to replace it, or choose another --out"
                )
        return record if is_whole(out) else {}

    def read(self) -> dict[str, Any]:
        """The `run.json` of the run that is here; raises as `circuits.runs.files.read_whole`."""
        return read_whole(self.place)

    def write(
        self, result: "Discovery | NodeDiscovery", pairs: "PromptPairs", more: Mapping[str, str] | None = None
    ) -> Path:
        """Writes the run, then deletes its record.

        Files: `run.json` (options, provenance, numbers, timings, the SHA-256 of all files), `pairs.jsonl`, `reference.jsonl` if
        the ablation is a mean over other pairs, `constants.safetensors` if it is `optimal`, and the result's own.

        Args:
            result: the result.
            pairs: the prompts that it explains.
            more: further text files, by name.

        Raises:
            InputError: see `check_free`.
        """

        def fill(directory: Path) -> None:
            pairs.to_jsonl(directory / "pairs.jsonl")
            if result.reference is not None:
                result.reference.to_jsonl(directory / REFERENCE_FILE)
            if result.constants is not None:
                result.constants.save(directory / CONSTANTS_FILE)
            result.write_files(directory)
            for name, text in (more or {}).items():
                (directory / name).write_text(text, encoding="utf-8")
            run = {
                "schema": SCHEMA,
                "options": result.options,
                "provenance": plain(result.provenance),
                "summary": result.summary(),
                "seconds": result.seconds,
                **({"pairs": about} if (about := _about(pairs)) else {}),
                "files": {path.name: file_sum(path) for path in sorted(directory.iterdir())},
            }
            (directory / RUN_FILE).write_text(sealed_json(run, indent=1) + "\n", encoding="utf-8")

        self._put(fill)
        self.forget_record()
        return self.path

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Writes a run that was made elsewhere, from the contents of its files; raises as `write`."""
        self._put(lambda directory: [(directory / name).write_bytes(data) for name, data in files.items()])

    def forget_record(self) -> None:
        """Deletes the record of the run, which is written and on the disk."""
        if self.record is not None:
            shutil.rmtree(self.record, ignore_errors=True)

    def _put(self, fill: Callable[[Path], Any]) -> None:
        """Fills a new directory beside the run, syncs it and moves it into place."""
        with self.claimed() as alone:
            self.check_free()
            with refusing(f"write {self.place}"):
                part = self._workspace(PART, alone)
                try:
                    with synced_later():
                        fill(part)
                    part.chmod(0o755)
                    sync_tree(part)
                    self._move_into_place(part, alone)
                except InputError as problem:  # which names the file; its final name is what a user knows
                    raise InputError(str(problem).replace(str(part), str(self.place))) from None
                finally:
                    shutil.rmtree(part, ignore_errors=True)

    def _move_into_place(self, part: Path, alone: bool) -> None:
        """One rename; it fails if another run was written here meanwhile, unless that is to be replaced."""
        out = self.place
        self.check_free()
        if not (self.overwrite and out.exists()):
            os.rename(part, out)
            sync_directory(out.absolute().parent)
            return
        old = self._workspace(OLD, alone)
        os.rename(out, old / out.name)
        try:
            os.rename(part, out)
        except OSError:
            os.rename(old / out.name, out)
            shutil.rmtree(old, ignore_errors=True)
            raise
        sync_directory(out.absolute().parent)
        shutil.rmtree(old, ignore_errors=True)

    def _clear_away(self) -> None:
        """Deletes what a killed run left; puts a run back that was being replaced, unless the new one is here and whole."""
        out, part, old = self.place, self._beside(PART), self._beside(OLD)
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
            self._sync()
            shutil.rmtree(old)

    def _sync(self) -> None:
        """Has the run on the disk, with its name, before anything that could make it again is deleted."""
        if self.place.is_dir():
            sync_tree(self.place)
        sync_directory(self.place.absolute().parent)

    def _beside(self, suffix: str) -> Path:
        return beside(self.place.absolute(), suffix)

    def _workspace(self, suffix: str, alone: bool) -> Path:
        """A new directory beside the run; without a lock it has a random name, since other processes may be at work."""
        made = self._beside(suffix)
        while not alone or made.exists():
            made, alone = self._beside(f".{secrets.token_hex(4)}{suffix}"), True
        made.mkdir(mode=0o700)
        return made


def _no_record() -> InputError:
    methods = [
        name + (f" without {' or '.join(method.unrecorded)}" if method.unrecorded else "")
        for name, method in DECLARED.items()
        if method.resumable
    ]
    return InputError(f"--resume continues a killed run of method {', '.join(methods)}; this run keeps no record")


def mend_record(record: Path) -> None:
    """Makes a record usable again if a power cut left files of it empty; whoever reads its pieces and steps checks them.

    Warns:
        DamageWarning: the question of a record of ACDC is empty; its steps are useless without it, so the search begins anew.
    """
    from circuits.measure.store import MANIFEST_FILE
    from circuits.methods.acdc.record import QUESTION_FILE

    manifest, question = record / MANIFEST_FILE, record / QUESTION_FILE
    with suppress(OSError):
        if is_emptied(manifest):  # it is written again: each piece knows its question
            manifest.unlink()
        if is_emptied(question):
            warnings.warn(f"{question} is empty; the search starts again", DamageWarning, stacklevel=2)
            shutil.rmtree(record)


def _about(pairs: "PromptPairs") -> dict[str, Any]:
    """What a record says of its pairs: those that were left out, and how many have prompts of unequal length."""
    aligned = sum(1 for alignment in pairs.alignments if alignment)
    unfit = {} if pairs.unfit is None else pairs.unfit.to_dict()
    return {**unfit, **({"aligned": aligned} if aligned else {})}
