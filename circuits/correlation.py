"""Correlation between predicted and true values, a column each."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import InputError
from circuits.rounding import computed_in, rounding

KINDS = ("pearson", "spearman")


def correlation(
    a: Float[Tensor, "sample column"], b: Float[Tensor, "sample column"], kind: str = "pearson"
) -> Float[Tensor, " column"]:
    """Over the samples, for each column; NaN where either is constant but for rounding, or where a value is NaN.

    Args:
        a, b: values.
        kind: `pearson`, or `spearman`: of ranks, ties at their mean rank.

    Raises:
        InputError: no such kind.
    """
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "spearman":
        a, b = _ranks(a), _ranks(b)
    varies = _varies(a) & _varies(b)
    a, b = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
    scale = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return torch.where(varies & (scale > 0), (a * b).sum(0) / scale, torch.nan)


def _varies(values: Float[Tensor, "sample column"]) -> Bool[Tensor, " column"]:
    """Whether the values of a column differ by more than rounding."""
    if not len(values):
        return torch.zeros(values.shape[1], dtype=torch.bool)
    span = values.double().amax(0) - values.double().amin(0)
    return ~(span <= rounding(values.double().abs().amax(0), computed_in(values)))


def _ranks(values: Float[Tensor, "sample column"]) -> Float[Tensor, "sample column"]:
    from scipy.stats import rankdata

    return torch.as_tensor(rankdata(values.double().cpu().numpy(), axis=0))
