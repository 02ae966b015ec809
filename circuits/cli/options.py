"""Options of several commands, as types of their parameters."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from circuits.cli import completion
from circuits.cli.config import read_config
from circuits.engine.dtypes import DTYPES, check_dtype
from circuits.memory_budget import parse_memory


def known_dtype(value: str | None) -> str | None:
    """Typer's callback for dtypes; raises InputError for an unknown one."""
    return None if value is None else check_dtype(value)


def known_memory(value: str | None) -> str | None:
    """Typer's callback for amounts of memory; raises InputError for an unknown one."""
    if value is not None:
        parse_memory(value)
    return value


def finite(value: float | None) -> float | None:
    """Refuses nan and infinities, which typer's bounds let through: typer's callback for options that are any number.

    Raises:
        typer.BadParameter: the number is not finite.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, not {value}")
    return value


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 …")]
DeviceMap = Annotated[
    str | None,
    typer.Option(help="Layers over all devices instead: auto, balanced, sequential …"),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help=f"One of {', '.join(DTYPES)}. Default: float32; built models: their own.",
        callback=known_dtype,
        autocompletion=completion.dtypes,
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hugging Face model.")]
OneLength = Annotated[
    bool | None,
    typer.Option(
        "--one-length",
        help="Only prompts of the most frequent length (for --positions each).",
        show_default=False,
    ),
]
BatchSize = Annotated[int | None, typer.Option(help="Pairs per batch. Default: by size.", min=1)]
Memory = Annotated[
    str | None,
    typer.Option(
        help="Memory besides the weights, such as 4GB. Default: 60% of what is free.",
        callback=known_memory,
    ),
]
RunModel = Annotated[
    str | None,
    typer.Option(help="The run's model. Default: the name in the run.", autocompletion=completion.models),
]
Config = Annotated[
    Path | None, typer.Option(help="A TOML file with these options.", callback=read_config, is_eager=True)
]

WORKERS = "More than one process"
On = Annotated[
    str | None,
    typer.Option(
        help="Where to compute: 'ray' (processes of this machine) or the address of a Ray cluster (ray://host:10001). "
        "Default: in this process.",
        rich_help_panel=WORKERS,
    ),
]
NumberOfWorkers = Annotated[
    int | None,
    typer.Option(help="Number of processes. Default: as many as the processors allow.", rich_help_panel=WORKERS, min=1),
]
CpusPerWorker = Annotated[
    int | None, typer.Option(help="Processors per process. Default: its threads.", rich_help_panel=WORKERS, min=1)
]
GpusPerWorker = Annotated[
    float, typer.Option(help="GPUs per process; a half is allowed.", rich_help_panel=WORKERS, min=0, callback=finite)
]


@dataclass(frozen=True)
class OnRuns:
    """How finished runs are measured."""

    batch_size: BatchSize = None
    memory: Memory = None
    model: RunModel = None
    device: Device = "auto"
    device_map: DeviceMap = None
