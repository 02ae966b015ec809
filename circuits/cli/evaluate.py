"""`circuits evaluate`: is the circuit right?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from circuits.cli.common import LARGEST_SEED, check_known, find_pairs, load, names_in, print_json, print_warnings
from circuits.cli.options import BatchSize, Config, Device, DeviceMap, OneLength, RunModel
from circuits.cli.terminal import console, console_stderr, print_rows, stage
from circuits.errors import InputError
from circuits.methods.catalogue import ablations as known_ablations
from circuits.runs.files import read_run_file
from circuits.runs.parts import PARTS, SLOW, check_parts


def _parts_help() -> str:
    said = ", ".join(f"{name} ({text})" if text else name for name, text in PARTS.items())
    return f"Comma separated: {said}. Default: all; {' and '.join(SLOW)} only where they take a few minutes."


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    parts: Annotated[str | None, typer.Option(help=_parts_help())] = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="A task or a JSONL file, for pairs that the circuit was not found on. Default: its own."),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="With --pairs: how many. Default: 64 of a task.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the pairs and of everything that is drawn.", min=0, max=LARGEST_SEED)] = 1,
    one_length: OneLength = None,
    ablations: Annotated[str | None, typer.Option(help="For faithfulness, comma separated. Default: all.")] = None,
    random_circuits: Annotated[int, typer.Option(help="Random circuits for faithfulness.", min=0)] = 20,
    batch_size: BatchSize = None,
    model: RunModel = None,
    device: Device = "auto",
    device_map: DeviceMap = None,
    config: Config = None,
    json: Annotated[bool, typer.Option("--json", help="Print the evaluation as JSON instead of tables.")] = False,
) -> None:
    """Test a finished run's circuit and scores; into the run directory: evaluation.json, evaluation.html."""
    measured_parts = None if parts is None else check_parts(names_in(parts))
    for name in names_in(ablations) or ():
        check_known("ablation", name.partition("(")[0], known_ablations())
    source = None if pairs is None else find_pairs(pairs)
    read_run_file(run)
    from circuits.files.atomic import check_writable, replacing
    from circuits.files.checksums import sealed_json
    from circuits.files.locks import sole_writer
    from circuits.pages.evaluation import evaluation_sections
    from circuits.pages.evaluation_tables import tables
    from circuits.plots import write_page
    from circuits.prompts.pairs import PromptPairs
    from circuits.question.doubts import collected
    from circuits.results.provenance import said
    from circuits.runs.evaluate import evaluate_run
    from circuits.runs.evaluation import Evaluation
    from circuits.runs.read import read_run

    def write(measured: Evaluation) -> dict[str, Any]:
        told = measured.to_dict()
        title = f"Evaluation: {told['task']} in {told['model']}"
        write_page(title, evaluation_sections(told), run / "evaluation.html")
        with replacing(run / "evaluation.json") as temporary:
            temporary.write_text(sealed_json(told) + "\n", encoding="utf-8")
        return told

    def write_what_is_there(measured: Evaluation) -> None:
        if measured.seconds:
            write(measured)
            console_stderr().print(f"what was measured is in {run / 'evaluation.json'}", soft_wrap=True)

    with sole_writer(run), collected():
        read = read_run(run)
        try:
            check_writable(run / "evaluation.json")
        except OSError as problem:
            raise InputError(f"cannot write to {run}: {problem.strerror or problem}") from None
        origin = read.provenance
        name, dtype = model or said(origin, "model"), said(origin, "dtype")
        loaded = load(name, dtype, device, origin.get("revision"), device_map)
        asked = (
            PromptPairs.from_jsonl(run / "pairs.jsonl", loaded)
            if source is None
            else source(loaded, n, seed, bool(one_length))
        )
        told = write(
            evaluate_run(
                read, loaded, asked, fresh=source is not None, parts=measured_parts, ablations=names_in(ablations),
                n_random=random_circuits, seed=seed, batch_size=batch_size, stage=stage, interrupted=write_what_is_there,
            )
        )  # fmt: skip
    if json:
        print_json(told)
        print_warnings(told["warnings"])
        return
    screen = console()
    for rows in tables(told):
        print_rows(*rows)
    for warning in told["warnings"]:
        screen.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    for name, why in told["skipped"].items():
        screen.print(f"not measured: {name}: {why}", style="yellow", soft_wrap=True)
    screen.print(f"written to {run / 'evaluation.json'} and {run / 'evaluation.html'}", soft_wrap=True)
