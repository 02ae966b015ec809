"""Hypothesis tests: their statistics against scipy and enumeration; true and planted wrong circuits."""

import json

import pytest
import torch

import circuits
from circuits import Circuit, InputError
from circuits.evaluation.hypothesis import NAMES, _equivalence, binomial, holm, hsic, inflated
from tests.tiny_models import random_pairs, random_subset, tiny


def test_holms_correction_is_the_naive_one():
    p = torch.tensor([0.01, 0.2, 0.03, 0.004]).double()
    # sorted: 0.004 * 4, 0.01 * 3, 0.03 * 2, 0.2
    torch.testing.assert_close(holm(p), torch.tensor([0.03, 0.2, 0.06, 0.016]).double())


def test_binomial_p_values_are_scipys():
    from scipy.stats import binomtest

    shares = torch.tensor([0.5, 0.9, 1.0]).double()
    for alternative in ("less", "greater"):
        got = binomial(shares, 20, 0.9, alternative)
        wanted = [binomtest(round(float(s) * 20), 20, 0.9, alternative).pvalue for s in shares]
        torch.testing.assert_close(got, torch.tensor(wanted).double())


def test_equivalence_counts_ties_half_and_far_shares_are_unlikely():
    share, p, n = _equivalence(torch.zeros(20).double(), 0.1, 1e-6)
    assert (share, n) == (0.5, 20)
    assert p == pytest.approx(1)
    share, p, _ = _equivalence(torch.ones(20).double(), 0.1, 1e-6)
    assert share == 1
    assert p == pytest.approx(0.6**20 + 0.4**20)  # all above, or all below


def test_hsic_tells_dependence_that_correlation_does_not_see():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, generator=generator).double()
    noise = torch.randn(60, generator=generator).double()
    assert hsic(x, x.square(), 200, 0)[1] < 0.02
    assert hsic(x, noise, 200, 0)[1] > 0.05
    assert hsic(x, torch.ones(60).double(), 200, 0) == (0.0, 1.0)


def test_inflated_circuits_have_a_path_more_and_lose_one_of_its_edges():
    model = tiny("gpt2")
    circuit = circuits.random_circuit(model.graph, 12, torch.Generator().manual_seed(0))
    for larger, cut in inflated(circuit, 8):
        assert circuit <= larger
        assert circuit <= cut
        assert len(larger) == len(cut) + 1
        assert larger.pruned() == larger
    assert inflated(Circuit.full(model.graph), 3) == []


def test_the_model_itself_passes_and_a_random_circuit_does_not():
    model, pairs = tiny("gpt2"), random_pairs(n=12)
    result = circuits.hypothesis_tests(model, pairs, Circuit.full(model.graph), n_random=50, permutations=99)
    assert [test.name for test in result.tests] == list(NAMES)
    assert [test.supports for test in result.tests] == [True, True, None, None, None]
    assert "none of 50 random circuits" in str(result)
    wrong = circuits.random_circuit(model.graph, 12, torch.Generator().manual_seed(1))
    failed = circuits.hypothesis_tests(model, pairs, wrong, n_random=50, permutations=9)
    assert failed["sufficiency"].supports is False
    assert "sufficiency" in str(failed)
    json.dumps(failed.to_dict(), allow_nan=False)


def test_an_edge_that_does_nothing_is_unnecessary():
    model, pairs = tiny("gpt2"), random_pairs(n=6)
    best = circuits.exact_edge_effects(model, pairs).to_scores().top(40)
    idle = random_subset(model, 0.1) - best
    result = circuits.hypothesis_tests(model, pairs, best | idle, n_random=40, permutations=49)
    matter = circuits.minimality(model, pairs, best | idle)
    sizes = dict(zip(matter.edges, matter.effects.abs().mean(1).tolist(), strict=True))
    if result.unnecessary:
        strongest = max(sizes, key=lambda edge: sizes[edge])
        assert strongest not in result.unnecessary


def test_what_cannot_be_tested_is_refused():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    whole = Circuit.full(model.graph)
    for wrong in ({"epsilon": 0.5}, {"quantile": 1.0}, {"n_random": 0}, {"level": 0.0}):
        with pytest.raises(InputError):
            circuits.hypothesis_tests(model, pairs, whole, **wrong)
    with pytest.raises(InputError, match="no edges"):
        circuits.hypothesis_tests(model, pairs, Circuit.empty(model.graph), n_random=2, permutations=2)
