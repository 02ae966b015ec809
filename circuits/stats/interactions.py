"""Pairs of components that do together what their sum does not say: the residuals of a linear fit, by pair.

With r the residual of a sample, averaged over the prompts, and x̃ = kept - its mean, the interaction of components i and j is

    c_ij = Σ r x̃_i x̃_j / Σ x̃_i² x̃_j²

the coefficient of the product if it alone were added to the model, in the metric's unit: positive = each helps more where the
other is there, as a head that reads what the other writes; negative = they back each other up. Its standard error does not
assume equal variances (White 1980). p values are Student's with ν = (Σ x̃_i² x̃_j²)² / Σ x̃_i⁴ x̃_j⁴ degrees of freedom (after Bell &
McCaffrey 2002): the number of samples that carry the estimate, 30 of 2,000 at alpha = 0.1; and corrected for the number of pairs
(Bonferroni).

Residuals at the level of rounding are no evidence, however regular: where their root mean square is not above what rounding may
leave, every p is 1.

What the p values hold, by simulation (20 components, 2,000 samples, 150 to 400 metrics; the share that has any wrong pair with p < 0.05):

| residuals | alpha | share |
|---|---|---|
| an additive metric plus normal, Student's t(3) or lognormal noise, with equal variances or growing with what is ablated | 0.1 | at most 1% |
| normal noise | 0.3 | 6% |
| the first plus one true interaction as strong as the noise | 0.1; 0.3 | 0%; 5% |
| the same, noise a tenth as strong | 0.1; 0.3 | 15%; 6% |
| one true interaction and no noise | 0.1; 0.3 | 23%; 7% |

So a pair that shares a component with a much stronger pair is not shown to interact: what the stronger one leaves in the residuals
is not independent of it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.stats.rounding import rounding as rounding_of
from circuits.stats.rounding import size_before_cancellation

MOST = 4096
"""Components up to which all pairs are looked at."""
TESTED = 4096
"""Pairs, the furthest from 0 in standard errors, among which those with the smallest p values are chosen."""


class Interaction(NamedTuple):
    """Of two components.

    Attributes:
        first, second: their names.
        effect: c_ij, in the metric's unit.
        stderr: its standard error.
        p: two-sided, times the number of pairs; at most 1, and 1 where the residuals are rounding.
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
    rounding: float | None = None,
) -> tuple[Interaction, ...]:
    """The pairs whose interaction is furthest from 0 in standard errors.

    Args:
        nodes: the components.
        kept: 1 where a component was kept.
        residuals: of a linear fit by least squares: what a penalised fit shrinks away would look like interactions.
        top: how many pairs.
        rounding: what rounding may leave in a residual, averaged over the prompts (`LinearFit.rounding`); None: read from
            the residuals' last bits, for metrics computed in float64.

    Returns:
        Strongest first; none with more than `MOST` components, or where no pair was ever ablated together.
    """
    d = len(nodes)
    if d < 2 or d > MOST:
        return ()
    x, r = kept - kept.mean(0), residuals.mean(1)
    if rounding is None:
        rounding = float(rounding_of(torch.tensor(size_before_cancellation(residuals)), torch.float64))
    squares = x.square()
    norm = squares.T @ squares
    product = x.T @ (r[:, None] * x)
    noise = (squares.T @ (r.square()[:, None] * squares)).sqrt()
    gone = 1 - kept
    together = gone.T @ gone >= 2  # ablated together once, an outlier would decide
    known = together & (norm > 0) & (noise > 0) & torch.ones(d, d, dtype=torch.bool).triu(1)
    evidence = known & (r.square().mean().sqrt() > rounding)
    z = torch.where(evidence, product / noise.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    rank = torch.where(known, z.abs(), -1.0).flatten()
    order = torch.sort(rank, descending=True, stable=True).indices[: min(max(top, TESTED), int(known.sum()))]
    fourth = squares.square().T @ squares.square()
    p = _p_values(z.flatten()[order], norm.flatten()[order], fourth.flatten()[order]) * (d * (d - 1) / 2)
    found = []
    for k in torch.sort(p, stable=True).indices[:top].tolist():
        i, j = divmod(int(order[k]), d)
        effect, stderr = float(product[i, j] / norm[i, j]), float(noise[i, j] / norm[i, j])
        found.append(Interaction(nodes[i], nodes[j], effect, stderr, min(1.0, float(p[k]))))
    return tuple(found)


def _p_values(
    z: Float[Tensor, " pair"], norm: Float[Tensor, " pair"], fourth: Float[Tensor, " pair"]
) -> Float[Tensor, " pair"]:
    """Two-sided, by Student's t with ν of the module docstring."""
    from scipy.stats import t

    freedom = (norm.square() / fourth).clamp(min=1)
    return torch.from_numpy(2 * t.sf(z.abs().numpy(), freedom.numpy()))
