"""Intervals of ratios against a naive computation, and how often they contain the true share."""

import importlib.util
import sys
from pathlib import Path

import numpy
import pytest
import torch
from scipy import optimize, stats

from circuits import InputError
from circuits.evaluation.intervals import interval_text, share_interval
from circuits.stats.bootstrap import resampling_weights
from circuits.stats.ratio import ratio_interval

ROOT = Path(__file__).parents[2]
PLACE = importlib.util.spec_from_file_location("error_rates_benchmark", ROOT / "benchmarks" / "error_rates.py")
assert PLACE is not None
assert PLACE.loader is not None
benchmark = importlib.util.module_from_spec(PLACE)
sys.modules[PLACE.name] = benchmark
PLACE.loader.exec_module(benchmark)


def naive(x, y, level, resamples, seed):
    """Both ends by root finding, one resample at a time."""
    n = len(x)
    ratio = x.mean() / y.mean()
    z = x - ratio * y
    statistics = []
    for weights in (resampling_weights(n, resamples, seed) * n).round().int().numpy():
        drawn = numpy.repeat(z, weights)
        if numpy.ptp(drawn) > 0:
            statistics.append(drawn.mean() / (drawn.std(ddof=1) / n**0.5))
    half, students = (1 - level) / 4, stats.t.ppf((1 + level) / 2, n - 1)
    least, most = numpy.quantile(statistics, [half, 1 - half])
    least, most = min(least, -students), max(most, students)

    def statistic(value):
        rest = x - value * y
        return rest.mean() / (rest.std(ddof=1) / n**0.5)

    ends = []
    for quantile in (most, least) if y.mean() > 0 else (least, most):
        side = -1 if (quantile > 0) == (y.mean() > 0) else 1
        far = ratio + side * 0.01
        while abs(statistic(far)) < abs(quantile):
            far += far - ratio
        ends.append(optimize.brentq(lambda value, at=quantile: statistic(value) - at, ratio, far))
    return ends


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_both_ends_are_those_of_the_naive_loop(sign):
    draw = numpy.random.default_rng(0)
    y = sign * (8 + draw.standard_normal(9))
    x = numpy.stack([0.6 * y + draw.standard_normal(9), 0.1 * y + draw.lognormal(size=9)])
    low, high = ratio_interval(torch.from_numpy(x), torch.from_numpy(y), 0.9, 300, 4)
    for i in range(2):
        assert [float(low[i]), float(high[i])] == pytest.approx(naive(x[i], y, 0.9, 300, 4), rel=1e-9)


def test_of_a_constant_denominator_it_is_at_least_students_interval():
    x = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = ratio_interval(x, torch.full((6,), 2.0))
    for row, a, b in zip(x.numpy() / 2, low.tolist(), high.tolist(), strict=True):
        least, most = stats.t.interval(0.95, 5, row.mean(), stats.sem(row))
        assert a <= least + 1e-12
        assert b >= most - 1e-12


def test_where_nothing_is_known_nothing_is_stated():
    one = torch.tensor([[1.0]])
    assert all(bool(end.isnan().all()) for end in ratio_interval(one, one[0]))
    y = torch.tensor([1.0, -1.0, 0.5, -0.4])  # its mean may be 0
    low, high = ratio_interval(torch.rand(3, 4, generator=torch.Generator().manual_seed(0)), y)
    assert bool((low == -torch.inf).all())
    assert bool((high == torch.inf).all())
    assert all(bool(end.isnan().all()) for end in share_interval(one.expand(1, 3), torch.ones(3), torch.ones(3)))
    exact = torch.rand(6) + 1
    low, high = ratio_interval(0.25 * exact[None], exact)
    assert (float(low), float(high)) == pytest.approx((0.25, 0.25), abs=1e-6)
    with pytest.raises(InputError):
        ratio_interval(one, one[0], 1.0)
    assert interval_text(0.5, float("inf")) == "above 0.500"


@pytest.mark.parametrize(
    ("kind", "n", "least"),
    [("normal", 8, 0.95), ("lognormal", 8, 0.90), ("lognormal", 16, 0.92), ("Student's t, 3 degrees", 8, 0.95), ("one prompt in five differs", 12, 0.95)],
)  # fmt: skip
def test_a_share_is_in_its_interval_as_often_as_stated(kind, n, least):
    draws = 400
    assert benchmark.share_coverage(kind, n, draws) >= least - 2.5 * (least * (1 - least) / draws) ** 0.5


def test_cpr_and_cmd_are_in_their_intervals():
    found = benchmark.area_coverage("at the model from 5% on", "normal", 8, 150)
    assert min(found) >= 0.95 - 2.5 * (0.95 * 0.05 / 150) ** 0.5
