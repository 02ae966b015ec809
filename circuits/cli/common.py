"""What several commands need: models and prompt pairs from what was typed, and lists of names."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.errors import InputError
from circuits.terminal import console_stderr, quiet_libraries

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.pairs import PromptPairs

DEFAULT_MODEL = "smollm2-135m"
LARGEST_SEED = 2**63 - 1
DEVICE_MAP_HELP = "Instead of --device: auto, balanced, sequential … spreads the layers over all devices."


def names_in(text: str | None) -> list[str] | None:
    """Comma-separated names, each once."""
    return None if text is None else list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def print_json(told: Any) -> None:
    """For machines: one line of JSON on standard output."""
    print(json_line(told))


def json_line(told: Any) -> str:
    return json.dumps(told, allow_nan=False)


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


def load(name: str, dtype: str | None, device: str, revision: str | None, device_map: str | None = None) -> "Model":
    with quiet_libraries(), console_stderr().status(f"loading {name}"):
        from circuits import zoo
        from circuits.model import load_model

        if name not in zoo.names() or zoo.is_cached(name):
            return load_model(name, dtype=dtype, device=device, device_map=device_map, revision=revision)
    with zoo.rich_progress() as progress:
        zoo.fetch(name, progress)
    with quiet_libraries(), console_stderr().status(f"loading {name}"):
        return load_model(name, dtype=dtype, device=device, device_map=device_map, revision=revision)
