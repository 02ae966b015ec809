"""Options that several commands have, as types of their parameters."""

import math
from pathlib import Path
from typing import Annotated

import typer

from circuits.cli.config import read_config

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 …")]
DeviceMap = Annotated[
    str | None,
    typer.Option(help="Instead of --device: auto, balanced, sequential … spreads the layers over all devices."),
]
Revision = Annotated[str | None, typer.Option(help="Revision of a Hugging Face model.")]
OneLength = Annotated[
    bool | None,
    typer.Option(
        "--one-length",
        help="Only prompts of the most frequent number of tokens, as --positions each needs them.",
        show_default=False,
    ),
]
BatchSize = Annotated[int | None, typer.Option(help="Pairs at a time. Default: by size.", min=1)]
RunModel = Annotated[str | None, typer.Option(help="The run's model. Default: the name that it gives.")]
Config = Annotated[
    Path | None,
    typer.Option(help="A TOML file with any of these options.", callback=read_config, is_eager=True),
]


def finite(value: float | None) -> float | None:
    """Refuses nan and infinities, which no limits of typer do: its callback for options that are any number.

    Raises:
        typer.BadParameter: the number is not finite.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, not {value}")
    return value


WORKERS = "More than one process"
On = Annotated[
    str | None,
    typer.Option(
        help="Where the work is done: 'ray' (processes of this machine) or the address of a Ray cluster "
        "(ray://host:10001). Default: in this process.",
        rich_help_panel=WORKERS,
    ),
]
NumberOfWorkers = Annotated[
    int | None,
    typer.Option(help="Processes. Default: as many as there are processors for.", rich_help_panel=WORKERS, min=1),
]
CpusPerWorker = Annotated[
    int | None, typer.Option(help="Processors that each takes. Default: its threads.", rich_help_panel=WORKERS, min=1)
]
GpusPerWorker = Annotated[
    float,
    typer.Option(help="GPUs that each takes; a half is allowed.", rich_help_panel=WORKERS, min=0, callback=finite),
]
