"""`circuits report`: finished runs as one page."""

from pathlib import Path
from typing import Annotated

import typer

from circuits.terminal import console


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, of one model on the same prompts.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
) -> None:
    """Write one page on runs for a reader: task, model, methods, circuits, evaluations, comparison, commands."""
    from circuits.plots import write_page
    from circuits.report import report_sections

    title, sections = report_sections(runs)
    write_page(title, sections, out)
    console().print(f"written to {out}; open it in a browser", soft_wrap=True)
