"""A study as one page: how methods compare, how far seeds agree, what failed, and every run."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from circuits.circuit import Circuit
from circuits.evaluation.stability import Stability, stability
from circuits.node_scores import NodeScores
from circuits.plots.page import Section, Table, write_page
from circuits.plots.study import grid_figure
from circuits.study.directory import StudyDirectory
from circuits.study.table import table

NUMBERS = {
    "faithfulness": "Faithfulness of the circuits, as a ratio of dataset means, on the pairs that they were found on. 1 = as "
    "the model, 0 = as with everything ablated; above 1 a circuit leaves out what hurts.",
    "evaluated_faithfulness": "The same, as measured by the evaluation.",
    "cpr": "CPR: the area under faithfulness over circuits of growing size, edges by signed score; higher is better.",
    "cmd": "CMD: the area between faithfulness and 1, edges by absolute score; lower is better.",
    "auroc": "AUROC of the scores against the known circuit: 1 = every true edge before every other one, 0.5 = by chance.",
    "edges": "Edges of the circuits.",
}
"""What the page compares methods by, and what it says of it."""
SHOWN_ROWS = 500
STRONGEST = 10
"""Nodes of each run that are compared; of fewer than twice as many, half."""
RUN = ("method", "seed", "metric", "ablation", "state", "edges", "faithfulness", "strongest", "address")


def write_report(directory: StudyDirectory, path: Path) -> None:
    """Writes the page.

    Raises:
        InputError: a run's file is damaged, or the page cannot be written.
    """
    study = directory.study()
    rows = table(study, directory)
    counts = Counter(row["state"] for row in rows)
    told = ", ".join(f"{counts[state]} {state}" for state in ("done", "missing", "failed"))
    sections = [Section("What was asked", f"{len(rows)} runs: {told}.", study.text)]
    done = _labelled(rows)
    for number, text in NUMBERS.items():
        sections += _compared(done, number, text)
    sections += _agreement(done, directory)
    sections += _failures(rows)
    sections += _runs(rows)
    write_page(f"Study: {directory.path.resolve().name}", sections, path)


def _question(row: Mapping[str, Any]) -> str:
    """What a method was asked, without the seed."""
    return f"{row['task']} in {row['model']}"


def _labelled(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows that are done, with `label`: the method's, with metric and ablation where it was asked with several."""
    done = [row for row in rows if row["state"] == "done"]
    asked: dict[tuple[str, str], tuple[set[Any], set[Any]]] = {}
    for row in done:
        metrics, ablations = asked.setdefault((_question(row), row["method"]), (set(), set()))
        metrics.add(row["metric"])
        ablations.add(row["ablation"])
    found = []
    for row in done:
        several = zip(("metric", "ablation"), asked[_question(row), row["method"]], strict=True)
        more = [str(row[key]) for key, values in several if len(values) > 1]
        found.append({**row, "label": ", ".join([row["method"], *more])})
    return found


def _grid(rows: Sequence[Mapping[str, Any]], number: str) -> dict[str, dict[str, list[float]]]:
    """Values over seeds, by question and method."""
    grid: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row[number] is not None:
            grid.setdefault(_question(row), {}).setdefault(row["label"], []).append(float(row[number]))
    return grid


def _compared(rows: Sequence[Mapping[str, Any]], number: str, text: str) -> list[Section]:
    grid = _grid(rows, number)
    if not grid:
        return []
    methods = list(dict.fromkeys(name for by in grid.values() for name in by))
    cells = [[question, *(_spread(by.get(name, [])) for name in methods)] for question, by in grid.items()]
    heading = number.replace("_", " ").replace("cpr", "CPR").replace("cmd", "CMD").replace("auroc", "AUROC")
    heading = heading[0].upper() + heading[1:]
    found = [Section(heading, f"{text} Mean over seeds ± standard deviation.", Table(("", *methods), cells))]
    if number in ("faithfulness", "auroc"):
        means = [[mean(by[name]) if name in by else None for name in methods] for by in grid.values()]
        figure = grid_figure(means, list(grid), methods, heading)
        found.append(Section(f"{heading}, drawn", "", figure))
    return found


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{mean(values):.3g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def _agreement(rows: Sequence[Mapping[str, Any]], directory: StudyDirectory) -> list[Section]:
    """How far what several seeds found is the same: circuits, or the strongest nodes."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((_question(row), row["label"]), []).append(row)
    cells = []
    for (question, method), members in groups.items():
        found = _alike(members, directory) if len(members) > 1 else None
        if found is not None:
            rank = "–" if math.isnan(found.mean_rank) else f"{found.mean_rank:.3f}"
            what = "circuits" if found.k is None else f"{found.k} strongest {found.of}"
            seeds, shared = str(len(members)), f"{len(found.always)} {found.of}"
            cells.append([question, method, seeds, what, f"{found.mean_jaccard:.3f}", rank, shared])
    if not cells:
        return []
    text = "The same method on other prompts: the share of edges or nodes that two seeds' results have in common (Jaccard), how alike "
    text += "they rank all nodes (Spearman), and what all seeds have found. Means over pairs of seeds."
    columns = ("", "method", "seeds", "compared", "Jaccard", "rank correlation", "in all")
    return [Section("Agreement between seeds", text, Table(columns, cells))]


def _alike(rows: Sequence[Mapping[str, Any]], directory: StudyDirectory) -> Stability | None:
    """Circuits compared, or scores of nodes where there are no circuits; None where seeds' nodes are not the same."""
    paths = {row["address"]: directory.run_path(row["address"]) for row in rows}
    if all(row["edges"] is not None for row in rows):
        return stability({address: Circuit.from_json(path / "circuit.json") for address, path in paths.items()})
    scores = {address: NodeScores.load(path / "scores.safetensors") for address, path in paths.items()}
    if len({(found.nodes, found.positions) for found in scores.values()}) > 1:
        return None
    return stability(scores, max(1, min(STRONGEST, next(iter(scores.values())).values.numel() // 2)))


def _failures(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    reasons = Counter((_question(row), row["reason"]) for row in rows if row["state"] == "failed")
    cells = [[question, str(count), reason] for (question, reason), count in reasons.most_common(SHOWN_ROWS)]
    return [Section("Failed", "", Table(("", "runs", "why"), cells))] if cells else []


def _runs(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    cells = [
        [_question(row), *(_cell(row[column]) for column in RUN)] for row in rows[:SHOWN_ROWS]
    ]  # fmt: skip
    text = "A run's directory is runs/ADDRESS; circuits view, report, evaluate, compare and export take it."
    if len(rows) > SHOWN_ROWS:
        text += f" The first {SHOWN_ROWS} of {len(rows)}: circuits study table writes all."
    return [Section("All runs", text, Table(("", *RUN), cells))]


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
