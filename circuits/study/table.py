"""A study as a table, one row per run: to CSV, to Parquet, or as dictionaries.

The same study gives the same table on every machine, so it has no wall times.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.files.atomic import replacing
from circuits.study.directory import Entry, StudyDirectory
from circuits.study.request import Study
from circuits.study.run import status

REQUEST = {"model": str, "task": str, "method": str, "options": str, "seed": int, "n": int, "state": str}
RESULTS = {
    "metric": str, "ablation": str, "clean": float, "ablated": float, "circuit": float, "edges": int, "faithfulness": float,
    "random_faithfulness": float, "accuracy": float, "strongest": str, "strongest_effect": float,
}  # fmt: skip
UNDER = ("evaluated_faithfulness", "evaluated_random_faithfulness", "p")
"""Columns for each ablation of the evaluation: `p_zero` is `p` under zero ablation."""
EVALUATED = {"completeness": float, "cpr": float, "cmd": float, "auroc": float}
STATE = {"reason": str, "address": str}


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, type]:
    """All columns of a table and their kinds; a cell is empty if the run has no such value.

    `method` is the study's label; `clean`, `ablated` and `circuit` are the metric's means (for scores of nodes `ablated` is the
    corrupted run); `strongest` is the edge or node of the largest effect. `UNDER` and `EVALUATED` are from the run's evaluation,
    completeness, CPR and CMD under the run's own ablation.
    """
    fixed = {*REQUEST, *RESULTS, *EVALUATED, *STATE}
    under = dict.fromkeys((name for row in rows for name in row if name not in fixed), float)
    return {**REQUEST, **RESULTS, **under, **EVALUATED, **STATE}


def table(study: Study, out: StudyDirectory) -> list[dict[str, Any]]:
    """One row for each request, in the study's order; keys are `columns`.

    Raises:
        InputError: a run's file is damaged.
    """
    rows = [_row(entry, out) for entry in status(study, out)]
    empty = dict.fromkeys(columns(rows))
    return [{**empty, **row} for row in rows]


def _row(entry: Entry, out: StudyDirectory) -> dict[str, Any]:
    """The row of one request."""
    request = entry.request
    row: dict[str, Any] = {
        "model": request.model_shown, "task": request.task, "method": request.label,
        "options": json.dumps({"method": request.method, **request.options}, sort_keys=True),
        "seed": request.seed, "n": request.n, "metric": request.metric, "ablation": request.ablation,
        "state": entry.state, "reason": entry.reason, "address": entry.address,
    }  # fmt: skip
    if entry.state != "done":
        return row
    assert entry.address is not None
    summary = out.summary(entry.address)
    row |= {name: summary[name] for name in RESULTS if name in summary and not name.startswith("strongest")}
    if "corrupted" in summary:
        row["ablated"] = summary["corrupted"]
    if summary["strongest"]:
        first = summary["strongest"][0]
        row["strongest"] = first.get("edge") or first.get("node")
        row["strongest_effect"] = first["score"] if "score" in first else first["effect"]
    if entry.evaluation is not None:
        row |= _evaluated(out.evaluation(entry.evaluation) or {})
    return row


def _evaluated(measured: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"completeness": measured.get("completeness", {}).get("value")}
    for ablation, faithfulness in measured.get("faithfulness", {}).items():
        values = (faithfulness.get(name) for name in ("ratio_of_means", "random_faithfulness", "p"))
        row |= {f"{name}_{ablation}": value for name, value in zip(UNDER, values, strict=True)}
    curves = measured.get("curves") or {}
    row |= {name: curves.get(name) for name in ("cpr", "cmd")}
    return row | {"auroc": _auroc(measured.get("recovery"))}


def _auroc(recovery: Any) -> float | None:
    """AUROC of the scores, at the finest level that was ranked; if a task knows several kinds of true edges, against the edges that
    are active on the pairs."""
    rows = recovery.get("scores", []) if isinstance(recovery, dict) else []
    for level in ("edges", "nodes"):
        ranked = [row for row in rows if row["level"] == level]
        if ranked:
            return min(ranked, key=lambda row: "active" not in row["truth"])["auroc"]
    return None


def check_table(path: Path) -> None:
    """Refuses a path that does not end in `.csv` or `.parquet`, with an InputError."""
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"a table is written to .csv or .parquet, not to {path.name}")


def write_table(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Writes rows by the ending of the path: `.csv` or `.parquet`.

    Raises:
        InputError: another ending, or the file cannot be written.
    """
    path = Path(path)
    check_table(path)
    with replacing(path) as temporary:
        (_write_csv if path.suffix == ".csv" else _write_parquet)(rows, temporary)


def _write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    from circuits.export.tables import cell

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns(rows)), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns(rows).items()])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows], schema), path)
