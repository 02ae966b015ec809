"""Joint sets: many nodes patched at once, to detect interactions that small random subsets rarely show.

Two nodes that back each other up are both in a random subset with probability p² only. If no subset has both, they show
neither an effect nor a variance, however many samples each node has alone. So the set N of all nodes is also patched at
once, and so are random parts of N: each of several cuts divides N into two halves S and C, and each half into two
quarters. For two disjoint sets A and B,

    R(A, B) = f(A ∪ B) - f(A) - f(B)

is 0 if effects add up, whatever their sizes; no estimate enters R. Moving node n from A to B changes R by m(B) - m(A),
where m(S) = f(S ∪ {n}) - f(S) is the *marginal effect* of n. Suppose the marginal effect of n is larger by v in one
half than in the other. Then in each cut a fair coin decides between two values of R that differ by v. Whatever the
other nodes do, the values of h cuts lie within less than v of each other with probability at most (h+1)/2^h, and much
less often if n interacts with few nodes. Hence the *spread*, the largest R minus the smallest, measures how much the
marginal effect of any node may depend on the other patched nodes. An interaction that is equal in all cuts, such as a
saturating metric, has no spread; small subsets detect it.

Quarters are needed because halves alone miss majorities (two of three nodes suffice): one of two halves always has the
majority.
"""

from random import Random
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CUTS = 8
"""Number of random cuts into quarters."""

JOINT_SETS = 1 + 6 * CUTS
"""All nodes; then for each cut both halves, both quarters of the first half, and both of the second."""


class Spread(NamedTuple):
    """Evidence of interactions from joint sets, in the metric's unit.

    Attributes:
        spread: the largest R minus the smallest, among halves or among quarters, whichever is larger.
        largest: the largest |R|.
    """

    spread: Float[Tensor, " outcome"]
    largest: Float[Tensor, " outcome"]


def draw_joint_sets(n_nodes: int, seed: int, stream: str = "") -> Bool[Tensor, "joint node"]:
    """The joint sets of `n_nodes` nodes: `JOINT_SETS` rows.

    >>> draw_joint_sets(750, seed=0).sum(1)[:3].tolist()[0]
    750
    """
    generator = torch.Generator().manual_seed(Random(f"{seed} {stream} joint").getrandbits(63))
    rows = [torch.ones(1, n_nodes, dtype=torch.bool)]
    for _ in range(CUTS):
        quarter = torch.randint(0, 4, (n_nodes,), generator=generator)
        rows.append(torch.stack([quarter < 2, quarter >= 2, *(quarter == i for i in range(4))]))
    return torch.cat(rows)


def leading_joint_sets(included: Bool[Tensor, "sample node"]) -> int:
    """The number of leading rows that are joint sets in the order of `draw_joint_sets`: 0 or `JOINT_SETS`."""
    if len(included) < JOINT_SETS or not included[0].all():
        return 0
    first, second, *quarters = included[1:JOINT_SETS].reshape(CUTS, 6, -1).unbind(1)
    parted = torch.stack(quarters).sum(0) == 1
    halved = (first == (quarters[0] | quarters[1])) & (second == ~first)
    return JOINT_SETS if bool((parted & halved).all()) else 0


def spread_of(outcomes: Float[Tensor, "joint outcome"]) -> Spread:
    """The spread and the largest |R|, from the outcomes of the joint sets.

    Args:
        outcomes: f, in the order of `draw_joint_sets`; each column is computed separately.
    """
    first, second, a, b, c, d = outcomes[1:].reshape(CUTS, 6, -1).unbind(1)
    halves = outcomes[:1] - first - second
    quarters = torch.cat([first - a - b, second - c - d])
    spread = torch.maximum(halves.amax(0) - halves.amin(0), quarters.amax(0) - quarters.amin(0))
    return Spread(spread, torch.maximum(halves.abs().amax(0), quarters.abs().amax(0)))
