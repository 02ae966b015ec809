"""Ablation by trained constants; `circuits.question.optimal_constants` trains them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from circuits.engine.capture import Writes
from circuits.engine.hooks import TokenBatch, inference_state
from circuits.errors import InputError
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablation import Ablation
from circuits.question.mean_ablations import Mean
from circuits.question.optimal_constants import BATCH, Constants, train_constants

if TYPE_CHECKING:
    from circuits.model import Model


@dataclass(frozen=True, eq=False)
class Optimal(Mean):
    """A constant for each writer, trained on the clean prompts of a reference set.

    Attributes:
        reference: the reference set; None: the pairs of the question.
        steps: steps of training.
        seed: random seed.
        constants: trained already, as those of a run; None: trained when the question is asked.
    """

    steps: int = 100
    seed: int = 0
    constants: Constants | None = field(default=None, repr=False)
    name: ClassVar[str] = "optimal"
    help: ClassVar[str] = "a trained constant"

    @property
    def label(self) -> str:
        over = "" if self.reference is None else f", over {self.reference.source}"
        return f"optimal(steps={self.steps}, seed={self.seed}{over})"

    @property
    def provenance(self) -> Mapping[str, Any]:
        known = self.constants
        losses = {} if known is None else {"constants": {"loss": known.loss, "loss_of_means": known.mean_loss}}
        return {**super().provenance, **losses}

    def prepared(self, model: "Model", pairs: "PromptPairs", batch_size: int) -> "Ablation":
        if self.steps < 1:
            raise InputError(f"ablation optimal: steps must be at least 1, got {self.steps}")
        mean = super().prepared(model, pairs, batch_size)
        assert isinstance(mean, Optimal)
        assert mean.means is not None
        constants = self.constants or self._trained(model, pairs, mean.means)
        return replace(mean, means=constants.fitted(mean.means), constants=constants)

    def _trained(self, model: "Model", pairs: "PromptPairs", means: Writes) -> Constants:
        squares, n = None, 0
        for writes in self._clean_writes(model, pairs, BATCH):
            squared = writes.combine(
                means, lambda x, mean: (x.to(torch.promote_types(x.dtype, torch.float32)) - mean).square()
            )
            summed = squared.map(lambda x: x.sum((0, 1), keepdim=True).mean(-1, keepdim=True))
            squares = summed if squares is None else squares.plus(summed)
            n += writes.embedding.shape[0] * writes.embedding.shape[1]
        assert squares is not None
        spreads = squares.map(lambda x: (x / n).sqrt().float())
        given = pairs if self.reference is None else self.reference
        with inference_state(model.bridge):
            batches = [batch.to(model.device) for batch in given.batches(BATCH, forced=False)]
            tokens = [TokenBatch(batch.clean, batch.position) for batch in batches]
            return train_constants(model, tokens, means, spreads, self.steps, self.seed)
