"""Pairs of components that do together what their sum does not say: the residuals of a linear fit, by pair.

With r the residual of a sample, averaged over the prompts, and x̃ = kept - its mean, the interaction of components i and j is

    c_ij = Σ r x̃_i x̃_j / Σ x̃_i² x̃_j²

the coefficient of the product if it alone were added to the model, in the metric's unit: positive = each helps more where the
other is there, as a head that reads what the other writes; negative = they back each other up. Its standard error does not
assume equal variances (White 1980); p values are corrected for the number of pairs (Bonferroni).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

MOST = 4096
"""Components up to which all pairs are looked at."""


class Interaction(NamedTuple):
    """Of two components.

    Attributes:
        first, second: their names.
        effect: c_ij, in the metric's unit.
        stderr: its standard error.
        p: two-sided, times the number of pairs; at most 1.
    """

    first: str
    second: str
    effect: float
    stderr: float
    p: float


def interactions(
    nodes: tuple[str, ...],
    kept: Float[Tensor, "sample node"],
    residuals: Float[Tensor, "sample prompt"],
    top: int = 20,
) -> tuple[Interaction, ...]:
    """The pairs whose interaction is furthest from 0 in standard errors.

    Args:
        nodes: the components.
        kept: 1 where a component was kept.
        residuals: of the linear fit.
        top: how many pairs.

    Returns:
        Strongest first; none with more than `MOST` components, or where no pair was ever ablated together.
    """
    d = len(nodes)
    if d < 2 or d > MOST:
        return ()
    x, r = kept - kept.mean(0), residuals.mean(1)
    squares = x.square()
    norm = squares.T @ squares
    product = x.T @ (r[:, None] * x)
    noise = (squares.T @ (r.square()[:, None] * squares)).sqrt()
    gone = 1 - kept
    together = gone.T @ gone >= 2  # ablated together once, an outlier would decide
    known = together & (norm > 0) & (noise > 0) & torch.ones(d, d, dtype=torch.bool).triu(1)
    z = torch.where(known, product / noise.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    order = torch.sort(z.abs().flatten(), descending=True, stable=True).indices[: min(top, int(known.sum()))]
    found = []
    for i, j in ((int(at) // d, int(at) % d) for at in order):
        p = min(1.0, math.erfc(abs(float(z[i, j])) / math.sqrt(2)) * d * (d - 1) / 2)
        effect, stderr = float(product[i, j] / norm[i, j]), float(noise[i, j] / norm[i, j])
        found.append(Interaction(nodes[i], nodes[j], effect, stderr, p))
    return tuple(found)
