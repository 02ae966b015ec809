"""Options of `circuits discover` for every method, in groups; each method declares its own options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from circuits.cli import completion, options
from circuits.cli.common import DEFAULT_MODEL, LARGEST_SEED, in_words
from circuits.cli.file_pairs import FILES
from circuits.methods.catalogue import DECLARED, MEANS, USUAL, ablations, metrics


def _method_help() -> str:
    """All methods by the kind of their result."""
    edges, nodes = (
        ", ".join(name for name, one in DECLARED.items() if (one.gives == "nodes") is scores_nodes)
        for scores_nodes in (False, True)
    )
    return f"Edges: {edges}. Nodes: {nodes}. 'circuits methods' describes them."


def _ablation_help() -> str:
    usual = DECLARED[USUAL].ablation
    others = [f"{name}: {one.ablation}" for name, one in DECLARED.items() if one.ablation != usual]
    return f"What replaces a value: {in_words(ablations())}. Default: {'; '.join([usual, *others])}."


def _resume_help() -> str:
    return f"{', '.join(name for name, one in DECLARED.items() if one.resumable)}: continue a killed run."


Target = Annotated[
    str, typer.Argument(help=f"A task (see 'circuits tasks') or {FILES}.", autocompletion=completion.tasks)
]


@dataclass(frozen=True)
class QuestionOptions:
    """The question and the method."""

    model: Annotated[
        str, typer.Option(help="Short name, Hugging Face id, or directory.", autocompletion=completion.models)
    ] = DEFAULT_MODEL
    method: Annotated[str, typer.Option("--method", "-m", help=_method_help(), autocompletion=completion.methods)] = (
        USUAL
    )
    metric: Annotated[
        str | None,
        typer.Option(
            help=f"The metric to explain: {', '.join(metrics())}. Default: the one that the task prefers.",
            autocompletion=completion.metrics,
        ),
    ] = None
    ablation: Annotated[str | None, typer.Option(help=_ablation_help(), autocompletion=completion.ablations)] = None
    noise_tokens: Annotated[
        str | None,
        typer.Option(
            help="For gaussian: the roles whose tokens get noise, comma separated. Default: the tokens that differ."
        ),
    ] = None
    reference: Annotated[
        Path | None,
        typer.Option(
            help=f"{', '.join(MEANS)}: a file of pairs, read like TARGET; the means are over its clean prompts. Default: the pairs "
            "of TARGET."
        ),
    ] = None
    n: Annotated[int | None, typer.Option("--n", "-n", help="Pairs. Default: 64 of a task, all of a file.", min=1)] = (
        None
    )
    seed: Annotated[int, typer.Option(help="Random seed.", min=0, max=LARGEST_SEED)] = 0
    one_length: options.OneLength = None


@dataclass(frozen=True)
class Computed:
    """How one process computes it."""

    batch_size: options.BatchSize = None
    memory: options.Memory = None
    dtype: options.Dtype = None
    device: options.Device = "auto"
    device_map: options.DeviceMap = None
    revision: options.Revision = None


@dataclass(frozen=True)
class Written:
    """Where the results are written."""

    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run directory. Default: runs/TARGET-METHOD.")] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished run.")] = False
    resume: Annotated[bool, typer.Option("--resume", help=_resume_help())] = False
    config: options.Config = None
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False


@dataclass(frozen=True)
class Divided:
    """Which processes compute it."""

    on: options.On = None
    workers: options.NumberOfWorkers = None
    cpus_per_worker: options.CpusPerWorker = None
    gpus_per_worker: options.GpusPerWorker = 0
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads per operation in each process. It may change the last bits of results; the number of workers changes "
            "nothing. Default: torch's.",
            rich_help_panel=options.WORKERS,
            min=1,
        ),
    ] = None
