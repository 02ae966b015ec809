"""Where the boxes and lines of a drawing go: by Graphviz where pygraphviz is installed, else in plain rows.

Both pictures and TikZ are made of the same positions. Lengths are points, the origin is at the bottom left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from circuits.export.dot import layout_text, points_down
from circuits.export.drawing import SMALL_FONT, Drawing, LegendLine, text_width

Point = tuple[float, float]

ROW, GAP = 38.0, 10.0
"""Between rows and between boxes of a row, where Graphviz is not there."""
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
    nodes, curves = _by_graphviz(drawing) if has_graphviz() and drawing.nodes else _in_rows(drawing)
    return _framed(drawing, nodes, curves)


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


def _in_rows(drawing: Drawing) -> tuple[list[Point], list[tuple[Point, ...]]]:
    """Rows centred above one another, each ordered by where its boxes' neighbours are."""
    rows, nodes = [list(row) for row in drawing.rows], {node.id: node for node in drawing.nodes}
    x = {node.id: float(i) for row in rows for i, node in enumerate(row)}
    neighbours: dict[str, list[str]] = {node: [] for node in nodes}
    for edge in drawing.edges:
        neighbours[edge.source].append(edge.target)
        neighbours[edge.target].append(edge.source)

    def extent(node: str) -> tuple[float, float]:
        box = nodes[node]
        return (box.height, box.width) if drawing.rightward else (box.width, box.height)

    for sweep in range(8):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wish = {n.id: sum(x[m] for m in neighbours[n.id]) / max(1, len(neighbours[n.id])) for n in row}
            row.sort(key=lambda node: wish[node.id])
            start = -sum(extent(node.id)[0] + GAP for node in row) / 2
            for node in row:
                x[node.id] = start + (extent(node.id)[0] + GAP) / 2
                start += extent(node.id)[0] + GAP
    step = max([ROW, *(extent(node)[1] + ROW / 2 for node in nodes)])
    y = {node.id: i * step for i, row in enumerate(rows) for node in row}
    curves = []
    for edge in drawing.edges:
        up = 1.0 if y[edge.source] <= y[edge.target] else -1.0
        start, end = y[edge.source] + up * extent(edge.source)[1] / 2, y[edge.target] - up * extent(edge.target)[1] / 2
        bend = (end - start) / 2
        # A line that passes rows swings out, so as not to lie behind their boxes.
        swing = 0.25 * (abs(end - start) // step) * step
        swing *= 1 if x[edge.source] + x[edge.target] >= 0 else -1
        xs, xt = x[edge.source], x[edge.target]
        curves.append(((xs, start), (xs + swing, start + bend), (xt + swing, end - bend), (xt, end)))
    places = [(x[node], y[node]) for node in nodes]
    if drawing.rightward:
        return [(b, a) for a, b in places], [tuple((b, a) for a, b in curve) for curve in curves]
    return places, curves


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
