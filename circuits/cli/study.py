"""`circuits study`: grids of runs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuits.cli import completion
from circuits.cli.common import check_workers, workers_on
from circuits.cli.options import WORKERS, CpusPerWorker, GpusPerWorker, NumberOfWorkers, On
from circuits.cli.terminal import print_json, print_rows, say, stage
from circuits.errors import InputError

if TYPE_CHECKING:
    from circuits.study import Entry

study_app = typer.Typer(
    help="Run a grid of models, tasks, methods and seeds; only missing runs are computed.", no_args_is_help=True
)
Directory = Annotated[Path, typer.Argument(help="A study's directory.", autocompletion=completion.studies)]
STATES = ("done", "missing", "failed")
SHOWN_REASONS = 10


@study_app.command()
def run(
    study: Annotated[Path, typer.Argument(help="A study file (TOML): models, tasks, seeds, methods, evaluation.")],
    out: Annotated[Path, typer.Option(help="The study's directory. Runs that it already has are not computed again.")],
    on: On = None,
    workers: NumberOfWorkers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = 0.0,
    divide_runs: Annotated[
        bool,
        typer.Option(
            "--divide-runs", help="Divide each run among the workers (coar, exact-edges, activation-patching), rather than "
            "give each worker a run.", rich_help_panel=WORKERS,
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:  # fmt: skip
    """Compute the missing runs of a study. Failed runs are tried again; a killed study continues where it stopped."""
    from circuits.study import StudyDirectory, read_study, run_study

    StudyDirectory.check_free(out)
    if divide_runs and on is None:
        raise InputError("--divide-runs needs --on")
    check_workers(on, workers, cpus_per_worker, gpus_per_worker)
    asked = read_study(study)
    with workers_on(on, workers, cpus_per_worker, gpus_per_worker, asked.requests[0].threads) as who:
        directory = StudyDirectory.begin(out)  # only now: if workers cannot be started, nothing is left behind
        outcome = run_study(asked, directory, workers=who, divide_runs=divide_runs, stage=stage)
    if json:
        print_json({"out": str(out), "made": outcome.made, **_counts(outcome.entries)})
    else:
        say(f"{outcome.made} runs made; {_summary(outcome.entries)}; in {out}")
        _print_failures(outcome.entries)
    if outcome.states["failed"]:
        raise typer.Exit(3)


@study_app.command()
def status(
    directory: Directory, json: Annotated[bool, typer.Option("--json", help="Print the states as JSON.")] = False
) -> None:
    """Which runs of a study are done, missing and failed. No model is loaded."""
    from circuits.study import StudyDirectory
    from circuits.study import status as status_of

    opened = StudyDirectory.open(directory)
    entries = status_of(opened.study(), opened)
    if json:
        rows = [{"run": str(e.request), "state": e.state, "address": e.address, "reason": e.reason} for e in entries]
        print_json({**_counts(entries), "entries": rows})
        return
    groups: dict[tuple[str, str], Counter[str]] = {}
    for entry in entries:
        groups.setdefault((entry.request.model_shown, entry.request.task), Counter())[entry.state] += 1
    rows = [[model, task, *(str(counts[state]) for state in STATES)] for (model, task), counts in groups.items()]
    print_rows(f"{directory}: {_summary(entries)}", ("model", "task", *STATES), rows)
    _print_failures(entries)


@study_app.command()
def table(
    directory: Directory,
    out: Annotated[
        Path | None,
        typer.Option(help="A .csv or .parquet file. Default: table.csv and table.parquet in the directory."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON, a line each.")] = False,
) -> None:
    """Write a study as a table, one row per run."""
    from circuits.study import StudyDirectory
    from circuits.study import table as table_of
    from circuits.study.table import check_table, write_table

    paths = [directory / "table.csv", directory / "table.parquet"] if out is None else [out]
    for path in paths:
        check_table(path)
    opened = StudyDirectory.open(directory)
    rows = table_of(opened.study(), opened)
    if json:
        for row in rows:
            print_json(row)
        return
    for path in paths:
        write_table(rows, path)
    say(f"{len(rows)} rows written to {' and '.join(map(str, paths))}")


@study_app.command()
def report(
    directory: Directory,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file to write. Default: report.html in the directory.")
    ] = None,
) -> None:
    """Write a study as a page: how methods compare, how seeds agree, and what failed."""
    from circuits.study import StudyDirectory

    opened = StudyDirectory.open(directory)
    from circuits.study.report import write_report

    path = out or directory / "report.html"
    write_report(opened, path)
    say(f"written to {path}")


def _counts(entries: Sequence["Entry"]) -> dict[str, int]:
    states = Counter(entry.state for entry in entries)
    return {"runs": len(entries)} | {state: states[state] for state in STATES}


def _summary(entries: Sequence["Entry"]) -> str:
    counts = _counts(entries)
    return f"of {counts['runs']} runs {counts['done']} done, {counts['missing']} missing, {counts['failed']} failed"


def _print_failures(entries: Sequence["Entry"]) -> None:
    """Each reason once, with one of its runs."""
    reasons = Counter(entry.reason for entry in entries if entry.reason is not None)
    for reason, count in reasons.most_common(SHOWN_REASONS):
        first = next(entry.request for entry in entries if entry.reason == reason)
        say(f"failed: {first}{'' if count == 1 else f' and {count - 1} more'}: {reason}", style="yellow")
    if len(reasons) > SHOWN_REASONS:
        say(f"… and {len(reasons) - SHOWN_REASONS} further reasons: circuits study status", style="yellow")
