"""Figures of `recall.py` and `verification.py`: needs the extra `viz` and a Chrome or Chromium."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

STYLES = {
    "random order": ("#8a94a3", "dashdot"),
    "subsampling": ("#CC79A7", "dash"),
    "blocks": ("#D55E00", "dash"),
    "hierarchical": ("#E69F00", "dash"),
    "AtP": ("#56B4E9", "solid"),
    "AtP+QK": ("#009E73", "solid"),
    "AtP*": ("#0072B2", "solid"),
    "oracle": ("#000000", "solid"),
}
"""From the dearest to the cheapest, as the legend stands; colours of Okabe and Ito (2008)."""
DECADES = [digit * 10**power for power in range(-4, 3) for digit in (1, 3)]
COLOURS = ("#D55E00", "#E69F00", "#0072B2")
TITLES = {"ioi": "IOI", "greater-than": "greater-than", "subject-verb-agreement": "subject–verb agreement"}
UNITS = {"logit_difference": "logits", "probability_difference": "probability"}


def recall_figure(measured: Mapping[str, Any]) -> go.Figure:
    """Cost of verified recall over K, a panel a task."""
    figure = make_subplots(
        cols=len(measured), horizontal_spacing=0.03, shared_yaxes=True, subplot_titles=_titles(measured)
    )
    for column, result in enumerate(measured.values(), 1):
        for name, (colour, dash) in STYLES.items():
            curve = result[name][1]
            thin = name in ("oracle", "random order")
            figure.add_scatter(
                x=list(range(1, len(curve) + 1)), y=curve, name=name, mode="lines", legendgroup=name,
                line={"color": colour, "dash": dash, "width": 1.3 if thin else 2.2, "shape": "linear" if thin else "hv"}, showlegend=column == 1, row=1, col=column,
            )  # fmt: skip
    ticks = [1, 3, 10, 30, 100, 300]
    figure.update_xaxes(type="log", tickvals=ticks, range=[0, 2.9], title="K largest nodes")
    figure.update_yaxes(type="log", tickvals=[*ticks, 1000], range=[0, 3.1])
    figure.update_yaxes(title="forward passes until all K are patched", col=1)
    return _finished(figure, len(measured))


def bounds_figure(measured: Mapping[str, Any]) -> go.Figure:
    """The bound on the largest effect left over the number of samples, and the truth, a panel a task."""
    titles = [
        f"{title} ({UNITS[result['unit']]})" for title, result in zip(_titles(measured), measured.values(), strict=True)
    ]
    figure = make_subplots(cols=len(measured), horizontal_spacing=0.07, subplot_titles=titles)
    for column, result in enumerate(measured.values(), 1):
        for row, colour in zip(result["bounds"], COLOURS, strict=True):
            known = {int(m): bound for m, bound in row["bounds"].items() if bound is not None}
            shared = {"legendgroup": row["patched"], "row": 1, "col": column, "showlegend": column == 1}
            figure.add_scatter(
                x=list(known), y=list(known.values()), mode="lines+markers", name=f"{row['patched']} patched: bound",
                line={"color": colour, "width": 2.2}, **shared,
            )  # fmt: skip
            figure.add_scatter(
                x=[min(known), max(known)], y=[row["truth"]] * 2, mode="lines", name=f"{row['patched']} patched: truth",
                line={"color": colour, "dash": "dot", "width": 1.8}, **shared,
            )  # fmt: skip
    figure.update_yaxes(type="log", tickvals=DECADES)
    figure.update_yaxes(title="largest effect left", col=1)
    figure.update_xaxes(type="log", tickvals=[32, 64, 128, 256], title="random subsets")
    return _finished(figure, len(measured))


def _titles(measured: Mapping[str, Any]) -> list[str]:
    return [TITLES.get(task, task) for task in measured]


def _finished(figure: go.Figure, columns: int) -> go.Figure:
    axis = {"showline": True, "linecolor": "#333", "gridcolor": "#e4e7eb", "ticks": "outside", "zeroline": False}
    figure.update_xaxes(**axis, title_standoff=6)
    figure.update_yaxes(**axis)
    return figure.update_layout(
        width=300 * columns + 170, height=350, plot_bgcolor="white",
        font={"family": "DejaVu Sans, Arial, sans-serif", "size": 12, "color": "#1c2430"},
        margin={"l": 60, "r": 10, "t": 35, "b": 50}, legend={"x": 1.01, "y": 0.5, "yanchor": "middle"},
    )  # fmt: skip
