"""The rows of a batch whose pairs have answers of several tokens, and the places where they are read.

`circuits.prompts.sequences` explains rows and contexts. Rows of a batch are padded on the right, behind every token that is read: a
causal model's logits do not depend on the padding, and no effect passes through it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.prompts.sequences import Answer, TokenIds, contexts, rows, tokens_of


@dataclass(frozen=True, eq=False)
class Forced:
    """Where a batch of pairs with answers of several tokens is read.

    Attributes:
        pair: number in the batch of each row's pair; a pair's rows are neighbours.
        row: row of each read position.
        read_pair: number in the batch of each read position's pair.
        answers, distractors: for each token of an answer or distractor the read position that predicts it; 0 at padding.
    """

    pair: Int[Tensor, " row"]
    row: Int[Tensor, " read"]
    read_pair: Int[Tensor, " read"]
    answers: Int[Tensor, "pair n_answers n_tokens"]
    distractors: Int[Tensor, "pair n_distractors n_tokens_2"]

    def to(self, device: torch.device | str) -> "Forced":
        """The same on another device."""
        return Forced(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True, eq=False)
class Laid:
    """The rows of a batch.

    Attributes:
        behind: per row, the tokens behind its pair's prompt.
        offset: per read position, its distance from the prompt's last token; 0 = that token.
        forced: the places.
    """

    behind: list[TokenIds]
    offset: list[int]
    forced: Forced


def lay(answers: Sequence[Sequence[Answer]], distractors: Sequence[Sequence[Answer]]) -> Laid:
    """The rows and read positions of some pairs, given by their answers and distractors."""
    behind: list[TokenIds] = []
    pair, row, read_pair, offset = [], [], [], []
    reads: list[dict[TokenIds, int]] = []
    for number, both in enumerate(zip(answers, distractors, strict=True)):
        together = [*both[0], *both[1]]
        own, serves = rows(together), {}
        for i, each in enumerate(own, start=len(behind)):
            for end in range(len(each) + 1):
                serves.setdefault(each[:end], i)
        reads.append({})
        for context in contexts(together):
            reads[-1][context] = len(row)
            row.append(serves[context])
            read_pair.append(number)
            offset.append(len(context))
        behind += own
        pair += [number] * len(own)
    places = (_places(side, reads) for side in (answers, distractors))
    return Laid(behind, offset, Forced(torch.tensor(pair), torch.tensor(row), torch.tensor(read_pair), *places))


def _places(
    side: Sequence[Sequence[Answer]], reads: Sequence[dict[TokenIds, int]]
) -> Int[Tensor, "pair n_answers n_tokens"]:
    return filled(
        [
            [tuple(known[answer[:i]] for i in range(len(answer))) for answer in map(tokens_of, entries)]
            for entries, known in zip(side, reads, strict=True)
        ]
    )[0]


def filled(
    entries: Sequence[Sequence[Answer]],
) -> tuple[Int[Tensor, "pair most longest"], Bool[Tensor, "pair most longest"]]:
    """Ragged answers as a tensor padded with 0, and a mask that is False at the padding."""
    several = [[tokens_of(answer) for answer in answers] for answers in entries]
    most = max(map(len, several))
    longest = max((len(tokens) for answers in several for tokens in answers), default=1)
    padded = [[*answers, *[()] * (most - len(answers))] for answers in several]
    values = [[tokens + (0,) * (longest - len(tokens)) for tokens in answers] for answers in padded]
    mask = [[[i < len(tokens) for i in range(longest)] for tokens in answers] for answers in padded]
    shape = len(several), most, longest
    return torch.tensor(values, dtype=torch.long).reshape(shape), torch.tensor(mask, dtype=torch.bool).reshape(shape)
