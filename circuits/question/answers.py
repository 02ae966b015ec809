"""Where a model ranks the answers on the clean prompts, seen on clean runs that are made anyway.

A method makes a clean run for its own purpose. `saw` is called with the logits of each; whoever wants to know the ranks
opens `watched` around the work, so that they cost a comparison and no forward pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.prompts.pairs import PairBatch
from circuits.question.metrics import METRICS, Targets, targets_of


@dataclass(frozen=True, eq=False)
class Answers:
    """How well a model answers the clean prompts.

    Attributes:
        ranks: of the best answer among all tokens, per prompt; 1 = the model's first choice, NaN = not seen.
        right: per prompt, 1 where the best answer is above every distractor, else 0; NaN where there is no distractor.
        d_vocab: how many tokens there are.
        first: the model's first choice, per prompt; -1 = not seen.
    """

    ranks: Float[Tensor, " prompt"]
    right: Float[Tensor, " prompt"]
    d_vocab: int
    first: Int[Tensor, " prompt"]

    @property
    def complete(self) -> bool:
        """Whether every prompt was seen."""
        return not bool(self.ranks.isnan().any())

    @property
    def top_1_rate(self) -> float:
        """Share of prompts on which an answer is the model's first choice."""
        return float((self.ranks == 1).double().mean())

    @property
    def median_rank(self) -> float:
        """The median of the ranks; of two middle ones the mean."""
        return float(self.ranks.quantile(0.5))

    @property
    def accuracy(self) -> float | None:
        """Share of prompts on which the best answer is above every distractor; None where a pair has none."""
        return None if self.right.isnan().any() else float(self.right.mean())

    def __str__(self) -> str:
        return f"top-1 rate of the answer {self.top_1_rate:.2f}, median rank {self.median_rank:g}"

    def to_dict(self) -> dict[str, float | None]:
        """As JSON can hold it."""
        return {"accuracy": self.accuracy, "top_1_rate": self.top_1_rate, "median_rank": self.median_rank}


_WATCHING: ContextVar[tuple[Answers, ...]] = ContextVar("watching", default=())


@contextmanager
def watched(n_pairs: int, d_vocab: int) -> Iterator[Answers]:
    """Collects the answers of so many pairs from clean runs; what was not seen stays NaN."""
    unseen = torch.full((n_pairs,), torch.nan, dtype=torch.float64)
    answers = Answers(unseen, unseen.clone(), d_vocab, torch.full((n_pairs,), -1))
    token = _WATCHING.set((*_WATCHING.get(), answers))
    try:
        yield answers
    finally:
        _WATCHING.reset(token)


def is_unseen(batch: PairBatch) -> bool:
    """Whether somebody watches who has not seen these pairs."""
    return bool(_missing(batch))


def _missing(batch: PairBatch) -> list[Answers]:
    return [answers for answers in _WATCHING.get() if answers.ranks[batch.index.cpu()].isnan().any()]


def saw(batch: PairBatch, logits: Float[Tensor, "batch d_vocab"]) -> None:
    """Takes down the answers of a batch, whose clean run has these logits, where somebody watches.

    Args:
        batch: the pairs, on the logits' device.
        logits: at their positions.
    """
    index, missing = batch.index.cpu(), _missing(batch)
    if not missing:
        return
    with torch.no_grad():
        wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        targets = targets_of(batch)
        first = wide.argmax(-1).cpu()
        ranks = _ranks(wide, targets).to("cpu", torch.float64)
        with_distractors = batch.distractors_mask.any(1).cpu()
        right = torch.full(ranks.shape, torch.nan, dtype=torch.float64)
        if with_distractors.any():
            accurate = METRICS["accuracy"](wide, targets).to("cpu", torch.float64)
            right = torch.where(with_distractors, accurate, right)
    for answers in missing:
        answers.ranks[index], answers.right[index], answers.first[index] = ranks, right, first


def _ranks(logits: Float[Tensor, "batch d_vocab"], targets: Targets) -> Float[Tensor, " batch"]:
    """1 + the number of tokens that are not at most as likely as the best answer: NaN is no first choice."""
    given = logits.gather(1, targets.answers).masked_fill(~targets.answers_mask, -torch.inf)
    return 1 + (~(logits <= given.amax(-1, keepdim=True))).sum(-1).to(logits.dtype)
