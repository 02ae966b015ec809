"""Work that processes share: a function, mapped over units of work.

A unit is the same computation in every process, so results are equal to the last bit with any number of workers, or with none.
`circuits.workers.ray.RayWorkers` has processes of this machine or of a cluster; any class with the methods of `Workers` will do.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

UNITS_PER_WORKER = 4
"""Units of work per worker, so that no worker waits long for the last one."""


@runtime_checkable
class Workers(Protocol):
    """Processes that compute."""

    @property
    def number(self) -> int:
        """How many processes there are."""
        ...

    def map(self, function: Callable[[Any, Any], Any], shared: Any, units: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """`function(shared, unit)` for every unit, with the unit's number, in the order in which they finish.

        `shared` is sent to each worker once. An error that the user can act on is raised here as the `InputError` that it was.
        """
        ...


def in_units(work: Sequence[Any], workers: Workers) -> list[tuple[Any, ...]]:
    """A sequence, cut into several units for each worker."""
    size = max(1, -(-len(work) // (UNITS_PER_WORKER * workers.number)))
    return [tuple(work[i : i + size]) for i in range(0, len(work), size)]


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Uses that many threads per operation (None: as before). The last bits of a result may depend on it."""
    import torch

    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
