"""`circuits evaluate`: is the circuit right?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from circuits.cli.common import LARGEST_SEED, find_pairs, json_line, load, names_in, print_json
from circuits.cli.config import read_config
from circuits.terminal import console, console_stderr, print_rows, stage

PARTS_HELP = (
    "Comma separated: faithfulness (under every ablation, against random circuits), completeness, minimality, curves (CPR and "
    "CMD), hypothesis (tests), scores (complexity, sensitivity), recovery (of a known circuit), stability (other pairs, seeds, "
    "ablations, metrics …), randomisation (of layers). Default: all, the last two only where they take a few minutes."
)


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    parts: Annotated[str | None, typer.Option(help=PARTS_HELP)] = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="A task or a JSONL file, for pairs that the circuit was not found on. Default: its own."),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="With --pairs: how many. Default: 64 of a task.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of pairs and of all that is drawn.", min=0, max=LARGEST_SEED)] = 1,
    ablations: Annotated[str | None, typer.Option(help="For faithfulness, comma separated. Default: all.")] = None,
    random_circuits: Annotated[int, typer.Option(help="Random circuits for faithfulness.", min=0)] = 20,
    batch_size: Annotated[int | None, typer.Option(help="Pairs at a time. Default: by size.", min=1)] = None,
    model: Annotated[str | None, typer.Option(help="The run's model. Default: the name that it gives.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 …")] = "auto",
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file with any of these options.", callback=read_config, is_eager=True),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the evaluation as JSON instead of tables.")] = False,
) -> None:
    """Test a finished run's circuit and scores; into the run directory: evaluation.json, evaluation.html."""
    from circuits.compare_runs import read_run
    from circuits.evaluate_run import evaluate_run
    from circuits.evaluation_record import Evaluation
    from circuits.evaluation_tables import tables
    from circuits.export.atomic import replacing
    from circuits.pairs import PromptPairs
    from circuits.plots import write_page
    from circuits.plots.evaluation import evaluation_sections

    source = None if pairs is None else find_pairs(pairs)
    read = read_run(run)
    origin = read.provenance
    loaded = load(model or str(origin["model"]), str(origin["dtype"]), device, origin.get("revision"))
    asked = PromptPairs.from_jsonl(run / "pairs.jsonl", loaded) if source is None else source(loaded, n, seed)

    def write(measured: Evaluation) -> dict[str, Any]:
        told = measured.to_dict()
        with replacing(run / "evaluation.json") as temporary:
            temporary.write_text(json_line(told) + "\n", encoding="utf-8")
        title = f"Evaluation: {told['task']} in {told['model']}"
        write_page(title, evaluation_sections(told), run / "evaluation.html")
        return told

    def write_what_is_there(measured: Evaluation) -> None:
        if measured.seconds:
            write(measured)
            console_stderr().print(f"what was measured is in {run / 'evaluation.json'}", soft_wrap=True)

    told = write(
        evaluate_run(
            read, loaded, asked, fresh=source is not None, parts=names_in(parts), ablations=names_in(ablations),
            n_random=random_circuits, seed=seed, batch_size=batch_size, stage=stage, interrupted=write_what_is_there,
        )
    )  # fmt: skip
    if json:
        print_json(told)
        return
    screen = console()
    for rows in tables(told):
        print_rows(*rows)
    for name, why in told["skipped"].items():
        screen.print(f"not measured: {name}: {why}", style="yellow", soft_wrap=True)
    screen.print(f"written to {run / 'evaluation.json'} and {run / 'evaluation.html'}", soft_wrap=True)
