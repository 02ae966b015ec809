"""How results show themselves: one line as text, a table in a notebook, and a DataFrame for everything else.

A class derives from `Shown` and has either `to_dict` or `rows`; all three views come from these.
"""

import importlib
import numbers
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

Row = Mapping[str, Any]

SHOWN_ROWS = 20
"""Rows of a table in a notebook."""
SHOWN_FACTS = 6
"""Numbers in the line of a result."""


class Shown:
    """A result that a notebook shows as a table."""

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        raise NotImplementedError

    def rows(self) -> Sequence[Row]:
        """The result as a table, one dictionary a row. By default `name` and `value` of each number in `to_dict`."""
        return [{"name": name, "value": value} for name, value in _facts(self.to_dict())]

    def to_pandas(self) -> "pandas.DataFrame":
        """The result as a DataFrame, one row for each of `rows`.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as problem:
            from circuits.errors import InputError

            raise InputError("to_pandas needs pandas: pip install pandas") from problem
        return pandas.DataFrame(list(self.rows()))

    def __repr__(self) -> str:
        facts = [f"{name}={_short(value)}" for name, value in _facts(self.to_dict()) if value is not None]
        return f"{type(self).__name__}({', '.join(facts[:SHOWN_FACTS])})"

    def _shown_rows(self) -> Sequence[Row]:
        """Rows in the order in which a notebook shows the first of them."""
        return self.rows()

    def _repr_html_(self) -> str:
        """For notebooks: the line of text, and the first rows as a table."""
        return html_table(repr(self), self._shown_rows())


def first_rows(result: Shown, most: int) -> Sequence[Row]:
    """The rows that a notebook shows first."""
    return result._shown_rows()[:most]


def html_table(title: str, rows: Sequence[Row], most: int = SHOWN_ROWS) -> str:
    """An HTML table with a title, of at most `most` rows; says how many more there are.

    >>> html_table("one < two", [{"edge": "a->b", "effect": 0.123456}])
    '<div><p><code>one &lt; two</code></p><table><thead><tr><th>edge</th><th>effect</th></tr></thead><tbody><tr><td>a-&gt;b</td><td style="text-align:right">0.1235</td></tr></tbody></table></div>'
    """
    shown = rows[:most]
    columns = list(dict.fromkeys(name for row in shown for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(_cell(row.get(name)) for name in columns)}</tr>" for row in shown)
    more = f"<p>{len(rows) - most} more rows: <code>to_pandas()</code> has all of them.</p>" if len(rows) > most else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if shown else ""
    return f"<div><p><code>{escape(title)}</code></p>{table}{more}</div>"


def _cell(value: Any) -> str:
    right = ' style="text-align:right"' if isinstance(value, numbers.Number) else ""
    return f"<td{right}>{escape(_short(value))}</td>"


def _short(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _facts(values: Mapping[Any, Any], before: str = "") -> list[tuple[str, Any]]:
    """Names and values of all single values, nested ones as `outer.inner`; lists are left out."""
    facts: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            facts += _facts(value, f"{before}{name}.")
        elif not isinstance(value, list | tuple):
            facts.append((f"{before}{name}", value))
    return facts


def from_above(name: str) -> Any:
    """A function of `circuits.notebook`, by name: it draws results, and results cannot import what draws them."""
    return getattr(importlib.import_module("circuits.notebook"), name)
