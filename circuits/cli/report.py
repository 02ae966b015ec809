"""`circuits report`: finished runs as one page."""

from pathlib import Path
from typing import Annotated, Any

import typer

from circuits.cli import completion
from circuits.cli.common import load
from circuits.cli.terminal import say
from circuits.errors import InputError
from circuits.runs.files import read_whole


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories, of one model on the same prompts.", autocompletion=completion.runs),
    ],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
) -> None:
    """Write one page on finished runs: task, model, methods, circuits, evaluations, comparison, commands."""
    records = [read_whole(run) for run in runs]
    from circuits.plots import write_page
    from circuits.report import report_sections

    title, sections = report_sections(runs, _decoder(records[0]["provenance"]))
    write_page(title, sections, out)
    say(f"written to {out}; open it in a browser")


def _decoder(origin: dict[str, Any]) -> Any:
    """What shows the tokens of a run's model as text; None: the model is not there, or has no tokenizer."""
    try:
        loaded = load(str(origin.get("model")), None, "cpu", origin.get("revision"))
    except InputError:
        return None
    return None if loaded.tokenizer is None else loaded.tokenizer.decode
