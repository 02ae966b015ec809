"""Pairs of one length as tensors, and how pairs are divided into such batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.prompts.pair import Pair
from circuits.prompts.rows import Forced, filled, lay
from circuits.prompts.sequences import Answer, first_tokens


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Pairs of one length, as tensors.

    Each pair is one row of tokens, read at one position. With answers of several tokens, a pair has as many rows as its answers
    need, and `forced` says which (`circuits.prompts.sequences`).

    Attributes:
        index: the number of each pair in its `PromptPairs`: `out[batch.index] = result` restores their order.
        clean, corrupted: token ids, without padding; rows with appended answers are padded on the right. corrupted is None
            without corrupted prompts.
        position: the tokens whose logits are read.
        answers, distractors: token ids, padded with 0 if a pair has fewer than others; with a last axis over the tokens of each
            answer if `forced` is given.
        answers_mask, distractors_mask: False at the padding.
        prefix: number of leading tokens that the two prompts share, in every pair; at most the smallest position, so logits
            are only read after the prefix.
        forced: the rows and read positions, if an answer has several tokens.
        alignment: the corrupted token that belongs to each clean token; None: the token at the same position.
    """

    index: Int[Tensor, " pair"]
    clean: Int[Tensor, "row pos"]
    corrupted: Int[Tensor, "row other"] | None
    position: Int[Tensor, " read"]
    answers: Int[Tensor, "pair n_answers *n_tokens"]
    answers_mask: Bool[Tensor, "pair n_answers *n_tokens"]
    distractors: Int[Tensor, "pair n_distractors *n_tokens_2"]
    distractors_mask: Bool[Tensor, "pair n_distractors *n_tokens_2"]
    prefix: int
    forced: Forced | None = None
    alignment: Int[Tensor, "row pos"] | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def row_index(self) -> Int[Tensor, " row"]:
        """The number of each row's pair in its `PromptPairs`."""
        return self.index if self.forced is None else self.index[self.forced.pair]

    @property
    def corrupted_position(self) -> Int[Tensor, " read"]:
        """The corrupted prompts' tokens whose logits are read."""
        if self.alignment is None:
            return self.position
        aligned = self.alignment if self.forced is None else self.alignment[self.forced.row]
        return aligned.gather(1, self.position[:, None])[:, 0]

    def to(self, device: torch.device | str) -> "PairBatch":
        """The same batch with its tensors on `device`."""
        return replace(self, **{name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor | Forced)})


@runtime_checkable
class Pairs(Protocol):
    """Any collection of pairs; the pairs themselves are made on first use."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Pair]: ...
    def pair(self, i: int) -> Pair:
        """Pair number i."""
        ...


def batches(pairs: Pairs, batch_size: int, forced: bool) -> Iterator[PairBatch]:
    """All pairs in batches of equal length, sorted by length, then by prefix; the order does not depend on batch_size.

    Args:
        pairs: the pairs.
        batch_size: pairs in a batch, at least 1.
        forced: append the answers to the prompts; False: prompts alone, and the answers' first tokens.
    """
    keys = [(len(pair), len(pair.corrupted), pair.prefix) for pair in pairs]
    order = sorted(range(len(pairs)), key=lambda i: keys[i])
    for _, same_length in groupby(order, key=lambda i: keys[i][:2]):
        indices = list(same_length)
        for start in range(0, len(indices), batch_size):
            numbers = indices[start : start + batch_size]
            chosen = [pairs.pair(i) for i in numbers]
            yield _forced_batch(numbers, chosen) if forced else _plain_batch(numbers, chosen)


def _plain_batch(indices: list[int], chosen: list[Pair]) -> PairBatch:
    """A batch of prompts alone, with the first token of each answer."""
    answers, answers_mask = _one_token([pair.answers for pair in chosen])
    distractors, distractors_mask = _one_token([pair.distractors for pair in chosen])
    return PairBatch(
        index=torch.tensor(indices),
        clean=torch.tensor([pair.clean for pair in chosen]),
        corrupted=torch.tensor([pair.corrupted for pair in chosen]) if chosen[0].corrupted else None,
        position=torch.tensor([pair.position for pair in chosen]),
        answers=answers,
        answers_mask=answers_mask,
        distractors=distractors,
        distractors_mask=distractors_mask,
        prefix=_shared_prefix(chosen),
        alignment=_alignment(chosen),
    )


def _forced_batch(indices: list[int], chosen: list[Pair]) -> PairBatch:
    """A batch whose rows have answers appended to the prompts."""
    laid = lay([pair.answers for pair in chosen], [pair.distractors for pair in chosen])
    longest = max(map(len, laid.behind))
    prompts = {"clean": [], "corrupted": []} if chosen[0].corrupted else {"clean": []}
    for number, behind in zip(laid.forced.pair.tolist(), laid.behind, strict=True):
        padding = (chosen[number].clean + behind)[-1:] * (longest - len(behind))
        for which, rows in prompts.items():
            rows.append(getattr(chosen[number], which) + behind + padding)
    start = torch.tensor([pair.position for pair in chosen])
    answers, answers_mask = filled([pair.answers for pair in chosen])
    distractors, distractors_mask = filled([pair.distractors for pair in chosen])
    return PairBatch(
        index=torch.tensor(indices),
        clean=torch.tensor(prompts["clean"]),
        corrupted=torch.tensor(prompts["corrupted"]) if "corrupted" in prompts else None,
        position=start[laid.forced.read_pair] + torch.tensor(laid.offset),
        answers=answers,
        answers_mask=answers_mask,
        distractors=distractors,
        distractors_mask=distractors_mask,
        prefix=_shared_prefix(chosen),
        forced=laid.forced,
        alignment=_alignment([chosen[number] for number in laid.forced.pair.tolist()], longest),
    )


def _shared_prefix(chosen: Sequence[Pair]) -> int:
    return min(min(pair.prefix, pair.position) for pair in chosen)


def _one_token(
    entries: Sequence[tuple[Answer, ...]],
) -> tuple[Int[Tensor, "pair most"], Bool[Tensor, "pair most"]]:
    """The first token of each answer as a tensor padded with 0, and a mask that is False at the padding."""
    values, mask = filled([first_tokens(answers) for answers in entries])
    return values.squeeze(2), mask.squeeze(2)


def _alignment(pairs: Sequence[Pair], behind: int = 0) -> Int[Tensor, "row pos"] | None:
    """The alignment of each row's prompts, with `behind` tokens behind both; None: all belong together token by token."""
    if not any(pair.alignment for pair in pairs):
        return None
    ends = [range(len(pair.corrupted), len(pair.corrupted) + behind) for pair in pairs]
    return torch.tensor([[*(p.alignment or range(len(p))), *end] for p, end in zip(pairs, ends, strict=True)])
