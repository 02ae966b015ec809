"""Correlation between predicted and true values, a column each."""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError

KINDS = ("pearson", "spearman")


def correlation(
    a: Float[Tensor, "sample column"], b: Float[Tensor, "sample column"], kind: str = "pearson"
) -> Float[Tensor, " column"]:
    """Over the samples, for each column; NaN where either is constant, or where a value is NaN.

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
    a, b = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
    scale = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return torch.where(scale > 0, (a * b).sum(0) / scale, torch.nan)


def _ranks(values: Float[Tensor, "sample column"]) -> Float[Tensor, "sample column"]:
    from scipy.stats import rankdata

    return torch.as_tensor(rankdata(values.double().cpu().numpy(), axis=0))
