"""A circuit as DOT, for Graphviz: one row per layer, without positions, so that any of its programs can lay it out.

Text is quoted here, since pygraphviz takes a label `<…>` for HTML.
"""

from dataclasses import replace
from pathlib import Path

from circuits.export.draw import draw
from circuits.export.drawing import FILLS, FONT, SMALL_FONT, Drawing, DrawnEdge, DrawnNode
from circuits.files.atomic import write_text
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming

ARROWS = {"q": "diamond", "k": "tee", "v": "dot", "in": "normal", "none": "none"}
"""Arrow heads that can be distinguished at any angle and width: diamond, bar, disc, triangle."""
STRAIGHT = 1000
"""With more lines than this, lines are straight: routing 1,800 lines around boxes takes 8 seconds, and none can be followed."""
FRAME = 4.0
"""Points from a merged node's box to its second frame."""
FACE = "Helvetica,Arial,sans-serif"
NODE_STYLE = (
    f'shape=box, fontname="{FACE}", fontsize={FONT:g}, fixedsize=true, penwidth=0.7, margin=0, fontcolor="#000000"'
)


def write_dot(circuit: Circuit, path: str | Path, naming: Naming | None = None, **options) -> None:
    """Writes the circuit as DOT; `options` are those of `circuits.export.drawing.draw`."""
    write_text(path, dot_text(draw(circuit, naming, **options)))


def dot_text(drawing: Drawing) -> str:
    """A drawing as DOT, without positions. Over tokens the boxes name their spans, since no column shows them."""
    nodes = [_with_span(node, drawing) for node in drawing.nodes]
    by_id = {node.id: node for node in nodes}
    lines = ["digraph circuit {", *_graph_lines(drawing), *_rank_lines(drawing)]
    lines += [f'  "{node.id}" [{node_style(node)}];' for node in nodes]
    for edge in drawing.edges:
        style = edge_style(edge)
        if points_down(edge, by_id):
            style = style.replace("arrowhead=", "dir=back, arrowtail=", 1)
            lines.append(f'  "{edge.target}" -> "{edge.source}" [{style}];')
        else:
            lines.append(f'  "{edge.source}" -> "{edge.target}" [{style}];')
    return "\n".join([*lines, "}", ""])


def _with_span(node: DrawnNode, drawing: Drawing) -> DrawnNode:
    """The box with the name of its span in its second line."""
    if node.column is None:
        return node
    before = "" if node.detail is None else f"{node.detail} "
    return replace(node, detail=f"{before}at {drawing.columns[node.column].name}")


def layout_text(drawing: Drawing) -> str:
    """The input for Graphviz's layout: sizes and ranks, and lines without arrow heads, so that they end at boxes."""
    by_id = {node.id: node for node in drawing.nodes}
    lines = ["digraph layout {", *_graph_lines(drawing), "  edge [dir=none];", *_rank_lines(drawing)]
    lines += [f'  "{node.id}" [label="", {_size(node, frame=True)}];' for node in drawing.nodes]
    for i, edge in enumerate(drawing.edges):
        ends = (edge.target, edge.source) if points_down(edge, by_id) else (edge.source, edge.target)
        lines.append(f'  "{ends[0]}" -> "{ends[1]}" [id=e{i}];')
    return "\n".join([*lines, "}", ""])


def points_down(edge: DrawnEdge, by_id: dict[str, DrawnNode]) -> bool:
    """Whether a line goes against the order of layers, as some between groups do."""
    return by_id[edge.source].row > by_id[edge.target].row


def _graph_lines(drawing: Drawing) -> list[str]:
    direction = "LR" if drawing.rightward else "BT"
    lines = [f"  graph [rankdir={direction}, ranksep=0.3, nodesep=0.14];", f"  node [{NODE_STYLE}];"]
    if len(drawing.edges) > 400:
        # Limit the searches of the layout: seconds instead of minutes for a thousand lines.
        lines.append("  graph [nslimit=2, nslimit1=2, mclimit=0.3, searchsize=10];")
    if len(drawing.edges) > STRAIGHT:
        lines.append("  graph [splines=line, nslimit=0.5, nslimit1=0.5, mclimit=0.1, searchsize=5];")
    return lines


def _rank_lines(drawing: Drawing) -> list[str]:
    """One rank per row, ordered by a chain of invisible nodes."""
    lines = ['  node [style=invis, width=0.01, height=0.01, label=""];']
    for i, row in enumerate(drawing.rows):
        nodes = " ".join(f'"{node.id}";' for node in row)
        lines.append(f'  {{ rank=same; "row {i}"; {nodes} }}')
        if i:
            lines.append(f'  "row {i - 1}" -> "row {i}" [style=invis];')
    return [*lines, "  node [style=solid];"]


def _size(node: DrawnNode, frame: bool = False) -> str:
    more = 2 * FRAME if frame and node.kind == "group" else 0.0
    return f"width={(node.width + more) / 72:.4f}, height={(node.height + more) / 72:.4f}"


def node_style(node: DrawnNode) -> str:
    """The attributes of a box: heads are rounded, MLPs square, groups have a double frame."""
    shape = "filled" if node.kind == "mlp" else "filled,rounded"
    frames = ", peripheries=2" if node.kind == "group" else ""
    group = "" if node.column is None else f', group="column {node.column}"'
    return f'{_label(node)}, style="{shape}", fillcolor="{FILLS[node.kind]}", color="#333333"{frames}{group}, {_size(node)}'


def _label(node: DrawnNode) -> str:
    if node.detail is None:
        return f'label="{quoted(node.label)}"'
    # An HTML-like label, for two text sizes.
    return (
        f'label=<<font point-size="{FONT:g}">{markup(node.label)}</font><br/>'
        f'<font point-size="{SMALL_FONT:g}">{markup(node.detail)}</font>>'
    )


def edge_style(edge: DrawnEdge) -> str:
    """The attributes of a line, with the kind and effect of the edge for other programs."""
    score = "" if edge.score is None else f', score="{edge.score:.6g}"'
    style = "dashed" if edge.dashed else "solid"
    return (
        f'color="{edge.colour}", penwidth={edge.width:g}, style={style}, arrowhead={ARROWS[edge.kind]}, '
        f'arrowsize={arrow_size(edge):.2f}, kind="{edge.kind}"{score}'
    )


def arrow_size(edge: DrawnEdge) -> float:
    """The size of an arrow head, in Graphviz's unit of 10 points."""
    return 0.42 + 0.09 * edge.width


def quoted(text: str) -> str:
    """Text inside double quotes: `\\` starts an escape, `&` an entity."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")


_MARKUP = str.maketrans(
    {"&": "&amp;", "\\": "\\\\", "<": "&lt;", ">": "&gt;", '"': "&quot;", "[": "&#91;", "]": "&#93;"}
)


def markup(text: str) -> str:
    """Text inside an HTML-like label."""
    return text.translate(_MARKUP)
