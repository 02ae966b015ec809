"""`circuits report`: one page on finished runs that a reviewer can read: what was found, the task, each method's
circuit and evaluation, the comparison, then all options, the model, and the commands that give the same again.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from circuits.errors import InputError, SchemaError
from circuits.export.inline import inline_svg
from circuits.files.checksums import SUM, unsealed
from circuits.files.untrusted import check_plain, parse_json, read_json, read_text, shown
from circuits.pages.comparison_tables import comparison_findings
from circuits.pages.comparison_tables import tables as comparison_tables
from circuits.pages.evaluation import evaluation_sections
from circuits.pages.verdict import HEADINGS, verdict_rows
from circuits.plots import node_heatmap
from circuits.plots.page import Picture, Section, Table
from circuits.question.metrics import METRICS
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.quantity import node_caption
from circuits.results.recorded import edge_caption
from circuits.results.wording import fixed, metric_name, plain_number
from circuits.runs.compare import compare_runs
from circuits.runs.describe import read_description
from circuits.runs.files import (
    CONFIG_FILE,
    EVALUATION_FILE,
    RUN_FILE,
    check_evaluation,
    config_is_as_written,
    read_run_file,
)
from circuits.runs.findings import circuit_findings, node_findings
from circuits.runs.read import Run, read_runs

EXAMPLES = 5
MOST_TOKENS = 12
LABELS = {
    "accuracy": "accuracy of the model", "top_1_rate": "top-1 rate of the answer", "median_rank": "median rank of the answer",
    "clean": "{metric}, clean", "ablated": "{metric}, everything ablated ({ablation})",
    "corrupted": "{metric}, corrupted ({ablation})", "circuit": "{metric}, circuit", "faithfulness": "faithfulness",
    "random_faithfulness": "faithfulness of random circuits", "edges": "edges of the circuit",
    "edges_in_graph": "edges of the model", "nodes": "nodes", "positions": "positions",
}  # fmt: skip
"""Of a run's summary, in the order in which they are shown."""
SHARES = ("accuracy", "top_1_rate", "faithfulness", "random_faithfulness")
"""Of these, numbers without unit, near 0 to 1."""
SHOWN_FIRST = (
    "task", "n_pairs", "seed", "model", "revision", "weights_sha256", "dequantised", "dtype", "device", "metric", "ablation",
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
    methods = ", ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} methods"
    title = f"{origin.get('task') or 'Pairs'} in {origin.get('model')}: {methods}"
    sections = [*_verdicts(runs), _findings(runs)]
    with _as_ours(runs[0].path / "pairs.jsonl"):
        sections.append(_task(runs[0], decode))
    for run in runs:
        sections += _of_run(run, run is runs[0])
    if len(runs) > 1:
        sections += _comparison(runs)
    with _as_ours(runs[0].path / RUN_FILE):
        sections += [*map(_options, runs), _model(runs[0])]
    return title, [*sections, _commands(runs)]


def _verdicts(runs: Sequence[Run]) -> list[Section]:
    """For each claim on each circuit supported, not supported or not tested; without an evaluation by the run's own numbers."""
    sections = []
    for run in runs:
        if run.circuits:
            with _as_ours(run.path / RUN_FILE):
                summary = dict(run.record.get("summary") or {})
            with _as_ours(run.path / EVALUATION_FILE):
                rows = verdict_rows(_evaluation(run) or {}, summary)
            text = (
                ""
                if (run.path / EVALUATION_FILE).is_file()
                else "The run was not evaluated; numbers are those of the run itself."
            )
            name = "Verdict" if len(runs) == 1 else f"Verdict: {run.name}"
            sections.append(Section(name, text, Table(HEADINGS, rows)))
    return sections


def _findings(runs: Sequence[Run]) -> Section:
    """What was found, by each run in two sentences, and the first picture."""
    texts = []
    for run in runs:
        with _as_ours(run.path / RUN_FILE):
            find = circuit_findings if run.circuits else node_findings
            texts.append(" ".join(find(run.record.get("summary") or {}, run.provenance)))
    shown = next((result for result in runs[0].results.values() if _shown(runs[0], result)), None)
    texts += [] if shown is None else [_caption(shown)]
    return Section("What was found", "\n\n".join(texts), None if shown is None else _picture(shown))


@contextmanager
def _as_ours(path: Path) -> Iterator[None]:
    """An error in this block, because a file has an unexpected form, becomes an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError) as problem:
        what = shown(f"{type(problem).__name__}: {problem}")
        raise InputError(f"{path} is not a file of a run ({what}); compute the run again") from None


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
        f"{metric_name(origin.get('metric'))}, read at the last position unless a pair names another; the ablation "
        f"is {origin.get('ablation')}."
    )
    return Section("Task", text, Table(("clean", "corrupted", "answers", "distractors"), rows))


def _text(ids: Any, decode: Callable[[list[int]], str] | None, between: str) -> str:
    """Tokens as text if possible; the first few of many answers."""
    if not isinstance(ids, list) or decode is None:
        return ", ".join(map(str, ids[:MOST_TOKENS])) if isinstance(ids, list) else str(ids)
    shown = [decode([i]) if isinstance(i, int) else decode(i) if _are_ids(i) else str(i) for i in ids]
    return between.join(shown if not between else shown[:MOST_TOKENS]).strip()


def _are_ids(entry: Any) -> bool:
    """Whether it is an answer of several tokens."""
    return isinstance(entry, list) and all(isinstance(token, int) for token in entry)


def _model(run: Run) -> Section:
    origin = run.provenance
    rows = [[name.replace("_", " "), _word(origin[name])] for name in SHOWN_FIRST if origin.get(name) is not None]
    rows += [[f"version of {name}", str(number)] for name, number in origin.get("versions", {}).items()]
    return Section("Model and question", "What all runs have in common.", Table(("", ""), rows))


def _of_run(run: Run, first: bool) -> list[Section]:
    """A run's numbers, picture (that of the first is shown before) and evaluation."""
    name = run.name
    with _as_ours(run.path / RUN_FILE):
        sections = [_result(name, run)]
    shown = [result for result in run.results.values() if _shown(run, result)]
    sections += [Section(f"{name}: picture", _caption(result), _picture(result)) for result in shown[first:]]
    measured = _evaluation(run)
    if measured is not None:
        with _as_ours(run.path / EVALUATION_FILE):
            sections += [
                Section(f"{name}: {part.heading[0].lower()}{part.heading[1:]}", part.text, part.content)
                for part in evaluation_sections(measured)
                if part.heading != "Verdict"
            ]
    return sections + _description(name, run)


def _description(name: str, run: Run) -> list[Section]:
    """What each node does, its tests, and what could not be determined; nothing if the run was not described."""
    made = read_description(run.path)
    if made is None:
        return []
    rows = [[line["node"], line["label"], line["text"].partition(": ")[2]] for line in made["lines"]]
    tests = [
        [test["node"], test["statement"], _number(test["effect"]), _number(test["stderr"]), test["outcome"]]
        for test in made["tests"]
    ]
    text = "Each number stands beside its null value. " + " ".join(
        f"Not determined: {text}." for text in made["unsaid"]
    )
    sections = [Section(f"{name}: what each part does", text, Table(("node", "kind", "evidence"), rows))]
    if tests:
        table = Table(("node", "statement", "effect", "standard error", "outcome"), tests)
        sections.append(
            Section(f"{name}: tests of the description", "Interventions that the kinds and edges imply.", table)
        )
    return sections


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.3g}"


def _evaluation(run: Run) -> dict[str, Any] | None:
    """The evaluation of a run; None if it has none.

    Raises:
        InputError: it is damaged, or of another version.
    """
    evaluation = run.path / EVALUATION_FILE
    if not evaluation.is_file():
        return None
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
    return measured


def _options(run: Run) -> Section:
    """All options of a run."""
    options = read_run_file(run.path).get("options", {})
    rows = [[key.replace("_", " "), _word(value)] for key, value in options.items() if value is not None]
    return Section(f"{run.name}: options", "", Table(("option", "value"), rows))


def _result(name: str, run: Run) -> Section:
    """A run's numbers, of its `run.json`."""
    summary = read_run_file(run.path).get("summary", {})
    metric = metric_name(summary.get("metric"))
    labels = {key: label.format(metric=metric, ablation=summary.get("ablation")) for key, label in LABELS.items()}
    rows = [
        [label, fixed(summary[key]) if key in SHARES else plain_number(summary[key])]
        for key, label in labels.items()
        if summary.get(key) is not None
    ]
    known = {*LABELS, "metric", "ablation", "faithfulness_undefined"}
    rows += [
        [key.replace("_", " "), plain_number(value)]
        for key, value in summary.items()
        if key not in known and isinstance(value, int | float | str)
    ]
    notes = [f"{kind}: {text}" for kind in ("Warning", "Note") for text in summary.get(f"{kind.lower()}s", ())]
    return Section(f"{name}: result", "\n\n".join(notes), Table(("", ""), rows))


def _word(value: Any) -> str:
    """An option or an origin as people read it."""
    if isinstance(value, str):
        return metric_name(value) if value in METRICS else value
    return json.dumps(value) if isinstance(value, list | dict | bool) else plain_number(value, 6)


def _shown(run: Run, result: Any) -> bool:
    """Whether to show a result: the circuit, or scores of nodes."""
    return (
        isinstance(result, Circuit) if run.circuits else not isinstance(result, EdgeScores) and result.positions is None
    )


def _picture(result: Any) -> Any:
    return Picture(inline_svg(result)) if isinstance(result, Circuit) else node_heatmap(result)


def _caption(result: Any) -> str:
    if isinstance(result, Circuit):
        return edge_caption(result)
    return node_caption(result.quantity)


def _comparison(runs: Sequence[Run]) -> list[Section]:
    """Rankings and overlap; `circuits compare` measures what needs the model."""
    try:
        comparison = compare_runs(runs)
    except InputError as reason:
        return [Section("Comparison", f"These runs cannot be compared: {reason}.")]
    text = " ".join([*comparison_findings(comparison), "Methods can agree and be wrong together."])
    made = comparison_tables(comparison)
    return [
        Section(f"Comparison: {title}", text if i == 0 else "", Table(headings, rows))
        for i, (title, headings, rows) in enumerate(made)
    ]


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
