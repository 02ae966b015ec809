"""Controls whether freed tensors return to the system: at once to save memory, never to save time.

glibc takes large blocks from the system one by one. After the first are freed it raises its threshold and keeps freed
blocks in its heap, where a forward and a backward pass leave gaps between tensors in use: two to three times the memory
needed. With a low threshold every large tensor is a separate block. That costs about 15% of the time, because the
system clears every block before use. Many passes in a row run fastest with the opposite: a heap that keeps all freed
memory, also at its end, for the next pass.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator

LARGE_BLOCK = 256 * 1024
"""In bytes."""
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_HIGHEST_THRESHOLD = 32 * 2**20
"""The highest threshold that glibc itself chooses (on 64 bits); it then keeps twice as much free at the heap's end."""
_NEVER = 2**31 - 1


@contextlib.contextmanager
def freed_at_once() -> Iterator[bool]:
    """Within the context, large freed blocks return to the system; yields whether this is in effect.

    Applies to the whole process, under glibc, unless the user has set `MALLOC_MMAP_THRESHOLD_`. Afterwards the
    thresholds are as high as glibc itself would choose, so later work is not slowed down.
    """
    with _thresholds(LARGE_BLOCK, 2 * LARGE_BLOCK) as done:
        yield done


@contextlib.contextmanager
def kept_for_reuse() -> Iterator[bool]:
    """Within the context, freed blocks stay with the process; otherwise like `freed_at_once`."""
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
