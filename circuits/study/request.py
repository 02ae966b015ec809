"""Requests: the runs that a study asks for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.methods.catalogue import declared
from circuits.methods.options import Kind
from circuits.prompts.columns import parse_columns
from circuits.prompts.reading import Reading
from circuits.prompts.source import Source, find_pairs, names_file

if TYPE_CHECKING:
    from circuits.prompts.pair import Encoder
    from circuits.prompts.pairs import PromptPairs


def files_of(method: str) -> list[str]:
    """Options of a method that name a file."""
    return [name for name, option in declared(method).options.items() if option.kind is Kind.FILE]


def reading_of(given: Mapping[str, Any]) -> Reading:
    """How a study file has files of pairs read; PairsError if its `columns` cannot be parsed."""
    return Reading(**{**given, "columns": parse_columns(given.get("columns"))})


@dataclass(frozen=True)
class Request:
    """One run that a study asks for.

    Attributes:
        model, revision, dtype, device, device_map: the model, for `circuits.load_model`.
        task, n, one_length: where pairs come from, how many, and whether they have one number of tokens.
        label: the study's name of the method with these options.
        method, options, metric, ablation, batch_size: for `circuits.runs.discover.discover`.
        seed: random seed of the pairs and the run.
        threads: threads per operation.
        evaluation: options of `circuits.runs.evaluate.evaluate_run`; None: no evaluation.
        base: directory of the study file, to which its file names are relative.
        reference: a file of the pairs that a mean is taken over; None: another ablation, or the run's own pairs.
        reading: how files of pairs are read, as in the study file, without defaults; empty for tasks.
    """

    model: str
    revision: str | None
    dtype: str | None
    device: str
    device_map: str | None
    task: str
    n: int
    label: str
    method: str
    options: Mapping[str, Any]
    metric: str | None
    ablation: str | None
    batch_size: int | None
    seed: int
    threads: int
    evaluation: Mapping[str, Any] | None
    base: str = ""
    one_length: bool = False
    reference: str | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task_source(self) -> str:
        """The task's name, or the path of its file."""
        path = Path(self.base) / self.task
        return str(path) if is_file(path) else self.task

    @property
    def pairs_asked(self) -> dict[str, Any]:
        """What identifies the prompts besides their task; defaults are left out, so that addresses stay."""
        more = {"one_length": self.one_length, "reference": self.reference, "reading": dict(self.reading)}
        return {"n": self.n, "seed": self.seed, **{name: value for name, value in more.items() if value}}

    @property
    def metric_of_file(self) -> str | None:
        """The metric that decides whether a file's texts of several tokens are answers; None: the file's own, or a task."""
        return self.metric if names_file(Path(self.task_source)) else None

    @property
    def reference_source(self) -> str | None:
        """The path of the reference."""
        return None if self.reference is None else str(Path(self.base) / self.reference)

    def pairs(self, model: "Encoder", find: Callable[[str], Source] = find_pairs) -> "PromptPairs":
        """The prompts."""
        reading = replace(reading_of(self.reading), metric=self.metric_of_file)
        return find(self.task_source)(model, self.n, self.seed, self.one_length, reading)

    def reference_pairs(self, model: "Encoder", find: Callable[[str], Source] = find_pairs) -> "PromptPairs | None":
        """The pairs that a mean is taken over."""
        source = self.reference_source
        reading = replace(reading_of(self.reading), metric=self.metric)
        return None if source is None else find(source)(model, None, self.seed, reading=reading)

    @property
    def model_shown(self) -> str:
        """The model in tables, with its revision if it has one."""
        return self.model if self.revision is None else f"{self.model}@{self.revision}"

    @property
    def model_source(self) -> str:
        """The model's name, or the path of its directory."""
        path = Path(self.base) / self.model
        return str(path) if is_file(path / "config.json") else self.model

    @property
    def method_options(self) -> dict[str, Any]:
        """The options, with the paths of files."""
        files = (name for name in files_of(self.method) if name in self.options)
        placed = {name: str(Path(self.base) / self.options[name]) for name in files}
        return {**self.options, **placed}

    def __str__(self) -> str:
        more = [part for part in (self.metric, self.ablation) if part is not None]
        return ", ".join([f"{self.label} on {self.task} in {self.model_shown}", *more, f"seed {self.seed}"])


@dataclass(frozen=True)
class Study:
    """The contents of a study file.

    Attributes:
        requests: all runs that it asks for, those of one model together.
        text: the text of the file.
        base: its directory.
    """

    requests: tuple[Request, ...]
    text: str = field(repr=False)
    base: Path = Path()


def is_file(path: Path) -> bool:
    """`Path.is_file`, also for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
