"""`circuits report`: one page on finished runs for a reviewer: the task, the model, each method with all its options, its
circuit and evaluation, the comparison, and the commands that repeat the runs.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from circuits.errors import InputError, SchemaError
from circuits.files.checksums import SUM, unsealed
from circuits.files.untrusted import check_plain, parse_json, read_json, read_text, shown
from circuits.pages.comparison_tables import tables as comparison_tables
from circuits.pages.evaluation import evaluation_sections
from circuits.plots import circuit_figure, node_heatmap
from circuits.plots.page import Section, Table
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.quantity import edge_caption, node_caption
from circuits.runs.compare import compare_runs
from circuits.runs.files import (
    CONFIG_FILE,
    EVALUATION_FILE,
    RUN_FILE,
    check_evaluation,
    config_is_as_written,
    read_run_file,
)
from circuits.runs.read import Run, read_runs

EXAMPLES = 5
MOST_TOKENS = 12
SHOWN_FIRST = (
    "task", "n_pairs", "seed", "model", "revision", "weights_sha256", "dtype", "device", "metric", "ablation",
)  # fmt: skip


def report_sections(
    paths: Sequence[str | Path], decode: Callable[[list[int]], str] | None = None
) -> tuple[str, list[Section]]:
    """The page's title and sections.

    Args:
        paths: run directories, of one model on the same prompts.
        decode: token ids -> text, for answers and for prompts without text; None: ids are shown.

    Raises:
        InputError: there is no run, or the runs cannot be compared.
    """
    if not paths:
        raise InputError("a report needs at least one run")
    runs = read_runs(paths)
    origin = runs[0].provenance
    title = f"{origin.get('task') or 'Pairs'} in {origin.get('model')}: {len(runs)} run{'s' if len(runs) > 1 else ''}"
    with _as_ours(runs[0].path / "pairs.jsonl"):
        sections = [_task(runs[0], decode)]
    with _as_ours(runs[0].path / RUN_FILE):
        sections.append(_model(runs[0]))
    for run in runs:
        sections += _of_run(run)
    if len(runs) > 1:
        sections += _comparison(runs)
    return title, [*sections, _commands(runs)]


@contextmanager
def _as_ours(path: Path) -> Iterator[None]:
    """An error in this block, because a file has an unexpected form, becomes an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError) as problem:
        what = shown(f"{type(problem).__name__}: {problem}")
        raise InputError(f"{path} is not a file of a run ({what}); make it again") from None


def _task(run: Run, decode: Callable[[list[int]], str] | None) -> Section:
    """The task, with the first pairs."""
    rows = []
    for line in _lines(run.path / "pairs.jsonl")[:EXAMPLES]:
        pair = check_plain(parse_json(line), "a line")
        prompts = [pair.get(f"{name}_text") or _text(pair[name], decode, "") for name in ("clean", "corrupted")]
        cells = [*prompts, *(_text(pair.get(name, []), decode, ", ") for name in ("answers", "distractors"))]
        rows.append(cells)
    origin = run.provenance
    text = (
        f"{origin.get('n_pairs')} pairs of prompts, seed {origin.get('seed')}; the first {len(rows)} are shown. The metric is "
        f"{str(origin.get('metric')).replace('_', ' ')}, at the last position unless a pair says otherwise; an ablated part "
        f"takes the value of {origin.get('ablation')} ablation."
    )
    return Section("Task", text, Table(("clean", "corrupted", "answers", "distractors"), rows))


def _text(ids: Any, decode: Callable[[list[int]], str] | None, between: str) -> str:
    """Tokens as text if possible; the first few of many answers."""
    if not isinstance(ids, list) or decode is None:
        return ", ".join(map(str, ids[:MOST_TOKENS])) if isinstance(ids, list) else str(ids)
    shown = [decode([i]) if isinstance(i, int) else str(i) for i in ids]
    return between.join(shown if not between else shown[:MOST_TOKENS]).strip()


def _model(run: Run) -> Section:
    origin = run.provenance
    rows = [[name.replace("_", " "), str(origin[name])] for name in SHOWN_FIRST if origin.get(name) is not None]
    rows += [[f"version of {name}", str(number)] for name, number in origin.get("versions", {}).items()]
    return Section("Model and question", "What all runs have in common.", Table(("", ""), rows))


def _of_run(run: Run) -> list[Section]:
    """A run's options, numbers, picture and evaluation."""
    name = run.path.resolve().name
    with _as_ours(run.path / RUN_FILE):
        sections = _numbers(name, read_run_file(run.path))
    sections += [
        Section(f"{name}: picture", _caption(result), _picture(result))
        for result in run.results.values()
        if _shown(run, result)
    ]
    evaluation = run.path / EVALUATION_FILE
    if evaluation.is_file():
        try:
            measured = check_plain(read_json(evaluation), str(evaluation))
            if isinstance(measured, dict):
                check_evaluation(measured, str(evaluation))
            if isinstance(measured, dict) and SUM in measured:  # older ones have none
                measured = unsealed(measured)
        except SchemaError:
            raise
        except InputError:
            measured = None
        if measured is None:
            raise InputError(f"{evaluation} is damaged; delete it, or evaluate the run again")
        with _as_ours(evaluation):
            sections += [
                Section(f"{name}: {part.heading[0].lower()}{part.heading[1:]}", part.text, part.content)
                for part in evaluation_sections(measured)
            ]
    return sections


def _numbers(name: str, record: dict[str, Any]) -> list[Section]:
    """A run's options and numbers, from its `run.json`."""
    options, summary = record.get("options", {}), record.get("summary", {})
    method = str(options.get("method", "")).replace("_", " ")
    rows = [[key.replace("_", " "), json.dumps(value)] for key, value in options.items() if value is not None]
    sections = [Section(f"{name}: {method}", "All options.", Table(("option", "value"), rows))]
    shown = {key: value for key, value in summary.items() if isinstance(value, int | float | str)}
    rows = [[key.replace("_", " "), _number(value)] for key, value in shown.items()]
    notes = "\n\n".join(
        f"{kind}: {text}" for kind in ("Warning", "Note") for text in summary.get(f"{kind.lower()}s", ())
    )
    return [*sections, Section(f"{name}: result", notes, Table(("", ""), rows))]


def _shown(run: Run, result: Any) -> bool:
    """Whether to show a result: the circuit, or scores of nodes."""
    return (
        isinstance(result, Circuit) if run.circuits else not isinstance(result, EdgeScores) and result.positions is None
    )


def _picture(result: Any) -> Any:
    return circuit_figure(result) if isinstance(result, Circuit) else node_heatmap(result)


def _caption(result: Any) -> str:
    if isinstance(result, Circuit):
        return edge_caption(result)
    return node_caption(result.quantity)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _comparison(runs: Sequence[Run]) -> list[Section]:
    """Rankings and overlap; `circuits compare` measures what needs the model."""
    try:
        comparison = compare_runs(runs)
    except InputError as reason:
        return [Section("Comparison", f"These runs cannot be compared: {reason}.")]
    sections = [
        Section(f"Comparison: {title}", "", Table(headings, rows))
        for title, headings, rows in comparison_tables(comparison)
    ]
    text = "Agreement between methods is not faithfulness: methods can agree and be wrong together."
    return [*sections, Section("On comparisons", text)]


def _commands(runs: Sequence[Run]) -> Section:
    """Commands that repeat the runs, each with its options as a file."""
    parts = [part for run in runs if (part := _command(run)) is not None]
    if not parts:
        return Section("To compute it again", "The runs hold no config.toml; their options are above.")
    text = "Save each block as the file that it names; with the same versions, the command below it repeats the run."
    return Section("To compute it again", text, "\n\n\n".join(parts))


def _command(run: Run) -> str | None:
    """A run's options as a file, and the command; None: the run has no such file. A changed file is marked as changed."""
    config, name = run.path / CONFIG_FILE, run.path.resolve().name
    if not config.is_file():
        return None
    try:
        kept = read_text(config).strip()
    except InputError as problem:
        return f"# {name}.toml cannot be shown: {problem}; the run's options are above"
    changed = (
        ""
        if config_is_as_written(run.path, run.record)
        else "# This file was changed since the run was written; the run's own options are above.\n"
    )
    return f"# {name}.toml\n{changed}{kept}\n\ncircuits discover --config {name}.toml --out {name}"


def _lines(path: Path) -> list[str]:
    """The lines of a JSONL file; `str.splitlines` would also split at characters inside prompts, such as U+2028."""
    return [line for line in read_text(path).split("\n") if line.strip()]
