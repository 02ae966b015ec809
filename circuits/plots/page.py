"""What all figures share: colours, how text is written, and pages that work offline.

Colours are the blue and vermilion of Okabe and Ito (2008): they stay apart for colour-blind readers and in black and
white, where width carries the size of an effect and dashes its sign.
"""

import html
from pathlib import Path

import plotly.graph_objects as go

from circuits.export.atomic import replacing

POSITIVE, NEGATIVE, NEUTRAL = "#0072B2", "#D55E00", "#5f6b7a"
NOT_MEASURED = "#e4e7eb"


def escaped(text: str) -> str:
    """Text as plotly shows it: it reads `<q>` as a tag and leaves it out."""
    return html.escape(text, quote=False)


def write_html(figure: go.Figure, path: str | Path) -> None:
    """Writes a figure as one page that works offline."""
    with replacing(path) as temporary:
        figure.write_html(temporary, include_plotlyjs=True, full_html=True)
