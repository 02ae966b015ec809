"""`circuits dictionary`: trains sparse dictionaries, and shows how good they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from circuits.cli import completion
from circuits.cli.common import DEFAULT_MODEL, LARGEST_SEED, load, resumable
from circuits.cli.groups import grouped
from circuits.cli.options import Device, Dtype, Revision
from circuits.cli.terminal import print_json, print_rows, say, stage
from circuits.dictionaries.train_files import check_finish, check_out, read_record
from circuits.dictionaries.train_spec import SAMPLED, TrainingSpec, parse_count
from circuits.plugins import check_model_path

dictionary_app = typer.Typer(
    help="Train sparse dictionaries (an example), and show their quality.", no_args_is_help=True
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ADVANCED = "Details of the training"


@dataclass(frozen=True)
class Size:
    """How large the dictionaries are, and how much text they see."""

    features: Annotated[int, typer.Option(help="Features of each dictionary.", min=1)] = 4096
    k: Annotated[int, typer.Option("--k", help="Features that are active on a token.", min=1)] = 32
    tokens: Annotated[str, typer.Option(help="Tokens of text, such as 500k or 1M.")] = "1M"
    text: Annotated[str, typer.Option(help=f"{SAMPLED} (by the model itself), or a .txt or .jsonl file.")] = SAMPLED
    field: Annotated[str, typer.Option(help="Field of a .jsonl file's objects that has the text.")] = "text"
    skip: Annotated[bool, typer.Option("--skip", help="Give transcoders a linear skip.")] = False
    seed: Annotated[int, typer.Option(help="Random seed.", min=0, max=LARGEST_SEED)] = 0


@dataclass(frozen=True)
class Details:
    """How they are trained."""

    context: Annotated[int, typer.Option(help="Tokens of a context.", min=2, rich_help_panel=ADVANCED)] = 128
    batch_size: Annotated[int, typer.Option(help="Contexts per forward pass.", min=1, rich_help_panel=ADVANCED)] = 64
    buffer: Annotated[
        int, typer.Option(help="Tokens whose activations are held and shuffled.", min=1, rich_help_panel=ADVANCED)
    ] = 16_384
    step: Annotated[int, typer.Option(help="Tokens of a gradient step.", min=1, rich_help_panel=ADVANCED)] = 1024
    passes: Annotated[
        int, typer.Option(help="How often the activations of a full buffer are used.", min=1, rich_help_panel=ADVANCED)
    ] = 1
    learning_rate: Annotated[
        float, typer.Option(help="The largest learning rate, between 0 and 1.", rich_help_panel=ADVANCED)
    ] = 1e-3
    dead_after: Annotated[
        int | None,
        typer.Option(
            help="A feature is dead after so many tokens without activity. Default: a tenth of all.", min=1,
            rich_help_panel=ADVANCED,
        ),
    ] = None  # fmt: skip
    held_out: Annotated[
        int, typer.Option(help="Contexts that quality is measured on.", min=1, rich_help_panel=ADVANCED)
    ] = 64


@dictionary_app.command()
@grouped
def train(
    sites: Annotated[
        list[str],
        typer.Argument(
            help="transcoder.10, mlp_out.10, attn_out.10, hook_z.10, resid_post.10 …; all see the same text.",
            metavar="SITE...",
        ),
    ],
    out: Annotated[Path, typer.Option(help="A new directory, with a directory for each dictionary in it.")],
    size: Size,
    details: Details,
    model: Annotated[
        str, typer.Option(help="Short name, Hugging Face id, or directory.", autocompletion=completion.models)
    ] = DEFAULT_MODEL,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training in --out.")] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="With --resume: take the dictionaries of the last checkpoint as they are.")
    ] = False,
    dtype: Dtype = None,
    device: Device = "auto",
    revision: Revision = None,
    json: Json = False,
) -> None:
    """Train a TopK autoencoder or transcoder for each site, and measure its quality on other text."""
    settings = {**vars(size), **vars(details), "tokens": parse_count(size.tokens)}
    spec = TrainingSpec.for_sites(sites, **settings)
    check_model_path(model)
    if finish:
        check_finish(out, resume)
    record = check_out(out, spec, resume)
    if record is not None:
        say(f"{out} is already finished; there is nothing to resume")
        return
    loaded = load(model, dtype, device, revision)
    import circuits

    with resumable(True), stage("training") as progress:
        record = circuits.train_dictionary(
            loaded, sites, out, resume=resume, finish=finish, progress=progress, **settings
        ).record
    _print(out, record, json)


@dictionary_app.command()
def show(
    directory: Annotated[Path, typer.Argument(help="A directory that 'circuits dictionary train' has written.")],
    json: Json = False,
) -> None:
    """Show how trained dictionaries were made, and how good they are."""
    _print(directory, read_record(directory), json)


def _print(out: Path, record: Mapping[str, Any], json: bool) -> None:
    """The quality of all dictionaries of a training."""
    if json:
        print_json(record)
        return
    settings = record["settings"]
    source = "text that the model sampled" if settings["text"] == SAMPLED else f"text of {settings['text']}"
    say(
        f"{len(settings['sites'])} dictionaries of {record['model']}: {settings['features']} features, {settings['k']} per token"
    )
    if not record["finished"]:
        say(f"not finished: {settings['tokens']:,} tokens of {source} are planned; --resume continues it")
        return
    from circuits.dictionaries.train_record import quality_rows

    if record["steps"] < record["planned_steps"]:
        say(f"stopped early, after {record['steps']:,} of {record['planned_steps']:,} steps")
    minutes = record["seconds"] / 60
    say(
        f"{record['tokens']:,} tokens of {source}, used {settings['passes']} times; {minutes:.1f} minutes of processor time"
    )
    rows = quality_rows(record)
    title = f"quality on {rows[0]['held-out tokens']:,} held-out tokens"
    names = [name for name in rows[0] if name not in ("site", "held-out tokens")]
    print_rows(title, ["", *settings["sites"]], [[name, *(_cell(row[name]) for row in rows)] for name in names])
    say(f"loss with all of them inserted at once, without errors: {record['loss_all_together']:.3f} nats per token")
    say(f"load one with circuits.load_dictionary({str(out / rows[0]['site'])!r})")


def _cell(value: Any) -> str:
    if value is None:
        return "undefined"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
