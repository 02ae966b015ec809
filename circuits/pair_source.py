"""Where prompt pairs come from: a task or a file, by what was typed."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.errors import InputError

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.pairs import PromptPairs


@dataclass(frozen=True)
class Source:
    """Where pairs come from: a task, or else a file."""

    task: Any
    path: Path

    def __call__(self, model: "Model", n: int | None, seed: int) -> "PromptPairs":
        if self.task is not None:
            return self.task.pairs(model, n=64 if n is None else n, seed=seed)
        from circuits.pairs import PromptPairs

        return first_pairs(PromptPairs.from_jsonl(self.path, model), n)


def find_pairs(target: str) -> Source:
    """The source of that name; refuses what is neither a task nor a file before any work."""
    path = Path(target)
    if path.suffix == ".jsonl" or path.is_file():
        if not path.is_file():
            raise InputError(f"there is no file {target}")
        return Source(None, path)
    from circuits.plugins import find_task

    return Source(find_task(target), path)


def first_pairs(pairs: "PromptPairs", n: int | None) -> "PromptPairs":
    return pairs if n is None or len(pairs) <= n else pairs[:n]
