"""Interactions: pairs of components whose joint effect is not their sum, from the residuals of a linear fit.

With r the residual of a sample, averaged over the prompts, and x̃ = kept - its mean, the interaction of components i and j is

    c_ij = Σ r x̃_i x̃_j / Σ x̃_i² x̃_j²

the coefficient of the product if it alone were added to the model, in the metric's unit: positive = each helps more if the
other is kept, as a head that reads another's output; negative = they are each other's backup. Its standard error does not
assume equal variances (White 1980). p values are Student's with ν = (Σ x̃_i² x̃_j²)² / Σ x̃_i⁴ x̃_j⁴ degrees of freedom (after Bell &
McCaffrey 2002), the number of samples that determine the estimate (30 of 2,000 at alpha = 0.1), and corrected for the number of
pairs (Bonferroni).

Residuals of the size of rounding are no evidence, however regular: if their root mean square does not exceed the possible
rounding error, every p is 1.

False positives in simulations (20 components, 2,000 samples, 150 to 400 metrics; share with any wrong pair of p < 0.05):

| residuals | alpha | share |
|---|---|---|
| an additive metric plus normal, Student's t(3) or lognormal noise, with equal variances or growing with what is ablated | 0.1 | at most 1% |
| normal noise | 0.3 | 6% |
| the first plus one true interaction as strong as the noise | 0.1; 0.3 | 0%; 5% |
| the same, noise a tenth as strong | 0.1; 0.3 | 15%; 6% |
| one true interaction and no noise | 0.1; 0.3 | 23%; 7% |

So a small p is not evidence for a pair that shares a component with a much stronger pair, since the residuals depend on that pair.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.stats.rounding import rounding as rounding_of
from circuits.stats.rounding import size_before_cancellation

MOST = 4096
"""The largest number of components."""
TESTED = 4096
"""Number of pairs, furthest from 0 in standard errors, of which those with the smallest p values are returned."""


class Interaction(NamedTuple):
    """An interaction of two components.

    Attributes:
        first, second: their names.
        effect: c_ij, in the metric's unit.
        stderr: its standard error.
        p: two-sided, times the number of pairs; at most 1, and 1 if the residuals are rounding.
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
        kept: 1 if a component was kept.
        residuals: of a least-squares fit; the shrinkage of a penalised fit would look like interactions.
        top: number of pairs.
        rounding: the possible rounding error of a residual, averaged over the prompts (`LinearFit.rounding`); None: read from
            the residuals' last bits, for metrics computed in float64.

    Returns:
        Strongest first; none with more than `MOST` components, or if no pair was ablated together.
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
    together = gone.T @ gone >= 2  # with one joint ablation, an outlier would decide
    known = together & (norm > 0) & (noise > 0) & torch.ones(d, d, dtype=torch.bool).triu(1)
    evidence = known & (r.square().mean().sqrt() > rounding)
    z = torch.where(evidence, product / noise.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    rank = torch.where(known, z.abs(), -1.0).flatten()
    order = torch.sort(rank, descending=True, stable=True).indices[: min(max(top, TESTED), int(known.sum()))]
    fourth = squares.square().T @ squares.square()
    p = _p_values(z.flatten()[order], norm.flatten()[order], fourth.flatten()[order]) * (d * (d - 1) / 2)
    pairs = []
    for k in torch.sort(p, stable=True).indices[:top].tolist():
        i, j = divmod(int(order[k]), d)
        effect, stderr = float(product[i, j] / norm[i, j]), float(noise[i, j] / norm[i, j])
        pairs.append(Interaction(nodes[i], nodes[j], effect, stderr, min(1.0, float(p[k]))))
    return tuple(pairs)


def _p_values(
    z: Float[Tensor, " pair"], norm: Float[Tensor, " pair"], fourth: Float[Tensor, " pair"]
) -> Float[Tensor, " pair"]:
    """Two-sided p values of Student's t with ν of the module docstring."""
    from scipy.stats import t

    freedom = (norm.square() / fourth).clamp(min=1)
    return torch.from_numpy(2 * t.sf(z.abs().numpy(), freedom.numpy()))
