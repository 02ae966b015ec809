"""Options for prompts from a file: how its records become pairs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from circuits.cli import completion
from circuits.cli.terminal import note
from circuits.errors import InputError
from circuits.prompts.aligned import WAYS
from circuits.prompts.columns import parse_columns
from circuits.prompts.reading import Reading
from circuits.prompts.source import Source

if TYPE_CHECKING:
    from circuits.prompts.pairs import PromptPairs

PANEL = "Prompts from a file"
FILES = "a file of prompt pairs (.csv, .tsv, .jsonl, .json, .parquet)"


@dataclass(frozen=True)
class FilePairs:
    """How a file is read; all of it is refused for a task."""

    columns: Annotated[
        str | None,
        typer.Option(
            help="The column of each part of a pair: clean=COLUMN,corrupted=COLUMN,answers=COLUMN,distractors=' text' …; in quotes, "
            "{COLUMN} stands for that cell. Default: by the columns' names.",
            rich_help_panel=PANEL,
        ),
    ] = None
    skip_unfit: Annotated[
        bool | None,
        typer.Option(
            "--skip-unfit",
            help="Leave out pairs that do not fit the model (unequal length, answers of several tokens …).",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    trust_ids: Annotated[
        bool | None,
        typer.Option(
            "--trust-ids",
            help="Take token ids without evidence that this model's tokenizer made them.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    no_bos: Annotated[
        bool | None,
        typer.Option(
            "--no-bos",
            help="Do not put a beginning-of-text token before text.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None

    align: Annotated[
        str | None,
        typer.Option(
            help="Pairs of unequal length: which tokens belong together, by 'spans' (of both prompts) or by a 'diff' of the tokens.",
            rich_help_panel=PANEL,
            autocompletion=completion.choices(list(WAYS)),
        ),
    ] = None

    @property
    def reading(self) -> Reading:
        """What they ask for.

        Raises:
            PairsError: the columns cannot be understood, or there is no such alignment.
        """
        columns, unless_bos = parse_columns(self.columns), not self.no_bos
        return Reading(columns, bool(self.skip_unfit), bool(self.trust_ids), unless_bos, align=self.align)

    def check(self, source: Source | None) -> Reading:
        """The same; refused where there is no file to read.

        Raises:
            InputError: the source is a task, or there is none.
        """
        reading = self.reading
        if source is None and reading != Reading():
            raise InputError("columns, skip-unfit, trust-ids, no-bos and align need --pairs")
        if source is not None:
            source.check(reading)
        return reading


def note_unfit(pairs: "PromptPairs", reference: "PromptPairs | None" = None) -> None:
    """Prints on standard error how many pairs were left out, and why; and how many of a reference."""
    if pairs.unfit is not None:
        note(str(pairs.unfit))
    if reference is not None and reference.unfit is not None:
        note(f"reference: {reference.unfit}")
