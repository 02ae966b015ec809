"""Colours, text and offline pages of all figures.

Colours are the blue and vermilion of Okabe and Ito (2008), which colour-blind readers can distinguish. In black and white, width
shows the size of an effect and dashes its sign.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go

from circuits.files.atomic import replacing, write_text
from circuits.plots.figure import CONFIG

POSITIVE, NEGATIVE, NEUTRAL = "#0072B2", "#D55E00", "#5f6b7a"
SIZE = "#009E73"
"""The colour of scores without sign."""
NOT_MEASURED = "#e4e7eb"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1f26; max-width: 62rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
p { max-width: 46rem; margin: .4rem 0; } .figure { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .8rem 0; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #d8dde3; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
pre, code { font: .85rem/1.45 ui-monospace, monospace; } pre { background: #f4f6f8; padding: .7rem 1rem; white-space: pre-wrap; }
@media print { body { max-width: none; margin: 0; } h2 { break-after: avoid; } .figure, table { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Table:
    """A table of text; columns of numbers are aligned to the right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        heading, text: plain text.
        content: a figure, a table, preformatted text, or nothing.
    """

    heading: str
    text: str
    content: go.Figure | Table | str | None = None


def escaped(text: str) -> str:
    """Text for plotly, which takes `<q>` for a tag and leaves it out."""
    return html.escape(text, quote=False)


def write_html(figure: go.Figure, path: str | Path) -> None:
    """Writes a figure as one page that works offline, without upload buttons."""
    with replacing(path) as temporary:
        figure.write_html(temporary, include_plotlyjs=True, full_html=True, config=CONFIG)


def write_page(title: str, sections: Sequence[Section], path: str | Path) -> None:
    """Writes sections as one page that works offline and can be printed; all text is escaped."""
    parts, script = [], True
    for section in sections:
        parts.append(f"<h2>{html.escape(section.heading)}</h2>")
        parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text.split("\n\n") if paragraph]
        content = section.content
        if isinstance(content, go.Figure):
            parts.append(
                f'<div class="figure">{content.to_html(full_html=False, include_plotlyjs=script, config=CONFIG)}</div>'
            )
            script = False
        elif isinstance(content, Table):
            parts.append(_table(content))
        elif content:
            parts.append(f"<pre>{html.escape(content)}</pre>")
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    write_text(path, page)


def _table(table: Table) -> str:
    numeric = [bool(table.rows) and all(_is_number(row[i]) for row in table.rows) for i in range(len(table.headings))]

    def cells(row: Sequence[str], tag: str) -> str:
        marks = (' class="number"' if number else "" for number in numeric)
        return "".join(f"<{tag}{m}>{html.escape(cell)}</{tag}>" for m, cell in zip(marks, row, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    return f'<div class="figure"><table><tr>{cells(table.headings, "th")}</tr>{body}</table></div>'


def _is_number(cell: str) -> bool:
    return bool(cell) and (cell[0].isdigit() or cell[0] in "+-−–.")
