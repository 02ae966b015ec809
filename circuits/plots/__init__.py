"""Figures, in plotly."""

from circuits.plots.describing import attention_heatmap, lens_lines
from circuits.plots.heatmaps import node_heatmap, position_heatmap
from circuits.plots.page import Picture, Section, Table, write_html, write_page

__all__ = [
    "Picture", "Section", "Table", "attention_heatmap", "lens_lines", "node_heatmap", "position_heatmap", "write_html", "write_page",
]  # fmt: skip
