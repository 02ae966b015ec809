"""Percentile bootstrap of a mean over prompts: how far it would move had other prompts of the same kind been drawn."""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError


def bootstrap_interval(
    per_prompt: Float[Tensor, "*axes prompt"], level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
    """Percentile bootstrap interval of the mean over prompts, the same resamples for every entry of the other axes.

    Args:
        per_prompt: values on each prompt.
        level: the interval's coverage.
        resamples: how many.
        seed: of the resampling.

    Returns:
        The lower and the upper ends.

    Raises:
        InputError: a level that is not between 0 and 1, or no resamples.
    """
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, got {level}")
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")
    generator = torch.Generator().manual_seed(seed)
    *axes, n = per_prompt.shape
    drawn = torch.randint(n, (resamples, n), generator=generator)
    weights = torch.zeros(resamples, n, dtype=per_prompt.dtype).scatter_add_(
        1, drawn, torch.ones(resamples, n, dtype=per_prompt.dtype)
    )
    means = (per_prompt.reshape(-1, n) @ weights.T) / n
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=means.dtype)
    low, high = torch.quantile(means, tails, dim=1)
    return low.reshape(axes), high.reshape(axes)
