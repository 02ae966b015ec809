"""A study's directory: what was made, what is missing, and what failed.

| file | what it holds |
|---|---|
| `study.toml`, `study.base` | the study file that was run last, and where it was |
| `study.id` | tells workers whether they see this directory |
| `known.json` | weights and prompts by what they come from, so that models need not be loaded to tell what is missing |
| `runs/ADDRESS/` | a run directory, as `circuits discover` writes it; all commands take it |
| `evaluations/ADDRESS.json` | what `circuits evaluate` measures of a run |
| `failures/ADDRESS.json` | why a run could not be made; it is tried again by the next `circuits study run` |
| `table.csv`, `table.parquet`, `report.html` | written by `circuits study table` and `report` |

Runs of an older study file stay, and are found again when they are asked for again.
"""

import json
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from circuits.errors import DamageWarning, InputError, SchemaError
from circuits.files.atomic import PART, replacing
from circuits.files.checksums import read_sealed, sealed_json
from circuits.files.durable import is_emptied, make_directory, sync_directory
from circuits.files.locks import sole_writer
from circuits.files.untrusted import check_plain, read_json, read_text
from circuits.runs.directory import mend_record, place_files
from circuits.runs.evaluation import check_evaluation
from circuits.runs.files import RUN_FILE, faults, read_run_file
from circuits.study.address import Identity, evaluation_address, request_key, run_address
from circuits.study.perform import Performed
from circuits.study.request import Request, Study
from circuits.study.spec import parse_study

STUDY_FILE, KNOWN_FILE, TOKEN_FILE = "study.toml", "known.json", "study.id"
BASE_FILE = "study.base"
"""Where the study file was, which names files relative to itself."""
IDENTITY = tuple(field.name for field in fields(Identity))
State = Literal["done", "missing", "failed"]


@dataclass(frozen=True)
class Entry:
    """A request, and what the directory has of it.

    Attributes:
        request: what was asked.
        address: of its run; None while its weights and prompts are not known.
        evaluation: address of its evaluation; None without one.
        state: `done`, `missing` or `failed`.
        reason: of a failure.
    """

    request: Request
    address: str | None
    evaluation: str | None
    state: State
    reason: str | None = None


class StudyDirectory:
    """See the module docstring.

    Args:
        path: the directory.

    Raises:
        InputError: it is none, or holds other things than a study.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def begin(cls, path: str | Path) -> "StudyDirectory":
        """A directory to run a study in: a new one, an empty one, or a study's.

        Raises:
            InputError: it holds something else, or cannot be written to.
        """
        cls.check_free(path)
        made = cls(path)
        try:
            make_directory(made.path)
            token = made.path / TOKEN_FILE
            if not token.exists() or is_emptied(token):
                made._write(TOKEN_FILE, f"{uuid.uuid4()}\n")
            for name in ("runs", "evaluations", "failures"):
                make_directory(made.path / name)
        except OSError as problem:
            raise InputError(f"cannot write to {made.path}: {problem.strerror or problem}") from None
        return made

    @staticmethod
    def check_free(path: str | Path) -> None:
        """Whether a study can begin there; nothing is written.

        Raises:
            InputError: it holds something else, or cannot be read.
        """
        path = Path(path)
        try:
            taken = path.is_dir() and not (path / TOKEN_FILE).exists() and _holds_others(path)
        except OSError as problem:
            raise InputError(f"cannot read {path}: {problem.strerror or problem}") from None
        if taken:
            raise InputError(f"{path} holds files that are no study of ours; choose another --out")

    @classmethod
    def open(cls, path: str | Path) -> "StudyDirectory":
        """The directory of a study that was begun.

        Raises:
            InputError: it is none.
        """
        made = cls(path)
        if not (made.path / TOKEN_FILE).is_file() or not (made.path / STUDY_FILE).is_file():
            raise InputError(f"{path} is no study's directory: circuits study run STUDY.toml --out DIR makes one")
        return made

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While it lasts, no other process runs a study here; the lock goes with the process that has it.

        Raises:
            InputError: another process has it.
        """
        with sole_writer(self.path):
            self._tidy()
            yield

    def _tidy(self) -> None:
        """Removes what finished runs went on from: a process that died may have left it. What others go on from is made usable."""
        for store in (self.path / "runs").glob(".*.unfinished"):
            if self.has_run(store.name[1:].removesuffix(".unfinished")):
                sync_directory(self.path / "runs")
                shutil.rmtree(store, ignore_errors=True)
            else:
                mend_record(store)

    @property
    def token(self) -> tuple[Path, str]:
        """A file that only this directory holds, and its contents."""
        path = (self.path / TOKEN_FILE).absolute()
        return path, read_text(path)

    # --- study file and identities ------------------------------------------------------------------------------------

    def keep_study(self, study: Study) -> None:
        self._write(STUDY_FILE, study.text)
        self._write(BASE_FILE, f"{study.base}\n")

    def study(self) -> Study:
        """The study file that was run last."""
        path, base = self.path / STUDY_FILE, self.path / BASE_FILE
        told = read_text(path), read_text(base).removesuffix("\n")
        for file, text in zip((path, base), told, strict=True):
            if not text:
                raise InputError(
                    f"{file} is empty, as a power cut leaves files; circuits study run STUDY.toml writes it again"
                )
        return parse_study(told[0], str(path), Path(told[1]), False)

    @cached_property
    def _known(self) -> dict[str, Identity]:
        told = _read_whole(self.path / KNOWN_FILE) or {}
        try:
            return {key: Identity(**{name: of[name] for name in IDENTITY}) for key, of in told.items()}
        except (TypeError, KeyError):
            return {}  # they are found out again

    def identity(self, key: str) -> Identity | None:
        """What is known under a key: one of `question_keys`, or the `request_key` for what it was when the study was run last."""
        return self._known.get(key)

    def keep_identities(self, found: Mapping[str, Identity]) -> None:
        """By key."""
        if all(self._known.get(key) == of for key, of in found.items()):
            return
        self._known.update(found)
        told = {key: asdict(of) for key, of in sorted(self._known.items())}
        self._write(KNOWN_FILE, sealed_json(told, indent=0) + "\n")

    # --- runs ---------------------------------------------------------------------------------------------------------

    def entry(self, request: Request) -> Entry:
        """What is there of a request."""
        key = request_key(request)
        identity = self.identity(key)
        if identity is None:
            return self._failed(Entry(request, None, None, "missing"), key)
        address = run_address(request, identity)
        entry = Entry(request, address, evaluation_address(request, address), "missing")
        if self.has_run(address) and (entry.evaluation is None or self.evaluation(entry.evaluation) is not None):
            return Entry(request, address, entry.evaluation, "done")
        return self._failed(entry, address)

    def _failed(self, entry: Entry, key: str) -> Entry:
        reason = (_read_json(self._failure(key)) or {}).get("reason")
        if not isinstance(reason, str):
            return entry
        return Entry(entry.request, entry.address, entry.evaluation, "failed", reason)

    def run_path(self, address: str) -> Path:
        return self.path / "runs" / address

    def store_path(self, address: str) -> Path:
        """Where a run keeps what it can go on from."""
        return (self.path / "runs" / f".{address}.unfinished").absolute()

    def has_run(self, address: str) -> bool:
        """Whether a run is there and undamaged."""
        return self._run(address) is not None

    def _run(self, address: str) -> dict[str, Any] | None:
        """What a run's `run.json` tells; None where there is none, or a file of the run is missing or not as it was written.

        Warns:
            DamageWarning: one is missing, was cut short or altered.

        Raises:
            SchemaError: another version wrote it.
        """
        path = self.run_path(address)
        damaged = path / RUN_FILE
        try:
            told = read_run_file(path)
            if isinstance(told.get("summary"), dict):
                damaged = path
                fault = next(faults(path, told), None)
                if fault is None:
                    return told
                damaged = fault.path
        except SchemaError:
            raise
        except InputError:
            pass  # what cannot be read is as good as damaged
        if damaged.name != RUN_FILE or damaged.exists():
            _tell_damage(damaged)
        return None

    def run_files(self, address: str) -> dict[str, bytes]:
        """A finished run's files."""
        return {path.name: path.read_bytes() for path in sorted(self.run_path(address).iterdir()) if path.is_file()}

    def summary(self, address: str) -> dict[str, Any]:
        """The numbers of a run.

        Raises:
            InputError: its file is damaged.
        """
        told = self._run(address)
        if told is None:
            raise InputError(f"{self.run_path(address)} is damaged; run the study again")
        return told["summary"]

    def evaluation(self, address: str) -> dict[str, Any] | None:
        """The numbers of an evaluation; None where there is none, or not as it was written.

        Warns:
            DamageWarning: it was cut short or altered.

        Raises:
            SchemaError: another version wrote it.
        """
        path = self.path / "evaluations" / f"{address}.json"
        told = _read_whole(path)
        if told is not None:
            check_evaluation(told, str(path))
        return told

    def keep(self, entry: Entry, made: Performed) -> None:
        """Writes what a run gave."""
        assert entry.address is not None
        if made.files is not None and not self.has_run(entry.address):
            shutil.rmtree(self.run_path(entry.address), ignore_errors=True)  # a damaged one
            place_files(made.files, self.run_path(entry.address))
            shutil.rmtree(self.store_path(entry.address), ignore_errors=True)
        if made.failure is not None:
            self.fail(entry.address, made.failure, made.trace)
            return
        if made.evaluation is not None:
            told = {**made.evaluation, "run": entry.address}
            self._write(f"evaluations/{entry.evaluation}.json", sealed_json(told) + "\n")
        self._failure(entry.address).unlink(missing_ok=True)

    def fail(self, key: str, reason: str, trace: str | None = None) -> None:
        """Writes why a run (or, by `request_key`, a question) failed."""
        self._write(f"failures/{key}.json", json.dumps({"reason": reason, "trace": trace}, indent=1) + "\n")

    def forgive(self, key: str) -> None:
        """Forgets a failure."""
        self._failure(key).unlink(missing_ok=True)

    def _failure(self, key: str) -> Path:
        return self.path / "failures" / f"{key}.json"

    def _write(self, name: str, text: str) -> None:
        path = self.path / name
        try:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as problem:
            raise InputError(f"cannot write {path}: {problem.strerror or problem}") from None
        except UnicodeEncodeError:
            raise InputError(f"cannot write {path}: the study's own directory has a name that is no UTF-8") from None


def _read_whole(path: Path) -> dict[str, Any] | None:
    """What was sealed and written to a file; None where there is none that is as it was written.

    Warns:
        DamageWarning: it was cut short or altered.
    """
    try:
        told = read_sealed(path)
    except InputError:
        told = None
    if told is None and path.exists():
        _tell_damage(path)
    return told


def _tell_damage(path: Path) -> None:
    what = "was cut short or altered: it" if path.exists() else "is missing: its run"
    said = f"{path} {what} counts as missing, and circuits study run makes it again"
    warnings.warn(said, DamageWarning, stacklevel=3)


def _holds_others(directory: Path) -> bool:
    """Whether there is more than what a study that was killed in its first moment leaves."""
    return any(
        not (path.name.startswith(f".{TOKEN_FILE}.") and path.name.endswith(PART)) for path in directory.iterdir()
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is none that can be read."""
    try:
        told = check_plain(read_json(path), path.name)
    except InputError:
        return None
    return told if isinstance(told, dict) else None
