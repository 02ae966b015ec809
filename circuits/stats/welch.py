"""Welch's comparison of the samples that include an item with those that do not.

With outcomes y of independent samples, n₊ with the item and n₋ without it, and their sample variances s²,

    d = mean₊ - mean₋        se² = s²₊/n₊ + s²₋/n₋        ν = se⁴ / ((s²₊/n₊)²/(n₊-1) + (s²₋/n₋)²/(n₋-1))

and (d - δ)/se is approximately Student's t with ν degrees of freedom (Welch 1947), where δ is the difference of the expectations:
to second order for normal outcomes, and asymptotically in n₊ and n₋ for others.

If few samples include an item, their variance is a poor estimate, since by chance they may all lack what makes the other outcomes
vary. Student's comparison assumes equal variances,

    se² = ((n₊-1) s²₊ + (n₋-1) s²₋)/(n₊+n₋-2) · (1/n₊ + 1/n₋)        ν = n₊ + n₋ - 2

and is more exact if they are equal. A limit that must hold in both cases takes the larger margin.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Differences:
    """One comparison per item and outcome.

    Attributes:
        mean: d; NaN if all samples or none include the item.
        stderr: se; infinite if fewer than two samples include it, or fewer than two do not.
        df: ν, at least 1.
        pooled_stderr: se of Student's comparison; infinite if `stderr` is.
        n_with, n_without: number of samples with and without the item.
    """

    mean: Float[Tensor, "item outcome"]
    stderr: Float[Tensor, "item outcome"]
    df: Float[Tensor, "item outcome"]
    pooled_stderr: Float[Tensor, "item outcome"]
    n_with: Float[Tensor, "item 1"]
    n_without: Float[Tensor, "item 1"]

    def margin(self, level: float) -> Float[Tensor, "item outcome"]:
        """t · se with Student's quantile t at this level: `mean + margin(level)` is a one-sided upper limit."""
        from scipy.stats import t

        return torch.from_numpy(t.ppf(level, self.df.numpy())) * self.stderr

    def larger_margin(self, level: float) -> Float[Tensor, "item outcome"]:
        """The larger of Welch's margin and Student's."""
        from scipy.stats import t

        df = (self.n_with + self.n_without - 2).clamp(min=1)
        return torch.maximum(self.margin(level), torch.from_numpy(t.ppf(level, df.numpy())) * self.pooled_stderr)


def differences(included: Bool[Tensor, "sample item"], outcomes: Float[Tensor, "sample outcome"]) -> Differences:
    """Compares the samples with and without each item, for each outcome; in float64 on the CPU."""
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
    stderr, pooled_stderr = (square.sqrt().masked_fill(few, torch.inf) for square in (variance, pooled))
    return Differences(with_mean - without_mean, stderr, df.masked_fill(few, 1), pooled_stderr, with_n, without_n)


def _side(
    included: Float[Tensor, "sample item"], y: Float[Tensor, "sample outcome"]
) -> tuple[Float[Tensor, "item outcome"], Float[Tensor, "item outcome"], Float[Tensor, "item 1"]]:
    """Mean, variance of the mean, and number of the included samples."""
    n = included.sum(0)[:, None]
    total = included.T @ y
    mean = total / n
    squares = included.T @ y.square() - total.square() / n
    return mean, squares.clamp(min=0) / (n - 1) / n, n
