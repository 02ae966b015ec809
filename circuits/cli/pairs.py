"""`circuits pairs`: looks at files of prompts, and converts them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.cli import completion
from circuits.cli.common import load
from circuits.cli.file_pairs import FilePairs, OfMetric, note_unfit
from circuits.cli.groups import grouped
from circuits.cli.options import Device, Revision
from circuits.cli.terminal import console, note, print_json, say, table
from circuits.errors import InputError
from circuits.methods.catalogue import check_known
from circuits.prompts.convert import converted, write_converted
from circuits.prompts.pair import Place, bounds
from circuits.prompts.reading import Reading
from circuits.prompts.sequences import answer_of, tokens_of
from circuits.results.wording import counted

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.prompts.pairs import PromptPairs
    from circuits.prompts.unfit import Unfit

pairs_app = typer.Typer(help="Files of prompt pairs: show one, convert one.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The file; its suffix is its format: .csv, .tsv, .jsonl, .json, .parquet.")]  # fmt: skip
OfModel = Annotated[
    str | None,
    typer.Option(
        help="The model whose tokenizer reads the file, with all checks. Default: none; texts are kept as text.",
        autocompletion=completion.models,
    ),
]
Most = Annotated[int | None, typer.Option("--n", help="Pairs. Default: all.", min=1)]


@pairs_app.command()
@grouped
def show(
    file: File,
    reading: FilePairs,
    model: OfModel = None,
    metric: OfMetric = None,
    n: Most = None,
    rows: Annotated[int, typer.Option(help="Pairs to print.", min=1)] = 5,
    device: Device = "cpu",
    revision: Revision = None,
    json: Annotated[bool, typer.Option("--json", help="Print the first pairs as JSON instead of a table.")] = False,
) -> None:
    """Show how a file's columns are read, which pairs do not fit, and the first that do."""
    asked, pairs, loaded = replace(_reading(reading, metric, n), skip_unfit=True), None, None
    if model is None:
        read = converted(file, asked)
        unfit, summary, first = read.unfit, read.summary(), read.records[:rows]
    else:
        loaded = load(model, None, device, revision)
        pairs = _read(file, loaded, asked)
        unfit, summary, first = pairs.unfit, repr(pairs), [_record(pair, loaded) for pair in islice(pairs, rows)]
    _note_left_out(unfit, reading)
    if json:
        return print_json({"file": str(file), "summary": summary, "pairs": first})
    names = list(dict.fromkeys(name for record in first for name in record))
    columns = {"": False, **{f"pair {i}": False for i in range(len(first))}}
    cells = [(name, *(_cell(record.get(name)) for record in first)) for name in names]
    say(summary)
    console().print(table(f"the first {counted(len(first), 'pair')} of {file}", columns, cells, show_lines=True))
    if pairs is not None and loaded is not None:
        from circuits.cli.terminal_spans import print_tokens

        print_tokens(pairs, 0, loaded)


@pairs_app.command()
@grouped
def convert(
    file: File,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A file that ends in .jsonl.")],
    reading: FilePairs,
    model: OfModel = None,
    metric: OfMetric = None,
    n: Most = None,
    device: Device = "cpu",
    revision: Revision = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """Convert a file's pairs to JSON lines: as text, for every model; with --model as its token ids, after all checks."""
    if out.suffix != ".jsonl":
        raise InputError(f"{out} must end in .jsonl, the format that is written")
    if out.exists() and not overwrite:
        raise InputError(f"{out} already exists; use --overwrite to replace it")
    asked = _reading(reading, metric, n)
    if model is None:
        rows = converted(file, asked)
        write_converted(rows, out)
        written = len(rows.records)
    else:
        pairs = _read(file, load(model, None, device, revision), asked)
        note_unfit(pairs)
        pairs.to_jsonl(out)
        written = len(pairs)
    say(f"{written} pairs written to {out}")


def _note_left_out(unfit: "Unfit | None", reading: FilePairs) -> None:
    """Prints on standard error which pairs do not fit, with the first line of each reason."""
    if unfit is None:
        return
    for (reason, n), first in zip(unfit.reasons, unfit.first, strict=True):
        note(f"left out: {n} {reason}, the first at {first}")
    if not reading.skip_unfit:
        note("other commands refuse this file without --skip-unfit")


def _reading(reading: FilePairs, metric: str | None, n: int | None) -> Reading:
    check_known("metric", metric)
    return replace(reading.reading, metric=metric, n=n)


def _read(file: Path, model: "Model", asked: Reading) -> "PromptPairs":
    from circuits.prompts.pairs import PromptPairs

    return PromptPairs.from_file(file, model, **vars(asked))


def _record(pair: Any, model: "Model") -> dict[str, Any]:
    """A pair as people read it."""

    def decode(entries: Any) -> list[Any]:
        each = [tokens_of(entry) for entry in entries]
        return [answer_of(ids) if model.tokenizer is None else model.tokenizer.decode([*ids]) for ids in each]

    record = {
        "clean": pair.clean_text or decode(pair.clean),
        "corrupted": pair.corrupted_text or decode(pair.corrupted),
        "tokens": len(pair),
        "answers": decode(pair.answers),
        "distractors": decode(pair.distractors),
        "roles": {name: _place(pair.clean, place, decode) for name, place in pair.roles.items()},
        "spans": {name: _place(pair.clean, place, decode) for name, place in pair.partition.items()},
        "metadata": dict(pair.metadata),
    }
    return {name: value for name, value in record.items() if value or name in ("clean", "corrupted")}


def _place(ids: Sequence[int], place: Place, decode: Callable[[Sequence[int]], list[Any]]) -> str:
    """The tokens of a role: `3 ' Mary'`, or `3 to 4 ' Mary' ' Ann'`."""
    start, stop = bounds(place)
    where = f"{start}" if stop == start + 1 else f"{start} to {stop - 1}"
    return " ".join([where, *map(repr, decode(ids[start:stop]))])


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {entry}" for name, entry in value.items())
    return (
        value
        if isinstance(value, str)
        else ""
        if value is None
        else ", ".join(map(repr, value))
        if isinstance(value, list)
        else str(value)
    )
