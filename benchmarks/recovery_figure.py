"""The figure of `recovery.py`: needs the extra `viz` and a Chrome or Chromium."""

from collections.abc import Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.plots.page import NEGATIVE, NOT_MEASURED, POSITIVE

SCALE = [(0.0, NEGATIVE), (0.5, "#ffffff"), (1.0, POSITIVE)]


def recovery_figure(tables: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> go.Figure:
    """AUROC of methods (rows) on models (columns), a panel an ablation; white is chance, grey is undefined."""
    figure = make_subplots(
        cols=len(tables),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        subplot_titles=[f"{name} ablation" for name in tables],
    )
    for column, table in enumerate(tables.values(), 1):
        methods = list(table)
        models = list(table[methods[0]])
        values = [[table[method][model] for model in models] for method in methods]
        figure.add_heatmap(
            z=values, x=[model.partition("/")[2] for model in models], y=methods, coloraxis="coloraxis", xgap=1, ygap=1,
            row=1, col=column, hoverongaps=False,
        )  # fmt: skip
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                dark = value is not None and abs(value - 0.5) > 0.3
                figure.add_annotation(
                    x=x, y=y, text="–" if value is None else f"{value:.2f}".removeprefix("0"), showarrow=False, row=1, col=column,
                    font={"size": 10, "color": "white" if dark else "#1c2430"},
                )  # fmt: skip
    n_models = len(next(iter(next(iter(tables.values())).values())))
    n_methods = len(next(iter(tables.values())))
    figure.update_xaxes(tickangle=-45, showgrid=False, ticks="")
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="")
    return figure.update_layout(
        width=34 * n_models * len(tables) + 260, height=26 * n_methods + 150, plot_bgcolor=NOT_MEASURED,
        font={"family": "DejaVu Sans, Arial, sans-serif", "size": 12, "color": "#1c2430"},
        margin={"l": 130, "r": 10, "t": 35, "b": 100},
        coloraxis={
            "colorscale": SCALE, "cmin": 0, "cmax": 1,
            "colorbar": {"title": {"text": "AUROC", "side": "right"}, "thickness": 14, "outlinewidth": 0.5},
        },
    )  # fmt: skip
