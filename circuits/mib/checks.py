"""What can be refused before torch is imported: methods by level, and files by name."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from circuits.errors import InputError, refusing
from circuits.export.mib_names import cell_of, check_level
from circuits.methods.catalogue import DECLARED, declared

PICKLES = (".pt", ".pth", ".pkl", ".bin")
SUFFIXES = (".json", ".safetensors")
PICKLED = (
    "is a pickle, which can run any code when it is opened, and is not read; its owner can convert it to JSON or safetensors "
    "(docs/mib.md has the lines)"
)


FOLDERS = {"signed": "abs-False", "abs": "abs-True"}
"""The folder of circuits by each order."""


def check_method(method: str, level: str) -> None:
    """Refuses a method that does not score parts of this level.

    Raises:
        InputError: with the reason.
    """
    check_level(level)
    gives = declared(method).gives
    if level == "neuron" and not declared(method).neurons:
        scoring = " or ".join(name for name, one in DECLARED.items() if one.neurons)
        raise InputError(f"neurons are scored by {scoring}, not by {method}")
    if gives == "circuit" or (gives == "nodes" and level == "edge"):
        what = "a circuit" if gives == "circuit" else "scores of nodes"
        raise InputError(f"method {method} gives {what}, and MIB needs a score for each {level}")


def check_circuit_file(path: Path) -> None:
    """Refuses a pickle, and a file that is not there.

    Raises:
        InputError: with the reason.
    """
    if path.suffix.lower() in PICKLES:
        raise InputError(f"{path} {PICKLED}")
    if not path.is_file():
        raise InputError(f"there is no file {path}")


def check_source(path: Path) -> None:
    """Refuses a file, or a folder `TASK_MODEL`, without circuits.

    Raises:
        InputError: with the reason.
    """
    if path.is_dir():
        circuit_files(path)
    else:
        check_circuit_file(path)


def circuit_files(folder: Path) -> list[Path]:
    """The circuit files of a folder `TASK_MODEL`.

    Raises:
        InputError: it has none, or its files are pickles.
    """
    with refusing(f"read {folder}"):
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if tables := [path for path in files if path.suffix.lower() in SUFFIXES]:
        return tables
    for path in files:
        check_circuit_file(path)
    raise InputError(f"{folder} has no circuit file (.json or .safetensors)")


def cells_in(folders: Iterable[Path]) -> Iterator[tuple[Path, str, str]]:
    """(folder, task, model) of every folder `TASK_MODEL` among these, in them, or in their folders `abs-…`.

    Raises:
        InputError: one of them is not a folder.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}")
        if (own := cell_of(folder)) is not None:
            yield folder, *own
            continue
        inner = sorted(path for path in folder.iterdir() if path.is_dir())
        yield from cells_in(path for path in inner if cell_of(path) is not None or path.name in FOLDERS.values())


def check_free(place: Path, overwrite: bool) -> None:
    """Refuses a folder `TASK_MODEL` that cannot be written: circuit files in it need `overwrite`, and other files may not be there.

    Raises:
        InputError: with the reason.
    """
    if place.is_symlink():
        raise InputError(f"{place} is a symbolic link; remove it")
    if not place.exists():
        return
    if not overwrite:
        raise InputError(f"{place} already exists; use --overwrite to replace it")
    if not place.is_dir():
        raise InputError(f"{place} is a file; remove it")
    if others := [file for file in sorted(place.iterdir()) if file.suffix not in SUFFIXES or file.is_dir()]:
        raise InputError(f"{others[0]} is not a circuit file, but would be taken for one in this folder; remove it")
