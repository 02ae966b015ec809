"""A circuit's edges or nodes as CSV, and as LaTeX tables (booktabs)."""

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from circuits.export.drawing import check_max_edges
from circuits.export.latex import escape
from circuits.export.rows import EdgeRow, NodeRow, edge_rows, node_rows
from circuits.files.atomic import replacing, write_text
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming
from circuits.results.quantity import quantity_of

PAGE = 45
"""Rows of a LaTeX table that fit on a page; longer tables are a `longtable`."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a formula begins in a spreadsheet, which may ignore white space before it."""


def write_csv_edges(circuit: Circuit, path: str | Path, naming: Naming | None = None) -> None:
    """Writes the edges as CSV, with all digits of their effects; see `circuits.export.rows.EdgeRow`."""
    _write_csv(EdgeRow._fields, edge_rows(circuit, naming), path)


def write_csv_nodes(circuit: Circuit, path: str | Path, naming: Naming | None = None) -> None:
    """Writes the nodes as CSV; see `circuits.export.rows.NodeRow`."""
    _write_csv(NodeRow._fields, node_rows(circuit, naming), path)


def _write_csv(fields: Sequence[str], rows: Sequence[tuple], path: str | Path) -> None:
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
    heads = ("from", "to", "input", escape(quantity.name), "std.\\ error")
    named = cache(_named)
    rows = [
        (named(row.source, row.source_label), named(row.target, row.target_label), row.input,
         _number(row.effect, quantity.signed), _number(row.stderr, plus=False))
        for row in edge_rows(circuit, naming)[:max_edges]
    ]  # fmt: skip
    _write_table("lllrr", heads, rows, path)


def write_latex_nodes(circuit: Circuit, path: str | Path, naming: Naming | None = None) -> None:
    """Writes the nodes as a LaTeX table, in the order of the forward pass."""
    quantity = quantity_of(circuit.provenance)
    heads = ("node", "kind", "edges in", "edges out", f"{escape(quantity.name)} of out-edges")
    rows = [
        (_named(row.node, row.label), "MLP" if row.kind == "mlp" else row.kind, str(row.edges_in), str(row.edges_out),
         _number(row.effect_out, quantity.signed))
        for row in node_rows(circuit, naming)
    ]  # fmt: skip
    _write_table("llrrr", heads, rows, path)


def _named(node: str, label: str | None) -> str:
    return escape(node) if label is None or label == node else f"{escape(label)} ({escape(node)})"


def _number(value: float | None, plus: bool = True) -> str:
    if value is None:
        return "{--}"
    text = f"{value:{'+' if plus else ''}.3g}"
    mantissa, e, power = text.partition("e")
    return f"${mantissa}$" if not e else rf"${mantissa}\times 10^{{{int(power)}}}$"


def _write_table(columns: str, heads: Sequence[str], rows: Sequence[Sequence[str]], path: str | Path) -> None:
    long = len(rows) > PAGE
    kind, packages = ("longtable", "booktabs,longtable") if long else ("tabular", "booktabs")
    lines = [
        f"% Needs \\usepackage{{{packages}}}.",
        rf"\begin{{{kind}}}{{{columns}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
        *([r"\endhead"] if long else []),
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        rf"\end{{{kind}}}",
        "",
    ]
    write_text(path, "\n".join(lines))
