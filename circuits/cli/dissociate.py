"""`circuits dissociate`: do the circuits of several tasks serve these tasks only?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuits.cli.common import LARGEST_SEED, check_workers, load, model_of, workers_on
from circuits.cli.discover_options import Divided
from circuits.cli.groups import grouped
from circuits.cli.options import Config, OnRuns
from circuits.cli.terminal import json_line, print_json, print_rows, say, say_all, stage
from circuits.errors import InputError
from circuits.files.atomic import write_text
from circuits.runs.files import read_whole

if TYPE_CHECKING:
    from circuits.evaluation.dissociation import Dissociation
    from circuits.evaluation.sharing import Sharing


@dataclass(frozen=True)
class Compared:
    """What is ablated and measured."""

    n: Annotated[
        int | None, typer.Option("--n", help="New pairs of each run's task. Default: the runs' own pairs.", min=1)
    ] = None
    core: Annotated[
        float, typer.Option(help="Share of the circuits that must contain an edge of the core.", min=0, max=1)
    ] = 1.0
    margin: Annotated[
        float,
        typer.Option(
            help="Share of a task by which ablating its own circuit must cost more than ablating another.",
            min=0,
            max=1,
        ),
    ] = 0.1
    random_circuits: Annotated[int, typer.Option(help="Random circuits for each circuit.", min=0)] = 20
    seed: Annotated[int, typer.Option(help="Random seed, also of new pairs.", min=0, max=LARGEST_SEED)] = 1


@grouped
def dissociate(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, of one model, each of another task.")],
    asked: Compared,
    computed: OnRuns,
    divided: Divided,
    out: Annotated[
        Path | None, typer.Option(help="A directory for the result; finished tasks in it are not measured again.")
    ] = None,
    config: Config = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of tables.")] = False,
) -> None:
    """Ablate the circuit of each run and measure the task of every run, compared with random circuits; show what circuits share."""
    _check(runs, divided)
    from circuits.runs.dissociation import DissociationOptions, dissociate_runs, read_tasks, share_runs

    tasks = read_tasks(runs)
    name, dtype, revision = model_of(next(iter(tasks.values())).provenance, computed.model)
    model = load(name, dtype, computed.device, revision, computed.device_map, memory=computed.memory)
    options = DissociationOptions(asked.core, asked.random_circuits, margin=asked.margin, seed=asked.seed)
    with workers_on(**vars(divided)) as workers:
        dissociation = dissociate_runs(
            tasks, model, options, n=asked.n, pairs_seed=asked.seed, store=None if out is None else out / "measured",
            batch_size=computed.batch_size, workers=workers, stage=stage,
        )  # fmt: skip
    _print(dissociation, share_runs(tasks, asked.seed), out, json)


def _check(runs: Sequence[Path], divided: Divided) -> None:
    """Refuses what can be refused before torch is imported."""
    if len(runs) < 2:
        raise InputError(f"at least two runs, each of one task, are compared; got {len(runs)}")
    for run in runs:
        read_whole(run)
    check_workers(**vars(divided))


def _print(dissociation: "Dissociation", shared: "Sharing", out: Path | None, as_json: bool) -> None:
    from circuits.pages.dissociation import tables, write_dissociation

    result = {"dissociation": dissociation.to_dict(), "sharing": shared.to_dict()}
    if out is not None:
        write_text(out / "dissociation.json", json_line(result) + "\n")
        write_dissociation(dissociation, shared, out / "dissociation.html")
    if as_json:
        print_json(result)
        return
    for rows in tables(dissociation, shared):
        print_rows(*rows)
    say(f"{dissociation}.")
    say(f"{shared}.")
    say_all("not measured", (f"{name}: {why}" for name, why in dissociation.undefined.items()))
    if out is not None:
        say(f"written to {out / 'dissociation.json'} and {out / 'dissociation.html'}")
