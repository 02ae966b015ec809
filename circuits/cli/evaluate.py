"""`circuits evaluate`: is the circuit right?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.cli.common import LARGEST_SEED, check_known, find_pairs, load, names_in, print_json, print_warnings
from circuits.cli.file_pairs import FilePairs, print_unfit
from circuits.cli.groups import grouped
from circuits.cli.options import BatchSize, Config, Device, DeviceMap, OneLength, RunModel
from circuits.cli.terminal import console, console_stderr, print_rows, stage
from circuits.errors import InputError
from circuits.methods.catalogue import ablations as known_ablations
from circuits.prompts.reading import Reading
from circuits.runs.files import read_run_file
from circuits.runs.parts import PARTS, SLOW, check_parts

if TYPE_CHECKING:
    from circuits.runs.evaluation import Evaluation


def _parts_help() -> str:
    said = ", ".join(f"{name} ({text})" if text else name for name, text in PARTS.items())
    return f"Comma separated: {said}. Default: all; {' and '.join(SLOW)} only where they take a few minutes."


@dataclass(frozen=True)
class Measured:
    """What is measured, on which pairs."""

    parts: Annotated[str | None, typer.Option(help=_parts_help())] = None
    pairs: Annotated[
        str | None,
        typer.Option(help="A task or a file, for pairs that the circuit was not found on. Default: its own."),
    ] = None
    n: Annotated[int | None, typer.Option("--n", help="With --pairs: how many. Default: 64 of a task.", min=1)] = None
    seed: Annotated[
        int, typer.Option(help="Random seed of the pairs and of everything that is drawn.", min=0, max=LARGEST_SEED)
    ] = 1
    one_length: OneLength = None
    ablations: Annotated[str | None, typer.Option(help="For faithfulness, comma separated. Default: all.")] = None
    random_circuits: Annotated[int, typer.Option(help="Random circuits for faithfulness.", min=0)] = 20


@dataclass(frozen=True)
class Computed:
    """How it is computed."""

    batch_size: BatchSize = None
    model: RunModel = None
    device: Device = "auto"
    device_map: DeviceMap = None


@grouped
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    asked: Measured,
    reading: FilePairs,
    computed: Computed,
    config: Config = None,
    json: Annotated[bool, typer.Option("--json", help="Print the evaluation as JSON instead of tables.")] = False,
) -> None:
    """Test a finished run's circuit and scores; into the run directory: evaluation.json, evaluation.html."""
    check_parts(names_in(asked.parts))
    for name in names_in(asked.ablations) or ():
        check_known("ablation", name.partition("(")[0], known_ablations())
    source, how = None if asked.pairs is None else find_pairs(asked.pairs), reading.reading
    if source is None and how != Reading():
        raise InputError("columns, skip-unfit, trust-ids and no-bos go with --pairs")
    read_run_file(run)
    told = _evaluated(run, asked, computed, source, how)
    if json:
        print_json(told)
        print_warnings(told["warnings"])
    else:
        _print(told, run)


def _evaluated(run: Path, asked: Measured, computed: Computed, source: Any, how: Reading) -> dict[str, Any]:
    """Measures and writes; what was measured before Ctrl-C is written, too."""
    from circuits.files.atomic import check_writable
    from circuits.files.locks import sole_writer
    from circuits.pages.evaluation import write_evaluation
    from circuits.prompts.pairs import PromptPairs
    from circuits.question.doubts import collected
    from circuits.results.provenance import said
    from circuits.runs.evaluate import evaluate_run
    from circuits.runs.read import read_run

    def write_what_is_there(measured: "Evaluation") -> None:
        if measured.seconds:
            write_evaluation(measured.to_dict(), run)
            console_stderr().print(f"what was measured is in {run / 'evaluation.json'}", soft_wrap=True)

    with sole_writer(run), collected():
        found = read_run(run)
        try:
            check_writable(run / "evaluation.json")
        except OSError as problem:
            raise InputError(f"cannot write to {run}: {problem.strerror or problem}") from None
        origin = found.provenance
        name, dtype = computed.model or said(origin, "model"), said(origin, "dtype")
        model = load(name, dtype, computed.device, origin.get("revision"), computed.device_map)
        if source is None:
            pairs = PromptPairs.from_jsonl(run / "pairs.jsonl", model, trust_ids=True)
        else:
            pairs = source(model, asked.n, asked.seed, bool(asked.one_length), how)
            print_unfit(pairs)
        told = evaluate_run(
            found, model, pairs, fresh=source is not None, parts=names_in(asked.parts),
            ablations=names_in(asked.ablations), n_random=asked.random_circuits, seed=asked.seed,
            batch_size=computed.batch_size, stage=stage, interrupted=write_what_is_there,
        ).to_dict()  # fmt: skip
        write_evaluation(told, run)
    return told


def _print(told: Mapping[str, Any], run: Path) -> None:
    from circuits.pages.evaluation_tables import tables

    screen = console()
    for rows in tables(told):
        print_rows(*rows)
    for warning in told["warnings"]:
        screen.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    for name, why in told["skipped"].items():
        screen.print(f"not measured: {name}: {why}", style="yellow", soft_wrap=True)
    screen.print(f"written to {run / 'evaluation.json'} and {run / 'evaluation.html'}", soft_wrap=True)
