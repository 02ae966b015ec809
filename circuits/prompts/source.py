"""The source of prompt pairs on the command line: a task or a file."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.errors import InputError

if TYPE_CHECKING:
    from circuits.prompts.pair import Encoder
    from circuits.prompts.pairs import PromptPairs


@dataclass(frozen=True)
class Source:
    """A task, or a file if the task is None."""

    task: Any
    path: Path = Path()

    def __call__(self, model: "Encoder", n: int | None, seed: int, one_length: bool = False) -> "PromptPairs":
        """n pairs (None: 64 of a task, all of a file); with `one_length`, only those of the most frequent length."""
        if self.task is not None:
            options = {"one_length": True} if one_length else {}  # which a task of another package may not have
            return self.task.pairs(model, n=64 if n is None else n, seed=seed, **options)
        from circuits.prompts.pairs import PromptPairs

        pairs = PromptPairs.from_jsonl(self.path, model)
        return first_pairs(of_one_length(pairs) if one_length else pairs, n)


def find_pairs(target: str) -> Source:
    """The task or file of that name; InputError if there is neither."""
    path = Path(target)
    if path.suffix == ".jsonl" or path.is_file():
        if not path.is_file():
            raise InputError(f"there is no file {target}")
        return Source(None, path)
    from circuits.plugins import load_task

    return Source(load_task(target), path)


def first_pairs(pairs: "PromptPairs", n: int | None) -> "PromptPairs":
    return pairs if n is None or len(pairs) <= n else pairs[:n]


def of_one_length(pairs: "PromptPairs") -> "PromptPairs":
    """The pairs whose prompts have the most frequent number of tokens; of two equally frequent, the first."""
    usual = Counter(len(tokens) for tokens in pairs.clean).most_common(1)[0][0]
    return pairs[[i for i, tokens in enumerate(pairs.clean) if len(tokens) == usual]]
