"""Places of boxes over tokens: a column for each span, a row for each layer, and the boxes of a cell side by side."""

from collections.abc import Sequence
from itertools import pairwise

from circuits.export.drawing import FONT, SMALL_FONT, Column, Drawing, DrawnNode, text_width
from circuits.export.placing import ASIDE
from circuits.export.routing import Point

IN_A_ROW = 3
"""Boxes of a cell beside each other; more take several lines."""
BETWEEN, INSET, ROOM, STEP = 9.0, 11.0, 26.0, 31.0
"""Distance of two boxes, from a box to the edge of its column, width for lines beside a single box, and of two lines of boxes."""
SWEEPS = 6
Interval = tuple[float, float]


def placed_in_columns(drawing: Drawing) -> tuple[list[Point], list[Interval]]:
    """The middle of each box, and the left and right end of each column.

    Boxes are near those that they are wired to, as far as their columns allow.
    """
    lines = _lines(drawing)
    columns = _columns(drawing, lines)
    neighbours: dict[str, list[str]] = {node.id: [] for node in drawing.nodes}
    for edge in drawing.edges:
        neighbours[edge.source].append(edge.target)
        neighbours[edge.target].append(edge.source)
    x = {node.id: _middle(columns[_column(node)]) for node in drawing.nodes}
    for sweep in range(SWEEPS):
        for line in lines if sweep % 2 else reversed(lines):
            for cell in _cells(line):
                near = {n.id: [x[other] for other in neighbours[n.id]] or [x[n.id]] for n in cell}
                wish = {node: sum(places) / len(places) for node, places in near.items()}
                x.update(_in_cell(sorted(cell, key=lambda n: (wish[n.id], n.id)), wish, columns[_column(cell[0])]))
    _step_aside(lines, columns, x)
    y = {node.id: i * STEP for i, line in enumerate(lines) for node in line}
    return [(x[node.id], y[node.id]) for node in drawing.nodes], columns


def _column(node: DrawnNode) -> int:
    return node.column or 0


def _lines(drawing: Drawing) -> list[list[DrawnNode]]:
    """The boxes of each line, from below; a row whose cells have many boxes has several lines."""
    lines = []
    for row in drawing.rows:
        cells = _cells(row)
        n = max(-(-len(cell) // IN_A_ROW) for cell in cells)
        lines += [[node for cell in cells for node in cell[i::n]] for i in range(n)]
    return lines


def _cells(line: Sequence[DrawnNode]) -> list[list[DrawnNode]]:
    """The boxes of a line by their columns."""
    cells: dict[int, list[DrawnNode]] = {}
    for node in line:
        cells.setdefault(_column(node), []).append(node)
    return list(cells.values())


def _columns(drawing: Drawing, lines: Sequence[Sequence[DrawnNode]]) -> list[Interval]:
    """Columns as wide as the widest cell and the text below it."""
    needed = [2 * INSET + label_width(column) for column in drawing.columns]
    for line in lines:
        for cell in _cells(line):
            width = sum(node.width for node in cell) + BETWEEN * (len(cell) - 1) + 2 * INSET + ROOM
            needed[_column(cell[0])] = max(needed[_column(cell[0])], width)
    ends = [0.0]
    for width in needed:
        ends.append(ends[-1] + width)
    return list(pairwise(ends))


def label_width(column: Column) -> float:
    """The width of the text below a column, in points."""
    return max(text_width(column.name, FONT), text_width(column.words or "", SMALL_FONT))


def _middle(interval: Interval) -> float:
    return (interval[0] + interval[1]) / 2


def _in_cell(cell: Sequence[DrawnNode], wish: dict[str, float], column: Interval) -> dict[str, float]:
    """Positions near the wished ones, in this order, inside the column."""
    low, high = column[0] + INSET, column[1] - INSET
    x: dict[str, float] = {}
    for node in cell:
        x[node.id] = max(wish[node.id], low + node.width / 2)
        low = x[node.id] + node.width / 2 + BETWEEN
    for node in reversed(cell):
        x[node.id] = min(x[node.id], high - node.width / 2)
        high = x[node.id] - node.width / 2 - BETWEEN
    return x


def _step_aside(lines: Sequence[Sequence[DrawnNode]], columns: Sequence[Interval], x: dict[str, float]) -> None:
    """Moves the single boxes of a column to the side in turn, so that a chain of them does not hide its lines."""
    turn = [0] * len(columns)
    for line in lines:
        for cell in _cells(line):
            column = _column(cell[0])
            if len(cell) == 1 and cell[0].kind not in ("input", "logits"):
                shift = ASIDE[turn[column] % len(ASIDE)] * ROOM / 2
                turn[column] += 1
                x.update(_in_cell(cell, {cell[0].id: x[cell[0].id] + shift}, columns[column]))
