"""A circuit as SVG inside an HTML page: from the same drawing as the figures, without Graphviz; labels are escaped."""

import html
import math

from circuits.export.draw import draw
from circuits.export.drawing import FILLS, FONT, SMALL_FONT, Drawing, DrawnNode
from circuits.export.layout import SAMPLE, Layout, Point, lay_out
from circuits.results.circuit import Circuit

SCALE = 1.6
"""Pixels for a point: the smallest text is 11 px."""
ARROW = 6.0
"""Length of an arrow head, in points."""
SHOWN = 40
"""Lines of a picture on a page; more is a hairball."""


def inline_svg(circuit: Circuit, max_edges: int = SHOWN) -> str:
    """The strongest edges as an `<svg>` element."""
    drawing = draw(circuit, max_edges=max_edges)
    layout = lay_out(drawing)
    width, height = layout.width + 8, layout.height + 8
    title = html.escape(f"circuit: {drawing.selection}")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{title}" viewBox="-4 -4 {width:g} {height:g}" '
        f'width="{SCALE * width:.0f}" height="{SCALE * height:.0f}" font-family="system-ui, sans-serif">',
        *_lines(drawing, layout),
        *(part for node, at in zip(drawing.nodes, layout.nodes, strict=True) for part in _box(node, at, layout)),
        *_legend(layout),
        "</svg>",
    ]
    return "\n".join(parts)


def _lines(drawing: Drawing, layout: Layout) -> list[str]:
    parts = []
    for edge, curve in zip(drawing.edges, layout.curves, strict=True):
        points = [(x, layout.height - y) for x, y in curve]
        head, points[-1] = _head(edge.kind, points[-2], points[-1], max(ARROW, 2 * edge.width), edge.colour)
        first, *rest = [f"{x:.1f} {y:.1f}" for x, y in points]
        dash = ' stroke-dasharray="4 2.5"' if edge.dashed else ""
        path = f'<path d="M{first}C{" ".join(rest)}" fill="none" stroke="{edge.colour}" stroke-width="{edge.width:g}"{dash}>'
        score = "" if edge.score is None else f": {drawing.quantity.number(edge.score, 3)}"
        named = html.escape(f"{edge.source} -> {edge.target} ({edge.kind}){score}")
        parts += [f"{path}<title>{named}</title></path>", head]
    return parts


def _head(kind: str, before: Point, tip: Point, size: float, colour: str) -> tuple[str, Point]:
    """The head of an arrow, whose shape tells where it enters, and where the line ends below it."""
    length = math.dist(before, tip) or 1.0
    dx, dy = (tip[0] - before[0]) / length, (tip[1] - before[1]) / length
    if kind == "none":
        return "", tip

    def at(back: int | float, aside: int | float) -> Point:
        return tip[0] - size * (back * dx - aside * dy), tip[1] - size * (back * dy + aside * dx)

    base = at(1, 0)
    if kind == "v":
        x, y = at(0.5, 0)
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size / 2:.1f}" fill="{colour}"/>', base
    corners = {
        "q": (tip, at(0.5, 0.4), base, at(0.5, -0.4)),
        "k": (at(0, 0.6), at(0.3, 0.6), at(0.3, -0.6), at(0, -0.6)),
        "in": (tip, at(1, 0.4), at(1, -0.4)),
    }[kind]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + "Z"
    return f'<path d="{path}" fill="{colour}"/>', at(0.2, 0) if kind == "k" else base


def _box(node: DrawnNode, at: Point, layout: Layout) -> list[str]:
    x, y = at[0], layout.height - at[1]
    size = f'width="{node.width:.1f}" height="{node.height:.1f}"'
    place = f'x="{x - node.width / 2:.1f}" y="{y - node.height / 2:.1f}"'
    lines = [(node.label, FONT, 0.0)] if not node.detail else [(node.label, FONT, -4.0), (node.detail, SMALL_FONT, 6.0)]
    return [
        f'<rect {place} {size} rx="{0 if node.kind == "mlp" else 3}" fill="{FILLS[node.kind]}" stroke="#333333" stroke-width="0.7"/>',
        *(_text(text, x, y + down, points, "middle") for text, points, down in lines),
    ]


def _legend(layout: Layout) -> list[str]:
    parts = []
    for line, (x, up) in layout.legend:
        y, dash = layout.height - up, ' stroke-dasharray="4 2.5"' if line.dashed else ""
        style = f'stroke="{line.colour}" stroke-width="{line.width:g}"{dash}'
        head, end = _head(line.head, (x, y), (x + SAMPLE, y), ARROW, line.colour)
        parts += [f'<line x1="{x:g}" x2="{end[0]:g}" y1="{y:g}" y2="{y:g}" {style}/>', head,
                  _text(line.text, x + SAMPLE + 5, y, SMALL_FONT, "start")]  # fmt: skip
    return parts


def _text(text: str, x: float, y: float, size: float, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" dy="0.35em" font-size="{size:g}" text-anchor="{anchor}"'
    return f'<text {place} fill="#1a1f26">{html.escape(text)}</text>'
