"""How long work tells how far it is."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

Progress = Callable[[int, int], None]
"""Called with (pairs or steps done, in all)."""


@runtime_checkable
class StageReport(Protocol):
    """Called with (done, in all) during a stage, and with a note where more can be told."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


StageProgress = Callable[[str], contextlib.AbstractContextManager[StageReport]]
"""Called with a stage's name; gives a `StageReport`."""


Timed = Callable[[str, str], contextlib.AbstractContextManager[StageReport]]
"""Called with what a stage's time is recorded as, and with its name."""


@contextlib.contextmanager
def silent(stage: str) -> Iterator[StageReport]:
    yield lambda done, total, note="": None
