"""Ablations by a mean over the clean prompts of a reference set."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from circuits.engine.capture import Writes, only_writes
from circuits.engine.hooks import TokenBatch, inference_state
from circuits.engine.prefix import Suffix
from circuits.errors import InputError, locating
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablation import Ablation

if TYPE_CHECKING:
    from circuits.model import Model


@dataclass(frozen=True, eq=False)
class OverReference(Ablation):
    """A mean over the clean prompts of a reference set.

    Attributes:
        reference: the reference set; None: the pairs of the question.
    """

    reference: "PromptPairs | None" = None

    @property
    def label(self) -> str:
        return self.name if self.reference is None else f"{self.name}(over {self.reference.source})"

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {} if self.reference is None else {"reference_sha256": self.reference.digest()}

    def _clean_writes(self, model: "Model", pairs: "PromptPairs", batch_size: int) -> Iterator[Writes]:
        """The writers' outputs on the clean prompts of the reference set, or of these pairs."""
        if self.reference is not None:
            with locating(f"the reference of ablation {self.name}: "):
                self.reference.validate_for(model)
        with inference_state(model.bridge):
            for batch in (pairs if self.reference is None else self.reference).batches(batch_size, forced=False):
                batch = batch.to(model.device)
                yield only_writes(model.architecture, TokenBatch(batch.clean, batch.position))


@dataclass(frozen=True, eq=False)
class Mean(OverReference):
    """A writer's mean over the clean prompts of a reference set and their positions.

    Attributes:
        reference: the reference set; None: the pairs of the question.
    """

    means: Writes | None = field(default=None, repr=False)
    name: ClassVar[str] = "mean"
    help: ClassVar[str] = "its mean over prompts and positions"

    def prepared(self, model: "Model", pairs: "PromptPairs", batch_size: int) -> "Ablation":
        total, n = None, 0
        for writes in self._clean_writes(model, pairs, batch_size):
            summed = writes.map(lambda x: x.to(_wide(x)).sum((0, 1), keepdim=True))
            total = summed if total is None else total.plus(summed)
            n += writes.embedding.shape[0] * writes.embedding.shape[1]
        assert total is not None
        return replace(self, means=total.map(lambda x: (x / n).to(model.dtype)))

    def replacement(self, model: "Model", suffix: Suffix, clean: Writes) -> Writes:
        assert self.means is not None
        return clean.combine(self.means, lambda value, mean: mean.expand_as(value))


@dataclass(frozen=True, eq=False)
class MeanPositional(OverReference):
    """A writer's mean at each position, over the clean reference prompts of the same length.

    Attributes:
        reference: the reference set; None: the pairs of the question.
    """

    means: dict[int, Writes] = field(default_factory=dict, repr=False)
    name: ClassVar[str] = "mean_positional"
    help: ClassVar[str] = "its mean at that position"

    def prepared(self, model: "Model", pairs: "PromptPairs", batch_size: int) -> "Ablation":
        if pairs.several_tokens:
            raise InputError(
                "mean_positional ablation has no mean at the positions of answers of several tokens, which stand behind the "
                "prompts; use the ablation 'mean', or first_token=True (--first-token)"
            )
        counts: dict[int, int] = {}
        totals: dict[int, Writes] = {}
        for writes in self._clean_writes(model, pairs, batch_size):
            length = writes.embedding.shape[1]
            summed = writes.map(lambda x: x.to(_wide(x)).sum(0, keepdim=True))
            totals[length] = totals[length].plus(summed) if length in totals else summed
            counts[length] = counts.get(length, 0) + writes.embedding.shape[0]
        for i, tokens in enumerate(pairs.clean):
            if counts.get(len(tokens), 0) < 2:
                raise InputError(
                    f"pair {i} has {len(tokens)} tokens, and the reference set {counts.get(len(tokens), 0)} prompts of that "
                    "length: a mean by position needs at least 2 (use more pairs, or ablation 'mean')"
                )
        means = {
            length: total.map(lambda x, n=counts[length]: (x / n).to(model.dtype)) for length, total in totals.items()
        }
        return replace(self, means=means)

    def replacement(self, model: "Model", suffix: Suffix, clean: Writes) -> Writes:
        means = self.means[suffix.start + suffix.clean.shape[1]]
        return clean.combine(means, lambda value, mean: mean[:, suffix.start :].expand_as(value))


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
