"""Where prompt pairs come from: a task or a file, by what was typed."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.errors import InputError
from circuits.prompts.reading import SUFFIXES, Reading

if TYPE_CHECKING:
    from circuits.prompts.pair import Encoder
    from circuits.prompts.pairs import PromptPairs


@dataclass(frozen=True)
class Source:
    """Where pairs come from: a task, or else a file."""

    task: Any
    path: Path = Path()

    def __call__(
        self, model: "Encoder", n: int | None, seed: int, one_length: bool = False, reading: Reading | None = None
    ) -> "PromptPairs":
        """n pairs (None: 64 of a task, all of a file); with `one_length`, those of the most frequent length only.

        Raises:
            InputError: `reading`, how a file is to be read, is given for a task.
        """
        if self.task is not None:
            if reading not in (None, Reading()):
                raise InputError("columns, skip-unfit, trust-ids and no-bos are for files of prompts, not for a task")
            # A task of another package may know nothing of lengths.
            return self.task.pairs(
                model, n=64 if n is None else n, seed=seed, **({"one_length": True} if one_length else {})
            )
        from circuits.prompts.pairs import PromptPairs

        asked = replace(reading or Reading(), n=None if one_length else n)
        pairs = PromptPairs.from_file(self.path, model, **vars(asked))
        return replace(first_pairs(of_one_length(pairs), n), unfit=pairs.unfit) if one_length else pairs


def find_pairs(target: str) -> Source:
    """The source of that name; refuses what is neither a task nor a file before any work."""
    path = Path(target)
    if path.suffix.lower() in SUFFIXES or path.is_file():
        if not path.is_file():
            raise InputError(f"there is no file {target}")
        return Source(None, path)
    from circuits.plugins import find_task

    return Source(find_task(target), path)


def first_pairs(pairs: "PromptPairs", n: int | None) -> "PromptPairs":
    return pairs if n is None or len(pairs) <= n else pairs[:n]


def of_one_length(pairs: "PromptPairs") -> "PromptPairs":
    """The pairs whose prompts have the most frequent number of tokens; of two equally frequent, the first."""
    usual = Counter(len(tokens) for tokens in pairs.clean).most_common(1)[0][0]
    return pairs[[i for i, tokens in enumerate(pairs.clean) if len(tokens) == usual]]
