"""Figures, in plotly."""

from circuits.plots.circuit import circuit_figure
from circuits.plots.heatmaps import node_heatmap, position_heatmap
from circuits.plots.page import Section, Table, write_html, write_page

__all__ = [
    "Section", "Table", "circuit_figure", "node_heatmap", "position_heatmap", "write_html", "write_page",
]  # fmt: skip
