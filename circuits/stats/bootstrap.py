"""Intervals of a mean over prompts: percentile bootstrap and Student's t.

Neither has its nominal coverage for every distribution. Actual coverage of the true mean by a 95% interval of n prompts
(`benchmarks/coverage.py`; docs/selection.md has more):

| effects | interval | n = 8 | n = 16 | n = 32 | n = 64 |
|---|---|---|---|---|---|
| normal | percentile | 89% | 93% | 94% | 94% |
| normal | t | 95% | 95% | 96% | 95% |
| lognormal | percentile | 78% | 84% | 88% | 91% |
| lognormal | t | 83% | 86% | 89% | 91% |

So "95%" holds for normal effects and many prompts; it is much less if a few prompts have most of the effect.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.workers.workers import Workers

KEPT_BYTES, KEPT_ROWS = 256 * 2**20, 128
"""Limits of the effects per prompt that are kept: 128 prompts of up to half a million edges. So 1,000 prompts take no more memory
than 100, and resampling still has at least 64 rows."""
_MEANS_AT_ONCE = 2**22
"""Resampled means in memory at a time."""


def bootstrap_interval(
    per_prompt: Float[Tensor, "*axes prompt"],
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    sizes: Float[Tensor, " prompt"] | None = None,
    workers: Workers | None = None,
) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
    """Percentile bootstrap interval of the mean over prompts, the same resamples for every entry of the other axes.

    Args:
        per_prompt: values on each prompt.
        level: nominal coverage; see the module docstring for the actual coverage.
        resamples: number of resamples.
        seed: random seed.
        sizes: number of prompts in each group, if values are means of groups, which are then resampled; None: one each.
        workers: where parts of the entries are computed; None: in this process. Results do not depend on it.

    Returns:
        The lower and the upper ends, in float64; NaN with a single prompt.

    Raises:
        InputError: a level that is not between 0 and 1, or no resamples.
    """
    check_level(level)
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")
    *axes, n = per_prompt.shape
    if n < 2:
        unknown = torch.full(axes, torch.nan, dtype=torch.float64)
        return unknown, unknown.clone()
    weights = resampling_weights(n, resamples, seed, sizes)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    parts = per_prompt.reshape(-1, n).split(max(1, _MEANS_AT_ONCE // resamples))
    if workers is None:
        ends = [_ends((weights, tails), part) for part in parts]
    else:
        computed = dict(workers.map(_ends, (weights, tails), [part.clone() for part in parts]))
        ends = [computed[i] for i in range(len(parts))]
    low, high = torch.cat(ends, dim=1) if ends else torch.zeros(2, 0, dtype=torch.float64)
    return low.reshape(axes), high.reshape(axes)


def _ends(
    resampling: tuple[Float[Tensor, "draw prompt"], Float[Tensor, " tail"]], part: Float[Tensor, "entry prompt"]
) -> Float[Tensor, "tail entry"]:
    """Quantiles of some entries' resampled means."""
    weights, tails = resampling
    return torch.quantile(part.double() @ weights.T, tails, dim=1)


def resampling_weights(
    n: int, resamples: int, seed: int, sizes: Float[Tensor, " prompt"] | None = None
) -> Float[Tensor, "draw prompt"]:
    """Weights of n prompts (or groups of these sizes) in means over prompts drawn with replacement; rows sum to 1."""
    drawn = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    ones = torch.ones(resamples, n, dtype=torch.float64)
    weights = torch.zeros_like(ones).scatter_add_(1, drawn, ones)
    if sizes is not None:
        weights = weights * sizes.double()
    return weights / weights.sum(1, keepdim=True)


def t_interval(
    mean: Float[Tensor, "*axes"], stderr: Float[Tensor, "*axes"], n: int, level: float = 0.95
) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
    """Student's interval, mean ± t·stderr with n - 1 degrees of freedom; NaN with a single prompt."""
    from scipy.stats import t

    check_level(level)
    width = float(t.ppf((1 + level) / 2, n - 1)) * stderr if n > 1 else torch.full_like(mean, torch.nan)
    return mean - width, mean + width


def t_p_values(
    mean: Float[Tensor, " test"], stderr: Float[Tensor, " test"], n: int, correction: str = "none"
) -> Float[Tensor, " test"]:
    """Two-sided p-values of Student's test that the mean over n prompts is 0: below 1 - level exactly if `t_interval` excludes 0.

    An effect that is the same on every prompt has p = 0, and one that is 0 on every prompt p = 1. The `correction` for the
    number of tests is `none`, `bonferroni`, or `bh` (Benjamini and Hochberg 1995).
    """
    from scipy.stats import false_discovery_control, t

    ratio = torch.where(mean == 0, 0.0, mean.abs() / stderr)
    p = 2 * t.sf(ratio.numpy(), n - 1)
    if correction == "bonferroni":
        p = (p * len(p)).clip(max=1.0)
    elif correction == "bh":
        p = false_discovery_control(p, method="bh")
    return torch.from_numpy(p)


def check_level(level: float) -> None:
    """Refuses a level outside 0 to 1."""
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, got {level}")


class PromptRows:
    """Values on each prompt in bounded memory.

    When there is no room for another row, pairs of neighbouring rows are merged, so that each row has twice as many prompts.
    Prompts are added one at a time, so that rows do not depend on batches.

    Attributes:
        group: prompts per row; the last row may have fewer.
        n: number of prompts.
    """

    def __init__(self, width: int, limit: int = KEPT_BYTES) -> None:
        self.most = most_rows(width, limit)
        self.group, self.n = 1, 0
        self.sums: list[Tensor] = []

    def add(self, values: Float[Tensor, "batch value"]) -> None:
        """Adds prompts."""
        for row in values.float():
            if self.n == self.most * self.group:
                self.sums = [one + two for one, two in zip(self.sums[::2], self.sums[1::2], strict=True)]
                self.group *= 2
            if self.n % self.group:
                self.sums[-1] += row
            else:
                self.sums.append(row.clone())
            self.n += 1

    def means(self) -> Float[Tensor, "row value"]:
        """The mean of each row's prompts, in float32."""
        return torch.stack(self.sums).div_(row_sizes(self.n, self.group).float()[:, None])


def most_rows(width: int, limit: int = KEPT_BYTES) -> int:
    """The largest number of rows of this width that are kept."""
    return max(2, min(KEPT_ROWS, limit // (4 * width)) // 2 * 2)


def rows_kept(width: int, n: int) -> int:
    """Number of rows for n prompts."""
    return min(n, most_rows(width))


def row_sizes(n: int, group: int) -> Float[Tensor, " row"]:
    """Number of prompts in each row, if `group` of n prompts share a row."""
    starts = torch.arange(0, n, group)
    return (n - starts).clamp(max=group).double()
