"""A study as one page: how methods compare, how far seeds agree, what failed, and every run."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from circuits.evaluation.stability import Stability, stability
from circuits.pages.study import grid_figure
from circuits.plots.page import Section, Table, write_page
from circuits.results.circuit import Circuit
from circuits.results.node_scores import NodeScores
from circuits.study.address import request_key
from circuits.study.directory import StudyDirectory
from circuits.study.request import Study
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
    seeds = Seeds.of(study, directory)
    sections = [Section("What was asked", f"{len(rows)} runs: {told}. {seeds.told}", study.text)]
    done = _labelled(rows)
    for number, text in NUMBERS.items():
        if number in ("cpr", "cmd"):
            text += f" Measured {_pairs(study, 'on the pairs that edges were scored on')}."
        sections += _compared(done, number, text, seeds)
        if number == "faithfulness":
            sections += _evaluated(done, study, seeds)
    sections += _agreement(done, directory, seeds)
    sections += _failures(rows)
    sections += _runs(rows)
    write_page(f"Study: {directory.path.resolve().name}", sections, path)


def _question(task: str, model: str) -> str:
    """What a method was asked, without the seed."""
    return f"{task} in {model}"


def _asked(row: Mapping[str, Any]) -> str:
    return _question(row["task"], row["model"])


@dataclass(frozen=True)
class Seeds:
    """What differs between the runs of several seeds.

    Attributes:
        number: of seeds.
        same: questions whose pairs are the same for all seeds, as those of files are.
        tasks: theirs, and those of which seeds have other pairs.
    """

    number: int
    same: frozenset[str]
    tasks: tuple[Sequence[str], Sequence[str]]

    @classmethod
    def of(cls, study: Study, directory: StudyDirectory) -> "Seeds":
        """By the prompts that were made, where they are known."""
        made: dict[tuple[str, str], dict[int, str]] = {}
        for request in study.requests:
            identity = directory.identity(request_key(request))
            if identity is not None:
                made.setdefault((request.task, request.model), {})[request.seed] = identity.pairs
        of_several = {question: set(by.values()) for question, by in made.items() if len(by) > 1}
        same = [question for question, pairs in of_several.items() if len(pairs) == 1]
        drawn = [question for question, pairs in of_several.items() if len(pairs) > 1]
        tasks = tuple(list(dict.fromkeys(task for task, _ in questions)) for questions in (same, drawn))
        number = len({request.seed for request in study.requests})
        return cls(number, frozenset(_question(*question) for question in same), (tasks[0], tasks[1]))

    @property
    def told(self) -> str:
        """For the reader of the page."""
        same, drawn = self.tasks
        told = "Seeds draw other pairs of a task and all that a method draws"
        if same and drawn:
            return f"{told}; of {', '.join(same)} all have the same pairs, and differ in what a method draws alone."
        if same:
            return "All seeds have the same pairs, and differ in what a method draws alone."
        return f"{told}." if drawn else ""

    @property
    def spread(self) -> str:
        """What is told of a number of several seeds."""
        if self.number == 1:
            return ""
        if self.same:
            return " Mean over seeds ± standard deviation; no ± where seeds have the same pairs and the same number."
        return " Mean over seeds ± standard deviation."

    def mean(self, question: str, values: Sequence[float]) -> str:
        """A number's mean over seeds, and its spread where there is one to speak of."""
        if not values:
            return "–"
        alike = len(values) == 1 or (question in self.same and len(set(values)) == 1)
        return f"{mean(values):.3g}" + ("" if alike else f" ± {stdev(values):.2g}")


def _pairs(study: Study, own: str) -> str:
    """Which pairs the evaluation measured on."""
    fresh = next((request.evaluation.get("fresh") for request in study.requests if request.evaluation), None)
    return own if fresh is None else f"on {fresh} new pairs of each task"


def _labelled(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows that are done, with `label`: the method's, with metric and ablation where it was asked with several."""
    done = [row for row in rows if row["state"] == "done"]
    asked: dict[tuple[str, str], tuple[set[Any], set[Any]]] = {}
    for row in done:
        metrics, ablations = asked.setdefault((_asked(row), row["method"]), (set(), set()))
        metrics.add(row["metric"])
        ablations.add(row["ablation"])
    found = []
    for row in done:
        several = zip(("metric", "ablation"), asked[_asked(row), row["method"]], strict=True)
        more = [str(row[key]) for key, values in several if len(values) > 1]
        found.append({**row, "label": ", ".join([row["method"], *more])})
    return found


def _grid(rows: Sequence[Mapping[str, Any]], number: str) -> dict[str, dict[str, list[float]]]:
    """Values over seeds, by question and method."""
    grid: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row[number] is not None:
            grid.setdefault(_asked(row), {}).setdefault(row["label"], []).append(float(row[number]))
    return grid


def _methods(grid: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for by in grid.values() for name in by))


def _compared(rows: Sequence[Mapping[str, Any]], number: str, text: str, seeds: Seeds) -> list[Section]:
    grid = _grid(rows, number)
    if not grid:
        return []
    methods = _methods(grid)
    cells = [[question, *(seeds.mean(question, by.get(name, [])) for name in methods)] for question, by in grid.items()]
    heading = number.replace("cpr", "CPR").replace("cmd", "CMD").replace("auroc", "AUROC")
    heading = heading[0].upper() + heading[1:]
    told = text + seeds.spread
    if number == "faithfulness":
        without = dict.fromkeys(row["label"] for row in rows if row["label"] not in methods)
        told += f" {', '.join(without)} {'give' if len(without) > 1 else 'gives'} no circuit." if without else ""
    found = [Section(heading, told, Table(("", *methods), cells))]
    if number in ("faithfulness", "auroc"):
        means = [[mean(by[name]) if name in by else None for name in methods] for by in grid.values()]
        figure = grid_figure(means, list(grid), methods, heading)
        found.append(Section(f"{heading}, drawn", "", figure))
    return found


def _evaluated(rows: Sequence[Mapping[str, Any]], study: Study, seeds: Seeds) -> list[Section]:
    """A table for each ablation that the evaluation measured faithfulness under."""
    drawn = next((request.evaluation["random_circuits"] for request in study.requests if request.evaluation), 0)
    pairs = _pairs(study, "on the pairs that they were found on")
    found = []
    for column in rows[0] if rows else ():
        if not column.startswith(f"{UNDER[0]}_"):
            continue
        ablation = column.removeprefix(f"{UNDER[0]}_")
        grids = [_grid(rows, f"{name}_{ablation}") for name in UNDER]
        methods = _methods(grids[0])
        cells = []
        for question in grids[0]:
            by_method = ([grid.get(question, {}).get(name, []) for grid in grids] for name in methods)
            cells.append([question, *(_against_random(seeds.mean(question, v), r, p) for v, r, p in by_method)])
        text = f"Faithfulness of the circuits under {ablation} ablation, {pairs}; behind it that of random circuits of as many edges, and "
        largest = "of" if seeds.number == 1 else "the largest of the seeds', and of"
        text += f"p: the share of random circuits that come as near to the model.{seeds.spread} p is {largest} {drawn} random circuits (fewer where no more differ) at least {1 / (1 + drawn):.2g}."
        found.append(Section(f"Evaluated faithfulness, {ablation} ablation", text, Table(("", *methods), cells)))
    return found


def _against_random(told_mean: str, random: Sequence[float], p: Sequence[float]) -> str:
    told = [told_mean]
    told += [f"random {mean(random):.2g}"] if random else []
    told += [f"p = {max(p):.2g}"] if p else []
    return ", ".join(part.replace(" ", NO_BREAK) for part in told)


def _agreement(rows: Sequence[Mapping[str, Any]], directory: StudyDirectory, seeds: Seeds) -> list[Section]:
    """How far what several seeds found is the same: circuits, or the strongest nodes."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((_asked(row), row["label"]), []).append(row)
    cells = []
    for (question, method), members in groups.items():
        found = _alike(members, directory) if len(members) > 1 else None
        if found is not None:
            rank = "–" if math.isnan(found.mean_rank) else f"{found.mean_rank:.3f}"
            what = "circuits" if found.k is None else f"{found.k} strongest {found.of}"
            shared = f"{len(found.always)} {found.of}"
            cells.append([question, method, str(len(members)), what, f"{found.mean_jaccard:.3f}", rank, shared])
    if not cells:
        return []
    text = "The same method with other seeds: the share of edges or nodes that two seeds' results have in common (Jaccard), how alike "
    text += "they rank all nodes (Spearman), and what all seeds have found. Means over pairs of seeds."
    if seeds.same:
        text += " Where their pairs are the same, what does not draw finds the same."
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
    reasons = Counter((_asked(row), row["reason"]) for row in rows if row["state"] == "failed")
    cells = [[question, str(count), reason] for (question, reason), count in reasons.most_common(SHOWN_ROWS)]
    return [Section("Failed", "", Table(("", "runs", "why"), cells))] if cells else []


def _runs(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    cells = [
        [_asked(row), *(_cell(row[column]) for column in RUN)] for row in rows[:SHOWN_ROWS]
    ]  # fmt: skip
    text = "A run's directory is runs/ADDRESS; circuits view, report, evaluate, compare and export take it."
    if len(rows) > SHOWN_ROWS:
        text += f" The first {SHOWN_ROWS} of {len(rows)}: circuits study table writes all."
    return [Section("All runs", text, Table(("", *RUN), cells))]


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
