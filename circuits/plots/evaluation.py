"""Figures of an evaluation: faithfulness against size, what each edge adds, and the page that holds them."""

import plotly.graph_objects as go

from circuits.evaluate_run import Evaluation
from circuits.evaluation.completeness import Minimality
from circuits.evaluation.curves import FaithfulnessCurves
from circuits.evaluation_tables import tables
from circuits.plots.page import NEGATIVE, NEUTRAL, POSITIVE, Section, Table, escaped

MOST_EDGES = 60
"""Whose effect is drawn."""


def evaluation_sections(found: Evaluation) -> list[Section]:
    """What a page on an evaluation shows, in order."""
    where = "pairs that the circuit was not found on" if found.fresh else "the pairs that the circuit was found on"
    sections = [
        Section(title[0].upper() + title[1:], f"On {found.n_pairs} {where}." if i == 0 else "", Table(headings, rows))
        for i, (title, headings, rows) in enumerate(tables(found))
    ]
    if found.curves is not None:
        text = (
            "Faithfulness of circuits of growing size, edges by signed and by absolute score; bars are 95% bootstrap "
            "intervals over prompts. 1 = as the model, 0 = as with everything ablated."
        )
        sections.append(Section("Faithfulness against size", text, curves_figure(found.curves)))
    if found.minimality is not None:
        text = "What the circuit's metric loses without each of its edges, the others kept."
        sections.append(Section("What each edge adds", text, minimality_figure(found.minimality)))
    if found.skipped:
        rows = [[name, why] for name, why in found.skipped.items()]
        sections.append(Section("Not measured", "", Table(("part", "why"), rows)))
    return sections


def curves_figure(found: FaithfulnessCurves) -> go.Figure:
    """Faithfulness against the share of the graph's edges, on a logarithmic axis."""
    figure = go.Figure()
    for curve, colour, dash, symbol, area in (
        (found.signed, POSITIVE, "solid", "circle", f"by signed score, CPR {found.cpr:.2f}"),
        (found.absolute, NEGATIVE, "dash", "square", f"by absolute score, CMD {found.cmd:.3f}"),
    ):
        f = curve.faithfulness
        figure.add_scatter(
            x=curve.fractions.tolist(), y=f.tolist(), name=area, mode="lines+markers",
            line={"color": colour, "dash": dash}, marker={"symbol": symbol, "size": 7},
            error_y={
                "type": "data", "symmetric": False, "thickness": 1, "width": 3,
                "array": (curve.high - f).clamp(min=0).tolist(), "arrayminus": (f - curve.low).clamp(min=0).tolist(),
            },
            text=[f"{n} edges" for n in curve.edges], hovertemplate="%{text}<br>%{y:.3f}<extra></extra>",
        )  # fmt: skip
    for level in (0, 1):
        figure.add_hline(level, line={"width": 1, "color": NEUTRAL, "dash": "dot"})
    figure.update_xaxes(title="share of the graph’s edges", type="log", tickformat=".1%")
    figure.update_yaxes(title=f"faithfulness ({escaped(found.ablation)} ablation)")
    figure.update_layout(width=760, height=440, **_LAYOUT)
    return figure


def minimality_figure(found: Minimality) -> go.Figure:
    """Mean effect of each edge inside the circuit, largest first, with its standard error over prompts."""
    order = found.values.abs().argsort(descending=True)[:MOST_EDGES].flip(0)
    values = found.values[order]
    n = found.effects.shape[1]
    errors = (found.effects[order].std(1) / n**0.5).tolist() if n > 1 else None
    figure = go.Figure(
        go.Bar(
            y=[escaped(found.edges[i]) for i in order.tolist()], x=values.tolist(), orientation="h",
            marker={
                "color": [POSITIVE if value >= 0 else NEGATIVE for value in values.tolist()],
                "pattern": {"shape": ["" if value >= 0 else "/" for value in values.tolist()]},
            },
            error_x={"type": "data", "array": errors, "thickness": 1, "width": 2} if errors else None,
        )
    )  # fmt: skip
    figure.update_xaxes(title=f"{escaped(found.metric.replace('_', ' '))} lost without the edge", zeroline=True)
    figure.update_yaxes(dtick=1, tickfont={"size": 11})
    figure.update_layout(width=760, height=max(260, 17 * len(order) + 110), **_LAYOUT)
    return figure


_LAYOUT = {"template": "simple_white", "margin": {"l": 70, "r": 30, "t": 40, "b": 60}, "font": {"size": 13}}
