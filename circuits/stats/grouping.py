"""Groups of rows by their profiles, and a held-out test whether there are two.

Everything is computed from the Gram matrix of the rows, so that many columns cost nothing.

**Test of one group against two.** The rows are divided at random into halves A and B. A is split into two clusters, and B is projected on
the line between their centres. That line does not depend on B, so if all rows come from one distribution whose projections
have one mode, the projections of B have one mode, whatever A was split into: Hartigan's dip test. Then the halves exchange their roles;
p is twice the smaller of the two p values.
"""

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.stats.dip import dip_p_value

_STARTS, _ROUNDS = 20, 50
_LEAST_SUM = 0.05
"""Smallest cosine between a row and the sum of both centres that is divided by."""
FEWEST = 8
"""The smallest number of rows that can be tested: four in each half."""


def unit_gram(rows: Float[Tensor, "row column"]) -> Float[Tensor, "row row"]:
    """Inner products of the rows, each divided by its length; rows of length 0 stay 0."""
    wide = rows.double()
    unit = wide / wide.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    return unit @ unit.T


def clusters(gram: Float[Tensor, "row row"], k: int, seed: int) -> Int[Tensor, " row"]:
    """k-means of rows with these inner products: the best of several starts. Fewer clusters if there are fewer different rows.

    Clusters are numbered in the order of their first row.
    """
    generator = torch.Generator().manual_seed(seed)
    best, least = torch.zeros(len(gram), dtype=torch.long), float("inf")
    for _ in range(_STARTS if k > 1 else 1):
        labels = _spread_start(gram, k, generator)
        for _ in range(_ROUNDS):
            distance = _distances(gram, labels, k)
            moved = distance.argmin(1)
            if torch.equal(moved, labels):
                break
            labels = moved
        within = float(_distances(gram, labels, k).gather(1, labels[:, None]).sum())
        if within < least - 1e-12:
            best, least = labels, within
    return in_order(best)


def _spread_start(gram: Tensor, k: int, generator: torch.Generator) -> Int[Tensor, " row"]:
    """Labels by the nearest of k rows, each drawn with a probability in proportion to its squared distance from those before
    (k-means++)."""
    square = gram.diagonal()[:, None] + gram.diagonal() - 2 * gram
    chosen = [int(torch.randint(len(gram), (1,), generator=generator))]
    while len(chosen) < k:
        far = square[:, chosen].amin(1).clamp(min=0)
        if float(far.sum()) <= 1e-12:
            break
        chosen.append(int(torch.multinomial(far, 1, generator=generator)))
    return square[:, chosen].argmin(1)


def _distances(gram: Tensor, labels: Tensor, k: int) -> Float[Tensor, "row cluster"]:
    """Squared distance of each row from each cluster's centre, without |row|²; infinite for empty clusters."""
    member = torch.nn.functional.one_hot(labels, k).double()
    size = member.sum(0)
    mean = gram @ member / size.clamp(min=1)
    norm = (member.T @ gram @ member).diagonal() / size.clamp(min=1) ** 2
    return (norm - 2 * mean).masked_fill(size == 0, torch.inf)


def in_order(labels: Sequence[Hashable] | Tensor) -> Int[Tensor, " row"]:
    """The same groups, numbered in the order of their first row."""
    given = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    numbers = {label: i for i, label in enumerate(dict.fromkeys(given))}
    return torch.tensor([numbers[label] for label in given])


def halves(n: int, seed: int) -> tuple[Int[Tensor, " a"], Int[Tensor, " b"]]:
    """A random division of n rows into halves, each in order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[: n // 2].sort().values, order[n // 2 :].sort().values


def nearest(
    gram: Float[Tensor, "row row"], learnt: Tensor, labels: Tensor, others: Tensor, k: int
) -> Int[Tensor, " other"]:
    """The cluster whose centre is nearest to each other row.

    Args:
        gram: of all rows.
        learnt, labels: the rows that were clustered, and their clusters.
        others: further rows.
        k: number of clusters.
    """
    member = torch.nn.functional.one_hot(labels, k).double()
    size = member.sum(0)
    mean = gram[others][:, learnt] @ member / size.clamp(min=1)
    norm = (member.T @ gram[learnt][:, learnt] @ member).diagonal() / size.clamp(min=1) ** 2
    return (norm - 2 * mean).masked_fill(size == 0, torch.inf).argmin(1)


def two_groups_p(gram: Float[Tensor, "row row"], seed: int) -> float:
    """p value of the hypothesis that the rows are one group; 1 for fewer than `FEWEST` rows."""
    if len(gram) < FEWEST:
        return 1.0
    divided = halves(len(gram), seed)
    p_values = []
    for learnt, tested in (divided, divided[::-1]):
        labels = clusters(gram[learnt][:, learnt], 2, seed)
        if int(labels.max()) == 0:
            p_values.append(1.0)
            continue
        p_values.append(dip_p_value(_place_between(gram, learnt, labels, tested)))
    return min(1.0, 2 * min(p_values))


def _place_between(gram: Tensor, learnt: Tensor, labels: Tensor, tested: Tensor) -> Float[Tensor, " tested"]:
    """Where each row lies between two centres c and c': <x, c - c'> / <x, c + c'>.

    Rows have length 1, and a projection alone would make two modes of a uniform mixture of c and c'. This ratio does not depend
    on the length of x; of a uniform mixture it has one mode, as a ratio of two linear functions of the share is monotone with
    a monotone derivative.
    """
    between = gram[tested][:, learnt]
    first, second = (between[:, labels == group].mean(1) for group in (0, 1))
    weights = 1 / torch.bincount(labels, minlength=2).double()[labels]
    least = _LEAST_SUM * float(weights @ gram[learnt][:, learnt] @ weights) ** 0.5
    return (first - second) / (first + second).clamp(min=least)


def association(
    labels: Int[Tensor, " row"], values: Sequence[Hashable], permutations: int, seed: int
) -> tuple[float, float]:
    """How far a value of each row tells its group: Cramér's V, and its p value over permutations of the groups."""
    table = torch.zeros(len(labels), len(set(values)), dtype=torch.float64)
    table[range(len(labels)), in_order(values)] = 1
    groups = torch.nn.functional.one_hot(labels).double()
    expected = groups.sum(0)[:, None] * table.sum(0) / len(labels)

    def chi(order: Tensor) -> float:
        return float(((groups[order].T @ table - expected).square() / expected).sum())

    generator = torch.Generator().manual_seed(seed)
    own = chi(torch.arange(len(labels)))
    drawn = [chi(torch.randperm(len(labels), generator=generator)) for _ in range(permutations)]
    p = (1 + sum(one >= own - 1e-9 for one in drawn)) / (1 + permutations)
    return (own / (len(labels) * (min(table.shape[1], groups.shape[1]) - 1))) ** 0.5, p
