"""A circuit in another model: faithfulness, changed edges with their error rate, and heads matched by function."""

import itertools
from dataclasses import replace

import pytest
import torch
import transformers

import circuits
from circuits import Circuit, InputError
from circuits.descriptions.head_profiles import common_roles, head_profiles
from circuits.evaluation.matched_heads import match_heads
from circuits.prompts.pair import bounds
from circuits.stats.changes import changes_p
from circuits.viewer.attention import attention_patterns
from tasks.compiled import TwoWays, compile_network
from tests.placed_pairs import placed_pairs
from tests.tiny_models import random_hf_model, random_pairs, tiny


def compiled(heads: dict[str, str] | None = None, seed: int = 0, left_out: str | None = None, n_layers: int = 2):
    """The model of two ways, with its mechanisms at other heads, other decoys, or without one mechanism."""
    network = TwoWays.network()
    moved = {(heads or {}).get(name, name): head for name, head in network.heads.items() if name != left_out}
    return circuits.load_model(compile_network(replace(network, heads=moved, seed=seed, n_layers=n_layers)))


@pytest.fixture(scope="module")
def two_ways():
    model = compiled()
    pairs = TwoWays().pairs(model, n=12)
    scores = circuits.edge_attribution(model, pairs, gradient="ig", steps=5)
    return model, pairs, scores, scores.threshold(1.0)


def test_in_the_same_model_nothing_changed(two_ways):
    model, pairs, scores, circuit = two_ways
    result = circuits.transfer(circuit, model, pairs, model_a=model, scores_a=scores, scores_b=scores)
    assert result.faithfulness.value == pytest.approx(1)
    assert result.before.value == pytest.approx(1)
    assert result.changed == ()
    assert [(head.head, head.match) for head in result.matched] == [("a0.h1", "a0.h1"), ("a0.h3", "a0.h3")]
    assert result.moved == ()
    assert result.skipped == {}
    assert "0 edges changed" in str(result)


def test_a_lost_mechanism_and_its_edges_are_named(two_ways):
    _, pairs, scores, circuit = two_ways
    other = compiled(left_out="a0.h3")
    after = circuits.edge_attribution(other, pairs, gradient="ig", steps=5)
    result = circuits.transfer(circuit, other, pairs, scores_a=scores, scores_b=after)
    lost = {edge.edge for edge in result.changed if abs(edge.before - edge.after) > 1}
    assert lost == {"input->a0.h3<v>", "a0.h3->m1", "m1->logits"}
    assert all(edge.in_circuit and edge.p < 0.05 for edge in result.changed if edge.edge in lost)
    assert "heads" in result.skipped


def test_a_model_with_rounded_weights_keeps_its_circuit(two_ways):
    """Weights rounded to 8 bits a row, as they are after a quantised model was loaded in floating point."""
    model, pairs, scores, circuit = two_ways
    bridge = compile_network(TwoWays.network())
    with torch.no_grad():
        for weight in bridge.original_model.parameters():
            step = weight.abs().amax(-1, keepdim=True) / 127
            weight.copy_((weight / step.clamp(min=1e-12)).round() * step)
    rounded = circuits.load_model(bridge)
    after = circuits.edge_attribution(rounded, pairs, gradient="ig", steps=5)
    assert not torch.equal(after.values, scores.values)
    result = circuits.transfer(circuit, rounded, pairs, model_a=model, scores_a=scores, scores_b=after)
    assert result.faithfulness.value == pytest.approx(1, abs=0.02)
    assert result.moved == ()
    assert all(head.head == head.match for head in result.matched)


def test_moved_heads_are_matched_by_what_they_do(two_ways):
    model, pairs, scores, circuit = two_ways
    for other in (
        compiled({"a0.h1": "a0.h2", "a0.h3": "a0.h0"}, seed=5),
        compiled({"a0.h1": "a0.h2", "a0.h3": "a0.h0"}, seed=6, n_layers=3),
    ):
        same_graph = other.graph == model.graph
        after = circuits.edge_attribution(other, pairs, gradient="ig", steps=5)
        for scored in ({}, {"scores_a": scores, "scores_b": after}):
            result = circuits.transfer(circuit, other, pairs, model_a=model, **scored)
            assert [(head.head, head.match) for head in result.matched] == [("a0.h1", "a0.h2"), ("a0.h3", "a0.h0")]
            assert all(head.clear and head.similarity > head.runner_up for head in result.matched)
            assert len(result.moved) == (2 if same_graph else 0)
            assert ("faithfulness" in result.skipped) != same_graph
    assert result.faithfulness is None
    assert "different graphs" in result.skipped["edges"]


def test_profiles_are_attention_and_direct_effects_of_each_prompt():
    model = tiny("llama")
    pairs = placed_pairs(n=3)
    roles = common_roles(pairs)
    assert roles == ("start", "S", "S+", "end")
    profiles = head_profiles(model, pairs, roles)
    for i, head in itertools.product(range(3), profiles.heads):
        _, patterns = attention_patterns(model, pairs, (head,), i)
        rows, own = torch.tensor(patterns[head]), profiles.values[i, profiles.heads.index(head)]
        spans = {name: range(*bounds(pairs.roles[i][name])) for name in roles} | {"answer position": [6]}
        naive = {
            f"{query} to {key}": sum(float(rows[q, k]) for q in spans[query] for k in spans[key]) / len(spans[query])
            for query, key in itertools.product(spans, spans)
        }
        for query, tokens in spans.items():
            last = tokens[-1]
            near = zip(("first token", "previous token", "itself"), (0, max(last - 1, 0), last), strict=True)
            naive |= {f"{query} to {name}": float(rows[last, k]) for name, k in near}
        assert own[: len(naive)].tolist() == pytest.approx(list(naive.values()), abs=1e-5)
        assert profiles.features[: len(naive)] == tuple(naive)
    direct = circuits.direct_effects(model, pairs, nodes="heads")
    torch.testing.assert_close(
        profiles.values[:, :, len(naive)].T, direct.per_prompt / direct.values.abs().max(), check_dtype=False
    )
    by_source = profiles.values[:, :, len(naive) + 1 :]
    assert by_source.shape[2] == len(roles)
    torch.testing.assert_close(
        by_source.sum(2), profiles.values[:, :, len(naive)], atol=1e-6, rtol=1e-4
    )  # roles cover all


def deeper(seed: int = 3):
    """The tiny GPT-2 with its heads exchanged in each layer, and a layer that does nothing after the first; where heads are now."""
    small = random_hf_model("gpt2")
    large = (
        transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**small.config.to_dict(), "n_layer": 4}))
        .eval()
        .double()
    )
    weights, moved = dict(small.state_dict()), {}
    for layer in range(3):
        order = torch.randperm(3, generator=torch.Generator().manual_seed(seed + layer))
        moved |= {f"a{layer}.h{int(h)}": f"a{layer + (layer > 0)}.h{i}" for i, h in enumerate(order)}
        rows = torch.cat([torch.arange(8) + 8 * h for h in order])
        columns = torch.cat([rows + 24 * part for part in range(3)])
        at = f"transformer.h.{layer}.attn"
        weights[f"{at}.c_attn.weight"] = weights[f"{at}.c_attn.weight"][:, columns]
        weights[f"{at}.c_attn.bias"] = weights[f"{at}.c_attn.bias"][columns]
        weights[f"{at}.c_proj.weight"] = weights[f"{at}.c_proj.weight"][rows]
    there = {}
    for name, value in weights.items():
        parts = name.split(".")
        if parts[1:2] == ["h"]:
            parts[2] = str(int(parts[2]) + (int(parts[2]) > 0))
        there[".".join(parts)] = value
    filled = {name: there.get(name, torch.zeros_like(value)) for name, value in large.state_dict().items()}
    large.load_state_dict(filled)
    return circuits.load_model(large), moved


@pytest.mark.parametrize("pairs", [placed_pairs(n=6, seed=2), random_pairs(n=6, length=6)])
def test_every_head_is_found_again_in_a_deeper_model_with_exchanged_heads(pairs):
    model = tiny("gpt2")
    other, moved = deeper()
    result = match_heads(Circuit.full(model.graph), (model, pairs), (other, pairs))
    assert {head.head: head.match for head in result} == moved
    # Not 1: features are scaled over all heads, and the heads of the new layer are further ones.
    assert all(head.similarity > max(0.9, head.runner_up) and head.clear and not head.moved for head in result)


def test_other_prompts_are_compared_by_their_means_and_answers_of_several_tokens_without_direct_effects():
    model = tiny("gpt2")
    other, moved = deeper()
    result = match_heads(Circuit.full(model.graph), (model, placed_pairs(n=24)), (other, placed_pairs(n=24, seed=1)))
    clear = [head for head in result if head.clear]
    assert len(clear) >= 3
    assert all(moved[head.head] == head.match for head in clear)
    tokens = [[3, 4, 5]] * 2, [[3, 6, 5]] * 2, [[[7, 8]]] * 2, [[[9, 8]]] * 2
    several = circuits.PromptPairs.from_tokens(*tokens, metric="log_probability")
    skipped = {}
    assert len(match_heads(Circuit.full(model.graph), (model, several), (model, several), None, skipped)) == 9
    assert "direct_effects" in skipped["direct effects of heads"]


# --- the test of edges ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paired", [True, False])
def test_p_values_are_the_naive_ones(paired):
    from scipy.stats import ttest_1samp, ttest_ind

    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(n, 5, generator=generator).double() for n in (7, 7 if paired else 9))
    second[:, 0] += 2
    result = changes_p(first, second, paired, 60, 3, 0.0)
    generator = torch.Generator().manual_seed(3)
    if paired:
        signs = 1 - 2 * torch.randint(2, (60, 7), generator=generator).double()
        draws = [(second - first) * sign[:, None] for sign in signs]
        own, *others = [abs(ttest_1samp(rows.numpy(), 0).statistic) for rows in (second - first, *draws)]
    else:
        rows = torch.cat([first, second])
        orders = [torch.arange(16), *(torch.randperm(16, generator=generator) for _ in range(60))]
        own, *others = [
            abs(ttest_ind(rows[o[7:]].numpy(), rows[o[:7]].numpy(), equal_var=False).statistic) for o in orders
        ]
    naive = [(1 + sum(max(other) >= t * (1 - 1e-9) for other in others)) / 61 for t in own]
    assert result.tolist() == pytest.approx(naive)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("kind", ["normal", "cauchy", "dependent"])
def test_no_edge_is_named_more_often_than_stated(paired, kind):
    named, draws = 0, 150
    for seed in range(draws):
        g = torch.Generator().manual_seed(seed)
        shape = (12, 40)
        both = [torch.randn(shape, generator=g) for _ in range(2)]
        if kind == "cauchy":
            both = [rows / torch.randn(shape, generator=g) for rows in both]
        if kind == "dependent":
            both = [rows + 3 * torch.randn(12, 1, generator=g) for rows in both]
        base = torch.randn(40, generator=g)
        named += bool((changes_p(both[0] + base, both[1] + base, paired, 99, seed, 0.0) < 0.05).any())
    assert named / draws <= 0.05 + 3 * (0.05 * 0.95 / draws) ** 0.5


def test_changes_are_found_and_rounding_is_not():
    g = torch.Generator().manual_seed(0)
    first = torch.randn(16, 30, generator=g)
    second = first + 0.3 * torch.randn(16, 30, generator=g)
    second[:, 3] += 2
    p = changes_p(first, second, True, 499, 0, 0.0)
    assert (p < 0.05).nonzero().flatten().tolist() == [3]
    assert changes_p(first, first + 1e-9, True, 499, 0, 1e-6).tolist() == [1.0] * 30
    assert bool((changes_p(first, first + 1, True, 499, 0, 1e-6) < 0.05).all())


def test_what_is_refused(two_ways):
    model, pairs, scores, circuit = two_ways
    bare = circuits.EdgeScores(scores.graph, scores.values, scores.stderr, 12)
    few = circuits.edge_attribution(model, pairs[:3])
    for refused, words in (
        (lambda: circuits.transfer(circuit, model, pairs, model_a=tiny("gpt2")), "belongs to another graph"),
        (lambda: circuits.transfer(circuit, model, pairs, scores_a=scores, scores_b=bare), "hold effects per prompt"),
        (
            lambda: circuits.transfer(circuit, model, pairs, scores_a=scores, scores_b=scores, permutations=5),
            "5 permutations cannot",
        ),
        (lambda: circuits.transfer(circuit, model, pairs, level=2.0), "level must be"),
    ):
        with pytest.raises(InputError, match=words):
            refused()
    result = circuits.transfer(circuit, model, pairs, scores_a=few, scores_b=few)
    assert result.changed is None
    assert "3 prompts are too few" in result.skipped["edges"]
