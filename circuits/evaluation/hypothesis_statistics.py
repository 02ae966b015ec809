"""p values of the hypothesis tests, computed from metrics without a model.

Each test holds its level for any distribution. `binomial` and `equivalence` are exact tests of a share (ties counted half move the
share towards ½, so `equivalence` rejects less often). `hsic` is a permutation test. `tests/evaluation/test_hypothesis_levels.py`
simulates the type I error on normal, discrete, tied and heavy-tailed data.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def holm(p: Float[Tensor, " test"]) -> Float[Tensor, " test"]:
    """p values after Holm's correction for the number of tests."""
    order = p.argsort(stable=True)
    factors = torch.arange(len(p), 0, -1, dtype=p.dtype)
    stepped = (p[order] * factors).cummax(0).values.clamp(max=1)
    return torch.empty_like(p).scatter_(0, order, stepped)


def binomial(shares: Float[Tensor, " test"], n: int, q: float, alternative: str) -> Float[Tensor, " test"]:
    """p values of shares of n draws under the null hypothesis of probability q; `alternative`: less or greater."""
    from scipy.stats import binom

    counts = (shares * n).round().numpy()
    p = binom.cdf(counts, n, q) if alternative == "less" else binom.sf(counts - 1, n, q)
    return torch.as_tensor(p, dtype=torch.float64)


def hsic(
    x: Float[Tensor, " n"], y: Float[Tensor, " n"], permutations: int, seed: int, equal: float = 0.0
) -> tuple[float, float]:
    """The Hilbert-Schmidt independence criterion with Gaussian kernels of median width, and its permutation p value
    (Gretton et al. 2007).

    A constant is independent of everything: 0 and 1. Values that differ by at most `equal` count as the same.
    """
    centre = torch.eye(len(x), dtype=torch.float64) - 1 / len(x)
    kernels = []
    for values in (x, y):
        distance = (values.double()[:, None] - values.double()).abs()
        distance = distance.masked_fill(distance <= equal, 0.0)
        width = distance[distance > 0].median() if bool((distance > 0).any()) else None
        if width is None:
            return 0.0, 1.0
        kernels.append(torch.exp(-0.5 * (distance / width).square()))
    centred, other = centre @ kernels[0] @ centre, kernels[1]
    generator = torch.Generator().manual_seed(seed)
    observed = float((centred * other).sum())
    drawn = torch.stack([torch.randperm(len(x), generator=generator) for _ in range(permutations)])
    random = torch.stack([(centred * other[order][:, order]).sum() for order in drawn])
    p = (1 + int((random >= observed - 1e-12 * abs(observed)).sum())) / (1 + permutations)
    return observed / (len(x) - 1) ** 2, p


def equivalence(difference: Float[Tensor, " prompt"], epsilon: float, equal: float) -> tuple[float, float]:
    """The share of prompts on which the circuit is above the model, and the p value for the share being within ε of ½.

    Differences of at most `equal` are ties and count half.
    """
    from scipy.stats import binom

    n = len(difference)
    same = difference.abs() <= equal
    above = float(((difference > 0) & ~same).sum() + 0.5 * same.sum())
    far = abs(above / n - 0.5)
    counts = torch.arange(n + 1, dtype=torch.float64)
    extreme = (counts / n - 0.5).abs() >= far - 1e-12
    p = float((torch.as_tensor(binom.pmf(counts.numpy(), n, 0.5 + epsilon)) * extreme).sum())
    return above / n, min(1.0, p)


def least(condition: Callable[[int], bool]) -> int:
    """The smallest positive integer that satisfies the condition."""
    return next(n for n in range(1, 10_000_000) if condition(n))
