"""A circuit's edges or nodes as CSV, and as LaTeX tables (booktabs)."""

import csv
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from circuits.export.draw import check_max_edges
from circuits.export.latex import escape
from circuits.export.rows import EdgeRow, NodeRow, edge_rows, node_rows
from circuits.files.atomic import replacing, write_text
from circuits.graph.places import ARROW
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming
from circuits.results.recorded import method_name, quantity_of
from circuits.results.wording import metric_name

PAGE = 45
"""Rows of a LaTeX table that fit on a page; longer tables are a `longtable`."""
LONGEST_NAMES = 56
"""Letters of the names in a row of a LaTeX table that fit without a line break."""
POINT = "r@{.}l"
"""Columns of a number, aligned on its decimal point without a package."""
ENTERS = {"q": "query", "k": "key", "v": "value", "in": "--"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a formula begins in a spreadsheet, which may ignore white space before it."""


def write_csv_edges(circuit: Circuit, path: str | Path, naming: Naming | None = None) -> None:
    """Writes the edges as CSV, with all digits of their effects; see `circuits.export.rows.EdgeRow`."""
    _write_csv(EdgeRow._fields, edge_rows(circuit, naming), path, circuit)


def write_csv_nodes(circuit: Circuit, path: str | Path, naming: Naming | None = None) -> None:
    """Writes the nodes as CSV; see `circuits.export.rows.NodeRow`."""
    _write_csv(NodeRow._fields, node_rows(circuit, naming), path, circuit)


def _write_csv(fields: Sequence[str], rows: Sequence[tuple], path: str | Path, circuit: Circuit) -> None:
    """Writes the rows; only circuits over places have the column `position`."""
    if circuit.places is None:
        at = fields.index("position")
        fields, rows = (*fields[:at], *fields[at + 1 :]), [(*row[:at], *row[at + 1 :]) for row in rows]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(fields)
        writer.writerows([cell(value) for value in row] for row in rows)


def cell(value: Any) -> Any:
    """A value for a spreadsheet: text that it would take for a formula gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def write_latex_edges(
    circuit: Circuit, path: str | Path, naming: Naming | None = None, max_edges: int | None = None
) -> None:
    """Writes the `max_edges` edges (None: all) with the largest effects as a LaTeX table."""
    check_max_edges(max_edges)
    quantity = quantity_of(circuit.provenance)
    placed = circuit.places is not None
    heads = (
        "from",
        "to",
        "enters as",
        *(["at"] if placed else []),
        _over(escape(quantity.name)),
        _over("std.\\ error"),
    )
    named = cache(_named)
    rows = edge_rows(circuit, naming)[:max_edges]
    effects, errors = _aligned([row.effect for row in rows], quantity.signed), _aligned([row.stderr for row in rows])
    cells = [
        (
            named(row.source, row.source_label),
            named(row.target, row.target_label),
            ENTERS[row.input],
            *([_place(row.position)] if placed else []),
            effect,
            error,
        )
        for row, effect, error in zip(rows, effects, errors, strict=True)
    ]
    shown = "Edges of" if len(rows) == len(circuit) else f"The {len(rows)} strongest of the {len(circuit)} edges of"
    caption = _caption(shown, circuit) + (
        ", with its standard error over prompts." if any(row.stderr for row in rows) else "."
    )
    _write_table(
        f"{_names(cells, 2)}l{'l' if placed else ''}{POINT}{POINT}", heads, cells, path, caption, "tab:circuit-edges"
    )


def write_latex_nodes(circuit: Circuit, path: str | Path, naming: Naming | None = None) -> None:
    """Writes the nodes as a LaTeX table, in the order of the forward pass."""
    quantity = quantity_of(circuit.provenance)
    placed = circuit.places is not None
    heads = (
        "node",
        *(["at"] if placed else []),
        "kind",
        "edges in",
        "edges out",
        _over(f"{escape(quantity.name)} of out-edges"),
    )
    rows = node_rows(circuit, naming)
    effects = _aligned([row.effect_out for row in rows], quantity.signed)
    cells = [
        (
            _named(row.node, row.label),
            *([_place(row.position)] if placed else []),
            "MLP" if row.kind == "mlp" else row.kind,
            str(row.edges_in),
            str(row.edges_out),
            effect,
        )
        for row, effect in zip(rows, effects, strict=True)
    ]
    caption = f"{_caption('Nodes of', circuit)}, summed over the out-edges of each node."
    _write_table(
        f"{_names(cells, 1)}{'l' if placed else ''}lrr{POINT}", heads, cells, path, caption, "tab:circuit-nodes"
    )


def _caption(what: str, circuit: Circuit) -> str:
    """What the table shows, from the provenance."""
    origin, quantity = circuit.provenance, quantity_of(circuit.provenance)
    where = f" for {origin['task']} in {origin['model']}" if origin.get("task") and origin.get("model") else ""
    by = f", found by {method_name(origin)}" if origin.get("method") else ""
    measured = quantity.over(metric_name(origin.get("metric")))
    unit = f", in {quantity.unit}" if quantity.unit else ""
    return escape(f"{what} the circuit{where}{by}: {measured}{unit}")


def _place(position: str | None) -> str:
    """`S2`, or `S2 → end`: read at S2 for queries at the end."""
    return "--" if position is None else escape(position.replace(ARROW, " → "))


def _named(node: str, label: str | None) -> str:
    return escape(node) if label is None or label == node else f"{escape(label)} ({escape(node)})"


def _aligned(values: Sequence[float | None], plus: bool = False) -> list[str]:
    """Numbers as two columns, before and after the decimal point, all with as many digits after it.

    The smallest keeps two digits, but the largest gets at most five; what is smaller still is written as a power of ten.
    """
    sizes = [abs(value) for value in values if value is not None and value != 0 and math.isfinite(value)]
    powers = [math.floor(math.log10(size)) for size in sizes] or [0]
    digits = max(0, min(1 - min(powers), 4 - max(powers)))
    return [_cells(value, digits, plus) for value in values]


def _cells(value: float | None, digits: int, plus: bool) -> str:
    if value is None or not math.isfinite(value):
        return _over("--")
    power = ""
    if value and abs(value) < 0.5 * 10.0**-digits:
        text, _, exponent = f"{value:{'+' if plus else ''}.1e}".partition("e")
        power = rf"\times 10^{{{int(exponent)}}}"
    else:
        text = f"{value:{'+' if plus else ''}.{digits}f}"
    whole, _, rest = text.partition(".")
    return f"${whole}$ & " + (f"${rest}{power}$" if rest or power else "")


def _names(rows: Sequence[Sequence[str]], columns: int) -> str:
    """The first columns, which hold names: as wide as their names, or wrapped where these would not fit a page beside each other."""
    longest = [max((len(row[i]) for row in rows), default=0) for i in range(columns)]
    return ("l" if sum(longest) <= LONGEST_NAMES else r"p{0.26\textwidth}") * columns


def _over(text: str) -> str:
    """A cell over both columns of a number."""
    return rf"\multicolumn{{2}}{{c}}{{{text}}}"


def _write_table(
    columns: str, heads: Sequence[str], rows: Sequence[Sequence[str]], path: str | Path, caption: str, label: str
) -> None:
    long = len(rows) > PAGE
    named = rf"\caption{{{caption}}}\label{{{label}}}"
    body = [
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
        *([r"\endhead"] if long else []),
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
    ]
    if long:
        lines = [rf"\begin{{longtable}}{{{columns}}}", named + r" \\", *body, r"\end{longtable}"]
    else:
        table = [rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"]
        lines = [r"\begin{table}", r"\centering", named, *table, r"\end{table}"]
    packages = "booktabs,longtable" if long else "booktabs"
    write_text(path, "\n".join([f"% Needs \\usepackage{{{packages}}}.", *lines, ""]))
