"""What counts as rounding, and that nothing is concluded from it."""

import math

import pytest
import torch

import circuits
from circuits.measure.component_samples import Samples
from circuits.measure.edge_statistics import EdgeStatistics
from circuits.methods.coar import fit_samples
from circuits.methods.game_values import sobol_indices
from circuits.results.circuit import Circuit
from circuits.results.node_scores import LinearAttribution
from circuits.results.provenance import frozen
from circuits.stats.correlation import correlation
from circuits.stats.interactions import interactions
from circuits.stats.linear_fit import fit_linear
from circuits.stats.rounding import computed_in, rounding, size_before_cancellation
from tests.tiny_models import random_native_bridge, random_pairs, tiny

NAMES = tuple(f"n{i}" for i in range(20))


def additive(seed, dtype=torch.float64, scale=1.0, samples=500):
    """Masks, and a metric that is a sum over the kept components, computed in a dtype."""
    generator = torch.Generator().manual_seed(seed)
    kept = (torch.rand(samples, 20, generator=generator) >= 0.1).double()
    weights = scale * torch.randn(20, 8, generator=generator).double()
    return kept, (kept.to(dtype) @ weights.to(dtype)).double()


def fitted(kept, outcomes, fit="least_squares"):
    return fit_samples(Samples(NAMES, ~kept.bool(), outcomes, outcomes[0], frozen({"options": {}})), fit)


def test_additive_metrics_have_no_significant_pair_by_their_residuals_alone():
    hits = 0
    for seed in range(40):
        kept, outcomes = additive(seed, samples=2000)
        fit = fit_linear(kept, outcomes)
        hits += interactions(NAMES, kept, outcomes - fit.bias - kept @ fit.weights)[0].p < 0.05
    assert hits <= 2


@pytest.mark.parametrize("fit", ["least_squares", "ridge"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_additive_metrics_of_any_size_and_dtype_have_no_significant_pair(dtype, scale, fit):
    result = [fitted(*additive(seed, dtype, scale), fit).interactions for seed in range(8)]
    assert [pairs[0].p for pairs in result] == [1.0] * 8
    assert all(len(pairs) == 20 and all(pair.first != pair.second for pair in pairs) for pairs in result)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_product_among_additive_terms_is_found_at_any_size(dtype, scale):
    kept, outcomes = additive(0, dtype, scale, samples=2000)
    outcomes = outcomes + scale * 0.01 * (kept[:, 3] * kept[:, 7])[:, None].to(dtype).double()
    for pairs in (fitted(kept, outcomes).interactions, fitted(kept, outcomes, "ridge").interactions):
        assert (pairs[0].first, pairs[0].second) == ("n3", "n7")
        assert pairs[0].p < 1e-3
        assert pairs[0].effect == pytest.approx(0.01 * scale, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heads_of_a_model_that_adds_them_up_do_not_interact(dtype):
    """One layer without norms: zero ablation of heads is additive in the logits, in a real forward pass."""
    bridge = random_native_bridge("native-attention-only", dtype)
    with torch.no_grad():
        for block in list(bridge.blocks)[1:]:
            for name, parameter in block.attn.named_parameters():
                if ".o." in name:
                    parameter.zero_()
    model, pairs = circuits.load_model(bridge), random_pairs(n=4)
    heads = ["a0.h0", "a0.h1", "a0.h2", "a2.h0"]
    result = circuits.coar(model, pairs, nodes=heads, samples=400, alpha=0.3)
    assert float(result.per_prompt[:3].abs().min()) > 1e-3
    assert [pair.p for pair in result.interactions] == [1.0] * 6
    left = 2 * float(rounding(result.clean.abs().max(), dtype))
    assert float(result.weight_stderr.max()) < left
    assert float(result.weight_stderr.min()) > 0


def test_standard_errors_of_an_exact_fit_are_not_below_rounding():
    kept, outcomes = additive(0, torch.float32)
    fit = fit_linear(kept, outcomes)
    naive = fit_linear(kept, kept @ fit.weights).weights
    assert bool((fit.weights - naive).abs().max() < fit.stderr.max() * 20)
    residuals = (outcomes - fit.bias - kept @ fit.weights).square().mean(0).sqrt()
    assert bool((residuals < fit.rounding).all())
    assert bool((fit.rounding < 1e-4 * outcomes.abs().max()).all())
    assert bool((fit.stderr.square().sum(0) > 0).all())


def test_shares_of_a_variance_that_is_rounding_are_unknown():
    generator = torch.Generator().manual_seed(0)
    ablated = torch.rand(32, 4, generator=generator) < 0.3
    outcomes = 3 + 1e-15 * torch.randn(32, 5, 2, generator=generator).double()
    outcomes[..., 1] += torch.randn(32, 5, generator=generator).double()
    result = sobol_indices(("a", "b", "c", "d"), ablated, outcomes, 0.3)
    assert bool(result.total[:, 0].isnan().all())
    assert bool(result.total[:, 1].isfinite().all())


def test_a_column_that_varies_by_rounding_correlates_with_nothing():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(30, 1, generator=generator).double()
    assert correlation(5 + 1e-15 * values, values).isnan().all()
    assert correlation((5 + 1e-7 * values).float(), values).isnan().all()
    torch.testing.assert_close(correlation(5 + 1e-9 * values, values), torch.ones(1).double(), rtol=1e-5, atol=0)


def test_a_component_whose_weights_differ_by_rounding_is_not_chosen_for_an_edit():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 12, generator=generator).double()
    weights[0] = 1e-17 * (torch.arange(12) >= 6).double() + 1e-19 * weights[0]
    weights[1, 6:] -= 3

    def half(which):
        return LinearAttribution(("a", "b", "c"), weights[:, which], fit={}, provenance=frozen({"options": {}}))

    edit = circuits.plan_edit(half(slice(6, 12)), half(slice(0, 6)))
    assert edit.nodes[0] == "b"
    assert abs(float(edit.statistic[edit.nodes.index("a")])) < 0.1


@pytest.mark.parametrize("kind", ["bootstrap", "t"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_edges_whose_effect_is_rounding_are_not_significant(dtype, kind):
    graph = tiny("gpt2").graph
    generator = torch.Generator().manual_seed(0)
    effects = torch.zeros(8, graph.n_edges).double()
    effects[:, 0] = 2 + torch.rand(8, generator=generator).double()
    effects[:, 1] = torch.finfo(getattr(torch, dtype)).eps * (0.5 + 0.01 * torch.rand(8, generator=generator))
    effects[:, 2] = 0.001 + 0.0001 * torch.rand(8, generator=generator).double()
    dense = torch.zeros(8, *graph.edge_mask.shape).double()
    dense[:, graph.edge_mask] = effects
    statistics = EdgeStatistics(graph)
    statistics.add(dense)
    result = statistics.scores({"dtype": dtype}).significant(0.95, kind)
    edges = Circuit.full(graph).edges
    assert [name for name, value, _ in result.strongest(5) if value] == [edges[0], edges[2]]


def test_the_dtype_is_the_recorded_one_or_what_holds_the_numbers():
    assert computed_in(torch.tensor([0.1]).double(), {"dtype": "bfloat16"}) is torch.bfloat16
    assert computed_in(torch.tensor([0.1]).double()) is torch.float32
    assert computed_in(torch.tensor([0.1], dtype=torch.float64)) is torch.float64
    assert computed_in(torch.tensor([0.1], dtype=torch.float64), {"dtype": "no such"}) is torch.float64


@pytest.mark.parametrize("size", [1e-8, 1.0, 3e7])
def test_the_size_before_cancellation_is_read_from_the_last_bits(size):
    a = size * (1 + torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    b = a * (1 + 3 * torch.finfo(torch.float64).eps)
    assert 0.2 < size_before_cancellation(a - b) / size < 8
    whole = torch.randn(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert size_before_cancellation(whole) < 8  # nothing cancelled: their own size
    assert size_before_cancellation(torch.tensor([0.5, -1.0, 2.0]).double()) == 0.0
    assert size_before_cancellation(torch.zeros(3).double()) == 0.0
    assert math.isfinite(size_before_cancellation(torch.tensor([1e-300]).double()))
