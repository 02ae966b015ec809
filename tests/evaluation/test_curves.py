"""CPR and CMD against a naive computation; properties of curves; what is refused."""

import json

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import circuits
from circuits import Circuit, EdgeScores, InputError
from circuits.evaluation.curves import _area
from tests.tiny_models import random_pairs, tiny

POINTS = (0.05, 0.2, 0.5)


def attributed():
    model, pairs = tiny("gpt2"), random_pairs(n=4)
    return model, pairs, circuits.edge_attribution(model, pairs, gradient="ig")


@pytest.mark.parametrize("rule", ["top", "greedy"])
def test_areas_are_those_of_circuits_measured_one_by_one(rule):
    model, pairs, scores = attributed()
    result = circuits.faithfulness_curves(model, pairs, scores, fractions=POINTS, rule=rule, resamples=50)
    full, empty = Circuit.full(model.graph), Circuit.empty(model.graph)
    clean, ablated = (float(circuits.circuit_metric(model, pairs, c).mean()) for c in (full, empty))
    for by, area, curve in (("signed", result.cpr, result.signed), ("abs", result.cmd, result.absolute)):
        f = []
        for p in POINTS:
            chosen = scores.select(int(p * model.graph.n_edges), rule, by=by)
            f.append((float(circuits.circuit_metric(model, pairs, chosen).mean()) - ablated) / (clean - ablated))
        f = numpy.array([*f, 1.0])
        torch.testing.assert_close(curve.faithfulness, torch.tensor(f))
        wanted = numpy.trapezoid(f if by == "signed" else abs(1 - f), [*POINTS, 1])
        assert area == pytest.approx(wanted)
        assert bool((curve.low <= curve.faithfulness + 1e-9).all())
    assert "CPR" in str(result)
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_interval_of_cpr_contains_what_resampled_datasets_give():
    """It is wider than the middle 80% of areas over resampled datasets, one at a time."""
    model, pairs, scores = attributed()
    result = circuits.faithfulness_curves(model, pairs, scores, fractions=(0.2,), resamples=200, seed=3)
    generator = numpy.random.default_rng(0)
    curve = result.signed
    areas = []
    for _ in range(2000):
        rows = generator.integers(0, 4, 4)
        f = (curve.circuit[:, rows].mean(1) - curve.ablated[rows].mean()) / (
            curve.clean[rows].mean() - curve.ablated[rows].mean()
        )
        areas.append(float(torch.trapezoid(f, curve.fractions)))
    assert numpy.quantile(areas, 0.1) >= result.cpr_interval[0] - 1e-9
    assert numpy.quantile(areas, 0.9) <= result.cpr_interval[1] + 1e-9


def test_one_pair_has_no_interval():
    model, pairs, scores = attributed()
    found = circuits.faithfulness_curves(model, pairs[:1], scores, fractions=(0.2,))
    assert found.to_dict()["cpr_interval"] == found.to_dict()["cmd_interval"] == [None, None]
    assert str(found).count("no interval") == 2
    assert bool(found.signed.low.isnan().all())
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_whole_graph_alone_is_entirely_faithful_and_perfect_scores_beat_reversed_ones():
    model, pairs, scores = attributed()
    whole = circuits.faithfulness_curves(model, pairs, scores, fractions=(1.0,), resamples=5)
    assert whole.signed.faithfulness.tolist() == [1.0]
    assert (whole.cpr, whole.cmd) == (0.0, 0.0)
    exact = circuits.exact_edge_effects(model, pairs).to_scores()
    backwards = EdgeScores(exact.graph, -exact.values, exact.stderr, exact.n_prompts)
    good, bad = (
        circuits.faithfulness_curves(model, pairs, s, fractions=POINTS, resamples=5) for s in (exact, backwards)
    )
    assert good.cpr > bad.cpr
    tiny_share = circuits.faithfulness_curves(model, pairs, exact, fractions=(0.001,), resamples=5)
    assert tiny_share.signed.edges[0] == 0
    assert float(tiny_share.signed.faithfulness[0]) == 0.0


def test_one_order_serves_both_areas_of_positive_share():
    model, pairs, scores = attributed()
    result = circuits.faithfulness_curves(model, pairs, scores, fractions=POINTS, rule="positive-share", resamples=5)
    assert torch.equal(result.signed.circuit, result.absolute.circuit)


def test_what_cannot_be_measured_is_refused():
    model, pairs, scores = attributed()
    for wrong in ({"fractions": (0.0,)}, {"fractions": (2.0,)}, {"rule": "best"}, {"rule": "optimal", "fill": True}):
        with pytest.raises(InputError):
            circuits.faithfulness_curves(model, pairs, scores, **wrong)
    with pytest.raises(InputError, match="another graph"):
        circuits.faithfulness_curves(tiny("llama"), pairs, scores)
    same = circuits.PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    with pytest.raises(InputError, match="not defined"):
        circuits.faithfulness_curves(model, same, scores)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
    st.lists(st.floats(0.001, 0.999), min_size=8, max_size=8, unique=True),
)
def test_of_a_rising_curve_below_one_the_areas_share_the_whole(heights, points):
    """Where f rises from 0 to 1 and never passes 1, what CPR does not have CMD has."""
    f = torch.tensor([*sorted(heights), 1.0]).double()
    p = torch.tensor([*sorted(points)[: len(heights)], 1.0]).double()
    cpr, cmd = (float(_area(f[:, None], p, by)) for by in ("signed", "abs"))
    assert cpr + cmd == pytest.approx(1 - float(p[0]))
    higher = torch.cat([f[:-1] + (1 - f[:-1]) / 2, f[-1:]])
    assert float(_area(higher[:, None], p, "signed")) >= cpr
    assert float(_area(higher[:, None], p, "abs")) <= cmd
