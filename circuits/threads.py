"""How long torch's threads wait for each other before they sleep.

On Linux, torch's threads are those of OpenMP (libgomp), which by default look for work 300,000 times before they sleep. On a machine
with other users they then take the processors from those that work: loading a model took four times as long. libgomp reads the
setting once, when torch is imported, so `import circuits` makes it, unless torch was there first.
"""

import os
import sys
import warnings

SPINS = "1000"
"""How often a thread looks for work before it sleeps; libgomp uses this value if there are more threads than processors."""
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Variables with which the user decides."""
torch_came_first = False
"""Whether torch was imported before this package, with libgomp's default."""
_warned = False


def sleep_soon() -> None:
    """Lets waiting threads sleep soon; without effect if the user has set how they wait, or on other systems than Linux."""
    global torch_came_first
    if not sys.platform.startswith("linux") or os.environ.keys() & set(SETTINGS):
        return
    if "torch" in sys.modules:
        torch_came_first = True
    else:
        os.environ["GOMP_SPINCOUNT"] = SPINS


def warn_if_busy(n_threads: int) -> None:
    """Warns once, if it was too late for `sleep_soon` and other processes need the processors.

    Args:
        n_threads: torch's threads.

    Warns:
        RuntimeWarning: the load of the machine is more than its processors.
    """
    global _warned
    if not torch_came_first or _warned or n_threads < 2:
        return
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load > processors:
        _warned = True
        warnings.warn(
            f"torch was imported before circuits, so its waiting threads do not sleep, and this machine is busy (load {load:.1f}): "
            f"import circuits first, or set GOMP_SPINCOUNT={SPINS} before Python starts, or call torch.set_num_threads(1)",
            RuntimeWarning,
            stacklevel=3,
        )
