"""Workers on Ray: processes of this machine or of a Ray cluster (the extra `ray`).

Ray schedules, restarts and retries. A worker that dies (killed, or out of memory) is started again, and its unit of work is
repeated. After `RETRIES` more deaths on the same unit, that unit fails with a clear error, and a new worker takes the place. A
worker that dies `RESTARTS` times before it begins (when memory is already full, for example) is given up.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from circuits.errors import NO_MEMORY, InputError, ModelError, PairsError, lacks_memory
from circuits.workers.workers import torch_threads

RETRIES = 3
RESTARTS = 50
"""Per worker. Ray counts the death of a worker that is still starting here, not as a try of its unit of work."""
LISTENING_SECONDS = 10.0
"""How long an address may take to answer."""
_KINDS = {kind.__name__: kind for kind in (InputError, ModelError, PairsError)}


class RayWorkers:
    """A pool of processes; use it in a `with` block.

    Args:
        on: `ray` for this machine, or the address of a cluster (`ray://host:10001`, `host:6379`, `auto`).
        number: number of workers; None: as many as the processors allow.
        cpus, gpus: processors and GPUs per worker.
        threads: threads per operation in each worker; None: as many as `cpus`.

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
        check_cluster(on)
        import ray

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
                    f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs, and a worker needs all of its CPUs and GPUs on one machine"
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
        """Starts a worker, with a first call that shows whether it ever began."""
        actor = self._start()
        self._begun[actor] = actor.begin.remote()
        return actor

    def _dismiss(self, actor: Any) -> bool:
        """Ends a worker that died too often.

        Returns:
            whether it had ever begun: if so, a new worker in its place may succeed.
        """
        from ray.exceptions import RayError

        begun = self._begun.pop(actor)
        self._ray.kill(actor)
        try:
            return bool(self._ray.wait([begun], timeout=0)[0]) and self._ray.get(begun)
        except RayError:
            return False

    def map(self, function: Callable[[Any, Any], Any], shared: Any, units: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """See `circuits.workers.workers.Workers`; all other units are computed before an error is raised.

        Raises:
            InputError: a unit raised it; or a worker died repeatedly on one unit, or ran out of memory.
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
                number, kind, result = self._ray.get(answered)
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
                yield number, result
            else:
                problem = _KINDS[kind](result)
        if problem is not None:
            raise problem


def room_on(resources: Mapping[str, float], cpus: int, gpus: float) -> int:
    """How many workers fit on one machine. Ray would wait forever for a worker that fits on none.

    Args:
        resources: the machine's `CPU` and `GPU`.
        cpus, gpus: processors and GPUs per worker; a fraction of a GPU is all on one GPU.
    """
    room = int(resources.get("CPU", 0) // cpus)
    there = resources.get("GPU", 0)
    if 0 < gpus < 1:
        return min(room, int(there) * int(1 / gpus))
    return min(room, int(there // gpus)) if gpus else room


class _Worker:
    """One process."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)  # imported at the start: a worker without room for torch has not begun
        self.threads = threads

    def begin(self) -> bool:
        return True

    def compute(self, common: tuple[Any, Any], number: int, unit: Any) -> tuple[int, str | None, Any]:
        """(the unit's number, None, the result), or (the unit's number, the kind of an error, its message)."""
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

    # The project's own default: no data is sent to others.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"include_dashboard": False} if on == "ray" else {}
    if on == "ray":
        quiet |= {"num_cpus": cpus} if cpus else {}
    try:
        ray.init(address="local" if on == "ray" else on, log_to_driver=False, logging_level=logging.CRITICAL, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as problem:
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()] or [type(problem).__name__]
        hint = "; is its port right, and does it want a token (RAY_AUTH_MODE=token)?" if ":" in on else ""
        raise InputError(f"Ray cannot be reached at {on!r}: {' '.join(lines[:2])[:300]}{hint}") from None


def check_cluster(on: str) -> None:
    """Whether Ray is installed, and a cluster answers at this address: Ray itself would try for a quarter of an hour.

    Raises:
        InputError: Ray is missing; the connection was refused or timed out; or there is no such host.
    """
    if find_spec("ray") is None:
        raise InputError("Ray is not installed: pip install 'mech-circuits[ray]'")
    address = on if on != "auto" else os.environ.get("RAY_ADDRESS") or _latest_cluster()
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # Ray itself refuses it at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), LISTENING_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as problem:
        hint = "is its port right?" if on == address else f"auto is {address}: has that cluster ended?"
        raise InputError(f"Ray cannot be reached at {on!r}: {problem}; {hint}") from None


def _latest_cluster() -> str:
    """The address that `ray start` left where `auto` looks for it (see `ray.init`); empty: there is none."""
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    try:
        return Path(temporary, "ray", "ray_current_cluster").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _died(death: Exception, begun: bool) -> str:
    lines = [line.strip() for line in str(death).splitlines() if line.strip()]
    how = f"on one unit of work {RETRIES + 1} times" if begun else f"{RESTARTS + 1} times before it began"
    return (
        f"a worker died {how}; the usual cause is too little memory: use fewer workers with more memory each, or a smaller "
        f"batch size. Ray says: {lines[0] if lines else type(death).__name__}"
    )
