"""Names of the circuit track of MIB (Mueller et al. 2025, 2504.13151): its tasks, models, data, and folders.

Light, so that the command line can check them before torch is imported.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from circuits.errors import InputError

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the edges (or nodes, or neurons) at which circuits are evaluated."""
LEVELS = ("edge", "node", "neuron")
RULES = ("top", "greedy")
SPLITS = ("train", "validation", "test")
FILE = "importances.json"


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: on the command line; in a folder's name, with hyphens.
        dataset: on the hub.
        config: the configuration of that dataset.
        counterfactual: the column with the corrupted prompts.
        form: `names` (IOI), `choices` or `sums`.
        operator: of `sums`, other rows are left out.
    """

    name: str
    dataset: str
    counterfactual: str
    form: str
    config: str | None = None
    operator: str | None = None

    @property
    def folder(self) -> str:
        return self.name.replace("_", "-")


@dataclass(frozen=True)
class TrackModel:
    """A model.

    Attributes:
        name: in the track.
        source: on the hub.
        n_edges: as MIB counts them.
        dtype: in which MIB runs it.
    """

    name: str
    source: str
    n_edges: int
    dtype: str


_SYMBOLS, _SUMS = "symbol_counterfactual", "random_counterfactual"
TASKS = {
    task.name: task
    for task in (
        Task("ioi", "mib-bench/ioi", "s2_io_flip_counterfactual", "names"),
        Task("mcqa", "mib-bench/copycolors_mcqa", _SYMBOLS, "choices", config="4_answer_choices"),
        Task("arithmetic_addition", "mib-bench/arithmetic_addition", _SUMS, "sums", operator="+"),
        Task("arithmetic_subtraction", "mib-bench/arithmetic_subtraction", _SUMS, "sums", operator="-"),
        Task("arc_easy", "mib-bench/arc_easy", _SYMBOLS, "choices"),
        Task("arc_challenge", "mib-bench/arc_challenge", _SYMBOLS, "choices"),
    )
}
MODELS = {
    model.name: model
    for model in (
        TrackModel("gpt2", "openai-community/gpt2", 32_491, "float32"),
        TrackModel("qwen2.5", "Qwen/Qwen2.5-0.5B", 179_749, "bfloat16"),
        TrackModel("gemma2", "google/gemma-2-2b", 74_218, "bfloat16"),
        TrackModel("llama3", "meta-llama/Llama-3.1-8B", 1_592_881, "bfloat16"),
    )
}
TABLE = (
    ("ioi", "gpt2"), ("ioi", "qwen2.5"), ("ioi", "gemma2"), ("ioi", "llama3"), ("mcqa", "qwen2.5"), ("mcqa", "gemma2"),
    ("mcqa", "llama3"), ("arithmetic_addition", "llama3"), ("arithmetic_subtraction", "llama3"), ("arc_easy", "gemma2"),
    ("arc_easy", "llama3"), ("arc_challenge", "llama3"),
)  # fmt: skip
"""The cells of the track's table."""


def track_name(model: str) -> str:
    """The track's name of a model, from its name on the hub or of a directory; another name is unchanged.

    >>> track_name("google/gemma-2-2b"), track_name("models/mine/")
    ('gemma2', 'mine')
    """
    last = model.rstrip("/").rpartition("/")[2]
    by_source = {one.source.rpartition("/")[2].lower(): one.name for one in MODELS.values()}
    return by_source.get(last.lower(), last)


def find_task(name: str) -> Task:
    """The task of that name, also as in a folder's name.

    Raises:
        InputError: there is none.
    """
    known = TASKS.get(name.replace("-", "_"))
    if known is None:
        raise InputError(f"MIB has no task {name!r}{_near(name, TASKS)} (one of {', '.join(TASKS)})")
    return known


def check_level(level: str) -> str:
    """The level; InputError if there is none of that name."""
    if level not in LEVELS:
        raise InputError(f"there is no level {level!r}{_near(level, LEVELS)} (one of {', '.join(LEVELS)})")
    return level


def check_split(split: str) -> str:
    """The split; InputError if there is none of that name."""
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}{_near(split, SPLITS)} (one of {', '.join(SPLITS)})")
    return split


def check_rule(rule: str) -> str:
    """The rule by which edges are taken; InputError if there is none of that name."""
    if rule not in RULES:
        raise InputError(f"there is no rule {rule!r}{_near(rule, RULES)} (one of {', '.join(RULES)})")
    return rule


def cell_name(task: str, model: str) -> str:
    """The name of a folder `TASK_MODEL`; raises as `find_task` and `folder_part`."""
    return f"{find_task(task).folder}_{folder_part(model, 'model')}"


def cell_of(path: Path) -> tuple[str, str] | None:
    """Task and model by the name of a folder, `TASK_MODEL`, or of the folder of a file; None: it has no such name.

    >>> cell_of(Path("results/arc-easy_llama3/importances.json"))
    ('arc_easy', 'llama3')
    """
    name = path.parent.name if path.suffix else path.name
    task, _, model = name.partition("_")
    known = task.replace("-", "_")
    return (known, model) if known in TASKS and model else None


def folder_part(value: object, what: str) -> str:
    """A part of a folder's name: only small letters, digits, dots and hyphens, so that it cannot be a path.

    Raises:
        InputError: nothing is left of it, or more than 60 characters.
    """
    text = re.sub(r"[^a-z0-9.]+", "-", str(value or "").lower()).strip("-.")
    if not text or len(text) > 60:
        raise InputError(
            f"the {what} must have a name of 1 to 60 letters, digits, dots and hyphens, got {value!r}; name it"
        )
    return text


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
