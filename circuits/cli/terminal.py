"""What the `circuits` command shows: tables on standard output, progress on standard error."""

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.methods.catalogue import declared
from circuits.results.wording import counted, fixed, metric_name

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.progress import StageReport
    from circuits.prompts.pairs import PromptPairs
    from circuits.question.answers import Answers
    from circuits.runs.result import Discovery, NodeDiscovery


@contextlib.contextmanager
def stage(name: str) -> Iterator["StageReport"]:
    """A progress bar; a note may follow the counts."""
    from rich import progress
    from rich.table import Column

    # In a narrow terminal the note is cut, not the times.
    note_column = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=16),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}", table_column=note_column),
    )
    with progress.Progress(*columns, console=console_stderr(), expand=True) as bar:
        task = bar.add_task(name, total=None, note="")
        yield lambda done, total, note="": bar.update(task, completed=done, total=total, note=note)


def print_result(
    result: "Discovery | NodeDiscovery", model: "Model", pairs: "PromptPairs", out: Path, as_json: bool
) -> None:
    """The numbers of a run, its strongest edges or nodes, and where it was written."""
    from circuits.runs.result import Discovery

    if as_json:
        print_json({"out": str(out), **result.summary()}, result.warnings)
        return
    if isinstance(result, Discovery):
        rows, strongest, page = _edge_rows(result), _strongest_edges(result), "circuit.html"
    else:
        rows, strongest = _node_rows(result), _strongest_nodes(result)
        page = "heatmap.html" if result.features is None else "circuit.html"
    seconds = ", ".join(f"{stage} {s:.1f}" for stage, s in result.seconds.items())
    rows = [("pairs", str(len(pairs))), *rows, ("seconds", seconds)]
    title = f"{pairs.source or 'pairs'} in {model.name}"
    console().print(table(title, {"": False, " ": True}, rows, show_header=False), strongest)
    say_all("warning", result.warnings)
    say_all("note", result.notes)
    say(f"written to {out} (open {out / page} in a browser)")


def print_finished(record: Mapping[str, Any], out: Path, as_json: bool) -> None:
    """What `--resume` prints for a run that is finished."""
    if as_json:
        print_json({"out": str(out), **record["summary"]})
    else:
        say(f"{out} is already finished; there is nothing to resume")


def _edge_rows(result: "Discovery") -> list[tuple[str, str]]:
    numbers = result.summary()
    metric = metric_name(numbers["metric"])
    digits = _digits([numbers[name] for name in ("clean", "ablated", "circuit")], 3)
    return [
        ("accuracy of the model", "–" if result.accuracy is None else f"{result.accuracy:.2f}"),
        *answer_rows(result.answers),
        (f"{metric}, clean", fixed(numbers["clean"], digits)),
        (f"{metric}, everything ablated ({numbers['ablation']})", fixed(numbers["ablated"], digits)),
        (f"{metric}, circuit", fixed(numbers["circuit"], digits)),
        (f"{numbers['unit']} of the circuit", f"{numbers['edges']:,} of {numbers['edges_in_graph']:,}"),
        *_search_rows(result),
        ("nodes of the circuit", str(numbers["nodes"])),
        ("faithfulness", fixed(numbers["faithfulness"])),
        (
            f"faithfulness of {counted(len(numbers['random_circuits']), 'random circuit')}",
            fixed(numbers["random_faithfulness"]),
        ),
    ]


def answer_rows(answers: "Answers | None") -> list[tuple[str, str]]:
    """Where the model ranks the answers."""
    if answers is None:
        return []
    return [("top-1 rate of the answer", f"{answers.top_1_rate:.2f}"),
            ("median rank of the answer", f"{answers.median_rank:g}")]  # fmt: skip


def _search_rows(result: "Discovery") -> list[tuple[str, str]]:
    """How the edges were chosen."""
    search, training = result.provenance.get("search"), result.provenance.get("training")
    if training is not None:
        objective = f"{result.options['objective']}, circuit (trained on it)"
        return [("edges requested", str(result.options["edges"])), (objective, fixed(training["metric"]))]
    if search is None:
        return [("edges chosen before dead ends were pruned", str(result.options["edges"]))]
    closest, asked = search["closest"], result.provenance.get("options", {})
    threshold = [("threshold found", f"{asked['threshold']:.3g}")] if "wanted" in asked else []
    return [
        *threshold,
        ("tests made, of edges", f"{search['tests']}, {search['edges_tested']}"),
        ("closest change to the threshold", "–" if closest is None else f"{closest:.2g}"),
    ]


def _strongest_edges(result: "Discovery") -> Any:
    from circuits.results.recorded import quantity_of

    quantity = quantity_of(result.provenance)
    plus, strongest = "+" if quantity.signed else "", result.strongest(10)
    digits = _digits([score for _, score, _ in strongest], 4)
    rows = [
        (edge, "yes" if edge in result.circuit else "no", fixed(score, digits, plus), fixed(stderr, digits))
        for edge, score, stderr in strongest
    ]
    columns = {"edge": False, "in the circuit": False, quantity.name: True, "std. error": True}
    if all(math.isnan(stderr) for *_, stderr in strongest):  # a search, or a single prompt
        del columns["std. error"]
        rows = [row[:-1] for row in rows]
    return table("strongest edges", columns, rows)


def _node_rows(result: "NodeDiscovery") -> list[tuple[str, str]]:
    numbers, options = result.summary(), result.options
    where = "" if numbers["positions"] is None else f" × {numbers['positions']} positions"
    metric = metric_name(numbers["metric"])
    digits = _digits([numbers["clean"], numbers["corrupted"]], 3)
    other = (f"{metric}, corrupted ({numbers['ablation']})", fixed(numbers["corrupted"], digits))
    if numbers["corrupted"] is None:
        other = ("ablated by", numbers["ablation"])
    return [
        *answer_rows(result.answers),
        (f"{metric}, clean", fixed(numbers["clean"], digits)),
        other,
        ("nodes", f"{numbers['nodes']}{where}"),
        *declared(options["method"]).shown(options),
        *((name, value if isinstance(value, str) else fixed(value)) for name, value in result.scores.quality.items()),
        *_feature_rows(numbers.get("features")),
    ]


def _feature_rows(features: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Of the circuit of a run with dictionaries."""
    if features is None:
        return []
    rows = [("nodes, edges of the circuit", f"{features['circuit_nodes']}, {features['circuit_edges']}")]
    names = {"faithfulness": "its own errors", "with_errors": "all errors", "without_errors": "no errors"}
    measured = features["faithfulness"] or {}
    return rows + [(f"faithfulness with {what}", fixed(measured[name])) for name, what in names.items() if measured]


def _strongest_nodes(result: "NodeDiscovery") -> Any:
    quantity = result.scores.quantity
    plus, rows, strongest = "+" if quantity.signed else "", [], result.summary()["strongest"]
    digits = _digits([entry["effect"] for entry in strongest], 4)
    for entry in strongest:
        low, high = (fixed(end, digits, plus) for end in entry["interval"] or (None, None))
        between = "–" if "–" in (low, high) else f"{low} to {high}"
        effect, error = fixed(entry["effect"], digits, plus), fixed(entry["stderr"], digits)
        rows.append((entry["node"], effect, error, between))
    columns = {"node": False, quantity.name: True, "std. error": True, "nominal 95% interval": True}
    return table("strongest nodes", columns, rows)


def print_rows(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table of text; the first column flush left, the others right."""
    console().print(table(title, {heading or " " * i: i > 0 for i, heading in enumerate(headings)}, rows))


def table(title: str | None, columns: Mapping[str, bool], rows: Iterable[Sequence[str]], **options: Any) -> Any:
    """A table with these columns; True: numbers, flush right."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", **options)
    for name, number in columns.items():
        made.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def _digits(values: Iterable[float | None], least: int) -> int:
    """Decimals with which the largest of these values has three significant digits; at least `least`, at most 15."""
    largest = max((abs(value) for value in values if value and math.isfinite(value)), default=1.0)
    return min(max(least, 2 - math.floor(math.log10(largest))), 15)


def json_line(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def print_json(value: Any, warnings: Iterable[str] = ()) -> None:
    """For programs: one line of JSON on standard output; warnings on standard error."""
    print(json_line(value))
    for warning in warnings:
        print(f"circuits: warning: {warning}", file=sys.stderr)


def say(text: str, **style: Any) -> None:
    """A line on standard output, which is not cut at the width of the terminal."""
    console().print(text, soft_wrap=True, **style)


def say_all(kind: str, texts: Iterable[str]) -> None:
    """Warnings or notes on standard output, a line each."""
    for text in texts:
        say(f"{kind}: {text}", style="yellow")


def note(text: str) -> None:
    """A line on standard error, beside the results."""
    console_stderr().print(text, soft_wrap=True, highlight=False)


def console() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False, width=_width(sys.stdout))


WITHOUT_TERMINAL = 120
"""Columns when the output goes to a file or a pipe."""


def _width(stream: Any) -> int | None:
    return None if stream.isatty() or "COLUMNS" in os.environ else WITHOUT_TERMINAL


def console_stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True, markup=False, width=_width(sys.stderr))
