"""`circuits transfer`: is a circuit still there in another model?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuits.cli.common import LARGEST_SEED, load, model_of
from circuits.cli.options import BatchSize, Config, Device, Dtype, Revision
from circuits.cli.terminal import json_line, print_json, print_rows, say, say_all, stage
from circuits.files.atomic import write_text
from circuits.plugins import check_model_path
from circuits.runs.files import read_whole

if TYPE_CHECKING:
    from circuits.evaluation.transfer import Transfer

SHOWN = 20
"""Changed edges in the table."""


def transfer(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    model: Annotated[str, typer.Option(help="The other model: a name, a Hugging Face id or a directory.")],
    revision: Revision = None,
    dtype: Dtype = None,
    own_model: Annotated[str | None, typer.Option(help="The run's model. Default: the name in the run.")] = None,
    random_circuits: Annotated[int, typer.Option(help="Random circuits for faithfulness.", min=0)] = 5,
    seed: Annotated[int, typer.Option(help="Random seed.", min=0, max=LARGEST_SEED)] = 0,
    batch_size: BatchSize = None,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
    config: Config = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of tables.")] = False,
) -> None:
    """Test a run's circuit in another model: its faithfulness, the edges that changed, and the heads that moved."""
    read_whole(run)
    check_model_path(model)
    from circuits.runs.read import read_run
    from circuits.runs.transfer import transfer_run

    read = read_run(run)
    name, own_dtype, own_revision = model_of(read.provenance, own_model)
    own = load(name, own_dtype, device, own_revision)
    other = load(model, dtype, device, revision)
    measured = transfer_run(read, own, other, n_random=random_circuits, seed=seed, batch_size=batch_size, stage=stage)
    if out is not None:
        write_text(out, json_line(measured.to_dict()) + "\n")
    _print(measured, json)


def _print(measured: "Transfer", as_json: bool) -> None:
    if as_json:
        print_json(measured.to_dict())
        return
    if measured.faithfulness is not None:
        before = "–" if measured.before is None else f"{measured.before.value:.3f}"
        values = [before, f"{measured.faithfulness.value:.3f}", f"{measured.faithfulness.random_value:.3f}"]
        print_rows(
            "faithfulness of the circuit", ("in its model", "in the other model", "random circuits there"), [values]
        )
    rows = [
        [e.edge, f"{e.before:+.4f}", f"{e.after:+.4f}", f"{e.p:.3g}", "yes" if e.in_circuit else "no"]
        for e in (measured.changed or ())[:SHOWN]
    ]
    if rows:
        n = len(measured.changed or ())
        what = "edges that changed" if n <= SHOWN else f"the {SHOWN} largest changes of {n} edges"
        print_rows(f"{what} (p corrected for all edges)", ("edge", "before", "after", "p", "in the circuit"), rows)
    heads = [
        [h.head, h.match, f"{h.similarity:.2f}", f"{h.runner_up:.2f}", "yes" if h.clear else "no"]
        for h in measured.matched or ()
    ]
    if heads:
        print_rows("heads by function", ("head", "most similar", "similarity", "second", "clear"), heads)
    say(f"{measured}.")
    say_all("not compared", (f"{name}: {why}" for name, why in measured.skipped.items()))
