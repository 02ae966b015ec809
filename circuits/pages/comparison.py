"""Figures of a comparison of methods, and of how well scores predict ablations.

Each method has the same colour (Okabe & Ito 2008), dash and marker in all figures, so methods can be distinguished without colours
too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch

from circuits.errors import InputError
from circuits.evaluation.comparison import CIRCUIT, Comparison
from circuits.evaluation.counterfactual import Counterfactuals
from circuits.pages.comparison_tables import circuits_table, comparison_findings, methods_table
from circuits.plots.figure import Figure, subplots, write_cells
from circuits.plots.page import NEGATIVE, NEUTRAL, POSITIVE, Section, Table, escaped
from circuits.results.node_scores import NodeScores

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross")
SHOWN_POINTS = 400
MOST_PAIRS = 6
"""Most pairs of methods whose overlap is drawn."""


def comparison_sections(comparison: Comparison) -> list[Section]:
    """The sections of a comparison's page, in order, without those that were not measured."""
    by = "size" if comparison.by == "abs" else "signed effect"
    tables = [table for table in (methods_table(comparison), circuits_table(comparison)) if table[2]]
    picture = (
        f"The picture: Spearman's correlation of mean effects over {len(comparison.nodes)} nodes, by {by}; hover for nominal 95% bootstrap "
        "intervals over prompts. Methods can agree and be wrong together."
    )
    text = " ".join(comparison_findings(comparison)) + f"\n\n{picture}"
    sections = [Section("What was found", text, rank_figure(comparison))]
    sections += [Section("What was compared", " ".join(_said(comparison)))]
    sections += [Section(title[0].upper() + title[1:], "", Table(headings, rows)) for title, headings, rows in tables]
    if comparison.judge is not None:
        sections.append(
            Section(
                "Do the scores predict ablations?",
                "Random sets of components are ablated, each component with probability α; the sum of the scores of what was "
                "kept is correlated with the metric over the sets, on each prompt. Mean over prompts, nominal 95% bootstrap interval. "
                f"{comparison.judge}.",
                counterfactual_figure(comparison),
            )
        )
    if comparison.judge is not None:
        alpha = _middle(tuple(comparison.judge.samples))
        sections.append(
            Section(
                "Predicted against true",
                f"The same at α = {alpha:g}, a point for a set and a prompt (at most {SHOWN_POINTS} of them); each prompt's mean "
                "is subtracted, since the correlation is taken within prompts.",
                prediction_figure(comparison.judge, comparison.scores, alpha),
            )
        )
    if comparison.circuits:
        sections.append(
            Section(
                "Circuits: predicted and measured",
                "What the linear model of COAR says of each circuit's nodes, beside the metric with exactly these nodes kept "
                f"({comparison.circuits[0].node_ablation} ablation) and with exactly the circuit's edges kept "
                f"({comparison.circuits[0].ablation} ablation). The linear model was fitted to few ablations, a circuit ablates most.",
                circuits_figure(comparison),
            )
        )
    sections.append(
        Section(
            "Overlap",
            "The share that the k strongest nodes of two methods have in common. A circuit has one k only: all of its nodes.",
            overlap_figure(comparison),
        )
    )
    return sections


def _said(comparison: Comparison) -> list[str]:
    """Sentences on the methods compared, the ablations used, and what limits the comparison."""
    sentences = [f"{len(comparison.methods)} results, over the {len(comparison.nodes)} nodes that all of them score."]
    if comparison.judge is not None:
        sentences.append(f"The scores are judged by fresh ablations: {comparison.judge}.")
    without = [name for name in comparison.scores if name not in comparison.faithfulness]
    circuits = [name for name in without if name.endswith(CIRCUIT)]
    alone = [name for name in without if name not in circuits]
    if alone and comparison.faithfulness:
        sentences.append(f"Scores alone have no faithfulness: {', '.join(alone)}.")
    if circuits and comparison.faithfulness:
        sentences.append(f"Faithfulness is undefined, or was not measured: {', '.join(circuits)}.")
    return [*sentences, *(line for line in (comparison.caution, comparison.on_signs) if line)]


def rank_figure(comparison: Comparison) -> Figure:
    """Rank correlations between methods, as a matrix; without circuits whose scores are there."""
    kept = [i for i, name in enumerate(comparison.methods) if name in comparison.leading]
    names = [escaped(comparison.methods[i]) for i in kept]
    rank, low, high = (table[kept][:, kept].tolist() for table in (comparison.rank, comparison.low, comparison.high))
    hover = [
        [f"{a} and {b}<br>{rank[i][j]:.3f} ({low[i][j]:.3f} to {high[i][j]:.3f})" for j, b in enumerate(names)]
        for i, a in enumerate(names)
    ]
    figure = Figure(
        go.Heatmap(
            z=[[None if value != value else value for value in row] for row in rank],
            x=names, y=names, hovertext=hover, hoverinfo="text",
            zmin=-1, zmax=1, colorscale=[(0, NEGATIVE), (0.5, "#ffffff"), (1, POSITIVE)], xgap=1, ygap=1,
            colorbar={"title": {"text": "Spearman’s ρ", "side": "right"}, "thickness": 14},
        )
    )  # fmt: skip
    write_cells(figure, names, names, rank, 1.0)
    size = 44 * len(names) + 260
    figure.update_xaxes(tickangle=-35, automargin=True)
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(width=max(560, size + 140), height=max(380, size), **_layout())
    return figure


def counterfactual_figure(comparison: Comparison) -> Figure:
    """Correlation between predicted and true metric against alpha, one line per method."""
    figure = Figure()
    for i, (name, each) in enumerate(comparison.counterfactual.items()):
        means = [c.mean for c in each.values()]
        aside = 1 + 0.012 * (i - (len(comparison.counterfactual) - 1) / 2)  # keeps error bars from overlapping
        figure.add_scatter(
            x=[alpha * aside for alpha in each], y=means, name=escaped(name), mode="lines+markers", **_style(i),
            error_y={
                "type": "data", "symmetric": False, "thickness": 1, "width": 3,
                "array": [c.high - c.mean for c in each.values()], "arrayminus": [c.mean - c.low for c in each.values()],
            },
        )  # fmt: skip
    figure.update_xaxes(title="α, ablation probability per component", rangemode="tozero")
    figure.update_yaxes(title="correlation with the metric", zeroline=True, zerolinecolor=NEUTRAL)
    figure.update_layout(width=760, height=440, **_layout())
    return figure


def prediction_figure(judge: Counterfactuals, scores: Mapping[str, NodeScores], alpha: float) -> Figure:
    """Predicted against true metric under ablations that the scores were not fitted to, within prompts.

    Args:
        judge: the ablations.
        scores: method -> its scores.
        alpha: one of the alphas of `judge`.

    Raises:
        InputError: `judge` has no such alpha.
    """
    if alpha not in judge.samples:
        raise InputError(f"no samples were drawn at alpha {alpha:g}; there are {', '.join(map(str, judge.samples))}")
    columns = min(3, len(scores))
    rows = -(-len(scores) // columns)
    titles = [f"{escaped(name)}, r = {judge.correlations(scored)[alpha].mean:.2f}" for name, scored in scores.items()]
    figure = subplots(
        rows=rows, cols=columns, subplot_titles=titles, horizontal_spacing=0.09, vertical_spacing=0.36 / rows
    )
    true = judge.samples[alpha].outcomes
    true = (true - true.mean(0)).flatten()
    pick = torch.randperm(len(true), generator=torch.Generator().manual_seed(0))[:SHOWN_POINTS]
    for i, scored in enumerate(scores.values()):
        predicted = judge.prediction(scored, alpha)
        predicted = (predicted - predicted.mean(0)).flatten()
        figure.add_scatter(
            x=predicted[pick].tolist(), y=true[pick].tolist(), mode="markers", showlegend=False, row=i // columns + 1,
            col=i % columns + 1, marker={"size": 4, "opacity": 0.45, "color": COLOURS[i % len(COLOURS)]},
            hovertemplate="predicted %{x:.3g}<br>true %{y:.3g}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title={"text": "predicted change", "standoff": 4})
    figure.update_yaxes(title={"text": "true change", "standoff": 4})
    figure.update_layout(width=290 * columns + 80, height=320 * rows + 84, **_layout(top=64))
    return figure


def circuits_figure(comparison: Comparison) -> Figure:
    """Predicted against measured metric of circuits, with nodes kept and with edges kept."""
    figure = Figure()
    ends = [
        float(x.mean())
        for prediction in comparison.circuits
        for x in (prediction.predicted, prediction.nodes_kept, prediction.edges_kept)
    ]
    low, high = min(ends), max(ends)
    figure.add_scatter(
        x=[low, high], y=[low, high], mode="lines", line={"color": NEUTRAL, "width": 1, "dash": "dot"}, name="equal",
        hoverinfo="skip",
    )  # fmt: skip
    for i, (name, part) in enumerate((("nodes kept", "nodes_kept"), ("edges kept", "edges_kept"))):
        figure.add_scatter(
            x=[float(prediction.predicted.mean()) for prediction in comparison.circuits],
            y=[float(getattr(prediction, part).mean()) for prediction in comparison.circuits],
            hovertext=[f"{escaped(prediction.circuit)} ({prediction.n_edges} edges, {prediction.n_nodes} components)" for prediction in comparison.circuits],
            text=[escaped(prediction.circuit.removesuffix(CIRCUIT)) for prediction in comparison.circuits], textposition="top center",
            mode="markers+text", name=name, hovertemplate="%{hovertext}<br>predicted %{x:.3g}<br>measured %{y:.3g}<extra></extra>",
            marker={"size": 10, "symbol": MARKERS[i], "color": COLOURS[i]},
        )  # fmt: skip
    figure.update_xaxes(title="predicted by the linear model")
    figure.update_yaxes(title="measured")
    figure.update_layout(width=640, height=440, **_layout())
    return figure


def overlap_figure(comparison: Comparison) -> Figure:
    """Overlap of the k strongest nodes against k, one line for each two methods (the first `MOST_PAIRS` pairs)."""
    figure = Figure()
    pairs = [(i, j) for j in range(1, len(comparison.methods)) for i in range(j)][:MOST_PAIRS]
    for number, (i, j) in enumerate(pairs):
        shares = comparison.overlap[i, j].tolist()
        known = [k for k, share in enumerate(shares, 1) if share == share]
        figure.add_scatter(
            x=known, y=[shares[k - 1] for k in known], name=escaped(f"{comparison.methods[i]}, {comparison.methods[j]}"),
            mode="lines" if len(known) > 3 else "markers", **_style(number),
        )  # fmt: skip
    figure.update_xaxes(title="k")
    figure.update_yaxes(title="share in common", range=[0, 1.02])
    figure.update_layout(width=860, height=440, **_layout())
    return figure


def learning_curve_figure(sizes: Sequence[int], held_out: Sequence[float], alpha: float) -> Figure:
    """Correlation of a COAR fit's prediction with the truth, against the number of samples it was fitted to."""
    figure = Figure(go.Scatter(x=list(sizes), y=list(held_out), mode="lines+markers", **_style(0)))
    figure.update_xaxes(title="samples", type="log")
    figure.update_yaxes(title=f"correlation on fresh ablations, α = {alpha:g}", range=[min(0, *held_out), 1])
    figure.update_layout(width=560, height=400, **_layout())
    return figure


def _style(i: int) -> dict[str, Any]:
    """Style of the i-th line; colours repeat with other dashes and markers."""
    colour, shift = COLOURS[i % len(COLOURS)], i // len(COLOURS)
    return {
        "line": {"color": colour, "width": 2, "dash": DASHES[(i + shift) % len(DASHES)]},
        "marker": {"color": colour, "size": 7, "symbol": MARKERS[(i + shift) % len(MARKERS)]},
    }


def _layout(top: int = 40) -> dict[str, Any]:
    """Layout with space at the top for plotly's toolbar."""
    return {"template": "simple_white", "margin": {"l": 70, "r": 30, "t": top, "b": 60}, "font": {"size": 13}}


def _middle(alphas: tuple[float, ...]) -> float:
    return sorted(alphas)[len(alphas) // 2]
