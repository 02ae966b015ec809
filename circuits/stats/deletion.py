"""How many elements of a set may be deleted or replaced without changing a majority over random subsets.

**Derivation.** D is a set of rows, and f(S) is 0 or 1 for each subset S. Each row is deleted independently with probability δ, and S
is what is left: p(D) = P(f(S) = 1). The decision is 1 if p(D) > 1/2, and 0 if p(D) < 1/2.

*Deletion.* D' = D without r rows. With probability δ^r the r rows are all deleted from D; given this, S has the same distribution
as a subset drawn from D'. With β = δ^r,

    p(D) = β p(D') + (1 - β) x,  where 0 ≤ x ≤ 1            so  (p(D) - 1 + β)/β ≤ p(D') ≤ p(D)/β

A decision of 1 stays if (p - 1 + β)/β > 1/2, that is β > 2(1 - p); a decision of 0 stays if β > 2p.

*Insertion.* D' = D with r rows added: p(D') = β p(D) + (1 - β) x. A decision of 1 stays if β p > 1/2, a decision of 0 if
1 - β (1 - p) < 1/2.

*Replacement.* D' = D with r rows replaced by r others: a deletion, then an insertion.

    p(D) - (1 - β) ≤ p(D') ≤ p(D) + 1 - β

A decision of 1 stays if β > 1/2 + (1 - p), a decision of 0 if β > 1/2 + p. This is also the bound for r edits of any kind (each row
deleted, inserted or replaced) in RS-Del (Huang et al. 2023, 2302.01757) and in 2602.22968. Deletions alone need much less: p = 0.99
and δ = 0.8 allow 17 deletions, but 3 replacements.

The bounds hold for every f, also for a random one, and no better ones hold for every f. With only limits of p known, the limit
that is further from certain is used: `doubt` is 1 - (lower limit of p) for 1, and the upper limit of p for 0.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def deletions_allowed(doubt: Float[Tensor, " *tests"], delta: float, rows: int) -> Int[Tensor, " *tests"]:
    """The largest r ≤ rows for which any r rows may be deleted; -1 if the decision itself is open (doubt ≥ 1/2)."""
    return _largest(2 * doubt, delta, rows)


def replacements_allowed(doubt: Float[Tensor, " *tests"], delta: float, rows: int) -> Int[Tensor, " *tests"]:
    """The largest r ≤ rows for which any r rows may be deleted, inserted or replaced; -1 if the decision itself is open."""
    return _largest(0.5 + doubt, delta, rows)


def _largest(bound: Float[Tensor, " *tests"], delta: float, rows: int) -> Int[Tensor, " *tests"]:
    """The largest r with δ^r > bound."""
    powers = delta ** torch.arange(rows + 1, dtype=torch.float64)
    return torch.searchsorted(-powers, -bound.double()) - 1
