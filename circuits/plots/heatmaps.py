"""Heat maps of node scores: layers × heads, or nodes × positions.

If scores have a sign, blue is positive, vermilion negative and white is 0, and the scale is symmetric about 0; sizes, which
have no sign, go from white (0) to green (`circuits.results.quantity`). Grey cells were not measured.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from circuits.errors import InputError
from circuits.plots.figure import Figure, subplots
from circuits.plots.labels import colour_bar_title, figure_title, hover, short, windows
from circuits.plots.page import NEGATIVE, NOT_MEASURED, POSITIVE, SIZE, escaped
from circuits.results.node_scores import NodeScores

SCALE = [(0.0, NEGATIVE), (0.5, "#ffffff"), (1.0, POSITIVE)]
SIZES = [(0.0, "#ffffff"), (1.0, SIZE)]
PANELS = {
    "heads": "heads",
    "mlp": "MLPs",
    "q": "queries",
    "k": "keys",
    "v": "values",
    "neurons": "neurons",
    "": "nodes",
}
"""Kinds of nodes in the order of their panels, and the titles of panels."""
WIDEST = 1000
"""Pixels of all panels together."""
TALL = 600
"""Pixels of a panel whose columns are labelled at its top, where they are in sight."""
NAMED = 15
"""Rows of a fine panel that are named beside it."""
FINE_ROW = 4
"""Pixels of a row without a label."""
LABELLED = 48
"""The largest number of rows that each have a label; more are labelled by layer."""
_NAME = re.compile(r"a(\d+)\.((?:h|kv)\d+)(?:<([qkv])>)?|m(\d+)(?:\.(n\d+))?|(input)")


class _Place(NamedTuple):
    """The panel of a node, its layer (-1 for `input`, below the first) and its column in a map of layers."""

    kind: str
    layer: int
    column: str


def _place(name: str) -> _Place | None:
    """The place of a node; None for nodes patched together."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    layer, head, part, mlp, neuron, _ = match.groups()
    if layer is not None:
        return _Place(part or "heads", int(layer), head)
    if mlp is not None:
        return _Place("neurons" if neuron else "mlp", int(mlp), neuron or "MLP")
    return _Place("mlp", -1, "MLP")


@dataclass
class _Panel:
    """One grid of cells.

    Attributes:
        title: above the grid.
        rows: labels, from below.
        columns: labels, from the left.
        cells: (row, column) -> number of the score.
        names: of the axes of rows and columns.
        breaks: rows before which a line is drawn.
        nodes: the names of rows that are too many for labels.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[int, int], int]
    names: tuple[str, str] = ("", "")
    breaks: Sequence[int] = field(default_factory=tuple)
    nodes: Sequence[str] = ()


def node_heatmap(scores: NodeScores, normalised: bool = False) -> Figure:
    """Layers × heads, with a column for the MLPs; queries, keys, values and neurons have their own panels.

    Args:
        scores: without positions.
        normalised: effects as a share of mean(clean) - mean(corrupted).

    Raises:
        InputError: the scores have positions, or cannot be normalised.
    """
    if scores.positions is not None:
        raise InputError("these scores have positions; use position_heatmap")
    places = [_place(name) for name in scores.nodes]
    known = [place for place in places if place is not None]
    if len(known) < len(places):
        cells = {(row, 0): row for row in range(len(places))}
        panels = [_Panel("", [short(name) for name in scores.nodes], [""], cells)]
    else:
        panels = _layer_panels(known, windows(scores))
    return _figure(scores, panels, normalised, row_height=18, column_width=26)


def _layer_panels(places: Sequence[_Place], window: str) -> list[_Panel]:
    """A panel for each kind of node; all have the same rows."""
    lowest, highest = (choose(place.layer for place in places) for choose in (min, max))
    layers = list(range(min(lowest, 0), highest + 1))
    panels = []
    for kind in PANELS:
        columns = sorted({p.column for p in places if p.kind == kind}, key=lambda column: (len(column), column))
        cells = {(layers.index(p.layer), columns.index(p.column)): i for i, p in enumerate(places) if p.kind == kind}
        if cells:
            # The column of MLPs is too narrow for a title; its tick has the name.
            across = "" if kind == "mlp" else PANELS[kind] + (f"<br>{window}" if window else "")
            rows = ["input" if layer < 0 else str(layer) for layer in layers]
            panels.append(_Panel("", rows, columns, cells, ("" if panels else "layer", across)))
    return panels


def position_heatmap(scores: NodeScores, tokens: Sequence[str] | None = None, normalised: bool = False) -> Figure:
    """Nodes × positions, with layers going up; MLPs, heads, queries … have their own panels.

    Args:
        scores: with positions.
        tokens: the label of each position; None: the labels of the scores (roles, or token numbers).
        normalised: effects as a share of mean(clean) - mean(corrupted).

    Raises:
        InputError: the scores have no positions, the labels are not one each, or the scores cannot be normalised.
    """
    if scores.positions is None:
        raise InputError("these scores have no positions; use node_heatmap")
    columns = scores.positions if tokens is None else tuple(tokens)
    if len(columns) != len(scores.positions):
        raise InputError(f"there are {len(scores.positions)} positions, but {len(columns)} token labels")
    kinds: dict[str, list[int]] = {kind: [] for kind in PANELS}
    for i, name in enumerate(scores.nodes):
        place = _place(name)
        kinds[place.kind if place else ""].append(i)
    panels = [_position_panel(scores, kind, members, columns) for kind, members in kinds.items() if members]
    tallest = max(len(panel.rows) for panel in panels)
    narrow = 22 if max(map(len, columns)) <= 3 else 34
    return _figure(scores, panels, normalised, row_height=16 if tallest <= LABELLED else FINE_ROW, column_width=narrow)


def _position_panel(scores: NodeScores, kind: str, members: Sequence[int], columns: Sequence[str]) -> _Panel:
    n = len(columns)
    cells = {(row, column): i * n + column for row, i in enumerate(members) for column in range(n)}
    names = [scores.nodes[i] for i in members]
    layers = [place.layer if (place := _place(name)) else -1 for name in names]
    starts = [row for row, layer in enumerate(layers) if row == 0 or layer != layers[row - 1]]
    title = PANELS[kind] + (f", {window}" if (window := windows(scores)) else "")
    if kind == "mlp":
        return _Panel(title, ["input" if x < 0 else str(x) for x in layers], columns, cells, ("layer", ""))
    if len(names) <= LABELLED:
        return _Panel(title, [short(name) for name in names], columns, cells)
    labels = [""] * len(names)
    for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
        labels[(start + end - 1) // 2] = str(layers[start])
    return _Panel(title, labels, columns, cells, ("layer", ""), starts[1:], [short(name) for name in names])


def _figure(
    scores: NodeScores, panels: Sequence[_Panel], normalised: bool, row_height: int, column_width: int
) -> Figure:
    shares = scores.normalised() if normalised else scores.values
    # A size stays positive, whichever of the two runs has more of the metric.
    values = (shares if scores.signed else shares.abs()).flatten().tolist()
    texts = [escaped(text).replace("\n", "<br>") for text in hover(scores, values, normalised)]
    each = max(1.0, min(column_width, WIDEST / sum(len(panel.columns) for panel in panels)))
    widths = [each * len(panel.columns) for panel in panels]
    own_rows = any(panel.rows != panels[0].rows for panel in panels)
    named = own_rows and any(len(panel.rows) > LABELLED for panel in panels)
    gap = 130 if named else 90 if own_rows else 22
    inner = sum(widths, start=float(gap * (len(panels) - 1)))
    figure = subplots(
        rows=1, cols=len(panels), column_widths=widths, horizontal_spacing=gap / inner if len(panels) > 1 else 0,
        subplot_titles=[panel.title for panel in panels],
    )  # fmt: skip
    limit = _colour_limit(values)
    for i, panel in enumerate(panels, 1):
        _add_panel(figure, i, panel, values, texts, labelled=own_rows or i == 1)
        _write_beyond(figure, i, panel, values, limit)
        _name_strongest(figure, i, panel, values)
    bar = {
        "title": {"text": colour_bar_title(scores, normalised), "side": "top"},
        "thickness": 14,
        "outlinewidth": 0.5,
    }
    figure.update_layout(
        template="plotly_white", plot_bgcolor=NOT_MEASURED,
        coloraxis={
            "colorscale": SCALE if scores.signed else SIZES, "cmin": -limit if scores.signed else 0, "cmax": limit, "colorbar": bar,
        },
    )  # fmt: skip
    notes = ["grey: not measured"] if any(len(p.cells) < len(p.rows) * len(p.columns) for p in panels) else []
    largest = max(values, key=lambda value: abs(value) if math.isfinite(value) else 0.0)
    end, reached = (f"±{limit:.2g}", f"{largest:+.3g}") if scores.signed else (f"{limit:.2g}", f"{largest:.3g}")
    notes += [f"colours end at {end}, the largest {scores.quantity.name} is {reached}"] if abs(largest) > limit else []
    height = max(120, row_height * max(len(panel.rows) for panel in panels))
    if height > TALL:
        figure.update_xaxes(side="top")
        longest = max(len(label) for panel in panels for label in panel.columns)
        for title in figure.layout.annotations[: len(panels)]:
            title.yshift = 22 if longest <= 5 else 16 + 5 * min(longest, 12)
    _set_title(figure, scores, notes, inner, height)
    return figure


def _colour_limit(values: Sequence[float]) -> float:
    """The limit of the colour scale: the largest effect, without a few outliers that would leave all others pale."""
    sizes = sorted((abs(value) for value in values if math.isfinite(value)), reverse=True)
    few = min(12, max(len(sizes) // 100, int(len(sizes) >= 10)))
    cut = 0
    while cut < few and sizes[cut] > 2 * sizes[cut + 1] > 0:
        cut += 1
    return sizes[cut] if sizes and sizes[cut] > 0 else 1.0


def _write_beyond(figure: Figure, column: int, panel: _Panel, values: Sequence[float], limit: float) -> None:
    """Writes the value into cells beyond the colour scale."""
    if _fine(panel):
        return
    for (y, x), i in panel.cells.items():
        if math.isfinite(values[i]) and abs(values[i]) > limit:
            font = {"size": 9, "color": "#ffffff"}
            figure.add_annotation(x=x, y=y, text=f"{values[i]:.3g}", showarrow=False, font=font, row=1, col=column)


def _name_strongest(figure: Figure, column: int, panel: _Panel, values: Sequence[float]) -> None:
    """Beside a panel whose rows are too fine for labels: the strongest of them by name."""
    if not panel.nodes:
        return
    sizes = [0.0] * len(panel.nodes)
    for (y, _), i in panel.cells.items():
        sizes[y] = max(sizes[y], abs(values[i]) if math.isfinite(values[i]) else 0.0)
    taken: list[int] = []
    for y in sorted(range(len(sizes)), key=lambda y: -sizes[y]):
        if sizes[y] > 0 and len(taken) < NAMED and all(abs(y - other) * FINE_ROW >= 12 for other in taken):
            taken.append(y)
            figure.add_annotation(
                x=1, xref=f"x{column if column > 1 else ''} domain", y=y, yref=f"y{column if column > 1 else ''}",
                text=escaped(panel.nodes[y]), showarrow=False, xanchor="left", xshift=4, font={"size": 11, "color": "#1a1f26"},
            )  # fmt: skip


def _set_title(figure: Figure, scores: NodeScores, notes: Sequence[str], inner_width: float, inner_height: int) -> None:
    """Sets title, subtitle and notes, and a size at which they and the cells fit."""
    title, facts = figure_title(scores)
    lines = [facts, ", ".join(notes)] if notes else [facts]
    margin = {"l": 100, "t": 140, "b": 90}
    # At least as wide as the title, in 16 and 12 points; the remaining space is on the right.
    width = max(inner_width + 250, 60 + max(8.6 * len(title), *(6.2 * len(line) for line in lines)))
    subtitle = {"text": "<br>".join(map(escaped, lines)), "font": {"size": 12}}
    figure.update_layout(
        width=int(width), height=int(inner_height + margin["t"] + margin["b"]),
        margin={**margin, "r": width - inner_width - margin["l"]},
        title={"text": escaped(title), "x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container",
               "yanchor": "top", "pad": {"l": 24, "t": 34}, "font": {"size": 16}, "subtitle": subtitle},
    )  # fmt: skip


def _fine(panel: _Panel) -> bool:
    """Whether cells are too small for lines between them and text in them."""
    return len(panel.rows) > LABELLED or len(panel.columns) > 2 * LABELLED


def _add_panel(
    figure: Figure, column: int, panel: _Panel, values: Sequence[float], texts: Sequence[str], labelled: bool
) -> None:
    shape = range(len(panel.rows)), range(len(panel.columns))
    numbers = [[panel.cells.get((y, x)) for x in shape[1]] for y in shape[0]]
    figure.add_heatmap(
        z=[[None if i is None or not math.isfinite(values[i]) else values[i] for i in row] for row in numbers],
        text=[["" if i is None else texts[i] for i in row] for row in numbers],
        hoverinfo="text", hoverongaps=False, coloraxis="coloraxis", xgap=int(not _fine(panel)), ygap=int(not _fine(panel)),
        row=1, col=column,
    )  # fmt: skip
    for number in panel.breaks:
        figure.add_hline(number - 0.5, line={"width": 0.5, "color": "#b8bec6"}, row=1, col=column)  # type: ignore[arg-type]
    common = {"showgrid": False, "zeroline": False, "ticks": "", "ticklabelstandoff": 4}
    every = math.ceil(len(panel.columns) / LABELLED)
    figure.update_xaxes(
        tickvals=list(shape[1])[::every], ticktext=[escaped(label) for label in panel.columns[::every]],
        tickangle=-45 if max(map(len, panel.columns)) > 5 else 0, title={"text": panel.names[1]}, range=[-0.5, len(panel.columns) - 0.5], row=1, col=column, **common,
    )  # fmt: skip
    shown = [y for y in shape[0] if panel.rows[y]] if labelled else []
    figure.update_yaxes(
        tickvals=shown, ticktext=[escaped(panel.rows[y]) for y in shown], title={"text": panel.names[0]},
        range=[-0.5, len(panel.rows) - 0.5], row=1, col=column, **common,
    )  # fmt: skip
