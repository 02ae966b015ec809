"""Progress bars, the only output of this package to the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from circuits.zoo.entry import Progress


@contextmanager
def rich_progress() -> Iterator[Progress]:
    """A callback `progress(stage, done, total)` that draws one bar per stage on standard error.

    Bars are drawn from the first call to the end of the context, and only in a terminal or a notebook. rich is imported at the
    first call.
    """
    bars: Any = None
    tasks: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        nonlocal bars
        if bars is None:
            bars = _bars()
            if not bars.disable:
                bars.start()
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total or None)
        bars.update(tasks[stage], completed=done, total=total or None)

    try:
        yield report
    finally:
        if bars is not None and not bars.disable:
            bars.stop()


def _bars() -> Any:
    """A `rich.progress.Progress`."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not (console.is_terminal or console.is_jupyter))
