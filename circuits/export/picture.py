"""A circuit as SVG, PDF or PNG, drawn by Graphviz through pygraphviz (extra `viz`; its wheel contains Graphviz).

SVG and PDF are vector graphics. The PDF embeds its fonts; the SVG only names its font (Helvetica, Arial, sans-serif), since
Graphviz cannot embed fonts there.
"""

import math
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.export.dot import ARROWS, FACE, NODE_STYLE, arrow_size, edge_style, node_style, quoted
from circuits.export.draw import draw
from circuits.export.drawing import FONT, SMALL_FONT, STRIPES, Drawing, LegendLine, text_width
from circuits.export.layout import SAMPLE, Layout, Point, Strip, has_graphviz, lay_out
from circuits.files.atomic import replacing
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming

LARGEST_PNG = 8_000
"""Pixels of the longer side; for larger pictures the resolution is lowered."""


def write_svg(circuit: Circuit, path: str | Path, naming: Naming | None = None, **options) -> None:
    """Writes the circuit as SVG; `options` are those of `circuits.export.drawing.draw`."""
    _write(circuit, path, naming, "svg", options)


def write_pdf(circuit: Circuit, path: str | Path, naming: Naming | None = None, **options) -> None:
    """Writes the circuit as PDF, fonts embedded; `options` are those of `circuits.export.drawing.draw`."""
    _write(circuit, path, naming, "pdf", options)


def write_png(
    circuit: Circuit, path: str | Path, naming: Naming | None = None, dpi: float | int = 200, **options
) -> None:
    """Writes the circuit as PNG; `options` are those of `circuits.export.drawing.draw`."""
    if not 10 <= dpi <= 1200:
        raise InputError(f"dpi must be between 10 and 1200, got {dpi}")
    _write(circuit, path, naming, "png", options, dpi)


def _write(
    circuit: Circuit,
    path: str | Path,
    naming: Naming | None,
    suffix: str,
    options: dict,
    dpi: float | int | None = None,
) -> None:
    if not has_graphviz():
        raise InputError(f"{suffix.upper()} needs pygraphviz: pip install 'mech-circuits[viz]'; DOT and TikZ do not")
    drawing = draw(circuit, naming, **options)
    layout = lay_out(drawing)
    finest = 72 * LARGEST_PNG / max(layout.width, layout.height, 1.0)
    data = render(placed_text(drawing, layout, None if dpi is None else min(dpi, finest)), suffix)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def render(text: str, suffix: str) -> bytes:
    """A picture of DOT text that has positions."""
    import pygraphviz

    graph: Any = pygraphviz.AGraph(string=text)
    try:
        return bytes(graph.draw(format=suffix, prog="nop2"))
    finally:
        graph.close()


def placed_text(drawing: Drawing, layout: Layout, dpi: float | int | None) -> str:
    """A drawing as DOT with all positions and the legend."""
    resolution = "" if dpi is None else f", dpi={dpi:.4g}"
    lines = [
        "digraph circuit {",
        f'  graph [bgcolor="#FFFFFF", margin=0, pad=0.03, outputorder=edgesfirst{resolution}];',
        # fixedsize=shape: no warning if a label is wider than estimated.
        f"  node [{NODE_STYLE}, fixedsize=shape];",
    ]
    for i, strip in enumerate(layout.columns):
        lines += _strip_lines(i, strip)
    for node, (x, y) in zip(drawing.nodes, layout.nodes, strict=True):
        lines.append(f'  "{node.id}" [{node_style(node)}, pos="{x:g},{y:g}"];')
    for edge, curve in zip(drawing.edges, layout.curves, strict=True):
        spline = _ended(curve, 10.0 * arrow_size(edge))
        lines.append(f'  "{edge.source}" -> "{edge.target}" [{edge_style(edge)}, pos="{spline}"];')
    for i, (line, (x, y)) in enumerate(layout.legend):
        lines += _legend_lines(i, line, x, y)
    return "\n".join([*lines, "}", ""])


def _strip_lines(i: int, strip: Strip) -> list[str]:
    """The strip of a span, behind everything, with its name and its words."""
    (left, low), (right, high) = strip.low, strip.high
    box = f'bb="{left:g},{low:g},{right:g},{high:g}", style=filled, color="{STRIPES[i % 2]}"'
    lines = [f'  subgraph "cluster_{i}" {{ graph [{box}, label=""]; }}']
    for what, text, size, (x, y) in (
        ("span", strip.column.name, FONT, strip.name),
        ("words", strip.column.words, SMALL_FONT, strip.words),
    ):
        if text is not None:
            lines.append(
                f'  "{what} {i}" [shape=plaintext, width={text_width(text, size) / 72:.4f}, height=0.14, fontsize={size:g}, '
                f'fontname="{FACE}", label="{quoted(text)}", pos="{x:g},{y:g}"];'
            )
    return lines


def _ended(curve: tuple[Point, ...], head: float) -> str:
    """The curve up to an arrow head of this length, and its tip."""
    (bx, by), (tx, ty) = curve[-2], curve[-1]
    length = math.hypot(tx - bx, ty - by) or 1.0
    share = min(head, 0.9 * length) / length
    end = (tx + (bx - tx) * share, ty + (by - ty) * share)
    points = [*curve[:-1], end]
    return f"e,{tx:.2f},{ty:.2f} " + " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def _legend_lines(i: int, line: LegendLine, x: float, y: float) -> list[str]:
    end = x + SAMPLE
    curve = ((x, y), (x + SAMPLE / 3, y), (x + 2 * SAMPLE / 3, y), (end, y))
    pos = " ".join(f"{a:g},{b:g}" for a, b in curve) if line.head == "none" else _ended(curve, 5.5)
    size = text_width(line.text, SMALL_FONT)
    # \\l: text begins at the left.
    invisible = 'shape=point, style=invis, width=0.01, height=0.01, label=""'
    style = f'color="{line.colour}", penwidth={line.width:g}, style={"dashed" if line.dashed else "solid"}'
    return [
        f'  "line {i}" [{invisible}, pos="{x:g},{y:g}"];',
        f'  "end {i}" [{invisible}, pos="{end:g},{y:g}"];',
        f'  "line {i}" -> "end {i}" [{style}, arrowhead={ARROWS[line.head]}, arrowsize=0.55, pos="{pos}"];',
        f'  "text {i}" [shape=plaintext, width={size / 72:.4f}, height=0.14, fontsize={SMALL_FONT:g}, '
        f'fontname="{FACE}", label="{quoted(line.text)}\\l", pos="{end + 5 + size / 2:g},{y:g}"];',
    ]
