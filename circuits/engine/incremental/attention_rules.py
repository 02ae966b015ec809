"""Rules of attention to try on a layer.

Configurations do not name everything in one way: whether scores are scaled (not in GPT-Neo), whether a bias falls with the distance
(ALiBi, Press et al. 2022, in Bloom and MPT). So a layer's rule is the first that reproduces a recorded run
(`NodeFunctions.agrees`).
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.architecture import AttentionRule


def variants(rule: AttentionRule, n_heads: int) -> Iterator[AttentionRule]:
    """The described rule, then others: unscaled scores, ALiBi (also scaled, as in Falcon)."""
    slopes = alibi_slopes(n_heads)
    for scale in dict.fromkeys((rule.scale, 1.0)):
        yield replace(rule, scale=scale)
        yield replace(rule, scale=scale, slopes=slopes)
        yield replace(rule, scale=scale, slopes=slopes * scale)


def alibi_slopes(n_heads: int) -> Float[Tensor, " head"]:
    """The slopes of ALiBi: 2^(-8 i/n) for heads i = 1 … n; if n is not a power of two, those of the next lower power, then every
    other one of the next higher."""

    def of_power(n: int) -> list[float]:
        return [2.0 ** (-8 * i / n) for i in range(1, n + 1)]

    lower = 2 ** (n_heads.bit_length() - 1)
    return torch.tensor([*of_power(lower), *of_power(2 * lower)[::2]][:n_heads], dtype=torch.float64)
