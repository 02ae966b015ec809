"""Faithfulness at equal numbers of nodes, and what features are about, against slow twins."""

import pytest
import torch

import circuits
from circuits import InputError
from tests.dictionaries.naive import activations, random_dictionary
from tests.tiny_models import random_pairs, tiny

AMONG = {"features": "features+heads+mlps+input", "heads": "heads+mlps+input"}


@pytest.fixture(scope="module")
def compared():
    """A model, pairs, a dictionary, and two runs compared."""
    model, pairs = tiny("gpt2"), random_pairs(n=3, length=5)
    dictionary = random_dictionary(model, "mlp_out.1", 4)
    more = {"features": {"dictionaries": [dictionary]}, "heads": {}}
    scores = {
        name: circuits.attribution_patching(model, pairs, nodes=among, **more[name]) for name, among in AMONG.items()
    }
    result = circuits.compare_features(model, pairs, scores, dictionaries=[dictionary], budgets=(1, 4, 7, 1000))
    return model, pairs, dictionary, result


def test_budgets_are_those_that_all_runs_have(compared):
    result = compared[3]
    assert result.budgets == (1, 4, 7)
    assert result.caution is None
    assert result.among == AMONG
    assert [row[0] for row in result.table()] == ["1", "4", "7"]
    assert result.to_dict()["runs"]["heads"]["at"][1]["nodes"] == 4
    assert len(result.rows()) == 6


@pytest.mark.parametrize("at", range(3))
def test_runs_are_compared_at_equal_numbers_of_nodes(compared, at):
    model, pairs, dictionary, result = compared
    n, features, heads = result.budgets[at], *(one[at] for one in result.results.values())
    assert (len(features.kept), len(heads.kept)) == (n, n)
    assert features.clean == pytest.approx(heads.clean)
    assert features.ablated == pytest.approx(heads.ablated)
    # Kept nodes and all edges between them: a circuit of edges.
    graph, kept = model.graph, [*heads.kept, "logits"]
    edges = [
        edge for edge in graph.edges if edge.split("->")[0] in kept and edge.split("->")[1].partition("<")[0] in kept
    ]
    metric = circuits.circuit_metric(model, pairs, circuits.Circuit.from_edges(graph, edges))
    assert heads.chosen == pytest.approx(metric)
    assert "m1" not in features.kept
    options = {"dictionaries": [dictionary], "among": AMONG["features"]}
    assert circuits.feature_faithfulness(model, pairs, features.kept, **options).value == pytest.approx(features.value)


def test_parts_of_different_groups_are_no_equal_budgets():
    model, pairs = tiny("gpt2"), random_pairs(n=2, length=5)
    dictionary = random_dictionary(model, "mlp_out.1", 4)
    scores = {
        "features": circuits.attribution_patching(model, pairs, nodes="features", dictionaries=[dictionary]),
        "heads": circuits.attribution_patching(model, pairs, nodes="heads"),
    }
    result = circuits.compare_features(model, pairs, scores, dictionaries=[dictionary], budgets=(2,))
    assert "not equal budgets" in result.caution
    with pytest.raises(InputError, match="needs scores"):
        circuits.compare_features(model, pairs, {}, dictionaries=[dictionary])
    with pytest.raises(InputError, match="without positions"):
        circuits.compare_features(
            model,
            pairs,
            {"x": circuits.attribution_patching(model, pairs, positions="each")},
            dictionaries=[dictionary],
        )


@pytest.mark.parametrize("site", ["mlp_out.1", "hook_z.1"])
def test_what_a_feature_is_about_is_what_a_loop_finds(site):
    model, pairs = tiny("gpt2"), random_pairs(n=5, length=5)
    dictionary = random_dictionary(model, site, 3)
    place = dictionary.site.place
    names = [f"f:{place}.{i}" for i in range(3)]
    facts = circuits.feature_facts(model, pairs, [*names, f"e:{place}"], dictionaries=[dictionary], n_examples=2)
    assert list(facts) == names
    hook = "blocks.1.hook_mlp_out" if place == "m1" else "blocks.1.attn.hook_z"
    for i, name in enumerate(names):
        rows = [
            activations(dictionary, model.bridge.run_with_cache(torch.tensor([prompt]))[1][hook][0].flatten(1))[i]
            for prompt in pairs.clean
        ]
        order = sorted(range(5), key=lambda j: -float(rows[j].max()))
        active = [j for j in order if float(rows[j].max()) > 0]
        assert facts[name].n_active == len(active)
        assert [one.pair for one in facts[name].examples] == active[:2]
        for one in facts[name].examples:
            assert one.activations == pytest.approx(rows[one.pair].tolist(), rel=1e-5)
        row = dictionary.W_dec[i]
        if place == "z1":
            row = sum(part @ w for part, w in zip(row.reshape(3, -1), model.bridge.blocks[1].attn.W_O, strict=True))
        logits = ((row - row.mean()) * model.bridge.ln_final.weight) @ model.bridge.unembed.W_U
        assert facts[name].promotes == tuple(map(str, logits.topk(8).indices.tolist()))
        assert facts[name].suppresses == tuple(map(str, (-logits).topk(8).indices.tolist()))


def test_features_that_a_run_leaves_out_have_an_effect_of_zero():
    runs = {
        "a": circuits.NodeScores(("e:m0", "f:m0.1", "f:m0.4"), torch.tensor([[1.0], [3.0], [2.0]])),
        "b": circuits.NodeScores(("e:m0", "f:m0.2", "f:m0.4"), torch.tensor([[1.0], [3.0], [2.0]])),
    }
    result = circuits.stability(runs, k=2)
    assert result.mean_jaccard == pytest.approx(1 / 3)
    assert result.always == ("f:m0.4",)
    other = circuits.NodeScores(("e:m0", "m1"), torch.ones(2, 1))
    with pytest.raises(InputError, match="different nodes"):
        circuits.stability({**runs, "c": other}, k=2)
