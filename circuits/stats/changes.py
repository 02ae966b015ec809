"""Which of many means differ between two sets of prompts: permutation tests with one correction for all of them.

Each column has a t statistic, and p is the share of permutations whose *largest* |t| over all columns is at least its own (Westfall and
Young's single-step max-T), with 1 added to both counts. So the probability of naming any column whose mean does not differ is at most
the level, for any dependence between columns, if all columns are as the null hypothesis says.

| rows | permuted | exact if, without a change, |
|---|---|---|
| paired: the same prompts in both | signs of the differences | differences are symmetric about 0, jointly |
| not paired | which row belongs to which set | rows of both sets have one distribution |
"""

import torch
from jaxtyping import Float
from torch import Tensor

_COLUMNS_AT_ONCE = 4096


def changes_p(
    first: Float[Tensor, "row_a column"],
    second: Float[Tensor, "row_b column"],
    paired: bool,
    permutations: int,
    seed: int,
    least: float,
) -> Float[Tensor, " column"]:
    """p value of each column, corrected for all columns.

    Args:
        first, second: values of both sets.
        paired: whether row i of both is one prompt.
        permutations: number of permutations.
        seed: of the permutations.
        least: differences of means of at most this size are rounding: such columns have p = 1.
    """
    generator = torch.Generator().manual_seed(seed)
    if paired:
        signs = 1 - 2 * torch.randint(2, (permutations, len(first)), generator=generator).double()
        weights = torch.cat([torch.ones(1, len(first), dtype=torch.float64), signs])
        rows = second.double() - first.double()
    else:
        n, total = len(first), len(first) + len(second)
        orders = torch.stack(
            [torch.arange(total), *(torch.randperm(total, generator=generator) for _ in range(permutations))]
        )
        weights = torch.zeros(1 + permutations, total, dtype=torch.float64).scatter_(1, orders[:, n:], 1.0)
        rows = torch.cat([first, second]).double()
    largest = torch.zeros(permutations, dtype=torch.float64)
    own = []
    for part in rows.split(_COLUMNS_AT_ONCE, dim=1):
        t, mean = _paired_t(weights, part) if paired else _two_sample_t(weights, part)
        t = t.abs().masked_fill(mean[:1].abs() <= least, 0.0)
        own.append(t[0])
        largest = torch.maximum(largest, t[1:].amax(1))
    observed = torch.cat(own)
    at_least = len(largest) - torch.searchsorted(largest.sort().values, observed * (1 - 1e-12))
    return torch.where(observed > 0, (1 + at_least.double()) / (1 + permutations), 1.0)


def _paired_t(signs: Tensor, rows: Tensor) -> tuple[Float[Tensor, "draw column"], Float[Tensor, "draw column"]]:
    n = rows.shape[0]
    mean = signs @ rows / n
    variance = (rows.square().mean(0) - mean.square()).clamp(min=0) / (n - 1)
    return _ratio(mean, variance), mean


def _two_sample_t(in_second: Tensor, rows: Tensor) -> tuple[Float[Tensor, "draw column"], Float[Tensor, "draw column"]]:
    means, variances = [], []
    centred = rows - rows.mean(0)
    for chosen in (in_second, 1 - in_second):
        n = chosen.sum(1, keepdim=True)
        mean = chosen @ centred / n
        means.append(mean)
        variances.append((chosen @ centred.square() / n - mean.square()).clamp(min=0) / (n - 1))
    return _ratio(means[0] - means[1], variances[0] + variances[1]), means[0] - means[1]


def _ratio(mean: Tensor, variance: Tensor) -> Tensor:
    """t; of a difference that is the same in every row, a number that is larger than any other but finite."""
    floor = (1e-12 * mean.abs()).clamp(min=torch.finfo(torch.float64).tiny)
    return mean / torch.maximum(variance.sqrt(), floor)
