"""Where the boxes and lines of a drawing go: by Graphviz where pygraphviz is installed, else (and for very many lines) in plain rows.

Both pictures and TikZ are made of the same positions, and in all of them no line passes behind a box that it does not touch
(`circuits.export.routing`). Lengths are points, the origin is at the bottom left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from circuits.export.dot import FRAME, STRAIGHT, layout_text, points_down
from circuits.export.drawing import SMALL_FONT, Drawing, DrawnNode, LegendLine, text_width
from circuits.export.placing import placed_in_rows
from circuits.export.routing import Box, Point, Streets

ROW, GAP = 38.0, 16.0
"""Between rows and between boxes of a row, where Graphviz is not there."""
CLEAR, APART, HEAD = 3.0, 3.0, 8.5
"""From a line to a box that it passes, between two lines that pass it, and how far a line is straight before its arrow head."""
HIDDEN = 0.5
"""A line of Graphviz's that comes nearer to a box that it passes is led anew."""
SAMPLE = 26.0
"""Length of a sample line in the legend."""
LEGEND_ROW = 12.0


@dataclass(frozen=True)
class Layout:
    """Places, in points.

    Attributes:
        nodes: per box its middle.
        curves: per line the control points of cubic Bézier curves, 3n + 1 of them, from box to box.
        legend: per entry, where its sample line begins; it is `SAMPLE` long, and text follows.
        width, height: of the whole.
    """

    nodes: tuple[Point, ...]
    curves: tuple[tuple[Point, ...], ...]
    legend: tuple[tuple[LegendLine, Point], ...]
    width: float
    height: float


def has_graphviz() -> bool:
    """Whether pygraphviz is installed."""
    return find_spec("pygraphviz") is not None


def lay_out(drawing: Drawing) -> Layout:
    """Places for everything in a drawing."""
    # Graphviz's boxes leave no room to lead thousands of lines past them, and it draws those straight.
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
        found = {edge.attr["id"]: edge.attr["pos"] for edge in placed.edges_iter() if edge.attr["id"]}
    finally:
        placed.close()
    curves = []
    for i, edge in enumerate(drawing.edges):
        curve = [_point(text) for text in found[f"e{i}"].split() if text[0] not in "se"]
        curves.append(tuple(reversed(curve)) if points_down(edge, by_id) else tuple(curve))
    return nodes, curves


def _point(text: str) -> Point:
    x, y = text.split(",")[:2]
    return float(x), float(y)


def _in_rows(drawing: Drawing) -> list[Point]:
    """Rows above one another, each box near those that it is wired to."""
    boxes = {node.id: _box(drawing, node, (0.0, 0.0)) for node in drawing.nodes}
    neighbours: dict[str, list[str]] = {node: [] for node in boxes}
    for edge in drawing.edges:
        neighbours[edge.source].append(edge.target)
        neighbours[edge.target].append(edge.source)
    rows = [[node.id for node in row] for row in drawing.rows]
    x = placed_in_rows(rows, neighbours, {node: box.width for node, box in boxes.items()}, GAP)
    step = max([ROW, *(box.height + ROW / 2 for box in boxes.values())])
    y = {node: i * step for i, row in enumerate(rows) for node in row}
    return [_turned((x[node], y[node]), drawing) for node in boxes]


def _box(drawing: Drawing, node: DrawnNode, place: Point) -> Box:
    """A box with its frame, as rows go upward."""
    frame = 2 * FRAME if node.kind == "group" else 0.0
    size = _turned((node.width + frame, node.height + frame), drawing)
    return Box(*_turned(place, drawing), *size)


def _turned(point: Point, drawing: Drawing) -> Point:
    """Axes exchanged where layers go to the right; twice is back again."""
    return (point[1], point[0]) if drawing.rightward else point


def _routed(
    drawing: Drawing, nodes: Sequence[Point], given: Sequence[tuple[Point, ...]] | None
) -> list[tuple[Point, ...]]:
    """Lines past the boxes; of those that are given, only the ones that a box would hide are led anew."""
    numbers = {node.id: i for i, node in enumerate(drawing.nodes)}
    lines = [(numbers[edge.source], numbers[edge.target]) for edge in drawing.edges]
    streets = Streets([_box(drawing, *at) for at in zip(drawing.nodes, nodes, strict=True)], CLEAR, APART)
    curves = [tuple(_turned(point, drawing) for point in curve) for curve in given or ()]
    anew = [i for i, line in enumerate(lines) if not curves or streets.hidden(line, curves[i], HIDDEN)]
    curves = curves or [()] * len(lines)
    for i, crossings in zip(anew, streets.crossings([lines[i] for i in anew]), strict=True):
        curves[i] = streets.curve(lines[i], crossings, HEAD)
    return [tuple(_turned(point, drawing) for point in curve) for curve in curves]


def _framed(drawing: Drawing, nodes: Sequence[Point], curves: Sequence[tuple[Point, ...]]) -> Layout:
    """Everything moved to the origin, with the legend below."""
    xs = [x for curve in curves for x, _ in curve]
    ys = [y for curve in curves for _, y in curve]
    for node, (x, y) in zip(drawing.nodes, nodes, strict=True):
        xs += [x - node.width / 2 - 4, x + node.width / 2 + 4]
        ys += [y - node.height / 2 - 4, y + node.height / 2 + 4]
    left, bottom = min(xs, default=0.0), min(ys, default=0.0)
    width, height = max(xs, default=0.0) - left, max(ys, default=0.0) - bottom
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
    )


def _legend(lines: Sequence[LegendLine], width: float) -> tuple[list[tuple[LegendLine, Point]], int]:
    """Entries in rows no wider than `width`, each with its distance from the left and from the top."""
    x, row, placed = 0.0, 0, []
    for line in lines:
        needed = SAMPLE + 5 + text_width(line.text, SMALL_FONT) + 10
        if x and x + needed > width:
            x, row = 0.0, row + 1
        placed.append((line, (x, row * LEGEND_ROW + LEGEND_ROW / 2)))
        x += needed
    return placed, row + 1 if placed else 0
