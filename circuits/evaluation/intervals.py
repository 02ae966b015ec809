"""Interval of a share of the metric's range, such as faithfulness."""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.question.metric_range import MetricRange
from circuits.stats.ratio import ratio_interval


def share_interval(
    part: Float[Tensor, "circuit prompt"],
    clean: Float[Tensor, " prompt"],
    ablated: Float[Tensor, " prompt"],
    rounding: Float[Tensor, " prompt"] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Float[Tensor, " circuit"], Float[Tensor, " circuit"]]:
    """Of (mean of part - mean of ablated) / (mean of clean - mean of ablated), see `circuits.stats.ratio`.

    NaN with one prompt, or if the range is within rounding; infinite if the range cannot be told from 0 at this level.
    """
    n, metric_range = len(clean), MetricRange.from_prompts(clean, ablated, rounding)
    if n < 2 or metric_range.undefined is not None:
        unknown = torch.full((len(part),), torch.nan, dtype=torch.float64)
        return unknown, unknown.clone()
    return ratio_interval((part - ablated).double(), (clean - ablated).double(), level, resamples, seed)


def interval_text(low: float, high: float, digits: int = 3) -> str:
    """Both ends as text, or why there is no interval.

    >>> interval_text(0.25, 0.5), interval_text(float("nan"), float("nan")), interval_text(float("-inf"), 2.0)
    ('0.250 to 0.500', 'no interval', 'below 2.000')
    """
    if low != low or high != high or (low, high) == (-torch.inf, torch.inf):
        return "no interval"
    if low == -torch.inf or high == torch.inf:
        return f"below {high:.{digits}f}" if low == -torch.inf else f"above {low:.{digits}f}"
    return f"{low:.{digits}f} to {high:.{digits}f}"
