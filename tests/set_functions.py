"""Set functions whose average effects are known exactly, made to break a bound on them: heavy tails, and nodes that act only together.

    f(S) = g(S ∩ K, number of other nodes in S) + Σ effects of the nodes in S

K are the first nodes; g is given by a function of their memberships and of how many others are in S.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

N = 60


@dataclass(frozen=True)
class SetFunction:
    """A set function of N nodes.

    Attributes:
        k: how many nodes K has.
        joint: g: memberships in K, and numbers of others -> values.
        effects: what each node adds.
    """

    k: int
    joint: Callable[[Bool[Tensor, "sample k"], Float[Tensor, " sample"]], Tensor]
    effects: Float[Tensor, " node"]

    def __call__(self, included: Bool[Tensor, "sample node"]) -> Float[Tensor, " sample"]:
        others = included[:, self.k :].double().sum(1)
        return self.joint(included[:, : self.k], others).double() + included.double() @ self.effects

    def average_effects(self, share: float) -> Float[Tensor, " node"]:
        """Δ of every node, by enumeration of K and of the number of others."""
        result = self.effects.clone()
        rest = N - self.k
        rows = torch.tensor(list(itertools.product([False, True], repeat=self.k)), dtype=torch.bool).reshape(
            2**self.k, self.k
        )
        for node in range(self.k):
            inside = rows.clone()
            inside[:, node] = True
            change = self._mean(inside, rest, share) - self._mean(inside ^ (torch.arange(self.k) == node), rest, share)
            result[node] += float((_chance(rows, share) * change).sum())
        if rest:
            change = self._mean(rows, rest - 1, share, more=1) - self._mean(rows, rest - 1, share)
            result[self.k :] += float((_chance(rows, share) * change).sum())
        return result

    def _mean(self, rows: Tensor, rest: int, share: float, more: int = 0) -> Tensor:
        """The expectation of g over the number of others, for each row."""
        total = torch.zeros(len(rows), dtype=torch.float64)
        for number in range(rest + 1):
            weight = math.comb(rest, number) * share**number * (1 - share) ** (rest - number)
            total += weight * self.joint(rows, torch.full((len(rows),), float(number + more))).double()
        return total


def _chance(rows: Tensor, share: float) -> Tensor:
    return torch.where(rows, share, 1 - share).double().prod(1)


def normal(seed: int, n: int = N) -> Float[Tensor, " node"]:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def additive(effects: Float[Tensor, " node"]) -> SetFunction:
    return SetFunction(0, lambda rows, others: torch.zeros(len(rows)), effects)


def strong(*first: float) -> SetFunction:
    """Some strong effects, the others a thousandth."""
    effects = 0.001 * normal(6)
    effects[: len(first)] = torch.tensor(first, dtype=torch.float64)
    return additive(effects)


def together(k: int, joint: Callable[[Tensor], Tensor], noise: float = 0.0) -> SetFunction:
    return SetFunction(k, lambda rows, others: joint(rows), noise * normal(7))


def and_pairs(*values: float, noise: float = 0.0) -> SetFunction:
    """Nodes 2i and 2i+1 do values[i] together and nothing alone."""

    def joint(rows: Tensor) -> Tensor:
        both = (rows[:, ::2] & rows[:, 1::2]).double()
        return both @ torch.tensor(values, dtype=torch.float64)

    return together(2 * len(values), joint, noise)


def at_least(least: int, k: int, noise: float = 0.0) -> SetFunction:
    """1 if so many of the first k nodes are there."""
    return together(k, lambda rows: rows.sum(1) >= least, noise)


def star(k: int, noise: float = 0.0) -> SetFunction:
    """Node 0 does 1 with each of k others that is there."""
    return together(k + 1, lambda rows: rows[:, 0] * rows[:, 1:].sum(1), noise)


FUNCTIONS = {
    "additive, normal": additive(normal(0)),
    "additive, lognormal": additive((1.5 * normal(0)).exp()),
    "additive, lognormal, heavier": additive((2.5 * normal(1)).exp()),
    "additive, cubes of normal": additive(normal(3) ** 3),
    "additive, Cauchy": additive(normal(4) / normal(5)),
    "one strong effect": strong(1),
    "two opposed": strong(1, -0.99),
    "one against three": strong(1, -0.9, -0.9, -0.9),
    "ten alike": strong(1, *[0.9] * 9),
    "an AND pair": and_pairs(1),
    "an AND pair among noise of .002": and_pairs(1, noise=0.002),
    "an AND pair among noise of .1": and_pairs(1, noise=0.1),
    "three AND pairs": and_pairs(1, 1, 1),
    "two opposed AND pairs": and_pairs(1, -1),
    "an AND pair against a half": and_pairs(1, -0.5),
    "an OR pair": at_least(1, 2),
    "a triple": at_least(3, 3),
    "four together": at_least(4, 4),
    "two of three": at_least(2, 3),
    "two of three among noise": at_least(2, 3, noise=0.01),
    "two of four": at_least(2, 4),
    "two of six": at_least(2, 6),
    "three of five": at_least(3, 5),
    "exactly one of three": together(3, lambda rows: rows.sum(1) == 1),
    "one with any of five": together(6, lambda rows: rows[:, 0] & rows[:, 1:].any(1)),
    "a star of three": star(3),
    "a star of five among noise": star(5, noise=0.02),
    "saturating": SetFunction(0, lambda rows, others: (0.1 * others).tanh(), 0 * normal(0)),
    "saturating, with an AND pair": SetFunction(
        2, lambda rows, others: (0.1 * others + 5 * rows.all(1)).tanh(), 0 * normal(0)
    ),
}
"""By name."""
