"""What replaces a value that is ablated.

An ablation says, for every writer of a batch, the value that takes its place. Constants (attention output biases, norm
biases) belong to no writer: they stay under every ablation.
"""

from abc import ABC, abstractmethod
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

import torch

from circuits.engine.capture import Writes, capture_writes
from circuits.engine.prefix import Suffix
from circuits.errors import InputError

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.pairs import PromptPairs


class Ablation(ABC):
    """One way to ablate. Subclass it for your own.

    Attributes:
        name: how it is written in files and on the command line.
        keeps_prefix: whether replacements equal the clean values in front of the first token in which a pair differs, so
            that those positions need not be computed again.
        needs_corrupted: whether the corrupted prompts are used.
    """

    name: ClassVar[str]
    keeps_prefix: ClassVar[bool] = False
    needs_corrupted: ClassVar[bool] = False

    def prepare(self, model: "Model", pairs: "PromptPairs", batch_size: int) -> None:  # noqa: B027 (most need nothing)
        """Called once before the first batch, for what is estimated over a data set (means)."""

    @abstractmethod
    def replacement(self, model: "Model", suffix: Suffix, clean: Writes) -> Writes:
        """The replacing values.

        Args:
            model: the model.
            suffix: the prompts.
            clean: every writer's output on the clean prompts.
        """


class Interchange(Ablation):
    """A writer's value on the corrupted prompt."""

    name = "interchange"
    keeps_prefix = True
    needs_corrupted = True

    def replacement(self, model: "Model", suffix: Suffix, clean: Writes) -> Writes:
        bridge, architecture = model.bridge, model.architecture
        return capture_writes(bridge, architecture, suffix.corrupted, suffix.position, suffix.cache())[1]


class Zero(Ablation):
    """Zero, also for the embedding."""

    name = "zero"

    def replacement(self, model: "Model", suffix: Suffix, clean: Writes) -> Writes:
        return clean.map(torch.zeros_like)


ABLATIONS: dict[str, type[Ablation]] = {ablation.name: ablation for ablation in (Interchange, Zero)}


def get_ablation(ablation: str | Ablation) -> Ablation:
    """An ablation by name or as it is.

    Raises:
        InputError: no such ablation; the nearest names are offered.
    """
    if isinstance(ablation, Ablation):
        return ablation
    if ablation in ABLATIONS:
        return ABLATIONS[ablation]()
    near = get_close_matches(str(ablation), ABLATIONS, n=2)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise InputError(f"there is no ablation {ablation!r}{hint} (one of {', '.join(ABLATIONS)})")
