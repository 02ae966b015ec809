"""A study as one page: how methods compare, how well seeds agree, what failed, and every run."""

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
    "faithfulness": "Faithfulness of the circuits, as a ratio of dataset means, on the pairs and under the ablation that they were "
    "found with. 1 = as the model, 0 = as with everything ablated; above 1 a circuit leaves out edges that hurt.",
    "cpr": "CPR: the area under faithfulness over circuits of growing size, edges by signed score; higher is better.",
    "cmd": "CMD: the area between faithfulness and 1, edges by absolute score; lower is better.",
    "auroc": "AUROC of the scores against the known circuit: 1 = every true edge before every other one, 0.5 = by chance.",
    "edges": "Edges of the circuits.",
}
"""Numbers that the page compares methods by, with their texts; faithfulness from evaluations follows the first."""
NO_BREAK = "\u00a0"
"""A space at which no line breaks."""
SHOWN_ROWS = 500
STRONGEST = 10
"""Strongest nodes of each run that are compared; at most half of all."""
RUN = ("method", "seed", "metric", "ablation", "state", "edges", "faithfulness", "strongest", "address")


def write_report(directory: StudyDirectory, path: Path) -> None:
    """Writes the page.

    Raises:
        InputError: a run's file is damaged, or the page cannot be written.
    """
    study = directory.study()
    rows = table(study, directory)
    counts = Counter(row["state"] for row in rows)
    states = ", ".join(f"{counts[state]} {state}" for state in ("done", "missing", "failed"))
    seeds = Seeds.from_study(study, directory)
    sections = [Section("The study", f"{len(rows)} runs: {states}. {seeds.text}", study.text)]
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
    """A question without its seed."""
    return f"{task} in {model}"


def _asked(row: Mapping[str, Any]) -> str:
    return _question(row["task"], row["model"])


@dataclass(frozen=True)
class Seeds:
    """How the runs of several seeds differ.

    Attributes:
        number: the number of seeds.
        same: questions that have the same pairs for all seeds, such as those from files.
        tasks: the tasks of these, and the tasks whose pairs depend on the seed.
    """

    number: int
    same: frozenset[str]
    tasks: tuple[Sequence[str], Sequence[str]]

    @classmethod
    def from_study(cls, study: Study, directory: StudyDirectory) -> "Seeds":
        """From the prompts of the runs, if they are known."""
        made: dict[tuple[str, str], dict[int, str]] = {}
        for request in study.requests:
            identity = directory.identity(request_key(request))
            if identity is not None:
                made.setdefault((request.task, request.model_shown), {})[request.seed] = identity.pairs
        of_several = {question: set(by.values()) for question, by in made.items() if len(by) > 1}
        same = [question for question, pairs in of_several.items() if len(pairs) == 1]
        drawn = [question for question, pairs in of_several.items() if len(pairs) > 1]
        tasks = tuple(list(dict.fromkeys(task for task, _ in questions)) for questions in (same, drawn))
        number = len({request.seed for request in study.requests})
        return cls(number, frozenset(_question(*question) for question in same), (tasks[0], tasks[1]))

    @property
    def text(self) -> str:
        """What seeds change, for the page."""
        same, drawn = self.tasks
        both = "Seeds change the pairs of a task and the random numbers of a method"
        if same and drawn:
            return f"{both}; of {', '.join(same)} they change the random numbers only."
        if same:
            return "All seeds have the same pairs; they change the random numbers of a method only."
        return f"{both}." if drawn else ""

    @property
    def spread(self) -> str:
        """How numbers of several seeds are shown."""
        if self.number == 1:
            return ""
        if self.same:
            return " Mean over seeds ± standard deviation; no ± where seeds have the same pairs and the same number."
        return " Mean over seeds ± standard deviation."

    def mean(self, question: str, values: Sequence[float]) -> str:
        """A number's mean over seeds, and its spread if seeds can differ."""
        if not values:
            return "–"
        alike = len(values) == 1 or (question in self.same and len(set(values)) == 1)
        return f"{mean(values):.3g}" + ("" if alike else f" ± {stdev(values):.2g}")


def _pairs(study: Study, own: str) -> str:
    """The pairs of the evaluation, in words."""
    fresh = next((request.evaluation.get("fresh") for request in study.requests if request.evaluation), None)
    return own if fresh is None else f"on {fresh} new pairs of each task"


def _labelled(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows that are done, with `label`: the method's, with metric and ablation if it was run with several."""
    done = [row for row in rows if row["state"] == "done"]
    asked: dict[tuple[str, str], tuple[set[Any], set[Any]]] = {}
    for row in done:
        metrics, ablations = asked.setdefault((_asked(row), row["method"]), (set(), set()))
        metrics.add(row["metric"])
        ablations.add(row["ablation"])
    labelled = []
    for row in done:
        several = zip(("metric", "ablation"), asked[_asked(row), row["method"]], strict=True)
        more = [str(row[key]) for key, values in several if len(values) > 1]
        labelled.append({**row, "label": ", ".join([row["method"], *more])})
    return labelled


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
    text += seeds.spread
    if number == "faithfulness":
        without = dict.fromkeys(row["label"] for row in rows if row["label"] not in methods)
        text += f" {', '.join(without)} {'give' if len(without) > 1 else 'gives'} no circuit." if without else ""
    sections = [Section(heading, text, Table(("", *methods), cells))]
    if number in ("faithfulness", "auroc"):
        means = [[mean(by[name]) if name in by else None for name in methods] for by in grid.values()]
        sections.append(Section(f"{heading}, drawn", "", grid_figure(means, list(grid), methods, heading)))
    return sections


def _evaluated(rows: Sequence[Mapping[str, Any]], study: Study, seeds: Seeds) -> list[Section]:
    """A table for each ablation of the evaluation's faithfulness."""
    drawn = next((request.evaluation["random_circuits"] for request in study.requests if request.evaluation), 0)
    pairs = _pairs(study, "on the pairs that they were found on")
    sections = []
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
        largest = "" if seeds.number == 1 else "the largest of the seeds' and "
        text = (
            f"Faithfulness of the circuits under {ablation} ablation, {pairs}; then that of random circuits with as many edges; and "
            f"p, the share of random circuits that are as close to the model.{seeds.spread} p is {largest}at least "
            f"{1 / (1 + drawn):.2g} with {drawn} random circuits (fewer if fewer differ)."
        )
        sections.append(Section(f"Evaluated faithfulness, {ablation} ablation", text, Table(("", *methods), cells)))
    return sections


def _against_random(own: str, random: Sequence[float], p: Sequence[float]) -> str:
    parts = [own, *([f"random {mean(random):.2g}"] if random else []), *([f"p = {max(p):.2g}"] if p else [])]
    return ", ".join(part.replace(" ", NO_BREAK) for part in parts)


def _agreement(rows: Sequence[Mapping[str, Any]], directory: StudyDirectory, seeds: Seeds) -> list[Section]:
    """How well the results of several seeds agree: circuits, or the strongest nodes."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((_asked(row), row["label"]), []).append(row)
    cells = []
    for (question, method), members in groups.items():
        alike = _alike(members, directory) if len(members) > 1 else None
        if alike is not None:
            rank = "–" if math.isnan(alike.mean_rank) else f"{alike.mean_rank:.3f}"
            what = "circuits" if alike.k is None else f"{alike.k} strongest {alike.unit}"
            shared = f"{len(alike.always)} {alike.unit}"
            cells.append([question, method, str(len(members)), what, f"{alike.mean_jaccard:.3f}", rank, shared])
    if not cells:
        return []
    text = "The same method with other seeds: the share of edges or nodes that the results of two seeds have in common (Jaccard), the "
    text += "correlation of their rankings of all nodes (Spearman), and the number in all results. Means over pairs of seeds."
    if seeds.same:
        text += " With the same pairs, methods without random numbers give equal results."
    columns = ("", "method", "seeds", "compared", "Jaccard", "rank correlation", "in all")
    return [Section("Agreement between seeds", text, Table(columns, cells))]


def _alike(rows: Sequence[Mapping[str, Any]], directory: StudyDirectory) -> Stability | None:
    """Stability of circuits, or of scores of nodes if there are no circuits; None: the seeds' nodes are not the same."""
    paths = {row["address"]: directory.run_path(row["address"]) for row in rows}
    if all(row["edges"] is not None for row in rows):
        return stability({address: Circuit.from_json(path / "circuit.json") for address, path in paths.items()})
    scores = {address: NodeScores.load(path / "scores.safetensors") for address, path in paths.items()}
    if len({(one.nodes, one.positions) for one in scores.values()}) > 1:
        return None
    return stability(scores, max(1, min(STRONGEST, next(iter(scores.values())).values.numel() // 2)))


def _failures(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    reasons = Counter((_asked(row), row["reason"]) for row in rows if row["state"] == "failed")
    cells = [[question, str(count), reason] for (question, reason), count in reasons.most_common(SHOWN_ROWS)]
    return [Section("Failed", "", Table(("", "runs", "why"), cells))] if cells else []


def _runs(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    cells = [[_asked(row), *(_cell(row[column]) for column in RUN)] for row in rows[:SHOWN_ROWS]]
    text = "A run's directory is runs/ADDRESS; circuits view, report, evaluate, compare and export take it."
    if len(rows) > SHOWN_ROWS:
        text += f" The first {SHOWN_ROWS} of {len(rows)}: circuits study table writes all."
    return [Section("All runs", text, Table(("", *RUN), cells))]


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
