"""Memory as the user gives it, and what is free.

A budget counts what a computation needs besides the model's weights. `load_model(…, memory="4GB")` sets it; by default it is 60% of
what is free when a question is asked.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.errors import InputError

if TYPE_CHECKING:
    import torch

SHARE = 0.6
"""Of the free memory, by default."""
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
LEAST = 10**6


def parse_memory(memory: str | int) -> int:
    """Bytes from a number or a text such as `4GB`, `500 MB` or `2GiB`.

    >>> parse_memory("4GB"), parse_memory("0.5 GiB")
    (4000000000, 536870912)

    Raises:
        InputError: not an amount of memory, or less than a megabyte.
    """
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMGT]?I?)B?\s*", str(memory).upper())
    unit = None if match is None else UNITS.get(match[2])
    if match is None or unit is None or isinstance(memory, bool):
        raise InputError(f"memory must be an amount such as 4GB, 500MB or a number of bytes, got {memory!r}")
    n_bytes = int(float(match[1]) * unit)
    if n_bytes < LEAST:
        raise InputError(f"memory must be at least 1MB, got {memory!r}")
    return n_bytes


def free_memory(device: "torch.device") -> int | None:
    """Bytes that are free on a device: of an accelerator as its driver says, of the machine within its container's limit; None if
    unknown."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    known = [n for n in (_of_machine(), _of_container()) if n is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().split("\n")
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _of_container() -> int | None:
    """What a control group leaves, if it limits memory (version 2)."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no limit is the word max
        return None
