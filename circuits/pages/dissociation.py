"""Tables and figures of a dissociation, and of what circuits share."""

import math
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from circuits.evaluation.dissociation import Dissociation
from circuits.evaluation.dissociation_statistics import Effects
from circuits.evaluation.sharing import Sharing
from circuits.plots.figure import Figure, write_cells
from circuits.plots.page import NEGATIVE, POSITIVE, Section, Table, escaped, write_page

Rows = tuple[str, Sequence[str], list[list[str]]]
"""Title, column headings and rows."""
MOST_CELLS = 20
"""Tables of more tasks are figures only."""
SHOWN_HEADS = 20


def tables(dissociation: Dissociation, shared: Sharing) -> list[Rows]:
    """Effects of each circuit on each task, chance, double dissociations, and what the circuits share."""
    made = []
    for effects, what in (
        (dissociation.whole, "each circuit"),
        (dissociation.specific, "each circuit without the core"),
    ):
        if effects is not None and len(dissociation.names) <= MOST_CELLS:
            made.append(_effects_table(dissociation, effects, what))
    made.append(_double_table(dissociation))
    overlap = [
        [
            f"{row['circuit']} and {row['other']}",
            *(f"{row[name]:.3f}" for name in ("edges", "edges by chance", "nodes", "nodes by chance")),
        ]
        for row in shared.rows()
    ]
    made.append(
        ("what the circuits share (Jaccard)", ("", "edges", "edges by chance", "nodes", "nodes by chance"), overlap)
    )
    heads = [[head, f"{n} of {len(shared.names)}"] for head, n in shared.shared_heads[:SHOWN_HEADS]]
    made.append(("heads in more circuits than chance explains", ("head", "circuits"), heads))
    return [table for table in made if table[2]]


def _effects_table(dissociation: Dissociation, effects: Effects, what: str) -> Rows:
    rows = []
    for i, name in enumerate(dissociation.names):
        cells = zip(
            effects.effect[i].tolist(),
            effects.low[i].tolist(),
            effects.high[i].tolist(),
            effects.chance[i].tolist(),
            strict=True,
        )
        rows.append(
            [
                name,
                *(f"{_share(e)} ({_share(low)} to {_share(high)}; {_share(chance)})" for e, low, high, chance in cells),
            ]
        )
    interval = f"{100 * dissociation.level:g}% interval; random circuits"
    return f"share of each task lost without {what} ({interval})", ("without the circuit of", *dissociation.names), rows


def _share(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:.2f}"


def _double_table(dissociation: Dissociation) -> Rows:
    rows = []
    for named, effects, what in (
        (dissociation.double, dissociation.whole, "whole circuits"), (dissociation.double_without_core, dissociation.specific, "without the core"),
    ):  # fmt: skip
        for one, other in named if effects is not None else ():
            assert effects is not None
            i, j = dissociation.names.index(one), dissociation.names.index(other)
            rows.append([f"{one} and {other}", what, f"{float(effects.double_p[i, j]):.2g}"])
    return "double dissociations (p corrected for all pairs of tasks)", ("", "", "p"), rows


def dissociation_sections(dissociation: Dissociation, shared: Sharing) -> list[Section]:
    """The page of a dissociation."""
    counts = f"{dissociation}. The core has {len(dissociation.core)} edges. {shared}."
    sections = [Section("What was found", counts)]
    for effects, what in ((dissociation.whole, "whole circuits"), (dissociation.specific, "circuits without the core")):
        if effects is not None:
            text = "Rows: the circuit that is ablated. Columns: the task that is measured. 1 = as much is lost as with everything ablated."
            sections.append(
                Section(f"Share of each task that is lost: {what}", text, effects_figure(dissociation, effects))
            )
    sections.append(
        Section("Overlap of edges", "Jaccard overlap, neighbours in a tree next to each other.", cluster_figure(shared))
    )
    sections += [
        Section(title[0].upper() + title[1:], "", Table(heads, rows))
        for title, heads, rows in tables(dissociation, shared)
    ]
    if dissociation.undefined:
        sections.append(
            Section(
                "Not measured",
                "",
                Table(("task", "why"), [[name, why] for name, why in dissociation.undefined.items()]),
            )
        )
    return sections


def write_dissociation(dissociation: Dissociation, shared: Sharing, path: Path) -> None:
    """Writes the page."""
    write_page(f"Dissociation of {len(dissociation.names)} tasks", dissociation_sections(dissociation, shared), path)


def effects_figure(dissociation: Dissociation, effects: Effects) -> Figure:
    """A heat map of effects, circuits by tasks."""
    return _heatmap(
        dissociation.names, effects.effect.tolist(), "without the circuit of", "task that is measured", -1.0
    )


def cluster_figure(shared: Sharing) -> Figure:
    """A heat map of the overlap of edges, in the order of the cluster map."""
    order = list(shared.order)
    values = shared.edges[order][:, order].tolist()
    return _heatmap([shared.names[i] for i in order], values, "circuit of", "", 0.0)


def _heatmap(names: Sequence[str], values: list[list[float]], rows: str, columns: str, least: float) -> Figure:
    labels = [escaped(name) for name in names]
    colours = [(0, "#ffffff"), (1, POSITIVE)] if least == 0 else [(0, NEGATIVE), (0.5, "#ffffff"), (1, POSITIVE)]
    shown = [[None if value != value else value for value in row] for row in values]
    figure = Figure(
        go.Heatmap(
            z=shown, x=labels, y=labels, zmin=least, zmax=1, colorscale=colours, xgap=1, ygap=1,
            hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>", colorbar={"thickness": 14, "len": 0.8},
        )
    )  # fmt: skip
    write_cells(figure, labels, labels, shown, 1.0)
    side = max(42 * len(names), 200)
    figure.update_xaxes(tickangle=-45, ticks="", showline=False, title=columns)
    figure.update_yaxes(autorange="reversed", ticks="", showline=False, title=rows)
    figure.update_layout(
        template="simple_white", width=side + 320, height=side + 240, font={"size": 13},
        margin={"l": 200, "r": 90, "t": 40, "b": 170},
    )  # fmt: skip
    return figure
