"""A study as a table, one row a run: to CSV, to Parquet, or as dictionaries.

The same study gives the same table wherever it was run: wall times are not in it.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.export.tables import cell
from circuits.files.atomic import replacing
from circuits.study.directory import Entry, StudyDirectory
from circuits.study.request import Study
from circuits.study.run import status

ASKED = {"model": str, "task": str, "method": str, "options": str, "seed": int, "n": int, "state": str}
FOUND = {
    "metric": str, "ablation": str, "clean": float, "ablated": float, "circuit": float, "edges": int, "faithfulness": float,
    "random_faithfulness": float, "accuracy": float, "strongest": str, "strongest_effect": float,
}  # fmt: skip
UNDER = ("evaluated_faithfulness", "evaluated_random_faithfulness", "p")
"""Columns for each ablation of the evaluation: `p_zero` is `p` under zero ablation."""
EVALUATED = {"completeness": float, "cpr": float, "cmd": float, "auroc": float}
TOLD = {"reason": str, "address": str}


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, type]:
    """All columns of a table and their kinds; what a run does not have is empty.

    `method` is the study's label; `clean`, `ablated` and `circuit` are the metric's means (for scores of nodes `ablated` is the
    corrupted run); `strongest` is the edge or node of the largest effect. `UNDER` and `EVALUATED` are of the run's evaluation,
    completeness, CPR and CMD under the run's own ablation.
    """
    fixed = {*ASKED, *FOUND, *EVALUATED, *TOLD}
    under = dict.fromkeys((name for row in rows for name in row if name not in fixed), float)
    return {**ASKED, **FOUND, **under, **EVALUATED, **TOLD}


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
    told: dict[str, Any] = {
        "model": request.model, "task": request.task, "method": request.label,
        "options": json.dumps({"method": request.method, **request.options}, sort_keys=True),
        "seed": request.seed, "n": request.n, "metric": request.metric, "ablation": request.ablation,
        "state": entry.state, "reason": entry.reason, "address": entry.address,
    }  # fmt: skip
    if entry.state != "done":
        return told
    assert entry.address is not None
    summary = out.summary(entry.address)
    told |= {name: summary[name] for name in FOUND if name in summary and not name.startswith("strongest")}
    if "corrupted" in summary:
        told["ablated"] = summary["corrupted"]
    if summary["strongest"]:
        first = summary["strongest"][0]
        told["strongest"] = first.get("edge") or first.get("node")
        told["strongest_effect"] = first["score"] if "score" in first else first["effect"]
    if entry.evaluation is not None:
        told |= _evaluated(out.evaluation(entry.evaluation) or {})
    return told


def _evaluated(told: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"completeness": told.get("completeness", {}).get("value")}
    for ablation, measured in told.get("faithfulness", {}).items():
        values = (measured.get(name) for name in ("ratio_of_means", "random_faithfulness", "p"))
        found |= {f"{name}_{ablation}": value for name, value in zip(UNDER, values, strict=True)}
    curves = told.get("curves") or {}
    found |= {name: curves.get(name) for name in ("cpr", "cmd")}
    return found | {"auroc": _auroc(told.get("recovery"))}


def _auroc(told: Any) -> float | None:
    """Of the scores, at the finest level that was ranked; against the edges that are active on the pairs, where a task tells
    several kinds of true ones."""
    rows = told.get("scores", []) if isinstance(told, dict) else []
    for level in ("edges", "nodes"):
        found = [row for row in rows if row["level"] == level]
        if found:
            return min(found, key=lambda row: "active" not in row["truth"])["auroc"]
    return None


def write_table(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Writes rows by the ending of the path: `.csv` or `.parquet`.

    Raises:
        InputError: another ending, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"a table is written to .csv or .parquet, not to {path.name}")
    try:
        with replacing(path) as temporary:
            (_write_csv if path.suffix == ".csv" else _write_parquet)(rows, temporary)
    except OSError as problem:
        raise InputError(f"cannot write {path}: {problem.strerror or problem}") from None


def _write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
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
