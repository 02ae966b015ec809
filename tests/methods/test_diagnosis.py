"""The statistics of random subsets, on functions whose effects are known: no model."""

import itertools

import pytest
import torch
from scipy import stats

from circuits import Diagnosis, InputError
from circuits.measure.joint_sets import JOINT_SETS, draw_joint_sets, leading_joint_sets, spread_of
from circuits.measure.subsets import BLOCK, draw_subsets, whole_share
from circuits.stats.welch import differences
from tests.set_functions import FUNCTIONS, N


def additive(effects, samples, share=0.125, seed=0):
    """A diagnosis of f(S) = Σ effects; one column of effects a prompt."""
    included = draw_subsets(len(effects), samples, share, seed)
    return Diagnosis(
        tuple(map(str, range(len(effects)))), included, included.double() @ effects.reshape(len(effects), -1)
    )


def heavy_tailed(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3


def test_comparisons_are_scipys_welch_test():
    included = draw_subsets(5, 50, 0.2, seed=1)[JOINT_SETS:]
    outcomes = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1e6
    result = differences(included, outcomes)
    for node, prompt in itertools.product(range(5), range(3)):
        column = outcomes[:, prompt].numpy()
        mask = included[:, node].numpy()
        test = stats.ttest_ind(column[mask], column[~mask], equal_var=False)
        interval = test.confidence_interval(0.9)
        margin = result.margin(0.95)[node, prompt]
        wanted = (test.df, (interval.low + interval.high) / 2, (interval.high - interval.low) / 2)
        assert (result.df[node, prompt], result.mean[node, prompt], margin) == pytest.approx(wanted, rel=1e-6)


def test_what_is_in_fewer_than_two_subsets_is_not_bounded():
    included = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]], dtype=torch.bool)
    outcomes = torch.tensor([[1.0], [2.0], [3.0], [5.0]], dtype=torch.float64)
    included = torch.cat([draw_joint_sets(4, seed=0), included])
    result = Diagnosis(tuple("abcd"), included, torch.cat([outcomes.new_zeros(JOINT_SETS, 1), outcomes]))
    assert result.upper().isfinite().tolist() == [False, True, False, False]
    assert result.estimates.isfinite().tolist() == [True, True, False, False]
    assert result.bound == torch.inf
    assert result.reason == "too few samples: 3 of 4 nodes are in fewer than two, or missing from fewer than two"
    assert f"no bound, {result.reason}" in repr(result)
    data = result.to_dict()
    assert data["bound"] is None
    assert data["nodes"]["c"] == {"estimate": None, "low": None, "high": None, "upper": None}
    assert data["nodes"]["b"]["estimate"] == pytest.approx(-2.5)
    assert result.counts.tolist() == [1, 2, 0, 4]


def test_the_bound_of_an_additive_function_is_the_least_effect_that_welchs_and_students_one_sided_tests_refuse():
    result = additive(heavy_tailed(20), 96)
    y = result.outcomes[JOINT_SETS:, 0].numpy()

    def p_value(theta):
        """Of the hypothesis that some node has an effect of size theta or more: the largest among nodes."""
        values = []
        for mask, equal in itertools.product(result.included[JOINT_SETS:].T.numpy(), (False, True)):
            test = stats.ttest_ind(y[mask], y[~mask], equal_var=equal)
            d = y[mask].mean() - y[~mask].mean()
            values.append(stats.t.sf((theta - abs(d)) / abs(d / test.statistic), test.df))
        return max(values)

    assert p_value(result.bound) == pytest.approx(0.05, rel=1e-6)
    assert p_value(result.bound * 1.01) < 0.05 < p_value(result.bound * 0.99)


@pytest.mark.parametrize("share", [0.0625, 0.25, 0.5])
def test_intervals_cover_additive_effects_as_often_as_they_say(share):
    effects = heavy_tailed(40)
    covered, bounded = [], []
    for seed in range(120):
        result = additive(effects, 128, share, seed)
        low, high = result.interval()
        covered.append(((low <= effects) & (effects <= high)).double().mean())
        bounded.append(result.bound >= float(effects.abs().max()))
    assert 0.94 < sum(covered) / 120 < 0.985
    assert sum(bounded) / 120 > 0.91  # 0.95 less two standard errors


def test_the_bound_tightens_like_one_over_the_root_of_the_samples():
    effects = heavy_tailed(30)
    largest = float(effects.abs().max())
    slack = {m: sum(additive(effects, m, seed=s).bound - largest for s in range(20)) / 20 for m in (64, 256, 1024)}
    assert 1.7 < slack[64] / slack[256] < 2.8
    assert 1.7 < slack[256] / slack[1024] < 2.8


def test_the_first_samples_are_those_drawn_alone():
    effects = heavy_tailed(12)
    many, few = additive(effects, 100).first(45), additive(effects, 45)
    assert torch.equal(many.included, few.included)
    assert many.to_dict() == few.to_dict()
    with pytest.raises(InputError, match="the first 46 samples were requested, but there are only 45"):
        few.first(46)


def test_every_node_is_in_as_many_of_each_32_subsets_and_nodes_are_independent():
    drawn = draw_subsets(500, 96, 0.25, seed=3)[JOINT_SETS:]
    assert set(drawn.reshape(3, BLOCK, 500).sum(1).flatten().tolist()) == {8}
    assert not torch.equal(drawn, draw_subsets(500, 96, 0.25, seed=4)[JOINT_SETS:])
    assert not torch.equal(drawn, draw_subsets(500, 96, 0.25, seed=3, stream="round 1")[JOINT_SETS:])
    in_a_set = drawn.double().sum(1)
    assert in_a_set.mean() == pytest.approx(125)
    assert in_a_set.std() == pytest.approx((500 * 0.25 * 0.75) ** 0.5, rel=0.2)
    assert [whole_share(share) for share in (1e-9, 0.1, 0.5, 1 - 1e-9)] == [1 / 32, 3 / 32, 0.5, 31 / 32]
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(InputError, match="share must be between 0 and 1"):
            draw_subsets(3, 2, share, 0)


def interacting(x):
    """Redundant (0 or 1), in series (2 and 3), opposed (4), alone (5)."""
    return 3 * (x[..., 0] | x[..., 1]) + 2 * (x[..., 2] & x[..., 3]) - 1.5 * x[..., 4] + x[..., 5] * (1 - x[..., 4])


def average_effects(f, n, share):
    """By enumeration of all subsets."""
    subsets = torch.tensor(list(itertools.product([0, 1], repeat=n)))
    chance = torch.where(subsets == 1, share, 1 - share).double()
    values = f(subsets).double()
    result = []
    for node in range(n):
        inside = subsets[:, node] == 1
        weights = chance.prod(1)
        result.append(
            (values * weights)[inside].sum() / weights[inside].sum()
            - (values * weights)[~inside].sum() / weights[~inside].sum()
        )
    return torch.stack(result)


@pytest.mark.parametrize("share", [0.125, 0.5])
def test_with_interactions_estimates_are_unbiased_for_the_average_effect_not_for_the_effect_alone(share):
    wanted = average_effects(interacting, 6, share)
    estimates, covered = [], []
    for seed in range(300):
        included = draw_subsets(6, 64, share, seed)
        result = Diagnosis(tuple("abcdef"), included, interacting(included.long()).double()[:, None])
        low, high = result.interval()
        estimates.append(result.estimates)
        covered.append((low <= wanted) & (wanted <= high))
    drawn = torch.stack(estimates)
    error = drawn.std(0) / 300**0.5
    assert bool(((drawn.mean(0) - wanted).abs() < 4 * error).all())
    assert torch.stack(covered).double().mean() > 0.93
    alone = interacting(torch.eye(6, dtype=torch.long)).double()
    assert wanted[0] == pytest.approx(3 * (1 - share))
    assert (wanted[2], alone[2]) == (pytest.approx(2 * share), 0)
    assert (wanted - alone).abs().max() > 5 * error.max()


def test_a_contribution_is_bounded_whatever_the_correlation_of_prompts():
    one = heavy_tailed(15, seed=1)
    for effects in (torch.stack([one, one], 1), torch.stack([one, -one], 1), heavy_tailed(30, seed=2).reshape(15, 2)):
        largest = float(effects.abs().mean(1).max())
        misses = 0
        for seed in range(60):
            result = additive(effects, 64, seed=seed)
            by_size = Diagnosis(result.nodes, result.included, result.outcomes, size="contribution")
            misses += by_size.bound < largest
            assert bool((by_size.upper() >= result.upper() - 1e-9).all())
        assert misses <= 6
    same = additive(one, 64)
    assert Diagnosis(same.nodes, same.included, same.outcomes, size="contribution").bound == pytest.approx(same.bound)


def test_simultaneous_intervals_hold_for_all_nodes_at_once():
    effects = heavy_tailed(40)
    all_covered = 0
    for seed in range(100):
        result = additive(effects, 128, seed=seed)
        (low, high), (alone_low, alone_high) = result.interval(simultaneous=True), result.interval()
        assert bool((low < alone_low).all() and (alone_high < high).all())
        all_covered += bool(((low <= effects) & (effects <= high)).all())
    assert all_covered >= 88


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 0.5}, r"confidence must be between 0\.5 and 1, got 0\.5"),
        ({"confidence": 1.0}, "confidence must be between"),
        ({"size": "largest"}, "size must be one of mean, contribution, got 'largest'"),
    ],
)
def test_what_bounds_nothing_is_refused(options, message):
    result = additive(heavy_tailed(3), 32)
    with pytest.raises(InputError, match=message):
        Diagnosis(result.nodes, result.included, result.outcomes, **options)


def test_what_it_says_of_itself():
    result = additive(torch.ones(4, dtype=torch.float64), 32, 0.5)
    assert repr(result).startswith("Diagnosis(4 nodes, 32 samples and 49 joint sets: no average effect above ")
    assert repr(result).endswith("if interactions show when half or a quarter of the nodes is patched)")
    data = result.to_dict()
    assert (data["samples"], data["joint_sets"], data["reason"]) == (32, 49, None)
    assert data["interactions"] == pytest.approx({"spread": 0, "largest": 0}, abs=1e-12)
    assert "half or a quarter" in data["assumes"]
    with pytest.raises(InputError, match="confidence"):
        result.interval(0.2)


def test_average_effects_of_the_set_functions_are_those_of_enumeration_and_of_sampling():
    for name in ("two of three among noise", "an AND pair against a half", "saturating, with an AND pair"):
        f = FUNCTIONS[name]
        drawn = torch.rand(20_000, N, generator=torch.Generator().manual_seed(0)) < 0.25
        wanted = f.average_effects(0.25)
        for node in (0, 1, 10):
            here, gone = drawn.clone(), drawn.clone()
            here[:, node], gone[:, node] = True, False
            assert float((f(here) - f(gone)).mean()) == pytest.approx(float(wanted[node]), abs=0.012)


@pytest.mark.parametrize("samples", [128, 256])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_stated_bound_fails_no_more_often_than_it_says(name, samples):
    """Four in twenty seeds of the first would have been below the truth by Welch's interval alone, and nearly all of a pair's."""
    function, seeds = FUNCTIONS[name], 100
    truth = float(function.average_effects(0.0625).abs().max())
    missed = 0
    for seed in range(seeds):
        included = draw_subsets(N, samples, 0.0625, seed)
        missed += Diagnosis(tuple(map(str, range(N))), included, function(included)[:, None]).bound < truth - 1e-12
    assert missed / seeds <= 0.05 + 2 * (0.05 * 0.95 / seeds) ** 0.5


def test_two_nodes_that_only_act_together_are_bounded_though_no_sample_holds_both():
    function = FUNCTIONS["an AND pair"]
    for seed in range(50):
        included = draw_subsets(N, 64, 0.0625, seed)
        if included[JOINT_SETS:, :2].all(1).any():
            continue
        result = Diagnosis(tuple(map(str, range(N))), included, function(included)[:, None])
        assert not result.outcomes[JOINT_SETS:].any()
        assert result.interactions.spread == 1
        assert result.bound > 0.0625
        low, high = result.interval()
        assert bool((low < 0).all() and (high > 0.0625).all())
        break
    else:
        pytest.fail("every seed drew both")


def test_without_joint_sets_nothing_is_stated():
    function = FUNCTIONS["additive, normal"]
    included = draw_subsets(N, 128, 0.0625, seed=0)[JOINT_SETS:]
    result = Diagnosis(tuple(map(str, range(N))), included, function(included)[:, None])
    assert result.bound == torch.inf
    assert "no joint sets were measured" in result.reason
    assert result.to_dict()["bound"] is None
    assert bool((result.interval()[1] == torch.inf).all())
    assert bool(result.estimates.isfinite().all())


def test_joint_sets_are_all_nodes_halves_and_quarters():
    drawn = draw_joint_sets(40, seed=1)
    assert drawn[0].all()
    for first, second, *quarters in drawn[1:].reshape(-1, 6, 40):
        assert torch.equal(first, ~second)
        assert torch.equal(first, quarters[0] | quarters[1])
        assert torch.equal(second, quarters[2] | quarters[3])
        assert not (quarters[0] & quarters[1]).any()
    assert not torch.equal(drawn, draw_joint_sets(40, seed=2))


def test_joint_sets_are_recognised_only_whole_and_in_order():
    drawn = draw_joint_sets(40, seed=1)
    assert len(drawn) == JOINT_SETS
    assert leading_joint_sets(torch.cat([drawn, drawn[:3]])) == JOINT_SETS
    assert leading_joint_sets(drawn[1:]) == leading_joint_sets(drawn[:-1]) == 0
    assert leading_joint_sets(torch.cat([drawn[:1], drawn[2:], drawn[1:2]])) == 0


def test_the_spread_is_that_of_a_naive_loop_and_zero_where_effects_add_up():
    f = FUNCTIONS["two of six"]
    drawn = draw_joint_sets(N, seed=3)
    halves, quarters = [], []
    for first, second, a, b, c, d in drawn[1:].reshape(-1, 6, N):
        halves.append(float(f(drawn[:1]) - f(first[None]) - f(second[None])))
        quarters += [float(f(first[None]) - f(a[None]) - f(b[None])), float(f(second[None]) - f(c[None]) - f(d[None]))]
    seen = spread_of(f(drawn)[:, None])
    assert float(seen.spread) == max(max(halves) - min(halves), max(quarters) - min(quarters))
    assert float(seen.largest) == max(map(abs, halves + quarters))
    assert float(spread_of(FUNCTIONS["additive, Cauchy"](drawn)[:, None]).spread) == pytest.approx(0, abs=1e-9)
