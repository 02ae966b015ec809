"""Names that the shell completes: methods, tasks, metrics, ablations, formats, models, and directories of runs and studies.

Each function takes the word as typed so far and gives the names that may be meant, some with a few words about them. They run at
every press of the Tab key, so nothing heavy is imported, and an error gives no names: the shell then completes file names.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from itertools import islice
from pathlib import Path

from circuits import plugins, zoo
from circuits.engine.dtypes import DTYPES
from circuits.errors import InputError
from circuits.export.catalogue import FORMATS
from circuits.methods import catalogue
from circuits.runs.files import RUN_FILE
from circuits.runs.parts import PARTS

Names = list[str | tuple[str, str]]
MOST_DIRECTORIES = 1000
"""Directories that are looked at for runs and studies."""


def _completing(names: Callable[[str], Iterable[str | tuple[str, str]]]) -> Callable[[str], Names]:
    """A completion of typer's; it offers nothing where names cannot be read."""

    @wraps(names)
    def complete(incomplete: str) -> Names:
        try:
            return list(names(incomplete))
        except (InputError, OSError, ValueError):
            return []

    return complete


def _each(complete: Callable[[str], Names]) -> Callable[[str], Names]:
    """Completes the last of several names with commas between them; those before it are not offered again."""

    def complete_last(incomplete: str) -> Names:
        before, comma, last = incomplete.rpartition(",")
        given = {name.strip() for name in before.split(",")}
        pairs = [one if isinstance(one, tuple) else (one, "") for one in complete(last)]
        return [(f"{before}{comma}{name}", text) for name, text in pairs if name not in given]

    return complete_last


@_completing
def methods(incomplete: str) -> Iterable[tuple[str, str]]:
    return ((name, method.help) for name, method in catalogue.DECLARED.items())


@_completing
def tasks(incomplete: str) -> Iterable[str]:
    return plugins.task_names()


@_completing
def metrics(incomplete: str) -> Iterable[str]:
    return catalogue.metrics()


@_completing
def ablations(incomplete: str) -> Iterable[tuple[str, str]]:
    return catalogue.ablations().items()


@_completing
def formats(incomplete: str) -> Iterable[tuple[str, str]]:
    return ((name, f"keeps {form.carries}") for name, form in FORMATS.items())


@_completing
def fetched_models(incomplete: str) -> Iterable[tuple[str, str]]:
    return ((entry.name, entry.description) for entry in zoo.entries())


@_completing
def models(incomplete: str) -> Iterable[str]:
    return (*zoo.names(), *plugins.model_names())


@_completing
def dtypes(incomplete: str) -> Iterable[str]:
    return DTYPES


@_completing
def parts(incomplete: str) -> Iterable[tuple[str, str]]:
    return PARTS.items()


several_ablations, several_parts = _each(ablations), _each(parts)


@_completing
def runs(incomplete: str) -> Iterable[str]:
    return _directories_with(RUN_FILE, incomplete)


@_completing
def studies(incomplete: str) -> Iterable[str]:
    return _directories_with("study.toml", incomplete)


def _directories_with(file: str, incomplete: str) -> Iterable[str]:
    """Directories that begin with what is typed and hold that file, or are one level below such a directory."""
    typed, slash, _ = incomplete.rpartition("/")
    parent = Path(typed or slash or ".")
    for first in islice(sorted(parent.iterdir()), MOST_DIRECTORIES):
        name = f"{typed}{slash}{first.name}"
        if not name.startswith(incomplete) or first.name.startswith(".") or not first.is_dir():
            continue
        below = () if (first / file).is_file() else islice(sorted(first.iterdir()), MOST_DIRECTORIES)
        yield from [name] if (first / file).is_file() else []
        yield from (f"{name}/{path.name}" for path in below if (path / file).is_file() and path.name[0] != ".")


def choices(names: Iterable[str]) -> Callable[[str], Names]:
    """Completes one of a few given names."""
    known: Names = list(names)
    return lambda incomplete: known
