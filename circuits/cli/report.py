"""`circuits report`: finished runs as one page."""

from pathlib import Path
from typing import Annotated, Any

import typer

from circuits.cli.common import load
from circuits.cli.terminal import console
from circuits.errors import InputError


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, of one model on the same prompts.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
) -> None:
    """Write one page on runs for a reader: task, model, methods, circuits, evaluations, comparison, commands."""
    from circuits.pages.report import report_sections
    from circuits.plots import write_page

    title, sections = report_sections(runs, _decoder(runs[0]))
    write_page(title, sections, out)
    console().print(f"written to {out}; open it in a browser", soft_wrap=True)


def _decoder(run: Path) -> Any:
    """What shows the tokens of a run's model as text; None where that model is not there, or has no tokenizer."""
    from circuits.runs.read import read_run

    origin = read_run(run).provenance
    try:
        loaded = load(str(origin.get("model")), None, "cpu", origin.get("revision"))
    except InputError:
        return None
    return None if loaded.tokenizer is None else loaded.tokenizer.decode
