"""Options of `circuits discover` that every method has, in groups; the methods' own are declared beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from circuits.cli.common import DEFAULT_MODEL, LARGEST_SEED
from circuits.cli.file_pairs import FILES
from circuits.cli.options import (
    WORKERS,
    BatchSize,
    Config,
    CpusPerWorker,
    Device,
    DeviceMap,
    GpusPerWorker,
    NumberOfWorkers,
    On,
    OneLength,
    Revision,
)
from circuits.methods.catalogue import DECLARED, ablations, metrics


def _method_help() -> str:
    """All methods by what they give, each in a few words."""
    said = {
        title: ", ".join(f"{name} ({one.help})" for name, one in DECLARED.items() if (one.gives == "nodes") is nodes)
        for title, nodes in (("Edges", False), ("Nodes", True))
    }
    return (
        " ".join(f"{title}: {methods}." for title, methods in said.items()) + " Options of another method are refused."
    )


def _ablation_help() -> str:
    said = ", ".join(f"{name} ({text})" if text else name for name, text in ablations().items())
    usual = DECLARED["eap-ig"].ablation
    others = [f"{name}: {one.ablation}" for name, one in DECLARED.items() if one.ablation != usual]
    return f"What replaces a value: {said}. Default: {'; '.join([usual, *others])}."


def _resume_help() -> str:
    return f"{', '.join(name for name, one in DECLARED.items() if one.resumable)}: continue a run that was killed."


Target = Annotated[str, typer.Argument(help=f"A task (see 'circuits tasks') or {FILES}.")]


@dataclass(frozen=True)
class Asked:
    """What is asked."""

    model: Annotated[str, typer.Option(help="Short name, Hugging Face id, or directory.")] = DEFAULT_MODEL
    method: Annotated[str, typer.Option(help=_method_help())] = "eap-ig"
    metric: Annotated[
        str | None,
        typer.Option(help=f"What is explained: {', '.join(metrics())}. Default: what the task prefers."),
    ] = None
    ablation: Annotated[str | None, typer.Option(help=_ablation_help())] = None
    noise_tokens: Annotated[
        str | None, typer.Option(help="gaussian: roles to disturb, comma separated. Default: the tokens that differ.")
    ] = None
    n: Annotated[int | None, typer.Option("--n", help="Pairs. Default: 64 of a task, all of a file.", min=1)] = None
    seed: Annotated[int, typer.Option(help="Random seed.", min=0, max=LARGEST_SEED)] = 0
    one_length: OneLength = None


@dataclass(frozen=True)
class Computed:
    """How it is computed: one process."""

    batch_size: BatchSize = None
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, float64, bfloat16 or float16. Default: float32; of built models their own."),
    ] = None
    device: Device = "auto"
    device_map: DeviceMap = None
    revision: Revision = None


@dataclass(frozen=True)
class Written:
    """Where results go."""

    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/TARGET-METHOD.")] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished run.")] = False
    resume: Annotated[bool, typer.Option("--resume", help=_resume_help())] = False
    config: Config = None
    json: Annotated[bool, typer.Option("--json", help="Print the run's summary as JSON instead of tables.")] = False


@dataclass(frozen=True)
class Divided:
    """Who computes it."""

    on: On = None
    workers: NumberOfWorkers = None
    cpus_per_worker: CpusPerWorker = None
    gpus_per_worker: GpusPerWorker = 0
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of one operation in each process. Numbers depend on it in the last bits at most, and on the number of "
            "workers not at all. Default: torch's.",
            rich_help_panel=WORKERS,
            min=1,
        ),
    ] = None
