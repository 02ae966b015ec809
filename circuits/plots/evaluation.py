"""Figures of an evaluation (`Evaluation.to_dict`, `evaluation.json`): faithfulness against size, what each edge adds."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from circuits.evaluation_tables import tables
from circuits.plots.page import NEGATIVE, NEUTRAL, POSITIVE, Section, Table, escaped

MOST_EDGES = 60
"""Whose effect is drawn."""


def evaluation_sections(told: Mapping[str, Any]) -> list[Section]:
    """What a page on an evaluation shows, in order."""
    where = "pairs that the circuit was not found on" if told["fresh"] else "pairs, those that the circuit was found on"
    sections = [
        Section(title[0].upper() + title[1:], f"On {told['n_pairs']} {where}." if i == 0 else "", Table(headings, rows))
        for i, (title, headings, rows) in enumerate(tables(told))
    ]
    if "curves" in told:
        text = (
            "Faithfulness of circuits of growing size, edges by signed and by absolute score; bars are 95% bootstrap "
            "intervals over prompts. 1 = as the model, 0 = as with everything ablated."
        )
        sections.append(Section("Faithfulness against size", text, curves_figure(told["curves"])))
    if "minimality" in told:
        text = "What the circuit's metric loses without each of its edges, the others kept; bars are standard errors."
        sections.append(Section("What each edge adds", text, minimality_figure(told["minimality"], told["metric"])))
    if told["skipped"]:
        rows = [[name, why] for name, why in told["skipped"].items()]
        sections.append(Section("Not measured", "", Table(("part", "why"), rows)))
    return sections


def curves_figure(told: Mapping[str, Any]) -> go.Figure:
    """Faithfulness against the share of the graph's edges, on a logarithmic axis.

    Args:
        told: `FaithfulnessCurves.to_dict()`.
    """
    figure = go.Figure()
    for name, colour, dash, symbol, label in (
        ("signed", POSITIVE, "solid", "circle", f"by signed score, CPR {told['cpr']:.2f}"),
        ("absolute", NEGATIVE, "dash", "square", f"by absolute score, CMD {told['cmd']:.3f}"),
    ):
        curve = told[name]
        f = curve["faithfulness"]
        figure.add_scatter(
            x=curve["fractions"], y=f, name=label, mode="lines+markers",
            line={"color": colour, "dash": dash}, marker={"symbol": symbol, "size": 7},
            error_y={
                "type": "data", "symmetric": False, "thickness": 1, "width": 3,
                "array": [max(0, high - y) for high, y in zip(curve["high"], f, strict=True)],
                "arrayminus": [max(0, y - low) for low, y in zip(curve["low"], f, strict=True)],
            },
            text=[f"{n} edges" for n in curve["edges"]], hovertemplate="%{text}<br>%{y:.3f}<extra></extra>",
        )  # fmt: skip
    for level in (0, 1):
        figure.add_hline(level, line={"width": 1, "color": NEUTRAL, "dash": "dot"})
    figure.update_xaxes(title="share of the graph’s edges", type="log", tickformat=".1%")
    figure.update_yaxes(title=f"faithfulness ({escaped(str(told['ablation']))} ablation)")
    figure.update_layout(width=760, height=440, **_LAYOUT)
    return figure


def minimality_figure(told: Mapping[str, Any], metric: str) -> go.Figure:
    """Mean effect of each edge inside the circuit, largest first, with its standard error over prompts.

    Args:
        told: of `evaluation.json`: `effects` and `stderr` by edge.
        metric: its name.
    """
    effects = told["effects"]
    order = sorted(effects, key=lambda edge: -abs(effects[edge]))[:MOST_EDGES][::-1]
    values = [effects[edge] for edge in order]
    figure = go.Figure(
        go.Bar(
            y=[escaped(edge) for edge in order], x=values, orientation="h",
            marker={
                "color": [POSITIVE if value >= 0 else NEGATIVE for value in values],
                "pattern": {"shape": ["" if value >= 0 else "/" for value in values]},
            },
            error_x={"type": "data", "array": [told.get("stderr", {}).get(edge) for edge in order], "thickness": 1, "width": 2},
        )
    )  # fmt: skip
    figure.update_xaxes(title=f"{escaped(metric.replace('_', ' '))} lost without the edge", zeroline=True)
    figure.update_yaxes(dtick=1, tickfont={"size": 11})
    figure.update_layout(width=760, height=max(260, 17 * len(order) + 110), **_LAYOUT)
    return figure


_LAYOUT = {"template": "simple_white", "margin": {"l": 70, "r": 30, "t": 40, "b": 60}, "font": {"size": 13}}
