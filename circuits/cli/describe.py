"""`circuits describe`: what each node of a circuit does."""

from pathlib import Path
from typing import Annotated

import typer

from circuits.cli import completion
from circuits.cli.common import LARGEST_SEED, load, model_of
from circuits.cli.options import Device, RunModel
from circuits.cli.terminal import print_json, say, stage
from circuits.runs.files import DESCRIPTION_FILE, LABELS_FILE, read_whole


def describe(
    run: Annotated[Path, typer.Argument(help="A run directory with a circuit.", autocompletion=completion.runs)],
    draws: Annotated[int, typer.Option(help="Rotated heads for the null of each kind.", min=19)] = 19,
    seed: Annotated[int, typer.Option(help="Seed of random sequences and rotations.", min=0, max=LARGEST_SEED)] = 0,
    tests: Annotated[bool, typer.Option(help="Run the interventions that the description implies.")] = True,
    model: RunModel = None,
    device: Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the description as JSON.")] = False,
) -> None:
    """Describe each node of a run's circuit, with evidence; write description.json and labels.json into the run directory."""
    read_whole(run)
    from circuits.prompts.pairs import PromptPairs
    from circuits.runs.describe import describe_run, describing

    with describing(run) as read:
        name, dtype, revision = model_of(read.provenance, model)
        loaded = load(name, dtype, device, revision)
        pairs = PromptPairs.from_jsonl(run / "pairs.jsonl", loaded, trust_ids=True)
        made = describe_run(read, loaded, pairs, seed=seed, draws=draws, tests=tests, stage=stage)
    if json:
        print_json(made.to_dict(), [])
        return
    say(str(made))
    say(f"written to {run / DESCRIPTION_FILE}; use {run / LABELS_FILE} with circuits view and export --labels")
