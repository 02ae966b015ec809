"""How often each hypothesis test, and faithfulness' p value, rejects where its null hypothesis is true: never more than its level.

Simulated on the tests' own functions, with data that are normal, discrete, tied and heavy-tailed; a rate may be above the level by
three standard errors of the simulation. Where the p value depends on a count alone, it is computed once for each count.
"""

import pytest
import torch

from circuits.evaluation.faithfulness import Faithfulness
from circuits.evaluation.hypothesis import CLAIMS, NAMES, _above, _judged, _minimality, _Raw
from circuits.evaluation.hypothesis_statistics import equivalence, holm, hsic

LEVEL = 0.05


def most(draws, level=LEVEL):
    return level + 3 * (level * (1 - level) / draws) ** 0.5


def draw(kind, shape, generator):
    """Values of one kind, of median 0 where they are continuous."""
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "normal":
        return normal
    if kind == "lognormal":
        return normal.exp() - 1
    if kind == "cauchy":
        return torch.tan(torch.pi * (torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5))
    if kind == "discrete":
        return torch.randint(-1, 2, shape, generator=generator).double()
    assert kind == "tied to rounding"
    return torch.randint(0, 2, shape, generator=generator) * normal + 1e-9 * normal.flip(0)


KINDS = ("normal", "lognormal", "cauchy", "discrete", "tied to rounding")


@pytest.mark.parametrize("kind", KINDS)
def test_independence_rejects_independent_values_at_its_level(kind):
    generator = torch.Generator().manual_seed(1)
    draws, n = 300, 12
    x, y = (draw(kind, (draws, n), generator) for _ in range(2))
    rejected = sum(hsic(x[i], y[i], 39, i, 1e-6)[1] < LEVEL for i in range(draws))
    assert rejected / draws <= most(draws)


def test_independence_sees_a_dependence_and_no_dependence_on_rounding():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(40, generator=generator, dtype=torch.float64)
    assert hsic(x, x.square(), 99, 0, 1e-9)[1] <= 0.02
    # A constant up to rounding, and the rounding is a function of x.
    assert hsic(1 + 1e-12 * x, x, 99, 0)[1] <= 0.02
    assert hsic(1 + 1e-12 * x, x, 99, 0, equal=1e-9) == (0.0, 1.0)


@pytest.mark.parametrize("ties", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("n", [12, 50])
def test_equivalence_rejects_at_its_level_at_the_edge_of_its_null_hypothesis(n, ties):
    """P(above) + ½ P(tie) = ½ + ε, the worst case that the null hypothesis allows; ties are rounding."""
    generator = torch.Generator().manual_seed(3)
    epsilon, draws = 0.1, 2000
    tied = torch.rand(draws, n, generator=generator) < ties
    chance = (0.5 + epsilon - ties / 2) / (1 - ties)
    if chance > 1:  # the share cannot be reached with so many ties: the largest that can
        chance = 1.0
    above = torch.where(torch.rand(draws, n, generator=generator) < chance, 1.0, -1.0).double()
    noise = 1e-9 * torch.randn(draws, n, generator=generator, dtype=torch.float64)
    difference = torch.where(tied, noise, above)
    twice = ((difference > 1e-6).long() * 2 + (difference.abs() <= 1e-6).long()).sum(1)  # a tie is half a win
    rejects = {}
    for row, count in zip(difference, twice.tolist(), strict=True):
        if count not in rejects:
            rejects[count] = equivalence(row, epsilon, 1e-6)[1] < LEVEL
    assert sum(rejects[count] for count in twice.tolist()) / draws <= most(draws)


def test_equivalence_rejects_a_circuit_that_is_always_above():
    assert equivalence(torch.ones(20).double(), 0.1, 1e-6)[1] < 0.001


@pytest.mark.parametrize("ties", [0.0, 0.1, 0.5])
def test_a_win_against_random_circuits_is_claimed_at_the_level(ties):
    """The chance to win is q, the worst case; ties are no wins, so that with them it is less."""
    generator = torch.Generator().manual_seed(4)
    draws, n, q = 20000, 50, 0.9
    won = (torch.rand(draws, n, generator=generator) < q) & ~(torch.rand(draws, n, generator=generator) < ties)
    rejects = torch.tensor([_above(torch.arange(n) < k, q, None).p < LEVEL for k in range(n + 1)])
    assert float(rejects[won.sum(1)].double().mean()) <= most(draws)
    assert _above(torch.ones(n).bool(), q, None).p < LEVEL


def test_both_claims_together_are_false_at_the_level():
    """Holm's correction over the two: either is claimed falsely in at most 5%, whether or not the two are independent."""
    generator = torch.Generator().manual_seed(5)
    draws, n, q = 3000, 50, 0.9
    by_count = [_above(torch.arange(n) < k, q, None) for k in range(n + 1)]
    for same in (True, False):
        first, second = ((torch.rand(draws, n, generator=generator) < q).sum(1).tolist() for _ in range(2))
        false = 0
        for pair in set(zip(first, first if same else second, strict=True)):
            made = [*(_Raw(0.5, 1.0, n) for _ in NAMES[:3]), *(by_count[k] for k in pair)]
            times = list(zip(first, first if same else second, strict=True)).count(pair)
            false += times * any(test.rejected for test in _judged(made, LEVEL))
        assert false / draws <= most(draws)


@pytest.mark.parametrize("n_edges", [1, 12])
@pytest.mark.parametrize("kind", ["normal", "lognormal", "cauchy", "discrete"])
def test_minimality_rejects_edges_that_matter_at_its_level(kind, n_edges):
    """Every edge matters more than a share q of random ones, exactly: the worst case. All edges are compared with the same ones."""
    generator = torch.Generator().manual_seed(6)
    draws, n, q, equal = 2000, 50, 0.9, 1e-6
    population = draw(kind, (4001,), generator).abs()
    ordered = population.sort().values
    # The smallest effect that strictly exceeds a share q, by more than what counts as a tie.
    above = (
        next(x for x in ordered.tolist() if float((ordered + equal < x).double().mean()) >= q)
        if kind != "discrete"
        else 2.0
    )
    matter = torch.full((n_edges,), above, dtype=torch.float64)
    drawn = population[torch.randint(len(population), (draws, n), generator=generator)]
    outdone = (drawn + equal < above).sum(1).tolist()
    rejects: dict[int, bool] = {}
    for lost, count in zip(drawn, outdone, strict=True):
        if count not in rejects:
            raw, edge_p = _minimality(matter, lost, q, equal, LEVEL, n)
            assert raw.p == float(edge_p.min())
            rejects[count] = raw.p < LEVEL
    assert sum(rejects[count] for count in outdone) / draws <= most(draws)


def test_minimality_rejects_an_edge_that_does_nothing_but_not_on_rounding_alone():
    generator = torch.Generator().manual_seed(7)
    lost = torch.rand(50, generator=generator, dtype=torch.float64)
    idle = torch.tensor([0.0, 2.0]).double()
    raw, edge_p = _minimality(idle, lost, 0.9, 1e-6, LEVEL, 50)
    assert edge_p[0] < 0.001
    assert edge_p[1] == 1
    # All that there is to compare is rounding: nothing is said, however the rounding falls.
    raw, edge_p = _minimality(1e-9 * idle, 1e-9 * lost, 0.9, 1e-6, LEVEL, 50)
    assert raw.reason is not None
    assert edge_p.tolist() == [1, 1]


@pytest.mark.parametrize("n", [5, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_the_p_value_of_faithfulness_holds_every_level(kind, n):
    """The circuit is drawn as the random ones are: P(p <= a) <= a for every a that can be."""
    generator = torch.Generator().manual_seed(8)
    draws = 600
    values = draw(kind, (draws, n + 1), generator)
    rounding = torch.full((1,), 1e-6).double()
    clean, ablated = torch.full((1,), 5.0).double(), torch.zeros(1).double()
    p = torch.tensor([
        Faithfulness(0.0, clean, ablated, row[:1], row[1:], 4, "m", "interchange", rounding=rounding).p_value for row in values
    ])  # fmt: skip
    for k in range(1, n + 1):
        level = k / (n + 1)
        assert float((p <= level + 1e-9).double().mean()) <= most(draws, level)


def test_holm_never_makes_support_easier_where_not_rejecting_speaks_for_the_circuit():
    raw = [_Raw(0.5, 0.03, 50), _Raw(0.1, 0.2, 99), _Raw(0.1, 0.04, 8), _Raw(1.0, 0.03, 50), _Raw(1.0, 0.03, 50)]
    tests = dict(zip(NAMES, _judged(raw, LEVEL), strict=True))
    assert [tests[name].corrected for name in NAMES[:3]] == [0.03, 0.2, 0.04]
    assert [tests[name].supports for name in NAMES] == [False, True, False, False, False]
    assert [tests[name].corrected for name in CLAIMS] == pytest.approx([0.06, 0.06])
    # A claim that could not be made is none of those that are corrected for.
    alone = dict(zip(NAMES, _judged([*raw[:4], raw[4]._replace(reason="too few")], LEVEL), strict=True))
    assert alone["sufficiency"].corrected == 0.03
    assert alone["sufficiency"].supports is True
    assert alone["partial necessity"].supports is None
    assert holm(torch.zeros(0).double()).tolist() == []
