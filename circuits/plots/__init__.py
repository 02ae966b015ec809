"""Figures, in plotly."""

from circuits.plots.circuit import circuit_figure
from circuits.plots.heatmaps import node_heatmap, position_heatmap
from circuits.plots.page import write_html

__all__ = ["circuit_figure", "node_heatmap", "position_heatmap", "write_html"]
