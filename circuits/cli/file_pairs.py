"""Options for prompts from a file: how its records become pairs."""

from dataclasses import dataclass, replace
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
OfMetric = Annotated[
    str | None,
    typer.Option(
        help="The metric to be measured, which decides whether a file's answers may have several tokens. Default: the file's.",
        rich_help_panel=PANEL, autocompletion=completion.metrics,
    ),
]  # fmt: skip
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
            help="Leave out pairs that do not fit the model or the metric (unequal length, answers of several tokens …).",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None
    trust_ids: Annotated[
        bool | None,
        typer.Option(
            "--trust-ids",
            help="Accept token ids without evidence that this model's tokenizer made them.",
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

    first_token: Annotated[
        bool | None,
        typer.Option(
            "--first-token",
            help="Keep only the first token of answers of several tokens. Default: they are scored whole, by metrics that allow it.",
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
        return Reading(
            parse_columns(self.columns), bool(self.skip_unfit), bool(self.trust_ids), not self.no_bos,
            first_token=bool(self.first_token), align=self.align,
        )  # fmt: skip

    def check(self, source: Source | None, metric: str | None = None) -> Reading:
        """The same, with the metric to be measured on a file's pairs; refused where there is no file to read.

        Raises:
            InputError: the source is a task, or there is none.
        """
        reading = self.reading
        if source is None and reading != Reading():
            raise InputError("columns, skip-unfit, trust-ids, no-bos, first-token and align need --pairs")
        if source is not None:
            source.check(reading)
        return reading if source is None or source.given is not None else replace(reading, metric=metric)


def note_unfit(pairs: "PromptPairs", reference: "PromptPairs | None" = None) -> None:
    """Prints on standard error how many pairs were left out, and why; and how many of a reference."""
    if pairs.unfit is not None:
        note(str(pairs.unfit))
    if reference is not None and reference.unfit is not None:
        note(f"reference: {reference.unfit}")
