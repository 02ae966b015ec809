"""Workers on Ray: processes of this machine, or of a cluster that Ray runs on (the extra `ray`).

Scheduling, restarts and retries are Ray's own. A worker that dies (killed, or out of memory) is started again and its unit of
work repeated; after `RETRIES` further deaths over one unit that unit is given up with a clear error, and another worker takes
the place. A worker that dies `RESTARTS` times before it has begun, as where memory is full already, is given up itself.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from circuits.errors import NO_MEMORY, InputError, ModelError, PairsError, lacks_memory
from circuits.workers.workers import torch_threads

RETRIES = 3
RESTARTS = 50
"""Of one worker. Ray counts a death while the worker starts here alone, not as a try at its unit of work."""
LISTENING_SECONDS = 10.0
"""In which an address has to answer."""
_KINDS = {kind.__name__: kind for kind in (InputError, ModelError, PairsError)}


class RayWorkers:
    """A pool of processes, to be used in a `with` block.

    Args:
        on: `ray` for this machine, or the address of a cluster (`ray://host:10001`, `host:6379`, `auto`).
        number: of workers; None: as many as there are processors for.
        cpus, gpus: what each worker takes of the machine.
        threads: of each worker inside an operation; None: as many as `cpus`.

    Raises:
        InputError: Ray is not installed, cannot be reached, or has no room for one worker.
    """

    def __init__(
        self,
        on: str = "ray",
        number: int | None = None,
        *,
        cpus: int = 1,
        gpus: float = 0.0,
        threads: int | None = None,
    ) -> None:
        if cpus < 1 or gpus < 0 or (number is not None and number < 1):
            raise InputError(f"workers must be at least 1, with at least 1 CPU each; got {number} with {cpus}")
        if gpus > 1 and gpus != int(gpus):
            raise InputError(f"a worker takes a part of one GPU, or a whole number of them; got {gpus:g}")
        try:
            import ray
        except ImportError:
            raise InputError("Ray is not installed: pip install 'mech-circuits[ray]'") from None
        self._ray = ray
        self._own = not ray.is_initialized()
        if self._own:
            most = max(1, (os.cpu_count() or 1) // cpus)
            if on == "ray" and number is not None and number > most:
                raise InputError(
                    f"{number} workers with {cpus} CPUs each do not fit this machine's {os.cpu_count()}; at most {most} do (a "
                    "worker takes as many CPUs as it has threads)"
                )
            _connect(ray, on, None if number is None else number * cpus)
        try:
            there = ray.cluster_resources()
            room = sum(room_on(node["Resources"], cpus, gpus) for node in ray.nodes() if node["Alive"])
            self.number = room if number is None else number
            if not 1 <= self.number <= room:
                raise InputError(
                    f"{number or 'workers'} with {cpus} CPUs and {gpus:g} GPUs each do not fit: Ray has "
                    f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs, and a worker takes all of its own on one machine"
                )
            kind = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=RESTARTS, max_task_retries=RETRIES)(_Worker)
            self._start = partial(kind.remote, threads or cpus)
            self._begun: dict[Any, Any] = {}
            self._fill()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RayWorkers":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers, and Ray if it was started here."""
        if self._own:
            self._ray.shutdown()
            return
        for actor in getattr(self, "_begun", ()):
            self._ray.kill(actor)

    def _fill(self) -> None:
        """Adds the workers that are missing."""
        while len(self._begun) < self.number:
            self._add()

    def _add(self) -> Any:
        """Starts a worker, with a first call that tells whether it ever began."""
        actor = self._start()
        self._begun[actor] = actor.begin.remote()
        return actor

    def _dismiss(self, actor: Any) -> bool:
        """Ends a worker that died too often.

        Returns:
            whether it had ever begun: then another one may do better in its place.
        """
        from ray.exceptions import RayError

        begun = self._begun.pop(actor)
        self._ray.kill(actor)
        try:
            return bool(self._ray.wait([begun], timeout=0)[0]) and self._ray.get(begun)
        except RayError:
            return False

    def map(self, function: Callable[[Any, Any], Any], shared: Any, units: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """See `circuits.workers.workers.Workers`; all that can be done is done before an error is raised.

        Raises:
            InputError: as a unit raised it; or a worker died over one unit time and again, or ran out of memory.
        """
        from ray.exceptions import RayError, RayTaskError

        common = self._ray.put((function, shared))
        self._fill()
        free, busy = list(self._begun), {}
        numbers = iter(range(len(units)))
        problem: InputError | None = None
        while True:
            while free and (number := next(numbers, None)) is not None:
                worker = free.pop()
                busy[worker.compute.remote(common, number, units[number])] = worker
            if not busy:
                break
            answered = self._ray.wait(list(busy))[0][0]
            worker = busy.pop(answered)
            try:
                number, kind, found = self._ray.get(answered)
            except RayTaskError as failure:
                raise failure.cause from None
            except RayError as death:
                begun = self._dismiss(worker)
                problem = InputError(_died(death, begun))
                if begun:
                    free.append(self._add())
                continue
            free.append(worker)
            if kind is None:
                yield number, found
            else:
                problem = _KINDS[kind](found)
        if problem is not None:
            raise problem


def room_on(resources: Mapping[str, float], cpus: int, gpus: float) -> int:
    """How many workers fit on one machine: Ray waits without end for what fits on none.

    Args:
        resources: the machine's `CPU` and `GPU`.
        cpus, gpus: what each worker takes; of a part of a GPU, all on the same one.
    """
    room = int(resources.get("CPU", 0) // cpus)
    there = resources.get("GPU", 0)
    if 0 < gpus < 1:
        return min(room, int(there) * int(1 / gpus))
    return min(room, int(there // gpus)) if gpus else room


class _Worker:
    """One process."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def begin(self) -> bool:
        return True

    def compute(self, common: tuple[Any, Any], number: int, unit: Any) -> tuple[int, str | None, Any]:
        """(the unit's number, None, what came out), or the kind of an error and what it says."""
        function, shared = common
        try:
            with torch_threads(self.threads):
                return number, None, function(shared, unit)
        except InputError as problem:
            kind = type(problem).__name__
            return number, kind if kind in _KINDS else "InputError", str(problem)
        except Exception as problem:
            if not lacks_memory(problem):
                raise
            return number, "InputError", f"in a worker, {NO_MEMORY}"


def _connect(ray: Any, on: str, cpus: int | None) -> None:
    import logging

    # The project's own default: nothing is told to others.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"include_dashboard": False} if on == "ray" else {}
    if on == "ray":
        quiet |= {"num_cpus": cpus} if cpus else {}
    _check_listening(on)
    try:
        ray.init(address="local" if on == "ray" else on, log_to_driver=False, logging_level=logging.CRITICAL, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as problem:
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()] or [type(problem).__name__]
        hint = "; is its port right, and does it want a token (RAY_AUTH_MODE=token)?" if ":" in on else ""
        raise InputError(f"Ray cannot be reached at {on!r}: {' '.join(lines[:2])[:300]}{hint}") from None


def _check_listening(on: str) -> None:
    """Refuses an address at which nobody listens: Ray would try for a quarter of an hour.

    Raises:
        InputError: a connection was refused, or not taken in time, or there is no such host.
    """
    address = on if on != "auto" else os.environ.get("RAY_ADDRESS") or _latest_cluster()
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # Ray refuses it at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), LISTENING_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as problem:
        hint = "is its port right?" if on == address else f"auto is {address}: has that cluster ended?"
        raise InputError(f"Ray cannot be reached at {on!r}: {problem}; {hint}") from None


def _latest_cluster() -> str:
    """The address that `ray start` left where `auto` looks for it (`ray.init`'s documentation); nothing if there is none."""
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    try:
        return Path(temporary, "ray", "ray_current_cluster").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _died(death: Exception, begun: bool) -> str:
    lines = [line.strip() for line in str(death).splitlines() if line.strip()]
    how = f"over one unit of work {RETRIES + 1} times" if begun else f"{RESTARTS + 1} times before it began"
    return (
        f"a worker died {how}; most often there is not enough memory: give workers more, fewer of them, or a smaller batch "
        f"size. Ray says: {lines[0] if lines else type(death).__name__}"
    )
