"""What several commands need: models, workers and prompt pairs from what was typed, and lists of names."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from circuits.cli.terminal import console_stderr
from circuits.errors import InputError
from circuits.methods import options
from circuits.prompts.source import find_pairs as find_pairs
from circuits.quiet import quiet_libraries

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.workers.workers import Workers

DEFAULT_MODEL = "smollm2-135m"
LARGEST_SEED = 2**63 - 1


def names_in(text: str | None) -> list[str] | None:
    """Comma-separated names, each once; None where nothing was typed."""
    return None if text is None else options.names_in(text)


def check_known(what: str, name: str | None, known: Iterable[str]) -> None:
    """Refuses an unknown name at once, before anything heavy is imported.

    Raises:
        InputError: with the nearest name.
    """
    if name is not None and name not in (known := list(known)):
        raise InputError(f"there is no {what} {name!r}{options.nearest(name, known)} (one of {', '.join(known)})")


def print_json(told: Any) -> None:
    """For machines: one line of JSON on standard output."""
    print(json_line(told))


def print_warnings(warnings: Iterable[str]) -> None:
    """For people who read along: a line each on standard error."""
    for warning in warnings:
        print(f"circuits: warning: {warning}", file=sys.stderr)


def json_line(told: Any) -> str:
    return json.dumps(told, allow_nan=False)


def load(name: str, dtype: str | None, device: str, revision: str | None, device_map: str | None = None) -> "Model":
    with quiet_libraries(), console_stderr().status(f"loading {name}"):
        from circuits import zoo
        from circuits.model import load_model

        if name not in zoo.names() or zoo.is_cached(name):
            return load_model(name, dtype=dtype, device=device, device_map=device_map, revision=revision)
    with zoo.rich_progress() as progress:
        zoo.fetch(name, progress)
    with quiet_libraries(), console_stderr().status(f"loading {name}"):
        return load_model(name, dtype=dtype, device=device, device_map=device_map, revision=revision)


@contextmanager
def workers_on(
    on: str | None, workers: int | None, cpus_per_worker: int | None, gpus_per_worker: float, threads: int | None
) -> Iterator["Workers | None"]:
    """Workers as they were asked for with `--on` and what goes with it; None: this process works. It has so many
    threads either way.

    Raises:
        InputError: options of workers without `--on`, or see `RayWorkers`.
    """
    from circuits.workers.workers import torch_threads

    if on is None:
        if workers is not None or cpus_per_worker is not None or gpus_per_worker:
            raise InputError("--workers, --cpus-per-worker and --gpus-per-worker go with --on")
        with torch_threads(threads):
            yield None
        return
    import torch

    from circuits.workers.ray import RayWorkers

    threads = torch.get_num_threads() if threads is None else threads
    with console_stderr().status("starting workers"):
        made = RayWorkers(on, workers, cpus=cpus_per_worker or threads, gpus=gpus_per_worker, threads=threads)
    with made, torch_threads(threads):  # what is not divided, such as a fit, is computed here
        yield made
