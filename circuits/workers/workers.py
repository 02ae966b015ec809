"""Work that is shared between processes: a function, mapped over units of work.

A unit is the same computation wherever it is made, so that the same bits come out with any number of workers, or with none.
`circuits.workers.ray.RayWorkers` has processes of this machine or of a cluster; whatever implements `Workers` will do.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch

UNITS_PER_WORKER = 4
"""Into how many units work is cut for each worker, so that none waits long for the last."""


@runtime_checkable
class Workers(Protocol):
    """Processes that compute."""

    @property
    def number(self) -> int:
        """How many there are."""
        ...

    def map(self, function: Callable[[Any, Any], Any], shared: Any, units: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """`function(shared, unit)` of every unit, with the unit's number, in the order in which they are finished.

        `shared` travels to each worker once. What can be told to a user is raised as the `InputError` that it was.
        """
        ...


def in_units(of: Sequence[Any], workers: Workers) -> list[tuple[Any, ...]]:
    """A sequence cut into some units for each worker."""
    size = max(1, -(-len(of) // (UNITS_PER_WORKER * workers.number)))
    return [tuple(of[i : i + size]) for i in range(0, len(of), size)]


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """With that many threads inside an operation; numbers may depend on it in the last bits."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
