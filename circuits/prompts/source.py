"""Finds the source of prompt pairs by name: a task or a file."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits import plugins
from circuits.errors import InputError
from circuits.progress import StageProgress, silent
from circuits.prompts.reading import SUFFIXES, Reading

if TYPE_CHECKING:
    from circuits.prompts.pair import Encoder
    from circuits.prompts.pairs import PromptPairs


MANY = 500
"""So many pairs are drawn with a progress bar."""


@dataclass(frozen=True)
class Source:
    """The source of prompt pairs.

    Attributes:
        given: a task, or its name; None: a file.
        path: the file.
    """

    given: Any
    path: Path = Path()

    @cached_property
    def task(self) -> Any:
        """The task; its package is imported on first use. None: the pairs come from a file."""
        return plugins.load_task(self.given) if isinstance(self.given, str) else self.given

    def __call__(
        self,
        model: "Encoder",
        n: int | None,
        seed: int,
        one_length: bool = False,
        reading: Reading | None = None,
        stage: StageProgress = silent,
    ) -> "PromptPairs":
        """n pairs (None: 64 from a task, all from a file); with `one_length`, only those of the most frequent length.

        `stage` reports the progress of drawing many pairs from a task.

        Raises:
            InputError: the pairs cannot be used, or `reading`, which applies to files, is given for a task.
        """
        self.check(reading)
        if self.task is not None:
            # A task of another package may lack these parameters.
            options: dict[str, Any] = {"one_length": True} if one_length else {}
            if n is None or n < MANY or "progress" not in signature(self.task.pairs).parameters:
                return self.task.pairs(model, n=64 if n is None else n, seed=seed, **options)
            with stage("drawing pairs") as progress:
                return self.task.pairs(model, n=n, seed=seed, progress=progress, **options)
        from circuits.prompts.pairs import PromptPairs

        asked = replace(reading or Reading(), n=None if one_length else n)
        pairs = PromptPairs.from_file(self.path, model, **vars(asked))
        return replace(first_pairs(of_one_length(pairs), n), unfit=pairs.unfit) if one_length else pairs

    def check(self, reading: Reading | None) -> None:
        """Refuses options for files if the pairs come from a task."""
        if self.given is not None and reading not in (None, Reading()):
            raise InputError(
                "columns, skip-unfit, trust-ids, no-bos, first-token and align are for files of prompts, not for a task"
            )


def find_pairs(target: str) -> Source:
    """The task or file with this name; InputError if neither exists."""
    path = Path(target)
    if names_file(path):
        return find_file(path)
    plugins.check_task(target)
    return Source(target, path)


def names_file(path: Path) -> bool:
    """Whether this names a file of pairs, which may be missing, and not a task."""
    try:
        return path.suffix.lower() in SUFFIXES or path.is_file()
    except (OSError, ValueError):  # no file can have this name
        return False


def find_file(path: Path) -> Source:
    """The pairs of a file; InputError if there is none."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    return Source(None, path)


def first_pairs(pairs: "PromptPairs", n: int | None) -> "PromptPairs":
    return pairs if n is None or len(pairs) <= n else pairs[:n]


def of_one_length(pairs: "PromptPairs") -> "PromptPairs":
    """The pairs whose prompts have the most frequent length in tokens; if two are equally frequent, the one that comes first."""
    usual = Counter(len(tokens) for tokens in pairs.clean).most_common(1)[0][0]
    return pairs[[i for i, tokens in enumerate(pairs.clean) if len(tokens) == usual]]
