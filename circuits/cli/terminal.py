"""What the `circuits` command shows: tables on standard output, progress on standard error."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.methods.catalogue import declared
from circuits.results.wording import metric_name

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.progress import StageReport
    from circuits.prompts.pairs import PromptPairs
    from circuits.question.answers import Answers
    from circuits.runs.result import Discovery, NodeDiscovery


@contextlib.contextmanager
def stage(name: str) -> Iterator["StageReport"]:
    """A progress bar; a note may follow the counts."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    # Of a narrow terminal the note gives way, not the times.
    note_column = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", table_column=note_column),
    )
    with Progress(*columns, console=console_stderr(), expand=True) as bar:
        task = bar.add_task(name, total=None, note="")
        yield lambda done, total, note="": bar.update(task, completed=done, total=total, note=note)


def print_summary(found: "Discovery | NodeDiscovery", model: "Model", pairs: "PromptPairs", out: Path) -> None:
    """The numbers of a run, its strongest edges or nodes, and where it was written."""
    from circuits.runs.result import Discovery

    if isinstance(found, Discovery):
        rows, strongest, page = _edge_rows(found), _strongest_edges(found), "circuit.html"
    else:
        rows, strongest, page = _node_rows(found), _strongest_nodes(found), "heatmap.html"
    seconds = ", ".join(f"{stage} {s:.1f}" for stage, s in found.seconds.items())
    shown = table(f"{pairs.source or 'pairs'} in {model.name}", {"": False, " ": True}, show_header=False)
    for row in (("pairs", str(len(pairs))), *rows, ("seconds", seconds)):
        shown.add_row(*row)
    screen = console()
    screen.print(shown, strongest)
    for warning in found.warnings:
        screen.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    for note in found.notes:
        screen.print(f"note: {note}", style="yellow", soft_wrap=True)
    screen.print(f"written to {out} (open {out / page} in a browser)", soft_wrap=True)


def _edge_rows(found: "Discovery") -> list[tuple[str, str]]:
    numbers = found.summary()
    metric = metric_name(numbers["metric"])
    return [
        ("accuracy of the model", "–" if found.accuracy is None else f"{found.accuracy:.2f}"),
        *answer_rows(found.answers),
        (f"{metric}, clean", _decimal(numbers["clean"])),
        (f"{metric}, everything ablated ({numbers['ablation']})", _decimal(numbers["ablated"])),
        (f"{metric}, circuit", _decimal(numbers["circuit"])),
        ("edges of the circuit", f"{numbers['edges']} of {numbers['edges_in_graph']}"),
        *_search_rows(found),
        ("nodes of the circuit", str(numbers["nodes"])),
        ("faithfulness", _decimal(numbers["faithfulness"])),
        (
            f"faithfulness of {len(numbers['random_circuits'])} random circuits",
            _decimal(numbers["random_faithfulness"]),
        ),
    ]


def answer_rows(answers: "Answers | None") -> list[tuple[str, str]]:
    """Where the model ranks the answers."""
    if answers is None:
        return []
    return [("top-1 rate of the answer", f"{answers.top_1_rate:.2f}"),
            ("median rank of the answer", f"{answers.median_rank:g}")]  # fmt: skip


def _search_rows(found: "Discovery") -> list[tuple[str, str]]:
    """How the edges were chosen."""
    search, training = found.provenance.get("search"), found.provenance.get("training")
    if training is not None:
        objective = f"{found.options['objective']}, circuit (trained on it)"
        return [("edges asked for", str(found.options["edges"])), (objective, _decimal(training["metric"]))]
    if search is None:
        return [("edges chosen before dead ends were pruned", str(found.options["edges"]))]
    closest = search["closest"]
    return [
        ("tests made, of edges", f"{search['tests']}, {search['edges_tested']}"),
        ("closest change to the threshold", "–" if closest is None else f"{closest:.2g}"),
    ]


def _strongest_edges(found: "Discovery") -> Any:
    from circuits.results.quantity import quantity_of

    quantity = quantity_of(found.provenance)
    shown = table("strongest edges", {"edge": False, "in the circuit": False, quantity.name: True, "std. error": True})
    for edge, score, stderr in found.strongest(10):
        shown.add_row(
            edge,
            "yes" if edge in found.circuit else "no",
            f"{score:+.4f}" if quantity.signed else f"{score:.4f}",
            "–" if math.isnan(stderr) else f"{stderr:.4f}",
        )
    return shown


def _node_rows(found: "NodeDiscovery") -> list[tuple[str, str]]:
    numbers, options = found.summary(), found.options
    where = "" if numbers["positions"] is None else f" × {numbers['positions']} positions"
    ranks = answer_rows(found.answers)
    other = (f"{metric_name(numbers['metric'])}, corrupted ({numbers['ablation']})", _decimal(numbers["corrupted"]))
    if numbers["corrupted"] is None:
        other = ("ablated by", numbers["ablation"])
    return [
        *ranks,
        (f"{metric_name(numbers['metric'])}, clean", _decimal(numbers["clean"])),
        other,
        ("nodes", f"{numbers['nodes']}{where}"),
        *declared(options["method"]).shown(options),
        *((name, value if isinstance(value, str) else _decimal(value)) for name, value in found.scores.quality.items()),
    ]


def _strongest_nodes(found: "NodeDiscovery") -> Any:
    quantity = found.scores.quantity
    plus = "+" if quantity.signed else ""
    shown = table("strongest nodes", {"node": False, quantity.name: True, "std. error": True, "95% interval": True})
    for entry in found.summary()["strongest"]:
        interval = entry["interval"]
        between = "–" if interval is None or None in interval else f"{interval[0]:{plus}.4f} to {interval[1]:{plus}.4f}"
        shown.add_row(
            entry["node"],
            "–" if entry["effect"] is None else f"{entry['effect']:{plus}.4f}",
            "–" if entry["stderr"] is None else f"{entry['stderr']:.4f}",
            between,
        )
    return shown


def print_rows(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of text; the first column flush left, the others right."""
    shown = table(title, {heading or " " * i: i > 0 for i, heading in enumerate(headings)})
    for row in rows:
        shown.add_row(*row)
    console().print(shown)


def table(title: str, columns: dict[str, bool], **options: Any) -> Any:
    """A table with these columns; True: numbers, flush right."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", **options)
    for name, number in columns.items():
        made.add_column(name, justify="right" if number else "left", overflow="fold")
    return made


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def console() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False, width=_width(sys.stdout))


WITHOUT_TERMINAL = 120
"""Columns where the output goes to a file or a pipe."""


def _width(stream: Any) -> int | None:
    return None if stream.isatty() or "COLUMNS" in os.environ else WITHOUT_TERMINAL


def console_stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True, markup=False, width=_width(sys.stderr))
