"""`circuits evaluate`: is the circuit right?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from circuits.cli import completion
from circuits.cli.common import LARGEST_SEED, find_pairs, in_words, load, model_of, names_in
from circuits.cli.file_pairs import FilePairs, note_unfit
from circuits.cli.groups import grouped
from circuits.cli.options import Config, OneLength, OnRuns
from circuits.cli.terminal import note, print_json, print_rows, say, say_all, stage
from circuits.methods.catalogue import check_known
from circuits.runs.files import EVALUATION_FILE, read_whole
from circuits.runs.parts import PARTS, SLOW, check_parts

PARTS_HELP = f"Comma separated: {in_words(PARTS)}. Default: all; {' and '.join(SLOW)} only if they take a few minutes."


@dataclass(frozen=True)
class Measured:
    """What is measured, on which pairs."""

    parts: Annotated[str | None, typer.Option(help=PARTS_HELP, autocompletion=completion.several_parts)] = None
    pairs: Annotated[
        str | None,
        typer.Option(
            help="A task or a file of other pairs to evaluate on. Default: the run's own pairs.",
            autocompletion=completion.tasks,
        ),
    ] = None
    n: Annotated[int | None, typer.Option("--n", help="With --pairs: how many. Default: 64 of a task.", min=1)] = None
    seed: Annotated[int, typer.Option(help="Random seed, also of the pairs.", min=0, max=LARGEST_SEED)] = 1
    one_length: OneLength = None
    ablations: Annotated[
        str | None,
        typer.Option(
            help="Ablations for faithfulness, comma separated. Default: all.",
            autocompletion=completion.several_ablations,
        ),
    ] = None
    random_circuits: Annotated[int, typer.Option(help="Random circuits for faithfulness.", min=0)] = 20


@grouped
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory.", autocompletion=completion.runs)],
    asked: Measured,
    reading: FilePairs,
    computed: OnRuns,
    config: Config = None,
    json: Annotated[bool, typer.Option("--json", help="Print the evaluation as JSON instead of tables.")] = False,
) -> None:
    """Test a finished run's circuit and scores; write evaluation.json and evaluation.html into the run directory."""
    source = _checked(run, asked)
    reading.check(source)
    from circuits.prompts.pairs import PromptPairs
    from circuits.runs.evaluate import evaluate_run, evaluating

    with evaluating(run) as read:
        name, dtype, revision = model_of(read.provenance, computed.model)
        model = load(name, dtype, computed.device, revision, computed.device_map, memory=computed.memory)
        if source is None:
            pairs = PromptPairs.from_jsonl(run / "pairs.jsonl", model, trust_ids=True)
        else:
            how = reading.check(source, read.provenance.get("metric"))
            pairs = source(model, asked.n, asked.seed, bool(asked.one_length), how)
            note_unfit(pairs)
        evaluation = evaluate_run(
            read, model, pairs, fresh=source is not None, parts=names_in(asked.parts), ablations=names_in(asked.ablations),
            n_random=asked.random_circuits, seed=asked.seed, batch_size=computed.batch_size, stage=stage, write=True,
            interrupted=lambda _: note(f"what was measured is in {run / EVALUATION_FILE}"),
        ).to_dict()  # fmt: skip
    if json:
        print_json(evaluation, evaluation["warnings"])
    else:
        _print(evaluation, run)


def _checked(run: Path, asked: Measured) -> Any:
    """The source of fresh pairs; refuses what can be refused before torch is imported."""
    check_parts(names_in(asked.parts))
    for name in names_in(asked.ablations) or ():
        check_known("ablation", name.partition("(")[0])
    read_whole(run)
    return None if asked.pairs is None else find_pairs(asked.pairs)


def _print(evaluation: Mapping[str, Any], run: Path) -> None:
    from circuits.pages.evaluation_tables import tables

    for rows in tables(evaluation):
        print_rows(*rows)
    say_all("warning", evaluation["warnings"])
    say_all("not measured", (f"{name}: {why}" for name, why in evaluation["skipped"].items()))
    say(f"written to {run / EVALUATION_FILE} and {run / 'evaluation.html'}")
