"""`circuits study`: grids of runs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuits.cli.common import print_json, workers_on
from circuits.cli.options import WORKERS, CpusPerWorker, GpusPerWorker, NumberOfWorkers, On
from circuits.cli.terminal import console, print_rows, stage

if TYPE_CHECKING:
    from circuits.study import Entry

study_app = typer.Typer(
    help="Run a grid of models, tasks, methods and seeds; only what is missing is computed.", no_args_is_help=True
)
Directory = Annotated[Path, typer.Argument(help="A study's directory.")]
SHOWN_REASONS = 10


@study_app.command()
def run(
    study: Annotated[Path, typer.Argument(help="A study file (TOML): models, tasks, seeds, methods, evaluation.")],
    out: Annotated[Path, typer.Option(help="The study's directory. What it has already is not computed again.")],
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
    json: Annotated[bool, typer.Option("--json", help="Print what there is as JSON.")] = False,
) -> None:  # fmt: skip
    """Make the runs of a study that are missing. Failed ones are tried again; a killed call goes on where it was."""
    from circuits.errors import InputError
    from circuits.study import StudyDirectory, read_study, run_study

    asked = read_study(study)
    if divide_runs and on is None:
        raise InputError("--divide-runs goes with --on")
    StudyDirectory.check_free(out)
    with workers_on(on, workers, cpus_per_worker, gpus_per_worker, asked.requests[0].threads) as who:
        directory = StudyDirectory.begin(out)  # only now: without workers nothing is left behind
        outcome = run_study(asked, directory, workers=who, divide_runs=divide_runs, stage=stage)
    if json:
        print_json({"out": str(out), "made": outcome.made, **_counts(outcome.entries)})
    else:
        console().print(f"{outcome.made} runs made; {_told(outcome.entries)}; in {out}", soft_wrap=True)
        _print_failures(outcome.entries)
    if outcome.states["failed"]:
        raise typer.Exit(3)


@study_app.command()
def status(
    directory: Directory, json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False
) -> None:
    """What of a study is done, missing and failed. No model is loaded."""
    from circuits.study import StudyDirectory
    from circuits.study import status as status_of

    opened = StudyDirectory.open(directory)
    entries = status_of(opened.study(), opened)
    if json:
        told = [
            {"run": str(e.request), "state": e.state, "address": e.address, "reason": e.reason} for e in entries
        ]  # fmt: skip
        print_json({**_counts(entries), "entries": told})
        return
    groups: dict[tuple[str, str], Counter[str]] = {}
    for entry in entries:
        groups.setdefault((entry.request.model, entry.request.task), Counter())[entry.state] += 1
    rows = [[model, task, *(str(of[state]) for state in STATES)] for (model, task), of in groups.items()]
    print_rows(f"{directory}: {_told(entries)}", ("model", "task", *STATES), rows)
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
    """Write a study as a table, one row a run."""
    from circuits.study import StudyDirectory, write_table
    from circuits.study import table as table_of

    opened = StudyDirectory.open(directory)
    rows = table_of(opened.study(), opened)
    if json:
        for row in rows:
            print_json(row)
        return
    paths = [directory / "table.csv", directory / "table.parquet"] if out is None else [out]
    for path in paths:
        write_table(rows, path)
    console().print(f"{len(rows)} rows written to {' and '.join(map(str, paths))}", soft_wrap=True)


@study_app.command()
def report(
    directory: Directory,
    out: Annotated[Path | None, typer.Option(help="The page. Default: report.html in the directory.")] = None,
) -> None:
    """Write a study as a page: how methods compare, how seeds agree, and what failed."""
    from circuits.study import StudyDirectory
    from circuits.study.report import write_report

    path = out or directory / "report.html"
    write_report(StudyDirectory.open(directory), path)
    console().print(f"written to {path}", soft_wrap=True)


STATES = ("done", "missing", "failed")


def _counts(entries: Sequence["Entry"]) -> dict[str, int]:
    found = Counter(entry.state for entry in entries)
    return {"runs": len(entries)} | {state: found[state] for state in STATES}


def _told(entries: Sequence["Entry"]) -> str:
    counts = _counts(entries)
    return f"of {counts['runs']} runs {counts['done']} done, {counts['missing']} missing, {counts['failed']} failed"


def _print_failures(entries: Sequence["Entry"]) -> None:
    """Each reason once, with one of its runs."""
    reasons = Counter(entry.reason for entry in entries if entry.reason is not None)
    for reason, count in reasons.most_common(SHOWN_REASONS):
        first = next(entry.request for entry in entries if entry.reason == reason)
        more = "" if count == 1 else f" and {count - 1} more"
        console().print(f"failed: {first}{more}: {reason}", style="yellow", soft_wrap=True, markup=False)
    if len(reasons) > SHOWN_REASONS:
        console().print(f"… and {len(reasons) - SHOWN_REASONS} further reasons: circuits study status", style="yellow")
