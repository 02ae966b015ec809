"""Random repeated sequences, on which the kinds of heads are measured: BOS, n different tokens, the same n tokens again."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.errors import InputError
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs

SEQUENCES = 8
HALF = 20
"""Tokens of one half, fewer in models with a short context or a small vocabulary."""


@dataclass(frozen=True, eq=False)
class Repeated:
    """Sequences of BOS and two equal halves.

    Attributes:
        tokens: ids; each half has different tokens.
        half: tokens of one half.
    """

    tokens: Int[Tensor, "sequence pos"]
    half: int


def first_token(model: Model, pairs: PromptPairs | None) -> int:
    """The token that begins a prompt: that of all pairs, or the tokenizer's, or 0."""
    firsts = set() if pairs is None else {prompt[0] for prompt in pairs.clean}
    if len(firsts) == 1:
        return firsts.pop()
    encoded = [] if model.tokenizer is None else model.encode("a")
    return int(encoded[0]) if len(encoded) > 1 else 0


def repeated_sequences(model: Model, pairs: PromptPairs | None, seed: int, n: int = SEQUENCES) -> Repeated:
    """Draws the sequences.

    Args:
        model: a loaded model.
        pairs: prompts whose first token is used, if they share it.
        seed: of the draw.
        n: number of sequences.

    Raises:
        InputError: the vocabulary or the context is too small.
    """
    bos, config = first_token(model, pairs), model.bridge.cfg
    special = {bos, *(getattr(model.tokenizer, "all_special_ids", None) or ())}
    usable = torch.tensor([token for token in range(int(config.d_vocab)) if token not in special])
    half = min(HALF, (int(config.n_ctx or 2 * HALF + 1) - 1) // 2, len(usable) // 2)
    if half < 2:
        raise InputError(f"{model.name} has too short a context or too small a vocabulary for repeated sequences")
    generator = torch.Generator().manual_seed(seed)
    halves = torch.stack([usable[torch.randperm(len(usable), generator=generator)[:half]] for _ in range(n)])
    return Repeated(torch.cat([torch.full((n, 1), bos), halves, halves], 1), half)
