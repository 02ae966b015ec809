"""Figures of an evaluation (`Evaluation.to_dict`, `evaluation.json`)."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from circuits.files.atomic import write_text
from circuits.files.checksums import sealed_json
from circuits.pages.comparison import COLOURS, DASHES, MARKERS
from circuits.pages.evaluation_tables import evaluation_findings, tables
from circuits.plots.figure import Figure, subplots, write_cells
from circuits.plots.page import NEGATIVE, NEUTRAL, POSITIVE, Section, Table, escaped, write_page
from circuits.results.wording import metric_name

MOST_EDGES = 60
"""Most edges whose effect is drawn."""


def write_evaluation(measured: Mapping[str, Any], directory: Path) -> None:
    """Writes `evaluation.json`, with its checksum, and `evaluation.html` into a run directory."""
    title = f"Evaluation: {measured['task']} in {measured['model']}"
    write_page(title, evaluation_sections(measured), directory / "evaluation.html")
    write_text(directory / "evaluation.json", sealed_json(measured) + "\n")


def evaluation_sections(measured: Mapping[str, Any]) -> list[Section]:
    """The sections of an evaluation's page, in order."""
    where = (
        "pairs that the circuit was not found on" if measured["fresh"] else "pairs, those that the circuit was found on"
    )
    sections = [
        Section(
            title[0].upper() + title[1:], f"On {measured['n_pairs']} {where}." if i == 0 else "", Table(headings, rows)
        )
        for i, (title, headings, rows) in enumerate(tables(measured))
    ]
    if "curves" in measured:
        text = (
            "Faithfulness of circuits of growing size, edges by signed and by absolute score; bars are 95% "
            "intervals over prompts. 1 = as the model, 0 = as with everything ablated."
        )
        sections.append(Section("Faithfulness against size", text, curves_figure(measured["curves"])))
    if "minimality" in measured:
        text = "What the circuit's metric loses without each of its edges, the others kept; bars are standard errors."
        sections.append(
            Section("What each edge adds", text, minimality_figure(measured["minimality"], measured["metric"]))
        )
    if measured.get("recovery", {}).get("scores"):
        text = (
            "Going down the ranking by absolute score: the share of the true that was found, against the share of the others "
            "that was taken with it. The diagonal is chance; large open symbols are the circuit."
        )
        sections.append(Section("Recovery of the known circuit", text, roc_figure(measured["recovery"])))
    if "runs" in measured.get("stability", {}):
        text = (
            "The method run again with one thing changed at a time: shared / in either, of "
            f"{_compared(measured['stability'])}, for every two runs."
        )
        sections.append(Section("How alike the runs are", text, stability_figure(measured["stability"])))
    if "randomisation" in measured:
        text = (
            "The weights of the last layers are shuffled, and the method is run again. What it finds must change; near 1, it "
            "would not depend on the weights."
        )
        sections.append(Section("With randomised layers", text, randomisation_figure(measured["randomisation"])))
    sections = _findings_first(measured, sections)
    if measured["skipped"]:
        rows = [[name, why] for name, why in measured["skipped"].items()]
        sections.append(Section("Not measured", "", Table(("part", "why"), rows)))
    return sections


def _findings_first(measured: Mapping[str, Any], sections: list[Section]) -> list[Section]:
    """Puts the verdict first, then the findings and the first figure, then the warnings, then the rest."""
    verdict = [section for section in sections if section.heading == "Verdict"]
    sections = [section for section in sections if section.heading != "Verdict"]
    findings = evaluation_findings(measured)
    picture = next((section for section in sections if isinstance(section.content, Figure)), None)
    first: list[Section] = []
    if findings and picture is not None:
        text = f"{' '.join(findings)}\n\n{picture.heading}: {picture.text[0].lower()}{picture.text[1:]}"
        first, sections = (
            [Section("What was found", text, picture.content)],
            [section for section in sections if section is not picture],
        )
    elif findings:
        first = [Section("What was found", " ".join(findings))]
    if measured.get("warnings"):  # missing in older evaluations
        first.append(Section("Warnings", "\n\n".join(map(str, measured["warnings"]))))
    return [*verdict, *first, *sections]


def curves_figure(measured: Mapping[str, Any]) -> Figure:
    """Faithfulness against the share of the graph's edges, on a logarithmic axis.

    Args:
        measured: `FaithfulnessCurves.to_dict()`.
    """
    figure = Figure()
    for name, colour, dash, symbol, label in (
        ("signed", POSITIVE, "solid", "circle", f"by signed score, CPR {measured['cpr']:.2f}"),
        ("absolute", NEGATIVE, "dash", "square", f"by absolute score, CMD {measured['cmd']:.3f}"),
    ):
        curve = measured[name]
        f = curve["faithfulness"]
        figure.add_scatter(
            x=curve["fractions"], y=f, name=label, mode="lines+markers",
            line={"color": colour, "dash": dash}, marker={"symbol": symbol, "size": 7},
            error_y={
                "type": "data", "symmetric": False, "thickness": 1, "width": 3,
                "array": [None if high is None else max(0, high - y) for high, y in zip(curve["high"], f, strict=True)],
                "arrayminus": [None if low is None else max(0, y - low) for low, y in zip(curve["low"], f, strict=True)],
            },
            text=[f"{n} edges" for n in curve["edges"]], hovertemplate="%{text}<br>%{y:.3f}<extra></extra>",
        )  # fmt: skip
    for level in (0, 1):
        figure.add_hline(level, line={"width": 1, "color": NEUTRAL, "dash": "dot"})
    shares = [share for signed in ("signed", "absolute") for share in measured[signed]["fractions"] if share > 0]
    ticks = _log_ticks(min(shares, default=0.01), max(shares, default=1.0))
    figure.update_xaxes(
        title="share of the graph’s edges",
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:.10g}%" for tick in [100 * t for t in ticks]],
    )
    figure.update_yaxes(title=f"faithfulness ({escaped(str(measured['ablation']))} ablation)")
    figure.update_layout(width=760, height=440, **_LAYOUT)
    return figure


def _log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis that do not overlap: 1, 2, 5 on a short axis, otherwise powers of ten."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 3 else (1, 3) if len(decades) <= 5 else (1,)
    ticks = [round(step * 10.0**power, 12) for power in decades for step in steps]
    return [tick for tick in ticks if low / 1.5 <= tick <= high * 1.5 and tick <= 1]


def minimality_figure(measured: Mapping[str, Any], metric: str) -> Figure:
    """Mean effect of each edge inside the circuit, largest first, with its standard error over prompts.

    Args:
        measured: an entry of `evaluation.json` with `effects` and `stderr` by edge.
        metric: the metric's name.
    """
    effects = measured["effects"]
    order = sorted(effects, key=lambda edge: -abs(effects[edge]))[:MOST_EDGES][::-1]
    values = [effects[edge] for edge in order]
    figure = Figure(
        go.Bar(
            y=[escaped(edge) for edge in order], x=values, orientation="h",
            marker={
                "color": [POSITIVE if value >= 0 else NEGATIVE for value in values],
                "pattern": {"shape": ["" if value >= 0 else "/" for value in values]},
            },
            error_x={"type": "data", "array": [measured.get("stderr", {}).get(edge) for edge in order], "thickness": 1, "width": 2},
        )
    )  # fmt: skip
    figure.update_xaxes(title=f"{escaped(metric_name(metric))} lost without the edge", zeroline=True)
    figure.update_yaxes(dtick=1, tickfont={"size": 11})
    figure.update_layout(width=760, height=max(260, 17 * len(order) + 110), **_LAYOUT)
    return figure


def roc_figure(measured: Mapping[str, Any]) -> Figure:
    """ROC curves of the scores with the circuit as a point, by level; one panel for each definition of a true edge.

    Args:
        measured: `recovery` of `evaluation.json`.
    """
    truths = list(measured["truths"])
    levels = list(dict.fromkeys(row["level"] for row in (*measured["scores"], *measured["circuit"])))
    titles = [escaped(f"what is {truth}") if len(truths) > 1 else "" for truth in truths]
    figure = subplots(cols=len(truths), subplot_titles=titles, horizontal_spacing=0.12)
    for column in range(1, len(truths) + 1):
        chance = {"mode": "lines", "line": {"width": 1, "color": NEUTRAL, "dash": "dot"}, "hoverinfo": "skip"}
        figure.add_scatter(x=[0, 1], y=[0, 1], showlegend=False, row=1, col=column, **chance)
        figure.update_yaxes(scaleanchor=f"x{column if column > 1 else ''}", row=1, col=column)
    for row in (*measured["scores"], *measured["circuit"]):
        i, column = levels.index(row["level"]), truths.index(row["truth"]) + 1
        scored = "roc" in row
        curve = row["roc"] if scored else [[row["false_positive_rate"], row["recall"]]]
        area = f", AUROC {row['auroc']:.2f}" if scored else ", circuit"
        figure.add_scatter(
            x=[x for x, _ in curve], y=[y for _, y in curve], mode="lines" if scored else "markers", cliponaxis=False,
            name=escaped(row["level"] + area + (f" ({row['truth']})" if len(truths) > 1 else "")),
            line={"color": COLOURS[i], "width": 2.5 - 0.5 * i, "dash": DASHES[i]},
            marker={"color": COLOURS[i], "size": 15 - 3 * i, "symbol": f"{MARKERS[i]}-open", "line": {"width": 2}},
            hovertemplate="%{x:.3f}, %{y:.3f}<extra></extra>", row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(title="false positive rate", range=[0, 1], constrain="domain")
    figure.update_yaxes(title="true positive rate", range=[0, 1.01], constrain="domain")
    figure.update_layout(width=330 * len(truths) + 330, height=430, **_LAYOUT)
    return figure


def stability_figure(measured: Mapping[str, Any]) -> Figure:
    """Jaccard overlap of each two runs of the method.

    Args:
        measured: `stability` of `evaluation.json`.
    """
    names = [escaped(name.replace("_", " ")) for name in measured["runs"]]
    overlap = measured["jaccard"]
    figure = Figure(
        go.Heatmap(
            z=overlap, x=names, y=names, zmin=0, zmax=1, colorscale=[(0, "#ffffff"), (1, POSITIVE)], xgap=1, ygap=1,
            hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>",
            colorbar={"title": {"text": "Jaccard", "side": "right"}, "thickness": 14, "len": 0.8},
        )
    )  # fmt: skip
    write_cells(figure, names, names, overlap, 1.0)
    side = 42 * len(names)
    figure.update_xaxes(tickangle=-45, ticks="", showline=False)
    figure.update_yaxes(autorange="reversed", ticks="", showline=False)
    layout = {**_LAYOUT, "margin": {"l": 170, "r": 90, "t": 40, "b": 150}}
    figure.update_layout(width=side + 260, height=side + 190, **layout)
    return figure


def randomisation_figure(measured: Mapping[str, Any]) -> Figure:
    """Agreement with the original result as more layers are randomised.

    Args:
        measured: `randomisation` of `evaluation.json`.
    """
    figure = Figure()
    what = "circuits" if measured["k"] is None else f"the {measured['k']} strongest"
    for i, (name, values) in enumerate(
        (("rank correlation", measured["rank"]), (f"Jaccard of {what}", measured["jaccard"]))
    ):
        if any(value is not None for value in values):
            figure.add_scatter(
                x=["0", *map(str, measured["layers"])], y=[1, *values], mode="lines+markers", name=name, cliponaxis=False,
                line={"color": COLOURS[i], "dash": DASHES[i], "width": 2}, marker={"symbol": MARKERS[i], "size": 8},
            )  # fmt: skip
    known = [value for value in (*measured["rank"], *measured["jaccard"]) if value is not None]
    figure.update_xaxes(title="last layers randomised", type="category")
    figure.update_yaxes(title="like the model’s own", range=[min(0, *known, 0) - 0.02, 1.02], zeroline=True)
    figure.update_layout(width=640, height=380, showlegend=True, **_LAYOUT)
    return figure


def _compared(measured: Mapping[str, Any]) -> str:
    return "circuits" if measured["k"] is None else f"the {measured['k']} strongest {measured['of']}"


_LAYOUT = {"template": "simple_white", "margin": {"l": 70, "r": 30, "t": 40, "b": 60}, "font": {"size": 13}}
