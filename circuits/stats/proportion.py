"""Clopper and Pearson's interval of a probability, from the number of successes in independent trials."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def clopper_pearson(
    counts: Int[Tensor, " *tests"], n: int, error: float
) -> tuple[Float[Tensor, " *tests"], Float[Tensor, " *tests"]]:
    """Lower and upper limits of the probability of each count of n trials.

    For any probability, each of the two limits is wrong with a probability of at most error/2 (Clopper and Pearson 1934), so the
    interval is wrong with a probability of at most `error`. Limits are in float64.
    """
    from scipy.stats import beta

    k = counts.numpy()
    low, high = beta.ppf(error / 2, k, n - k + 1), beta.isf(error / 2, k + 1, n - k)
    low, high = (torch.as_tensor(end, dtype=torch.float64) for end in (low, high))
    return low.masked_fill(counts == 0, 0.0), high.masked_fill(counts == n, 1.0)
