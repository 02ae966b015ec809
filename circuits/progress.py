"""The types of callbacks that report progress."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

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
