"""Editing and interactions: planted components are found, and steps do what ablating by hand does."""

import itertools

import pytest
import torch

import circuits
from circuits import InputError
from circuits.measure.component_samples import draw_block
from circuits.results.node_scores import LinearAttribution
from circuits.results.provenance import frozen
from circuits.stats.interactions import interactions
from tests.tiny_models import random_pairs, tiny

NODES = tuple("abcdef")


def attribution(weights):
    return LinearAttribution(NODES[: len(weights)], weights, fit={}, provenance=frozen({"options": {}}))


def test_components_are_ranked_by_welchs_statistic():
    from scipy.stats import ttest_ind

    generator = torch.Generator().manual_seed(0)
    target, reference = (torch.randn(6, n, generator=generator).double() for n in (4, 7))
    result = circuits.plan_edit(attribution(target), attribution(reference))
    wanted = ttest_ind(target.numpy(), reference.numpy(), axis=1, equal_var=False).statistic
    order = wanted.argsort()
    assert result.nodes == tuple(NODES[i] for i in order)
    torch.testing.assert_close(result.statistic, torch.tensor(wanted[order]))
    down = circuits.plan_edit(attribution(target), attribution(reference), raises=False)
    assert down.nodes == result.nodes[::-1]
    one = circuits.plan_edit(attribution(target[:, :1]), attribution(reference))
    assert bool(one.statistic.isfinite().all())


def test_steps_are_ablations_of_the_first_components():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    linear = circuits.coar(model, pairs, samples=64)
    edit = circuits.plan_edit(linear, circuits.coar(model, random_pairs(n=4, seed=9), samples=64))
    result = circuits.apply_edit(model, edit, {"targets": pairs}, ks=(0, 1, 3))
    for step, k in enumerate((0, 1, 3)):
        gone = set(edit.nodes[:k])
        kept = [edge for edge in model.graph.edges if edge.split("->")[0] not in gone]
        wanted = circuits.circuit_metric(model, pairs, circuits.Circuit.from_edges(model.graph, kept), ablation="zero")
        torch.testing.assert_close(result.metric["targets"][step], wanted.double(), rtol=1e-5, atol=1e-6)
    assert result.accuracy("targets").tolist() == [(row > 0).double().mean() for row in result.metric["targets"]]
    assert "targets" in str(result)


def test_what_cannot_be_edited_is_refused():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    one, other = attribution(torch.ones(6, 3).double()), attribution(torch.ones(5, 3).double())
    with pytest.raises(InputError, match="different components"):
        circuits.plan_edit(one, other)
    with pytest.raises(InputError, match="two reference"):
        circuits.plan_edit(one, attribution(torch.ones(6, 1).double()))
    edit = circuits.plan_edit(one, one)
    for wrong in ({"ks": (7,)}, {"ks": ()}, {"ks": (-1,)}):
        with pytest.raises(InputError, match="ks must be"):
            circuits.apply_edit(model, edit, {"x": pairs}, **wrong)
    with pytest.raises(InputError, match="no prompts"):
        circuits.apply_edit(model, edit, {})


def test_interactions_are_the_coefficients_of_planted_products():
    kept = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).double()
    residuals = (kept[:, 0] - 0.5) * (kept[:, 3] - 0.5) * 4.0 - 2.5 * (kept[:, 1] - 0.5) * (kept[:, 5] - 0.5)
    noise = 0.01 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).double()
    result = interactions(NODES, kept, residuals[:, None] + noise, top=3)
    assert [(pair.first, pair.second) for pair in result[:2]] == [("a", "d"), ("b", "f")]
    assert result[0].effect == pytest.approx(4.0, abs=0.05)
    assert result[1].effect == pytest.approx(-2.5, abs=0.05)
    assert result[0].p < 1e-5 < result[2].p


def test_noise_has_no_significant_interaction_and_few_components_have_none():
    kept = 1 - torch.cat([draw_block(30, block, 0.2, 0) for block in range(40)]).double()
    noise = torch.randn(len(kept), 4, generator=torch.Generator().manual_seed(1)).double()
    assert all(pair.p > 0.05 for pair in interactions(tuple(f"n{i}" for i in range(30)), kept, noise))
    assert interactions(("a",), kept[:, :1], noise) == ()


def test_a_linear_attribution_names_its_interactions(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    result = circuits.coar(model, pairs, samples=400, alpha=0.3)
    assert len(result.interactions) == 20
    assert result.interactions[0].p < 0.05  # a tiny model is anything but additive
    result.save(tmp_path / "scores.safetensors")
    assert circuits.NodeScores.load(tmp_path / "scores.safetensors").interactions == result.interactions
