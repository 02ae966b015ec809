"""Whether freed tensors go back to the system: at once where memory counts, not at all where time counts.

glibc takes large blocks from the system one by one, but after the first have been freed it raises its threshold and keeps
them in its heap, where a forward and a backward pass leave holes between what is still needed: two to three times what is
in use. With a low threshold every large tensor is a block of its own; that costs some 15% of the time, since every block is
cleared by the system before it is filled. Many passes one after the other are served best by the opposite: a heap that
keeps what each has freed, also at its end, for the next.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator

LARGE_BLOCK = 256 * 1024
"""Bytes."""
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_HIGHEST_THRESHOLD = 32 * 2**20
"""The highest that glibc itself chooses (on 64 bits); it then keeps twice as much free at the heap's end."""
_NEVER = 2**31 - 1


@contextlib.contextmanager
def freed_at_once() -> Iterator[bool]:
    """Within, large freed blocks go back to the system; says whether it is so.

    For the whole process, under glibc; not where the user has set `MALLOC_MMAP_THRESHOLD_`. Afterwards glibc's thresholds
    are as high as it chooses them itself, so that further work is not slowed down.
    """
    with _thresholds(LARGE_BLOCK, 2 * LARGE_BLOCK) as done:
        yield done


@contextlib.contextmanager
def kept_for_reuse() -> Iterator[bool]:
    """Within, freed blocks stay with the process; says whether it is so. Otherwise as `freed_at_once`."""
    with _thresholds(_HIGHEST_THRESHOLD, _NEVER) as done:
        yield done


@contextlib.contextmanager
def _thresholds(mmap: int, trim: int) -> Iterator[bool]:
    mallopt = _mallopt()
    if mallopt is None:
        yield False
        return
    try:
        yield mallopt(_M_MMAP_THRESHOLD, mmap) == 1 == mallopt(_M_TRIM_THRESHOLD, trim)
    finally:
        mallopt(_M_MMAP_THRESHOLD, _HIGHEST_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 2 * _HIGHEST_THRESHOLD)


def _mallopt() -> Callable[[int, int], int] | None:
    if sys.platform != "linux" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return None
    return getattr(ctypes.CDLL(None), "mallopt", None)
