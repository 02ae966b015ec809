"""The ranks of the answers on the clean prompts, taken from clean runs that methods make anyway.

Methods call `saw` with the logits of their clean runs. Inside `watched`, the ranks are collected; they cost a
comparison but no forward pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.prompts.batch import PairBatch
from circuits.question.metrics import METRICS, Targets, targets_of


@dataclass(frozen=True, eq=False)
class Answers:
    """How well a model answers the clean prompts.

    Attributes:
        ranks: rank of the best answer among all tokens, per prompt; 1 = the model's first choice, NaN = not seen. The rank of an
            answer of several tokens is the worst of its tokens', each behind those before it.
        right: per prompt, 1 if the best answer is above every distractor, else 0; NaN without distractors. Answers of several
            tokens are compared by their log-probability.
        d_vocab: size of the vocabulary.
        first: the model's first choice of the next token, per prompt; -1 = not seen.
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
        """The median rank; for an even number of prompts, the mean of the middle two."""
        return float(self.ranks.quantile(0.5))

    @property
    def accuracy(self) -> float | None:
        """Share of prompts on which the best answer is above every distractor; None if a pair has no distractors."""
        return None if self.right.isnan().any() else float(self.right.mean())

    def __str__(self) -> str:
        return f"top-1 rate of the answer {self.top_1_rate:.2f}, median rank {self.median_rank:g}"

    def to_dict(self) -> dict[str, float | None]:
        """The rates as JSON values."""
        return {"accuracy": self.accuracy, "top_1_rate": self.top_1_rate, "median_rank": self.median_rank}


_WATCHING: ContextVar[tuple[Answers, ...]] = ContextVar("watching", default=())


@contextmanager
def watched(n_pairs: int, d_vocab: int) -> Iterator[Answers]:
    """Collects the answers of `n_pairs` pairs from clean runs; prompts without a clean run stay NaN."""
    unseen = torch.full((n_pairs,), torch.nan, dtype=torch.float64)
    answers = Answers(unseen, unseen.clone(), d_vocab, torch.full((n_pairs,), -1))
    token = _WATCHING.set((*_WATCHING.get(), answers))
    try:
        yield answers
    finally:
        _WATCHING.reset(token)


def is_unseen(batch: PairBatch) -> bool:
    """Whether an open `watched` still lacks some of these pairs."""
    return bool(_missing(batch))


def _missing(batch: PairBatch) -> list[Answers]:
    return [answers for answers in _WATCHING.get() if answers.ranks[batch.index.cpu()].isnan().any()]


def saw(batch: PairBatch, logits: Float[Tensor, "read d_vocab"]) -> None:
    """Records the answers of a batch in every open `watched`.

    Args:
        batch: the pairs, on the logits' device.
        logits: logits of the clean run at the answer positions.
    """
    index, missing = batch.index.cpu(), _missing(batch)
    if not missing:
        return
    with torch.no_grad():
        wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        targets = targets_of(batch)
        first = wide.argmax(-1).cpu()
        if batch.forced is not None:
            first = first[batch.forced.answers[:, 0, 0].cpu()]
        ranks = _ranks(wide, targets).to("cpu", torch.float64)
        with_distractors = batch.distractors_mask.flatten(1).any(1).cpu()
        right = torch.full(ranks.shape, torch.nan, dtype=torch.float64)
        if with_distractors.any():
            accurate = METRICS["accuracy"](wide, targets).to("cpu", torch.float64)
            right = torch.where(with_distractors, accurate, right)
    for answers in missing:
        answers.ranks[index], answers.right[index], answers.first[index] = ranks, right, first


def _ranks(logits: Float[Tensor, "read d_vocab"], targets: Targets) -> Float[Tensor, " pair"]:
    """1 + the number of tokens without logit <= the best answer's. (Negated, so that NaN is never a first choice.)"""
    if targets.forced is not None:
        return 1 + targets.tokens_above(logits).amin(-1).to(logits.dtype)
    given = logits.gather(1, targets.answers).masked_fill(~targets.answers_mask, -torch.inf)
    return 1 + (~(logits <= given.amax(-1, keepdim=True))).sum(-1).to(logits.dtype)
