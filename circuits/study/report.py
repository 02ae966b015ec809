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
from circuits.study.request import Study, is_file
from circuits.study.table import UNDER, table

NUMBERS = {
    "faithfulness": "Faithfulness of the circuits, as a ratio of dataset means, on the pairs that they were found on and under the "
    "ablation that they were found with. 1 = as the model, 0 = as with everything ablated; above 1 a circuit leaves out what hurts.",
    "cpr": "CPR: the area under faithfulness over circuits of growing size, edges by signed score; higher is better.",
    "cmd": "CMD: the area between faithfulness and 1, edges by absolute score; lower is better.",
    "auroc": "AUROC of the scores against the known circuit: 1 = every true edge before every other one, 0.5 = by chance.",
    "edges": "Edges of the circuits.",
}
"""What the page compares methods by, and what it says of it; the faithfulness that an evaluation measured stands behind the first."""
SPREAD = "Mean over seeds ± standard deviation."
NO_BREAK = "\u00a0"
"""A space where no line is broken."""
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
    sections = [Section("What was asked", f"{len(rows)} runs: {told}. {_seeds(study)}", study.text)]
    done = _labelled(rows)
    for number, text in NUMBERS.items():
        sections += _compared(done, number, text)
        if number == "faithfulness":
            sections += _evaluated(done, study)
    sections += _agreement(done, directory, study)
    sections += _failures(rows)
    sections += _runs(rows)
    write_page(f"Study: {directory.path.resolve().name}", sections, path)


def _question(row: Mapping[str, Any]) -> str:
    """What a method was asked, without the seed."""
    return f"{row['task']} in {row['model']}"


def _seeds(study: Study) -> str:
    """What differs between the runs of several seeds."""
    files = {is_file(Path(request.task_source)) for request in study.requests}
    drawn = "A file's pairs are the same for all seeds, which differ in what a method draws"
    if files == {True}:
        return f"{drawn}."
    return "Seeds draw other pairs of a task and all that a method draws." + (f" {drawn}." if True in files else "")


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


def _methods(grid: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for by in grid.values() for name in by))


def _compared(rows: Sequence[Mapping[str, Any]], number: str, text: str) -> list[Section]:
    grid = _grid(rows, number)
    if not grid:
        return []
    methods = _methods(grid)
    cells = [[question, *(_spread(by.get(name, [])) for name in methods)] for question, by in grid.items()]
    heading = number.replace("cpr", "CPR").replace("cmd", "CMD").replace("auroc", "AUROC")
    heading = heading[0].upper() + heading[1:]
    told = f"{text} {SPREAD}"
    if number == "faithfulness":
        without = dict.fromkeys(row["label"] for row in rows if row["label"] not in methods)
        told += f" {', '.join(without)} {'give' if len(without) > 1 else 'gives'} no circuit." if without else ""
    found = [Section(heading, told, Table(("", *methods), cells))]
    if number in ("faithfulness", "auroc"):
        means = [[mean(by[name]) if name in by else None for name in methods] for by in grid.values()]
        figure = grid_figure(means, list(grid), methods, heading)
        found.append(Section(f"{heading}, drawn", "", figure))
    return found


def _evaluated(rows: Sequence[Mapping[str, Any]], study: Study) -> list[Section]:
    """A table for each ablation that the evaluation measured faithfulness under."""
    fresh = next((request.evaluation.get("fresh") for request in study.requests if request.evaluation), None)
    drawn = next((request.evaluation["random_circuits"] for request in study.requests if request.evaluation), 0)
    pairs = "on the pairs that they were found on" if fresh is None else f"on {fresh} new pairs of each task"
    found = []
    for column in rows[0] if rows else ():
        if not column.startswith(f"{UNDER[0]}_"):
            continue
        ablation = column.removeprefix(f"{UNDER[0]}_")
        grids = [_grid(rows, f"{name}_{ablation}") for name in UNDER]
        methods = _methods(grids[0])
        cells = [
            [
                question,
                *(_against_random(*(grid.get(question, {}).get(name, []) for grid in grids)) for name in methods),
            ]
            for question in grids[0]
        ]
        text = f"Faithfulness of the circuits under {ablation} ablation, {pairs}; behind it that of random circuits of as many edges, and "
        text += f"p: the share of random circuits that come as near to the model. {SPREAD} p is the largest of the seeds', and of {drawn} random circuits at least {1 / (1 + drawn):.2g}."
        found.append(Section(f"Evaluated faithfulness, {ablation} ablation", text, Table(("", *methods), cells)))
    return found


def _against_random(values: Sequence[float], random: Sequence[float], p: Sequence[float]) -> str:
    told = [_spread(values)]
    told += [f"random {mean(random):.2g}"] if random else []
    told += [f"p = {max(p):.2g}"] if p else []
    return ", ".join(part.replace(" ", NO_BREAK) for part in told)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{mean(values):.3g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def _agreement(rows: Sequence[Mapping[str, Any]], directory: StudyDirectory, study: Study) -> list[Section]:
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
    text = "The same method with other seeds: the share of edges or nodes that two seeds' results have in common (Jaccard), how alike "
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
