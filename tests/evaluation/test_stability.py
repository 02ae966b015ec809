"""Stability, randomised weights, complexity and sensitivity against naive twins."""

import math

import pytest
import torch
from scipy.stats import spearmanr

import circuits
from circuits import Circuit, InputError
from circuits.evaluation.randomisation import shuffled_layers
from circuits.evaluation.score_quality import complexity, sensitivity
from circuits.results.node_scores import node_scores
from tests.tiny_models import random_hf_model, random_pairs, tiny


def three_runs():
    model = tiny("gpt2")
    return {f"seed {s}": circuits.edge_attribution(model, random_pairs(n=3, seed=s)) for s in (0, 1, 2)}


def test_jaccard_rank_and_frequency_are_the_naive_ones():
    runs = three_runs()
    result = circuits.stability(runs, k=20)
    sets = []
    for run in runs.values():
        ranked = sorted(run.to_dict().items(), key=lambda entry: -abs(entry[1]))
        sets.append({edge for edge, _ in ranked[:20]})
    assert float(result.jaccard[0, 1]) == pytest.approx(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    values = [list(run.to_dict().values()) for run in runs.values()]
    assert float(result.rank[0, 2]) == pytest.approx(spearmanr(values[0], values[2]).statistic)
    assert set(result.always) == sets[0] & sets[1] & sets[2]
    assert set(result.at_least(2 / 3)) == sets[0] & sets[1] | sets[0] & sets[2] | sets[1] & sets[2]
    assert "3 runs" in str(result)


def test_circuits_are_compared_as_they_are():
    graph = tiny("gpt2").graph
    draw = torch.Generator().manual_seed(0)
    one, other = (circuits.random_circuit(graph, 15, draw) for _ in range(2))
    result = circuits.stability({"one": one, "other": other, "same": one})
    assert float(result.jaccard[0, 2]) == 1
    assert float(result.jaccard[0, 1]) == pytest.approx(len(one & other) / len(one | other))
    assert set(result.always) == set((one & other).edges)


def test_resampled_prompts_are_the_scores_of_resampled_prompts():
    model, pairs = tiny("gpt2"), random_pairs(n=5)
    scores = circuits.edge_attribution(model, pairs)
    result = circuits.prompt_stability(scores, 10, resamples=4, seed=7)
    drawn = torch.randint(5, (4, 5), generator=torch.Generator().manual_seed(7))
    tops = []
    for rows in drawn:
        values = scores.per_prompt[rows].double().mean(0)
        tops.append(set(values.abs().argsort(descending=True)[:10].tolist()))
    shared = len(tops[0] & tops[1]) / len(tops[0] | tops[1])
    assert float(result.jaccard[0, 1]) == pytest.approx(shared)
    assert len(result.always) == len(set.intersection(*tops))


def test_runs_that_cannot_be_compared_are_refused():
    runs = three_runs()
    one = next(iter(runs.values()))
    for wrong, k, message in (
        ({"a": one}, 5, "at least two"),
        ({"a": one, "b": Circuit.full(one.graph)}, 5, "mixed"),
        (runs, None, "strongest edges"),
        (runs, 0, "between 1 and"),
        ({"a": Circuit.full(one.graph), "b": Circuit.full(tiny("llama").graph)}, None, "different graphs"),
    ):
        with pytest.raises(InputError, match=message):
            circuits.stability(wrong, k)
    single = circuits.edge_attribution(tiny("gpt2"), random_pairs(n=1))
    with pytest.raises(InputError, match="two prompts"):
        circuits.prompt_stability(single, 5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_shuffled_weights_are_those_of_a_model_loaded_with_them_and_come_back(name):
    model, pairs = circuits.load_model(random_hf_model(name)), random_pairs(n=2)
    before = model.weights_hash
    own = circuits.edge_attribution(model, pairs).values
    with shuffled_layers(model, [1, 2], seed=3):
        inside = circuits.edge_attribution(model, pairs).values
        exact = circuits.exact_edge_effects(model, pairs, ["input->logits", "m0->logits"]).per_prompt
        assert model.weights_hash != before
        state = {key: value.clone() for key, value in model.bridge.original_model.state_dict().items()}
    assert model.weights_hash == before
    torch.testing.assert_close(circuits.edge_attribution(model, pairs).values, own, rtol=0, atol=0)
    other = random_hf_model(name)
    raw = {key.replace("_original_component.", ""): value for key, value in state.items()}
    assert not other.load_state_dict(raw, strict=False).missing_keys
    fresh = circuits.load_model(other)
    torch.testing.assert_close(circuits.edge_attribution(fresh, pairs).values, inside)
    again = circuits.exact_edge_effects(fresh, pairs, ["input->logits", "m0->logits"]).per_prompt
    torch.testing.assert_close(again, exact)
    assert not torch.allclose(inside, own)


def test_scores_change_with_the_weights_and_those_of_a_constant_method_do_not():
    model, pairs = circuits.load_model(random_hf_model("gpt2")), random_pairs(n=3)
    result = circuits.randomisation(model, lambda m: circuits.edge_attribution(m, pairs), layers=(0, 3))
    assert result.rank[0] == pytest.approx(1)
    assert result.rank[1] < 0.95
    nodes = circuits.randomisation(model, lambda m: circuits.attribution_patching(m, pairs), cascading=False)
    assert nodes.layers == (0, 1, 2)
    constant = node_scores(("a", "b", "c"), torch.tensor([[1.0], [2.0], [3.0]]), {})
    assert circuits.randomisation(model, lambda m: constant).rank == (1.0, 1.0, 1.0)
    assert "rank correlation" in str(result)
    with pytest.raises(InputError, match="no layer 9"):
        circuits.randomisation(model, lambda m: constant, layers=(9,), cascading=False)
    with pytest.raises(InputError, match="between 0 and 3"):
        circuits.randomisation(model, lambda m: constant, layers=(4,))


def test_complexity_is_the_entropy_of_shares():
    equal = node_scores(tuple("abcd"), torch.tensor([[1.0], [-1.0], [1.0], [1.0]]), {})
    assert complexity(equal) == pytest.approx(math.log(4))
    one = node_scores(tuple("abcd"), torch.tensor([[0.0], [-3.0], [0.0], [0.0]]), {})
    assert complexity(one) == pytest.approx(0)
    edges = circuits.edge_attribution(tiny("gpt2"), random_pairs(n=2))
    assert 0 < complexity(edges) < math.log(len(edges))
    with pytest.raises(InputError, match="all scores are 0"):
        complexity(node_scores(("a",), torch.zeros(1, 2), {}))


def test_sensitivity_is_the_distance_between_prompts():
    scores = node_scores(("a", "b"), torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, -4.0]]), {})
    result = sensitivity(scores)
    assert result.largest == pytest.approx(math.sqrt(2))
    assert result.mean == pytest.approx(2 / 3 * math.sqrt(2))
    assert result.pairs == 3
    edges = circuits.edge_attribution(tiny("gpt2"), random_pairs(n=3))
    rows = torch.nn.functional.normalize(edges.per_prompt.double(), dim=1)
    assert sensitivity(edges).largest == pytest.approx(float(torch.pdist(rows).max()))
    with pytest.raises(InputError, match="fewer than two"):
        sensitivity(node_scores(("a",), torch.zeros(1, 2), {}))
