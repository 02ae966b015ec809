"""An interactive picture of a circuit: layers go up, width shows the size of an effect, colour and dashes its sign."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from circuits.export.placing import kind_of, level, placed_in_rows
from circuits.plots.figure import Figure
from circuits.plots.page import NEGATIVE, NEUTRAL, POSITIVE, SIZE, escaped
from circuits.results.circuit import Circuit
from circuits.results.quantity import Quantity, quantity_of

NODE_COLOURS = {"input": "#e8eaed", "head": "#ffffff", "mlp": "#f3e6c4", "logits": "#e8eaed"}
N_WIDTHS = 8
CURVE_POINTS = 24

Point = tuple[float, float]


def circuit_figure(circuit: Circuit, title: str | None = None) -> Figure:
    """An interactive picture of a circuit, with layers going up.

    Width shows the absolute score. If scores have a sign, positive edges are blue and solid, negative ones vermilion and dashed; see
    `circuits.results.quantity`. Hovering over an edge or node shows names and numbers.

    Args:
        circuit: any circuit; without scores all edges look alike.
        title: of the figure; None: the numbers of edges and nodes.
    """
    edges = drawn_edges(circuit)
    places = node_places(circuit, edges)
    figure = Figure()
    _add_edges(figure, edges, places, quantity_of(circuit.provenance))
    _add_nodes(figure, circuit, edges, places)
    rows = sorted({y for _, y in places.values()})
    labels = [next(row_label(node) for node, (_, row) in places.items() if row == y) for y in rows]
    drawn = [x for edge in edges for x, _ in _curve(places[edge.source], places[edge.target])]
    widest = max((abs(x) for x in [*drawn, *(x for x, _ in places.values())]), default=0.0)
    figure.update_layout(
        title={"text": title or f"{len(circuit)} edges, {len(circuit.nodes)} nodes", "x": 0.5},
        template="plotly_white",
        width=int(min(1800, max(760, 110 + 2 * widest * 78 + 80))),
        height=int(max(420, 150 + 46 * len(rows))),
        margin={"l": 70, "r": 30, "t": 90, "b": 30},
        xaxis={"visible": False, "range": [-widest - 0.8, widest + 0.8]},
        yaxis={"tickvals": rows, "ticktext": labels, "showgrid": True, "gridcolor": "#f0f0f0", "zeroline": False},
        legend={"orientation": "h", "y": -0.02, "x": 0.5, "xanchor": "center"},
        hovermode="closest",
    )
    return figure


class _Edge(NamedTuple):
    """A line of the picture. An edge into a shared key/value head has a line to each query head of the group that is drawn."""

    name: str
    source: str
    target: str
    kind: str
    score: float | None
    stderr: float | None

    def hover(self, quantity: Quantity) -> str:
        if self.score is None:
            return escaped(self.name)
        error = f" ± {self.stderr:.2g}" if self.stderr is not None and not math.isnan(self.stderr) else ""
        return f"{escaped(self.name)}<br>{quantity.number(self.score)}{error}"


def drawn_edges(circuit: Circuit) -> list[_Edge]:
    graph, nodes = circuit.graph, set(circuit.nodes)
    edges = []
    targets = [[node for node in graph.nodes_fed_by(r) if node in nodes] or ["logits"] for r in graph.reader_nodes]
    for w, r, score, stderr in circuit.entries():
        reader, source = graph.reader_nodes[r], graph.writer_names[w]
        name = f"{source}->{reader.name}"
        edges += [_Edge(name, source, target, reader.kind, score, stderr) for target in targets[r]]
    return sorted(edges, key=lambda edge: abs(edge.score or 0.0))


def row_label(node: str) -> str:
    if node in ("input", "logits"):
        return node
    return f"MLP {node[1:]}" if node[0] == "m" else f"heads {node[1:].split('.')[0]}"


def node_places(circuit: Circuit, edges: Sequence[_Edge]) -> dict[str, Point]:
    """The position of each node: rows by layer, within a row near the nodes that it is connected to."""
    levels = {node: level(node, circuit.graph.n_layers) for node in circuit.nodes}
    rows = [[node for node in levels if levels[node] == height] for height in sorted(set(levels.values()))]
    lines = [(edge.source, edge.target) for edge in edges]
    x = placed_in_rows(rows, lines, dict.fromkeys(levels, 0.0), gap=1.0)
    return {node: (x[node], float(y)) for y, row in enumerate(rows) for node in row}


def _curve(start: Point, end: Point) -> list[Point]:
    """A cubic Bézier curve that leaves upward and arrives from below; the longer, the wider it swings."""
    (x0, y0), (x1, y1) = start, end
    rise = (y1 - y0) / 2
    swing = 0.12 * max(0.0, y1 - y0 - 1) * (1 if (x0 + x1) >= 0 else -1)
    controls = [(x0, y0), (x0 + swing, y0 + rise), (x1 + swing, y1 - rise), (x1, y1)]
    points = []
    for i in range(CURVE_POINTS + 1):
        t = i / CURVE_POINTS
        weights = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
        points.append(tuple(sum(w * c[axis] for w, c in zip(weights, controls, strict=True)) for axis in (0, 1)))
    return points  # type: ignore[return-value]


def _add_edges(figure: Figure, edges: Sequence[_Edge], places: dict[str, Point], quantity: Quantity) -> None:
    largest = max((abs(edge.score) for edge in edges if edge.score is not None), default=0.0) or 1.0
    groups: dict[tuple[str, int], list[_Edge]] = {}
    for edge in edges:
        size = 1.0 if edge.score is None else math.sqrt(abs(edge.score) / largest)
        sign = quantity.says(edge.score) or "edge"
        groups.setdefault((sign, round(size * (N_WIDTHS - 1))), []).append(edge)
    styles = {
        "edge": (NEUTRAL, "solid"), quantity.name: (SIZE, "solid"), quantity.positive: (POSITIVE, "solid"),
        quantity.negative: (NEGATIVE, "dash"),
    }  # fmt: skip
    shown: set[str] = set()
    for (sign, bucket), group in sorted(groups.items(), key=lambda item: item[0][1]):
        colour, dash = styles[sign]
        points: list[tuple[float | None, float | None, str | None]] = []
        for edge in group:
            points += [(x, y, edge.hover(quantity)) for x, y in _curve(places[edge.source], places[edge.target])]
            points.append((None, None, None))
        xs, ys, hover = map(list, zip(*points, strict=True))
        figure.add_scatter(
            x=xs, y=ys, text=hover, hoverinfo="text", mode="lines", name=sign, legendgroup=sign,
            showlegend=sign not in shown, opacity=0.35 + 0.6 * bucket / (N_WIDTHS - 1),
            line={"color": colour, "dash": dash, "width": 0.8 + 6.0 * bucket / (N_WIDTHS - 1)},
        )  # fmt: skip
        shown.add(sign)


def _add_nodes(figure: Figure, circuit: Circuit, edges: Sequence[_Edge], places: dict[str, Point]) -> None:
    into: dict[str, set[str]] = {node: set() for node in places}
    out: dict[str, set[str]] = {node: set() for node in places}
    for edge in edges:
        out[edge.source].add(edge.name)
        into[edge.target].add(edge.name)
    for node, (x, y) in places.items():
        figure.add_annotation(
            x=x, y=y, text=node, hovertext=f"{node}<br>{len(into[node])} edges in, {len(out[node])} out", showarrow=False,
            font={"size": 12, "color": "#111111"}, bgcolor=NODE_COLOURS[kind_of(node)], bordercolor="#444444",
            borderwidth=1, borderpad=4,
        )  # fmt: skip
