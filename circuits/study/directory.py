"""A study's directory: finished, missing and failed runs.

| file | what it holds |
|---|---|
| `study.toml`, `study.base` | the study file that was run last, and where it was |
| `study.id` | shows workers whether they see this directory |
| `known.json` | identities of weights and prompts, so that missing runs are known without loading models |
| `runs/ADDRESS/` | a run directory, as `circuits discover` writes it; all commands take it |
| `evaluations/ADDRESS.json` | the evaluation of a run, as `circuits evaluate` measures it |
| `failures/ADDRESS.json` | why a run failed; the next `circuits study run` tries it again |
| `table.csv`, `table.parquet`, `report.html` | written by `circuits study table` and `report` |

Runs of an older study file stay, and are used again if a later study file asks for them.
"""

import json
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from circuits.errors import DamageWarning, InputError, SchemaError, refusing
from circuits.files.atomic import PART, write_text
from circuits.files.checksums import read_sealed, sealed_json
from circuits.files.durable import is_emptied, make_directory, sync_directory
from circuits.files.locks import sole_writer
from circuits.files.untrusted import check_plain, read_json, read_text
from circuits.runs.directory import UNFINISHED, RunDirectory, mend_record
from circuits.runs.files import RUN_FILE, check_evaluation, faults, read_run_file
from circuits.study.address import Identity, evaluation_address, request_key, run_address
from circuits.study.request import Request, Study
from circuits.study.spec import parse_study

if TYPE_CHECKING:
    from circuits.study.perform import Performed

STUDY_FILE, KNOWN_FILE, TOKEN_FILE = "study.toml", "known.json", "study.id"
BASE_FILE = "study.base"
"""The directory of the study file, whose file names are relative to it."""
IDENTITY = tuple(field.name for field in fields(Identity))
State = Literal["done", "missing", "failed"]


@dataclass(frozen=True)
class Entry:
    """A request, and its state in the directory.

    Attributes:
        request: the run that the study asks for.
        address: the address of the run; None while its weights and prompts are not known.
        evaluation: the address of its evaluation; None: none is asked for.
        state: `done`, `missing` or `failed`.
        reason: why it failed.
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
        with refusing(f"write to {made.path}"):
            make_directory(made.path)
            token = made.path / TOKEN_FILE
            if not token.exists() or is_emptied(token):
                made._write(TOKEN_FILE, f"{uuid.uuid4()}\n")
            for name in ("runs", "evaluations", "failures"):
                make_directory(made.path / name)
        return made

    @staticmethod
    def check_free(path: str | Path) -> None:
        """Checks that a study can begin here; nothing is written.

        Raises:
            InputError: the directory holds something else, or cannot be read.
        """
        path = Path(path)
        with refusing(f"read {path}"):
            if path.is_dir() and not (path / TOKEN_FILE).exists() and _holds_others(path):
                raise InputError(f"{path} is not empty and not a study's directory; choose another --out")

    @classmethod
    def open(cls, path: str | Path) -> "StudyDirectory":
        """The directory of a study that was begun.

        Raises:
            InputError: it is not one.
        """
        made = cls(path)
        if not (made.path / TOKEN_FILE).is_file() or not (made.path / STUDY_FILE).is_file():
            raise InputError(f"{path} is not a study's directory: circuits study run STUDY.toml --out DIR makes one")
        return made

    @contextmanager
    def locked(self) -> Iterator[None]:
        """In this block no other process runs a study here; if the process dies, its lock is released.

        Raises:
            InputError: another process runs a study here.
        """
        with sole_writer(self.path):
            self._tidy()
            yield

    def _tidy(self) -> None:
        """Deletes records of finished runs, which a killed process may have left, and makes the other records usable."""
        for store in (self.path / "runs").glob(f".*{UNFINISHED}"):
            if self.has_run(store.name[1:].removesuffix(UNFINISHED)):
                sync_directory(self.path / "runs")
                shutil.rmtree(store, ignore_errors=True)
            else:
                mend_record(store)

    @property
    def token(self) -> tuple[Path, str]:
        """A file that only this directory has, and its contents."""
        path = (self.path / TOKEN_FILE).absolute()
        return path, read_text(path)

    # --- study file and identities ------------------------------------------------------------------------------------

    def keep_study(self, study: Study) -> None:
        self._write(STUDY_FILE, study.text)
        self._write(BASE_FILE, f"{study.base}\n")

    def study(self) -> Study:
        """The study file that was run last."""
        path, base = self.path / STUDY_FILE, self.path / BASE_FILE
        texts = read_text(path), read_text(base).removesuffix("\n")
        for file, text in zip((path, base), texts, strict=True):
            if not text:
                raise InputError(
                    f"{file} is empty, as after a power cut; circuits study run STUDY.toml writes it again"
                )
        return parse_study(texts[0], str(path), Path(texts[1]), False)

    @cached_property
    def _known(self) -> dict[str, Identity]:
        known = _read_whole(self.path / KNOWN_FILE) or {}
        try:
            return {key: Identity(**{name: parts[name] for name in IDENTITY}) for key, parts in known.items()}
        except (TypeError, KeyError):
            return {}  # they are computed again

    def identity(self, key: str) -> Identity | None:
        """The identity under one of `question_keys`; under a `request_key`, the identity when the study was run last."""
        return self._known.get(key)

    def keep_identities(self, identities: Mapping[str, Identity]) -> None:
        """Stores identities by key."""
        if all(self._known.get(key) == identity for key, identity in identities.items()):
            return
        self._known.update(identities)
        known = {key: asdict(identity) for key, identity in sorted(self._known.items())}
        self._write(KNOWN_FILE, sealed_json(known, indent=0) + "\n")

    # --- runs ---------------------------------------------------------------------------------------------------------

    def entry(self, request: Request) -> Entry:
        """The state of a request."""
        key = request_key(request)
        identity = self.identity(key)
        if identity is None:
            return self._failed(Entry(request, None, None, "missing"), key)
        address = run_address(request, identity)
        entry = Entry(request, address, evaluation_address(request, address), "missing")
        if self.has_run(address) and (entry.evaluation is None or self.evaluation(entry.evaluation) is not None):
            return replace(entry, state="done")
        return self._failed(entry, address)

    def _failed(self, entry: Entry, key: str) -> Entry:
        failure = None
        with suppress(InputError):
            failure = check_plain(read_json(self._failure(key)), key)
        reason = failure.get("reason") if isinstance(failure, dict) else None
        return replace(entry, state="failed", reason=reason) if isinstance(reason, str) else entry

    def run_path(self, address: str) -> Path:
        return self.path / "runs" / address

    def store_path(self, address: str) -> Path:
        """Where a run that can be resumed keeps its record."""
        return (self.path / "runs" / f".{address}{UNFINISHED}").absolute()

    def has_run(self, address: str) -> bool:
        """Whether a run is there and undamaged."""
        return self._run(address) is not None

    def _run(self, address: str) -> dict[str, Any] | None:
        """A run's `run.json`; None: there is none, or a file of the run is missing or not as it was written.

        Warns:
            DamageWarning: a file is missing, was cut short or altered.

        Raises:
            SchemaError: another version wrote it.
        """
        path = self.run_path(address)
        damaged = path / RUN_FILE
        try:
            record = read_run_file(path)
            if isinstance(record.get("summary"), dict):
                damaged = path
                fault = next(faults(path, record), None)
                if fault is None:
                    return record
                damaged = fault.path
        except SchemaError:
            raise
        except InputError:
            pass  # a file that cannot be read counts as damaged
        if damaged.name != RUN_FILE or damaged.exists():
            _warn_of_damage(damaged)
        return None

    def run_files(self, address: str) -> dict[str, bytes]:
        """A finished run's files."""
        return {path.name: path.read_bytes() for path in sorted(self.run_path(address).iterdir()) if path.is_file()}

    def summary(self, address: str) -> dict[str, Any]:
        """The numbers of a run.

        Raises:
            InputError: its file is damaged.
        """
        record = self._run(address)
        if record is None:
            raise InputError(f"{self.run_path(address)} is damaged; run the study again")
        return record["summary"]

    def evaluation(self, address: str) -> dict[str, Any] | None:
        """The numbers of an evaluation; None: there is none, or it is not as it was written.

        Warns:
            DamageWarning: it was cut short or altered.

        Raises:
            SchemaError: another version wrote it.
        """
        path = self.path / "evaluations" / f"{address}.json"
        measured = _read_whole(path)
        if measured is not None:
            check_evaluation(measured, str(path))
        return measured

    def keep(self, entry: Entry, made: "Performed") -> None:
        """Writes a run and its evaluation, or why it failed."""
        assert entry.address is not None
        if made.files is not None and not self.has_run(entry.address):
            shutil.rmtree(self.run_path(entry.address), ignore_errors=True)  # a damaged one
            RunDirectory(self.run_path(entry.address)).write_files(made.files)
            shutil.rmtree(self.store_path(entry.address), ignore_errors=True)
        if made.failure is not None:
            self.fail(entry.address, made.failure, made.trace)
            return
        if made.evaluation is not None:
            measured = {**made.evaluation, "run": entry.address}
            self._write(f"evaluations/{entry.evaluation}.json", sealed_json(measured) + "\n")
        self._failure(entry.address).unlink(missing_ok=True)

    def fail(self, key: str, reason: str, trace: str | None = None) -> None:
        """Writes why a run (or, by `request_key`, a question) failed."""
        self._write(f"failures/{key}.json", json.dumps({"reason": reason, "trace": trace}, indent=1) + "\n")

    def forgive(self, key: str) -> None:
        """Deletes the record of a failure."""
        self._failure(key).unlink(missing_ok=True)

    def _failure(self, key: str) -> Path:
        return self.path / "failures" / f"{key}.json"

    def _write(self, name: str, text: str) -> None:
        try:
            write_text(self.path / name, text)
        except UnicodeEncodeError:
            raise InputError(
                f"cannot write {self.path / name}: the study's directory has a name that is not UTF-8"
            ) from None


def _read_whole(path: Path) -> dict[str, Any] | None:
    """The contents of a sealed file; None: there is none, or it is not as it was written.

    Warns:
        DamageWarning: it was cut short or altered.
    """
    sealed = None
    with suppress(InputError):
        sealed = read_sealed(path)
    if sealed is None and path.exists():
        _warn_of_damage(path)
    return sealed


def _warn_of_damage(path: Path) -> None:
    what = "was cut short or altered: it" if path.exists() else "is missing: its run"
    message = f"{path} {what} counts as missing, and circuits study run makes it again"
    warnings.warn(message, DamageWarning, stacklevel=3)


def _holds_others(directory: Path) -> bool:
    """Whether it holds more than a study leaves that was killed in its first moment."""
    ours = (path.name.startswith(f".{TOKEN_FILE}.") and path.name.endswith(PART) for path in directory.iterdir())
    return not all(ours)
