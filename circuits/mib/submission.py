"""Submissions to MIB's leaderboard: a folder with one folder `TASK_MODEL` for each cell of its table.

A cell has one file of importances, or nine circuits. Importances are evaluated twice, by signed score (CPR) and by size (CMD). Circuits
are evaluated as they are, so those for CPR and those for CMD have folders of their own, which MIB's backend tells apart by name:

    SUBMISSION/abs-False/ioi_gpt2/ioi_gpt2_k-0.001.json …        SUBMISSION/abs-True/ioi_gpt2/ioi_gpt2_k-0.001.json …

The backend takes any folder with two or more files as circuits, so nothing else may lie beside a file of importances.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.errors import InputError, refusing
from circuits.export.mib_names import FILE, MODELS, TABLE, cell_name
from circuits.mib.checks import FOLDERS, cells_in, check_free
from circuits.mib.curve import ORDERS, circuits_of
from circuits.mib.files import CIRCUITS, Importances, circuit_name, read_circuits, write_importances
from circuits.plain_torch import plain_methods, plain_torch
from circuits.shown import Shown

LEAST = 2
"""Models, and tasks, that a submission must have."""


@dataclass(frozen=True)
class Cell:
    """One folder `TASK_MODEL` of a submission.

    Attributes:
        path: the folder.
        task, model: their names in the track.
        level: `edge`, `node` or `neuron`.
        circuits: whether it holds circuits, not importances.
        n_edges: edges of its model, as MIB counts.
    """

    path: Path
    task: str
    model: str
    level: str
    circuits: bool
    n_edges: int


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Submission(Shown):
    """A checked submission.

    Attributes:
        folders: where it is.
        cells: its valid cells.
        problems: why it would not count, or in part only; empty: nothing was found.
    """

    folders: tuple[Path, ...]
    cells: tuple[Cell, ...]
    problems: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One row per cell."""
        return [
            {
                "task": cell.task, "model": cell.model, "level": cell.level,
                "content": "circuits" if cell.circuits else "importances", "edges": cell.n_edges,
            }
            for cell in self.cells
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"folders": [*map(str, self.folders)], "cells": self.rows(), "problems": list(self.problems)}

    def __repr__(self) -> str:
        return f"Submission({len(self.cells)} cells, {len(self.problems)} problems)"


@plain_torch
def write_cell(
    importances: Importances,
    folder: str | Path,
    *,
    task: str,
    model_name: str,
    as_circuits: bool = False,
    d_model: int | None = None,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Writes one cell of a submission.

    Args:
        importances: the scores.
        folder: of the submission.
        task, model_name: their names in the track.
        as_circuits: write nine circuits by signed and nine by absolute score instead of the scores.
        d_model: see `write_importances`.
        overwrite: replace the cell, if it exists.

    Returns:
        the folders of the cell.

    Raises:
        InputError: an unknown task, an invalid name, or a cell that exists already.
    """
    folder, name = Path(folder), cell_name(task, model_name)
    if not as_circuits:
        place = _emptied(folder / name, overwrite)
        write_importances(importances, place / FILE, d_model)
        return (place,)
    places = tuple(_emptied(folder / FOLDERS[by] / name, overwrite) for by in ORDERS)
    for place, order in zip(places, circuits_of(importances), strict=True):
        for share, circuit in zip(CIRCUITS, order, strict=True):
            write_importances(circuit, place / circuit_name(name, share), d_model)
    return places


def _emptied(place: Path, overwrite: bool) -> Path:
    """A folder without files; with `overwrite`, its circuit files are removed, and any other file is refused."""
    check_free(place, overwrite)
    with refusing(f"write to {place}"):
        place.mkdir(parents=True, exist_ok=True)
        for file in place.iterdir():
            file.unlink()
    return place


@plain_torch
def collect(sources: Sequence[Path], folder: str | Path, *, as_circuits: bool = False, overwrite: bool = False) -> None:
    """Writes the cells of some folders into one submission.

    Args:
        sources: folders `TASK_MODEL`, or folders that hold some; circuits must be in folders `abs-…`, which are kept.
        folder: of the submission.
        as_circuits, overwrite: see `write_cell`.

    Raises:
        InputError: there is no cell, two have one name, or one cannot be read or written.
    """
    places = _places(sources)
    names = [(place.parent.name if place.parent.name in FOLDERS.values() else "", place.name) for place, _, _ in places]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two of the sources have a folder {'/'.join(filter(None, twice))}; a submission has one")
    for (place, task, model), (order, name) in zip(places, names, strict=True):
        read = read_circuits(place)
        if isinstance(read, Importances):
            write_cell(read, folder, task=task, model_name=model, as_circuits=as_circuits, overwrite=overwrite)
            continue
        inner = _emptied(Path(folder) / order / name, overwrite)
        for share, circuit in zip(CIRCUITS, read, strict=True):
            write_importances(circuit, inner / circuit_name(name, share))


def _places(folders: Sequence[Path]) -> list[tuple[Path, str, str]]:
    places = list(cells_in(folders))
    if not places:
        raise InputError(f"{', '.join(map(str, folders))}: no folder TASK_MODEL such as ioi_gpt2")
    return places


@plain_torch
def check_submission(folders: Sequence[Path]) -> Submission:
    """Reads all cells of a submission, and lists what the leaderboard would refuse.

    Raises:
        InputError: there is no such folder, or it has no cell.
    """
    places = _places(folders)
    cells, problems = [], []
    for place, task, model in places:
        try:
            read = read_circuits(place)
        except InputError as problem:
            problems.append(str(problem))
            continue
        cells.append(_cell(read, place, task, model))
        problems += _doubts(cells[-1], read)
    for what, names in (("model", {cell.model for cell in cells}), ("task", {_counted(cell.task) for cell in cells})):
        if len(names) < LEAST:
            problems.append(f"{len(names)} {what}{'s' * (len(names) != 1)}; the leaderboard asks for at least {LEAST}")
    return Submission(tuple(folders), tuple(cells), tuple(problems))


def _cell(read: Importances | list[Importances], place: Path, task: str, model: str) -> Cell:
    first = read if isinstance(read, Importances) else read[0]
    return Cell(place, task, model, first.level, not isinstance(read, Importances), first.flat.n_edges)


def _doubts(cell: Cell, read: Importances | list[Importances]) -> Iterator[str]:
    if (cell.task, cell.model) not in TABLE:
        yield f"{cell.path}: the leaderboard's table has no cell for {cell.task} and {cell.model}"
    elif cell.n_edges != MODELS[cell.model].n_edges:
        yield f"{cell.path}: its model has {cell.n_edges:,} edges, and {cell.model} {MODELS[cell.model].n_edges:,}"
    if isinstance(read, list) and cell.level == "edge":
        for share, circuit in zip(CIRCUITS, read, strict=True):
            kept, most = int(circuit.in_graph.sum()), int(share * cell.n_edges)
            if kept > most:
                yield f"{cell.path}: a circuit of {kept:,} edges stands for {share:.1%} of {cell.n_edges:,}, which is {most:,}"


def _counted(task: str) -> str:
    """Both kinds of arithmetic, and of ARC, are one task of the benchmark."""
    return task.partition("_")[0]
