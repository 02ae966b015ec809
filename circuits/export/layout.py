"""The positions of boxes and lines: by Graphviz if pygraphviz is installed, else (and for very many lines) in plain rows.

Pictures and TikZ use the same positions. No line passes behind a box that it does not touch (`circuits.export.routing`).
Lengths are points, the origin is at the bottom left. Over tokens, boxes are in columns (`circuits.export.columns`), whose names are
below them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

from circuits.export.columns import Interval, placed_in_columns
from circuits.export.dot import FRAME, STRAIGHT, layout_text, points_down
from circuits.export.drawing import SMALL_FONT, Column, Drawing, DrawnNode, LegendLine, text_width
from circuits.export.placing import placed_in_rows
from circuits.export.routing import Box, Point, Streets

ROW, GAP = 38.0, 16.0
"""Distances between rows and between boxes of a row, without Graphviz."""
CLEAR, APART, HEAD = 3.0, 3.0, 8.5
"""Distance from a line to a box that it passes, distance of two such lines, and length of the straight part before an arrow head."""
HIDDEN = 0.5
"""A line of Graphviz that comes nearer than this to a box that it passes is routed again."""
SAMPLE = 26.0
"""Length of a sample line in the legend."""
LEGEND_ROW = 12.0
COLUMN_TEXT = 26.0
"""Height of the text below the columns."""


@dataclass(frozen=True)
class Layout:
    """Positions, in points.

    Attributes:
        nodes: the middle of each box.
        curves: for each line the 3n + 1 control points of n cubic Bézier curves, from box to box.
        legend: for each entry, the start of its sample line; the line is `SAMPLE` long, and text follows.
        width, height: of the picture.
        columns: over tokens, the strip of each span.
    """

    nodes: tuple[Point, ...]
    curves: tuple[tuple[Point, ...], ...]
    legend: tuple[tuple[LegendLine, Point], ...]
    width: float
    height: float
    columns: tuple["Strip", ...] = ()


class Strip(NamedTuple):
    """A column: its span, its corners at the bottom left and top right, and the middles of its two texts."""

    column: Column
    low: Point
    high: Point
    name: Point
    words: Point


def has_graphviz() -> bool:
    """Whether pygraphviz is installed."""
    return find_spec("pygraphviz") is not None


def lay_out(drawing: Drawing) -> Layout:
    """The positions of everything in a drawing."""
    if drawing.columns:
        placed, columns = placed_in_columns(drawing)
        return _framed(drawing, placed, _routed(drawing, placed, None), columns)
    # Between Graphviz's boxes there is no room for thousands of lines, which it draws straight.
    by_graphviz = has_graphviz() and drawing.nodes and len(drawing.edges) <= STRAIGHT
    nodes, given = _by_graphviz(drawing) if by_graphviz else (_in_rows(drawing), None)
    return _framed(drawing, nodes, _routed(drawing, nodes, given))


def _by_graphviz(drawing: Drawing) -> tuple[list[Point], list[tuple[Point, ...]]]:
    import pygraphviz

    by_id = {node.id: node for node in drawing.nodes}
    placed: Any = pygraphviz.AGraph(string=layout_text(drawing))
    try:
        placed.layout(prog="dot")
        nodes = [_point(placed.get_node(node.id).attr["pos"]) for node in drawing.nodes]
        splines = {edge.attr["id"]: edge.attr["pos"] for edge in placed.edges_iter() if edge.attr["id"]}
    finally:
        placed.close()
    curves = []
    for i, edge in enumerate(drawing.edges):
        curve = [_point(text) for text in splines[f"e{i}"].split() if text[0] not in "se"]
        curves.append(tuple(reversed(curve)) if points_down(edge, by_id) else tuple(curve))
    return nodes, curves


def _point(text: str) -> Point:
    x, y = text.split(",")[:2]
    return float(x), float(y)


def _in_rows(drawing: Drawing) -> list[Point]:
    """Rows above one another, with each box near those that it is connected to."""
    boxes = {node.id: _box(drawing, node, (0.0, 0.0)) for node in drawing.nodes}
    rows = [[node.id for node in row] for row in drawing.rows]
    lines = [(edge.source, edge.target) for edge in drawing.edges]
    x = placed_in_rows(rows, lines, {node: box.width for node, box in boxes.items()}, GAP)
    step = max([ROW, *(box.height + ROW / 2 for box in boxes.values())])
    y = {node: i * step for i, row in enumerate(rows) for node in row}
    return [_turned((x[node], y[node]), drawing) for node in boxes]


def _box(drawing: Drawing, node: DrawnNode, place: Point) -> Box:
    """A box with its frame, in coordinates in which rows go upward."""
    frame = 2 * FRAME if node.kind == "group" else 0.0
    size = _turned((node.width + frame, node.height + frame), drawing)
    return Box(*_turned(place, drawing), *size)


def _turned(point: Point, drawing: Drawing) -> Point:
    """Exchanges the axes if layers go to the right."""
    return (point[1], point[0]) if drawing.rightward else point


def _routed(
    drawing: Drawing, nodes: Sequence[Point], given: Sequence[tuple[Point, ...]] | None
) -> list[tuple[Point, ...]]:
    """Curves of lines that pass all boxes; of the given ones, only those that a box hides are routed again."""
    numbers = {node.id: i for i, node in enumerate(drawing.nodes)}
    lines = [(numbers[edge.source], numbers[edge.target]) for edge in drawing.edges]
    streets = Streets([_box(drawing, *at) for at in zip(drawing.nodes, nodes, strict=True)], CLEAR, APART)
    curves = [tuple(_turned(point, drawing) for point in curve) for curve in given or ()]
    anew = [i for i, line in enumerate(lines) if not curves or streets.hidden(line, curves[i], HIDDEN)]
    curves = curves or [()] * len(lines)
    for i, crossings in zip(anew, streets.crossings([lines[i] for i in anew]), strict=True):
        curves[i] = streets.curve(lines[i], crossings, HEAD)
    return [tuple(_turned(point, drawing) for point in curve) for curve in curves]


def _framed(
    drawing: Drawing,
    nodes: Sequence[Point],
    curves: Sequence[tuple[Point, ...]],
    columns: Sequence[Interval] = (),
) -> Layout:
    """Moves everything to the origin and adds the names of columns and the legend below."""
    xs = [x for curve in curves for x, _ in curve] + [x for ends in columns for x in ends]
    ys = [y for curve in curves for _, y in curve]
    for node, (x, y) in zip(drawing.nodes, nodes, strict=True):
        xs += [x - node.width / 2 - 4, x + node.width / 2 + 4]
        ys += [y - node.height / 2 - 4, y + node.height / 2 + 4]
    left, top = min(xs, default=0.0), max(ys, default=0.0)
    bottom = min(ys, default=0.0) - (COLUMN_TEXT if columns else 0.0)
    width, height = max(xs, default=0.0) - left, top - bottom
    legend, rows = _legend(drawing.legend, max(1.15 * width, 240.0))
    depth = rows * LEGEND_ROW + (6.0 if rows else 0.0)
    furthest = max((x + SAMPLE + 5 + text_width(line.text, SMALL_FONT) for line, (x, _) in legend), default=0.0)
    aside = max(0.0, (furthest - width) / 2)

    def moved(point: Point) -> Point:
        return round(point[0] - left + aside, 2), round(point[1] - bottom + depth, 2)

    inset = max(0.0, (width - furthest) / 2)
    return Layout(
        tuple(moved(node) for node in nodes),
        tuple(tuple(moved(point) for point in curve) for curve in curves),
        tuple((line, (round(x + inset, 2), round(depth - 6.0 - y, 2))) for line, (x, y) in legend),
        max(width, furthest),
        height + depth,
        tuple(
            Strip(column, *(moved(point) for point in _corners(ends, bottom, top)))
            for column, ends in zip(drawing.columns, columns, strict=True)
        ),
    )


def _corners(ends: Interval, bottom: float, top: float) -> tuple[Point, Point, Point, Point]:
    """The points of a `Strip`."""
    middle = (ends[0] + ends[1]) / 2
    return (
        (ends[0], bottom),
        (ends[1], top),
        (middle, bottom + COLUMN_TEXT - 8.0),
        (middle, bottom + COLUMN_TEXT - 19.0),
    )


def _legend(lines: Sequence[LegendLine], width: float) -> tuple[list[tuple[LegendLine, Point]], int]:
    """Entries in rows of at most this width, each with its distance from the left and from the top."""
    x, row, placed = 0.0, 0, []
    for line in lines:
        needed = SAMPLE + 5 + text_width(line.text, SMALL_FONT) + 10
        if x and x + needed > width:
            x, row = 0.0, row + 1
        placed.append((line, (x, row * LEGEND_ROW + LEGEND_ROW / 2)))
        x += needed
    return placed, row + 1 if placed else 0
