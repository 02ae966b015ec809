"""Figures of a study."""

from collections.abc import Sequence

import plotly.graph_objects as go

from circuits.plots.figure import Figure, write_cells
from circuits.plots.page import NOT_MEASURED, POSITIVE, escaped


def grid_figure(
    means: Sequence[Sequence[float | None]], questions: Sequence[str], methods: Sequence[str], title: str
) -> Figure:
    """One number for each question (rows) and method (columns), written into its cell; darker is more, grey is not measured.

    Args:
        means: rows of numbers, None if not measured.
        questions, methods: labels.
        title: name of the number.
    """
    top = max((value for row in means for value in row if value is not None), default=1.0)
    figure = Figure(
        go.Heatmap(
            z=means, x=[escaped(name) for name in methods], y=[escaped(name) for name in questions],
            colorscale=[(0.0, "#ffffff"), (1.0, POSITIVE)], zmin=0,
            zmax=max(1.0, top), xgap=2, ygap=2, colorbar={"title": {"text": escaped(title), "side": "right"}, "thickness": 14},
            hovertemplate="%{y}<br>%{x}: %{z:.4f}<extra></extra>",
        )
    )  # fmt: skip
    write_cells(
        figure, [escaped(name) for name in methods], [escaped(name) for name in questions], means, max(1.0, top)
    )
    widest = max(map(len, questions))
    figure.update_layout(
        width=min(1000, 200 + 7 * widest + 110 * len(methods)), height=130 + 44 * len(questions),
        margin={"l": 30 + 7 * widest, "r": 20, "t": 40, "b": 60}, plot_bgcolor=NOT_MEASURED, font={"size": 13},
        xaxis={"showgrid": False, "zeroline": False}, yaxis={"autorange": "reversed", "ticklabelstandoff": 6, "showgrid": False, "zeroline": False},
    )  # fmt: skip
    return figure
