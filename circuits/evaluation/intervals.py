"""Bootstrap interval of a share of the metric's range, such as faithfulness."""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.question.metric_range import MetricRange, share_of_range
from circuits.stats.bootstrap import resampling_weights


def share_interval(
    part: Float[Tensor, "circuit prompt"],
    clean: Float[Tensor, " prompt"],
    ablated: Float[Tensor, " prompt"],
    rounding: Float[Tensor, " prompt"] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Float[Tensor, " circuit"], Float[Tensor, " circuit"]]:
    """Percentile bootstrap over prompts of (mean of part - mean of ablated) / (mean of clean - mean of ablated).

    Numerator and denominator are resampled together. NaN with one prompt, or if the range is within rounding. It covers less than
    its level with few prompts, see `circuits.stats.bootstrap`.
    """
    n, metric_range = len(clean), MetricRange.from_prompts(clean, ablated, rounding)
    if n < 2 or metric_range.undefined is not None:
        unknown = torch.full((len(part),), torch.nan, dtype=torch.float64)
        return unknown, unknown.clone()
    weights = resampling_weights(n, resamples, seed)
    kept, whole, none = (values.double() @ weights.T for values in (part, clean, ablated))
    shares = share_of_range(kept, whole, none, metric_range.rounding)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.nanquantile(shares, ends, dim=1)
    return low, high
