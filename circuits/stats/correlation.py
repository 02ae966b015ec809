"""Correlation between predicted and true values, a column each."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import InputError
from circuits.stats.rounding import ROUNDING, computed_in
from circuits.stats.rounding import rounding as rounding_of

KINDS = ("pearson", "spearman")


def correlation(
    a: Float[Tensor, "sample column"],
    b: Float[Tensor, "sample column"],
    kind: str = "pearson",
    rounding: float = ROUNDING[torch.float64],
) -> Float[Tensor, " column"]:
    """Correlation over the samples, for each column; NaN if either is constant up to rounding, or has a NaN.

    Args:
        a, b: values.
        kind: `pearson`, or `spearman` (of ranks, with ties at their mean rank).
        rounding: b is constant if it varies by at most this share of its largest value; see `circuits.question.metric_range`.

    Raises:
        InputError: an unknown kind.
    """
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    constant = _constant(a) | _constant(b, rounding)
    if kind == "spearman":
        a, b = ranks(a), ranks(b)
    a, b = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
    scale = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return torch.where((scale > 0) & ~constant, (a * b).sum(0) / scale, torch.nan)


def _constant(values: Float[Tensor, "sample column"], share: float = 0.0) -> Bool[Tensor, " column"]:
    """Whether a column varies only by rounding, in the dtype of its computation, or by this share of its largest value."""
    wide = values.double()
    if not len(wide):
        return torch.ones(wide.shape[1:], dtype=torch.bool)
    largest = wide.abs().amax(0)
    least = torch.maximum(rounding_of(largest, computed_in(values)), share * largest)
    return wide.amax(0) - wide.amin(0) <= least


def ranks(values: Float[Tensor, "sample column"]) -> Float[Tensor, "sample column"]:
    """Ranks from 1, column by column; ties have their mean rank."""
    from scipy.stats import rankdata

    return torch.as_tensor(rankdata(values.double().cpu().numpy(), axis=0))
