"""Welch's comparison of samples that include something with samples that do not.

With outcomes y of independent samples, n₊ of which include it and n₋ do not, and their sample variances s²,

    d = mean₊ - mean₋        se² = s²₊/n₊ + s²₋/n₋        ν = se⁴ / ((s²₊/n₊)²/(n₊-1) + (s²₋/n₋)²/(n₋-1))

and (d - δ)/se is close to Student's t with ν degrees of freedom (Welch 1947), δ being the difference of the expectations.
Close: it would be so to second order for normal outcomes, and comes to be so for any others as n₊ and n₋ grow.

Where few samples include an item, their variance is a poor estimate: by chance none of them may hold what makes the outcomes of
the others vary. Student's comparison takes both variances to be equal,

    se² = ((n₊-1) s²₊ + (n₋-1) s²₋)/(n₊+n₋-2) · (1/n₊ + 1/n₋)        ν = n₊ + n₋ - 2

and is more exact where they are. A limit that must hold in both cases takes the larger margin.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Differences:
    """One comparison per item and outcome.

    Attributes:
        mean: d; NaN where all samples or none include the item.
        stderr: se; infinite where fewer than two samples include it, or fewer than two do not.
        df: ν, at least 1.
        pooled_stderr: se of Student's comparison; infinite where `stderr` is.
        n_with, n_without: how many samples include the item, and how many do not.
    """

    mean: Float[Tensor, "item outcome"]
    stderr: Float[Tensor, "item outcome"]
    df: Float[Tensor, "item outcome"]
    pooled_stderr: Float[Tensor, "item outcome"]
    n_with: Float[Tensor, "item 1"]
    n_without: Float[Tensor, "item 1"]

    def margin(self, level: float) -> Float[Tensor, "item outcome"]:
        """t · se, t being Student's quantile at this level: `mean + margin(level)` is a one-sided upper limit."""
        from scipy.stats import t

        return torch.from_numpy(t.ppf(level, self.df.numpy())) * self.stderr

    def larger_margin(self, level: float) -> Float[Tensor, "item outcome"]:
        """The larger of Welch's margin and Student's."""
        from scipy.stats import t

        df = (self.n_with + self.n_without - 2).clamp(min=1)
        return torch.maximum(self.margin(level), torch.from_numpy(t.ppf(level, df.numpy())) * self.pooled_stderr)


def differences(included: Bool[Tensor, "sample item"], outcomes: Float[Tensor, "sample outcome"]) -> Differences:
    """Compares, for every item and outcome, the samples with it to those without it; in float64 on the CPU."""
    y = outcomes.to("cpu", torch.float64)
    centre = y.mean(0) if len(y) else y.new_zeros(y.shape[1])
    y = y - centre
    sides = [_side(mask.to("cpu", torch.float64), y) for mask in (included, ~included)]
    (with_mean, with_variance, with_n), (without_mean, without_variance, without_n) = sides
    variance = with_variance + without_variance
    spread = with_variance.square() / (with_n - 1) + without_variance.square() / (without_n - 1)
    least = torch.minimum(with_n, without_n) - 1
    df = torch.where(spread > 0, variance.square() / spread, least.expand_as(spread)).clamp(min=1)
    few = (least < 1).expand_as(df)
    squares = with_variance * with_n * (with_n - 1) + without_variance * without_n * (without_n - 1)
    pooled = squares / (with_n + without_n - 2) * (1 / with_n + 1 / without_n)
    return Differences(
        with_mean - without_mean,
        variance.sqrt().masked_fill(few, torch.inf),
        df.masked_fill(few, 1),
        pooled.sqrt().masked_fill(few, torch.inf),
        with_n,
        without_n,
    )


def _side(
    included: Float[Tensor, "sample item"], y: Float[Tensor, "sample outcome"]
) -> tuple[Float[Tensor, "item outcome"], Float[Tensor, "item outcome"], Float[Tensor, "item 1"]]:
    """Mean, variance of the mean, and number of the included samples."""
    n = included.sum(0)[:, None]
    total = included.T @ y
    mean = total / n
    squares = included.T @ y.square() - total.square() / n
    return mean, squares.clamp(min=0) / (n - 1) / n, n
