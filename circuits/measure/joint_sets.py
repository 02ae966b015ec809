"""Joint sets: many nodes patched at once, to see interactions that small random subsets all but never show.

Two nodes that back each other up are both in a subset with probability p² only. Where none of the subsets holds both, they
show no effect and no variance, however many samples there are of each node alone. So all nodes of the set N are also
patched at once, and parts of N, cut at random again and again: N into two halves S and C, and each half into two quarters. For
two disjoint sets A and B,

    R(A, B) = f(A ∪ B) - f(A) - f(B)

is 0 where effects add up, whatever their sizes: no estimate enters it. If node n is moved from A to B, R changes by
m(B) - m(A), with m(S) = f(S ∪ {n}) - f(S) the *marginal effect* of n. So if the marginal effect of n in one half is v more than in
the other one, for each cut a fair coin decides between two values of R that differ by v; whatever the other nodes do, the
values of h cuts lie within less than v of each other with probability at most (h+1)/2^h, and much more seldom where n interacts
with few nodes. Hence the *spread*, the largest R minus the smallest, says how much the marginal effect of any node may depend on
its company. An interaction that all cuts show alike, as a metric that saturates, has no spread: small subsets show it too.

Quarters are there because halves alone are blind to majorities (two of three nodes suffice): one of two halves always has it.
"""

from random import Random
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CUTS = 8
"""How often the nodes are cut into quarters."""

JOINT_SETS = 1 + 6 * CUTS
"""All nodes; then for each cut both halves, both quarters of the first, and both of the second."""


class Spread(NamedTuple):
    """What joint sets say about interactions, in the metric's unit.

    Attributes:
        spread: the largest R minus the smallest, of halves or of quarters, whichever is more.
        largest: the largest absolute value of any R.
    """

    spread: Float[Tensor, " outcome"]
    largest: Float[Tensor, " outcome"]


def draw_joint_sets(n_nodes: int, seed: int, stream: str = "") -> Bool[Tensor, "joint node"]:
    """The joint sets of so many nodes: `JOINT_SETS` rows.

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
    """How many of the first sets are joint sets in the order of `draw_joint_sets`: 0 or `JOINT_SETS`."""
    if len(included) < JOINT_SETS or not included[0].all():
        return 0
    first, second, *quarters = included[1:JOINT_SETS].reshape(CUTS, 6, -1).unbind(1)
    parted = torch.stack(quarters).sum(0) == 1
    halved = (first == (quarters[0] | quarters[1])) & (second == ~first)
    return JOINT_SETS if bool((parted & halved).all()) else 0


def spread_of(outcomes: Float[Tensor, "joint outcome"]) -> Spread:
    """The spread and the largest of R, from the outcomes of the joint sets.

    Args:
        outcomes: f, in the order of `draw_joint_sets`; several columns at a time.
    """
    first, second, a, b, c, d = outcomes[1:].reshape(CUTS, 6, -1).unbind(1)
    halves = outcomes[:1] - first - second
    quarters = torch.cat([first - a - b, second - c - d])
    spread = torch.maximum(halves.amax(0) - halves.amin(0), quarters.amax(0) - quarters.amin(0))
    return Spread(spread, torch.maximum(halves.abs().amax(0), quarters.abs().amax(0)))
