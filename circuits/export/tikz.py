"""A circuit as TikZ: a `tikzpicture` for a paper, or a document with only that picture.

Needs `\\usepackage{tikz}` and `\\usetikzlibrary{arrows.meta}`. The document compiles with pdflatex alone. It sets the page size
itself, since small TeX installations lack the class `standalone`.
"""

from pathlib import Path

from circuits.export.dot import FRAME, arrow_size
from circuits.export.draw import draw
from circuits.export.drawing import FILLS, FONT, SMALL_FONT, STRIPES, Drawing, DrawnEdge, DrawnNode
from circuits.export.latex import escape
from circuits.export.layout import SAMPLE, Point, Strip, lay_out
from circuits.files.atomic import write_text
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming

ARROWS = {
    "q": ("Diamond", 1.4, 0.7),
    "k": ("Rectangle", 0.35, 3.2),
    "v": ("Circle", 0.95, 1.0),
    "in": ("Triangle", 1.2, 0.75),
}
"""For each kind, an arrow head of the library arrows.meta, its length, and the ratio of width to length."""
LARGEST = 14_000.0
"""Points; TeX's lengths end at 16,383."""
_DOCUMENT = r"""% Compile with pdflatex.
\documentclass{article}
\usepackage{tikz}
\usetikzlibrary{arrows.meta}
\begin{document}
\setbox0=\hbox{%
PICTURE}
\pdfhorigin=2bp \pdfvorigin=2bp
\pdfpagewidth=\dimexpr\wd0+4bp\relax
\pdfpageheight=\dimexpr\ht0+\dp0+4bp\relax
\shipout\box0
\end{document}
"""


def write_tikz(circuit: Circuit, path: str | Path, naming: Naming | None = None, **options) -> None:
    """Writes a document of the circuit alone; `options` are those of `circuits.export.drawing.draw`."""
    write_text(path, _DOCUMENT.replace("PICTURE", tikz_text(draw(circuit, naming, **options))))


def write_tikzpicture(circuit: Circuit, path: str | Path, naming: Naming | None = None, **options) -> None:
    """Writes a bare `tikzpicture`; `options` are those of `circuits.export.drawing.draw`."""
    head = "% Needs \\usepackage{tikz} and \\usetikzlibrary{arrows.meta}.\n"
    write_text(path, head + tikz_text(draw(circuit, naming, **options)))


def tikz_text(drawing: Drawing) -> str:
    """A drawing as a `tikzpicture`."""
    layout = lay_out(drawing)
    used = {edge.colour for edge in drawing.edges} | {line.colour for line in drawing.legend}
    used |= {*FILLS.values(), *(STRIPES if layout.columns else ())}
    colours = {colour: f"circuit{i}" for i, colour in enumerate(sorted(used))}
    unit = f"{min(1.0, LARGEST / max(layout.width, layout.height, 1.0)):.4g}bp"
    style = f"inner sep=0, outer sep=0, align=center, font={_font(FONT)}"
    lines = [rf"\begin{{tikzpicture}}[x={unit}, y={unit}, circuit/.style={{{style}}}]"]
    lines += [rf"  \definecolor{{{name}}}{{HTML}}{{{colour[1:]}}}" for colour, name in colours.items()]
    for i, strip in enumerate(layout.columns):
        lines += _strip_lines(strip, colours[STRIPES[i % 2]])
    for edge, curve in zip(drawing.edges, layout.curves, strict=True):
        lines.append(rf"  \draw[{_edge_style(edge, colours[edge.colour])}] {_path(curve)};")
    for i, (node, place) in enumerate(zip(drawing.nodes, layout.nodes, strict=True)):
        lines += _node_lines(f"n{i}", node, place, colours)
    for line, (x, y) in layout.legend:
        head = "" if line.head == "none" else f", -{{{_head(line.head, 5.0)}}}"
        dash = ", dashed" if line.dashed else ""
        lines.append(
            rf"  \draw[{colours[line.colour]}, line width={line.width:g}bp{dash}{head}] ({x:g},{y:g}) -- +({SAMPLE:g},0);"
        )
        lines.append(
            rf"  \node[circuit, anchor=west, font={_font(SMALL_FONT)}] at ({x + SAMPLE + 2:g},{y:g}) {{{escape(line.text)}}};"
        )
    return "\n".join([*lines, r"\end{tikzpicture}", ""])


def _strip_lines(strip: Strip, colour: str) -> list[str]:
    """The strip of a span, with its name and its words."""
    (left, low), (right, high) = strip.low, strip.high
    lines = [rf"  \fill[{colour}] ({left:g},{low:g}) rectangle ({right:g},{high:g});"]
    for text, size, (x, y) in ((strip.column.name, FONT, strip.name), (strip.column.words, SMALL_FONT, strip.words)):
        if text is not None:
            lines.append(rf"  \node[circuit, font={_font(size)}] at ({x:g},{y:g}) {{{escape(text)}}};")
    return lines


def _font(size: float) -> str:
    return rf"\sffamily\fontsize{{{size:g}}}{{{size:g}}}\selectfont"


def _node_lines(name: str, node: DrawnNode, place: Point, colours: dict[str, str]) -> list[str]:
    text = escape(node.label)
    if node.detail:
        text += rf"\\[-1bp]{{{_font(SMALL_FONT)} {escape(node.detail)}}}"
    corners = "" if node.kind == "mlp" else ", rounded corners=3bp"
    size = f"minimum width={node.width:g}bp, minimum height={node.height:g}bp"
    style = f"circuit, draw=black!80, line width=0.6bp, fill={colours[FILLS[node.kind]]}, {size}{corners}"
    x, y = place
    lines = []
    if node.kind == "group":
        w, h = node.width / 2 + FRAME, node.height / 2 + FRAME
        lines.append(
            rf"  \draw[black!80, line width=0.6bp, fill=white, rounded corners=4bp] ({x - w:g},{y - h:g}) rectangle ({x + w:g},{y + h:g});"
        )
    return [*lines, rf"  \node[{style}] ({name}) at ({x:g},{y:g}) {{{text}}};"]


def _edge_style(edge: DrawnEdge, colour: str) -> str:
    dash = f", dash pattern=on {3 + edge.width:g}bp off {2 + edge.width:g}bp" if edge.dashed else ""
    return f"{colour}, line width={edge.width:g}bp{dash}, -{{{_head(edge.kind, 10 * arrow_size(edge))}}}"


def _head(kind: str, length: float) -> str:
    shape, factor, share = ARROWS[kind]
    length *= factor
    return f"{shape}[length={length:.2f}bp, width={length * share:.2f}bp]"


def _path(curve: tuple[Point, ...]) -> str:
    """A chain of Bézier curves."""
    text = f"({curve[0][0]:g},{curve[0][1]:g})"
    for i in range(1, len(curve), 3):
        a, b, end = curve[i : i + 3]
        text += f" .. controls ({a[0]:g},{a[1]:g}) and ({b[0]:g},{b[1]:g}) .. ({end[0]:g},{end[1]:g})"
    return text
