"""Shared by several commands: loading models, starting workers, checking names."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from circuits.cli.terminal import console_stderr, note
from circuits.errors import InputError
from circuits.methods import options
from circuits.prompts.source import find_pairs as find_pairs
from circuits.quiet import quiet_libraries

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.results.provenance import Provenance
    from circuits.workers.workers import Workers

DEFAULT_MODEL = "smollm2-135m"
LARGEST_SEED = 2**63 - 1


def in_words(helps: Mapping[str, str]) -> str:
    """Names, each with its help in brackets if it has one."""
    return ", ".join(f"{name} ({text})" if text else name for name, text in helps.items())


def names_in(text: str | None) -> list[str] | None:
    """Comma-separated names, each once; None: the option was not given."""
    return None if text is None else options.names_in(text)


def load(
    name: str,
    dtype: str | None,
    device: str,
    revision: str | None,
    device_map: str | None = None,
    ungrouped: bool = False,
    memory: str | None = None,
) -> "Model":
    """Loads a model; a model with a short name is fetched first, with a progress bar."""
    from circuits import zoo

    if name in zoo.names() and not zoo.is_cached(name):
        with zoo.rich_progress() as progress:
            zoo.fetch(name, progress)
    with quiet_libraries(), console_stderr().status(f"loading {name}"):
        from circuits.model import load_model

        return load_model(
            name,
            dtype=dtype,
            device=device,
            device_map=device_map,
            revision=revision,
            ungrouped=ungrouped,
            memory=memory,
        )


@contextmanager
def resumable(recorded: bool) -> Iterator[None]:
    """After Ctrl-C, names the command that continues the work of its block, if it keeps a record."""
    try:
        yield
    except KeyboardInterrupt:
        if recorded:
            words = [word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")]
            note(f"to continue: {shlex.join(['circuits', *words, '--resume'])}")
        raise


def model_of(origin: "Provenance", model: str | None) -> tuple[str, str, str | None]:
    """The name, dtype and revision of a result's model; `model` replaces the name.

    Raises:
        InputError: the result does not say them.
    """
    from circuits.files.untrusted import text_or_none
    from circuits.results.provenance import required

    return (
        model or required(origin, "model"),
        required(origin, "dtype"),
        text_or_none(origin.get("revision"), "revision"),
    )


def check_workers(
    on: str | None, workers: int | None, cpus_per_worker: int | None, gpus_per_worker: float, **threads: int | None
) -> None:
    """Refuses, before anything heavy is imported, workers that cannot be started.

    Raises:
        InputError: options of workers without `--on`; or see `circuits.workers.ray.check_cluster`.
    """
    if on is not None:
        from circuits.workers.ray import check_cluster

        check_cluster(on)
    elif workers is not None or cpus_per_worker is not None or gpus_per_worker:
        raise InputError("--workers, --cpus-per-worker and --gpus-per-worker need --on")


@contextmanager
def workers_on(
    on: str | None, workers: int | None, cpus_per_worker: int | None, gpus_per_worker: float, threads: int | None
) -> Iterator["Workers | None"]:
    """The workers that `--on` and its options ask for; None: this process computes. Both use that many threads.

    Raises:
        InputError: see `RayWorkers`.
    """
    from circuits.workers.workers import torch_threads

    if on is None:
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
