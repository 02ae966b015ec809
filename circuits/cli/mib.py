"""`circuits mib`: importances, areas under the curve and submissions for the circuit track of MIB."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.cli import completion, options
from circuits.cli.common import LARGEST_SEED, load
from circuits.cli.discover import parsed_options
from circuits.cli.discover_options import Computed
from circuits.cli.file_pairs import note_unfit
from circuits.cli.groups import grouped
from circuits.cli.terminal import json_line, note, print_json, print_rows, say, say_all, stage
from circuits.errors import InputError
from circuits.export.mib_names import (
    LEVELS,
    MODELS,
    SPLITS,
    TASKS,
    cell_name,
    cell_of,
    check_level,
    check_rule,
    check_split,
    find_task,
    track_name,
)
from circuits.files.atomic import write_text
from circuits.mib.checks import cells_in, check_free, check_method, check_source
from circuits.plugins import check_model_path

if TYPE_CHECKING:
    from circuits.mib.curve import MibCurves
    from circuits.model import Model

mib_app = typer.Typer(
    help="The circuit track of MIB: score a model's edges, evaluate a circuit file, check a submission.",
    no_args_is_help=True,
)
NAMES = ", ".join(TASKS)
COUNTS = {
    "mib": "MIB's count: one k and v edge per query head",
    "ours": "our count: one k and v edge per key/value head",
}
LevelHelp = f"{', '.join(LEVELS)}."


@dataclass(frozen=True)
class Data:
    """Which rows of which data set."""

    n: Annotated[
        int | None, typer.Option("--n", "-n", help="The first rows that fit the model. Default: all.", min=1)
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(help="A file of rows, or a folder with a file per split, as on the hub. Default: from the hub."),
    ] = None
    counterfactual: Annotated[
        str | None, typer.Option(help="Column of the corrupted prompts. Default: MIB's choice for the task.")
    ] = None

    def pairs(self, model: "Model", task: str, split: str) -> Any:
        """The pairs, with a note about rows of unequal length."""
        from circuits.mib.data import mib_pairs

        pairs = mib_pairs(model, task, split=split, n=self.n, data=self.data, counterfactual=self.counterfactual)
        note_unfit(pairs)
        note(f"{len(pairs)} pairs of {pairs.source}")
        return pairs


@dataclass(frozen=True)
class Seeded(Computed):
    """How it is computed, with a random seed."""

    seed: Annotated[int, typer.Option(help="Random seed.", min=0, max=LARGEST_SEED)] = 0

    def load(self, model: str) -> "Model":
        """The model, by its name in MIB or any other, with a key/value head per query head."""
        source = MODELS[model].source if model in MODELS else model
        return load(source, self.dtype, self.device, self.revision, self.device_map, ungrouped=True)


OfModel = Annotated[str, typer.Option(help=f"{', '.join(MODELS)}; a Hugging Face id or a directory.")]
Level = Annotated[str, typer.Option(help=LevelHelp)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@mib_app.command()
@grouped
def discover(
    task: Annotated[str, typer.Argument(help=f"{NAMES}.")],
    asked: Data,
    computed: Seeded,
    model: OfModel,
    out: Annotated[Path, typer.Option(help="The folder for TASK_MODEL/importances.json.")],
    method: Annotated[
        str, typer.Option("--method", "-m", help="See 'circuits methods'.", autocompletion=completion.methods)
    ] = "eap-ig",
    level: Level = "edge",
    split: Annotated[str, typer.Option(help=f"{', '.join(SPLITS)}.")] = "train",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
    config: options.Config = None,
    **chosen: Any,
) -> None:
    """Score all edges, nodes or neurons of a model on a task of MIB; into a file that MIB's evaluation reads."""
    _check(task, split, level, model, asked.data)
    check_method(method, level)
    check_free(out / cell_name(task, track_name(model)), overwrite)
    parsed = parsed_options(method, chosen)
    from circuits.mib.discovery import mib_importances
    from circuits.mib.submission import write_cell

    loaded = computed.load(model)
    how = {"method": method, "level": level, "seed": computed.seed, "batch_size": computed.batch_size, **parsed}
    scores = mib_importances(loaded, asked.pairs(loaded, task, split), stage=stage, **how)
    where = {"task": task, "model_name": track_name(model), "overwrite": overwrite}
    (place,) = write_cell(scores, out, d_model=int(loaded.bridge.cfg.d_model), **where)
    say(f"written to {place}")


@mib_app.command()
@grouped
def evaluate(
    source: Annotated[Path, typer.Argument(help="A circuit file (.json, .safetensors), or a folder TASK_MODEL.")],
    asked: Data,
    computed: Seeded,
    task: Annotated[str | None, typer.Option(help=f"{NAMES}. Default: by the folder's name.")] = None,
    model: Annotated[
        str | None, typer.Option(help=f"{', '.join(MODELS)}, or another. Default: by the folder's name.")
    ] = None,
    level: Annotated[str | None, typer.Option(help=f"{LevelHelp} Default: the finest level that has scores.")] = None,
    split: Annotated[str, typer.Option(help=f"{', '.join(SPLITS)}.")] = "validation",
    rule: Annotated[
        str, typer.Option(help="top, as in MIB; or greedy, which MIB uses for information flow routes.")
    ] = "top",
    out: Annotated[Path | None, typer.Option(help="Also write the numbers to this JSON file.")] = None,
    config: options.Config = None,
    json: Json = False,
) -> None:
    """Compute CPR and CMD of a circuit file, with all points of the curves, by MIB's count of edges and by that of mech-circuits."""
    task, model = _cell(source, task, model)
    _check(task, split, level or "edge", model, asked.data)
    check_rule(rule)
    check_source(source)
    from circuits.mib.curve import mib_curves
    from circuits.mib.files import read_circuits, read_importances

    read = read_circuits(source) if source.is_dir() else read_importances(source)
    loaded = computed.load(model)
    pairs, how = asked.pairs(loaded, task, split), {"level": level, "rule": rule, "seed": computed.seed}
    with stage("evaluating circuits") as progress:
        curves = mib_curves(loaded, pairs, read, batch_size=computed.batch_size, progress=progress, **how)
    summary = {"task": task, "model": model, "split": split, "pairs": len(pairs), **curves.to_dict()}
    if out is not None:
        write_text(out, json_line(summary) + "\n")
    if json:
        return print_json(summary)
    _print(curves, f"{task}, {model}, {len(pairs)} pairs of {split}")


@mib_app.command()
def submit(
    sources: Annotated[list[Path], typer.Argument(help="Folders TASK_MODEL, or folders that contain them.")],
    out: Annotated[
        Path | None, typer.Option(help="The submission's folder. Default: none; the sources are checked only.")
    ] = None,
    as_circuits: Annotated[
        bool,
        typer.Option(
            "--as-circuits", help="Write nine circuits for each ranking (signed, absolute) instead of scores."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace cells that exist.")] = False,
    json: Json = False,
) -> None:
    """Collect circuit files into a submission to MIB's leaderboard, and check it. Nothing is sent."""
    if as_circuits and out is None:
        raise InputError("--as-circuits writes a submission; say where with --out")
    list(cells_in(sources))
    from circuits.mib.submission import check_submission, collect

    if out is not None:
        collect(sources, out, as_circuits=as_circuits, overwrite=overwrite)
    checked = check_submission([out] if out is not None else sources)
    if json:
        return print_json(checked.to_dict())
    rows = [[str(value) for value in row.values()] for row in checked.rows()]
    print_rows("cells of the submission", ("task", "model", "level", "content", "edges"), rows)
    say_all("problem", checked.problems)


def _check(task: str, split: str, level: str, model: str, data: Path | None) -> None:
    find_task(task)
    if data is not None and not data.exists():
        raise InputError(f"there is no file or folder {data}")
    check_split(split)
    check_level(level)
    check_model_path(model)


def _cell(source: Path, task: str | None, model: str | None) -> tuple[str, str]:
    """Task and model; by the folder's name, if they are not given."""
    named = cell_of(source)
    if named is None and (task is None or model is None):
        raise InputError(f"{source} is not in a folder TASK_MODEL such as ioi_gpt2; give --task and --model")
    own = named or ("", "")
    return task or own[0], model or own[1]


def _print(curves: "MibCurves", title: str) -> None:
    counts = curves.counts
    for name, (n, each) in counts.items():
        what = COUNTS[name] if curves.level == "edge" else f"{n:,} {curves.level}s with a score"
        head = (f"share of {n:,} {curves.level}s", "kept, by signed score", "f", "kept, by size", "f ")
        points = zip(
            each.signed.fractions.tolist(),
            each.signed.edges,
            each.signed.faithfulness.tolist(),
            each.absolute.edges,
            each.absolute.faithfulness.tolist(),
            strict=True,
        )
        print_rows(
            f"{title}; {what}",
            head,
            [[f"{p:g}", f"{a:,}", f"{f:.4f}", f"{b:,}", f"{g:.4f}"] for p, a, f, b, g in points],
        )
    for name, (_, each) in counts.items():
        say(f"{COUNTS[name] if curves.level == 'edge' else curves.level + 's'}: {each}")
    if curves.level == "edge" and "ours" not in counts:
        say("both counts are the same: the model has a key/value head per query head, or the file holds circuits")
