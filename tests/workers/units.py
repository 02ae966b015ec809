"""Units of work that go wrong, in a file of few imports: each worker that dies is started anew, and reads it."""

import os
import signal
from pathlib import Path

import torch

from circuits import PairsError


def die(shared, unit):
    """Kills its process; unless the file is there, and then only the first time."""
    if shared is None:
        os.kill(os.getpid(), signal.SIGKILL)
    if unit == 2 and not Path(shared).exists():
        Path(shared).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return unit * 10


def exhaust(shared, unit):
    return torch.empty(10**15) if unit == "torch" else bytes(10**15)


def die_below(shared, unit):
    if unit < shared:
        os.kill(os.getpid(), signal.SIGKILL)
    return unit


def refuse(shared, unit):
    raise PairsError(f"no pairs in {unit}")


def threads(shared, unit):
    return torch.get_num_threads()
