"""The types of callbacks that report progress."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

Progress = Callable[[int, int], None]
"""Called with (pairs or steps done, total)."""


@runtime_checkable
class StageReport(Protocol):
    """Called during a stage with (done, total) and an optional note."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


StageProgress = Callable[[str], contextlib.AbstractContextManager[StageReport]]
"""Called with the name of a stage; gives a `StageReport`."""
Timed = Callable[[str, str], contextlib.AbstractContextManager[StageReport]]
"""Called with the key for a stage's time in the record, and the stage's name."""


@contextlib.contextmanager
def silent(stage: str) -> Iterator[StageReport]:
    yield lambda done, total, note="": None


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[..., None]]:
    """A bar for a function that reports progress: tqdm's in a notebook, rich's on a terminal's error stream.

    Args:
        title: of the bar.

    Yields:
        A function that is called with (done, in all), or with a step: an object that may have `done` and `steps`.
    """
    if "ipykernel" in sys.modules:
        from tqdm.auto import tqdm

        with tqdm(desc=title) as bar:

            def show(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield _counting(show)
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=None)
        yield _counting(lambda done, total: bars.update(task, completed=done, total=total))


def _counting(show: Callable[[int, int | None], None]) -> Callable[..., None]:
    """A progress function; steps without a number are counted."""
    steps = itertools.count(1)

    def report(done: Any, total: int | None = None, *_: Any) -> None:
        if isinstance(done, int):
            show(done, total)
        else:
            show(getattr(done, "done", None) or next(steps), getattr(done, "steps", None))

    return report
