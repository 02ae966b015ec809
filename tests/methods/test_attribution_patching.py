"""AtP against EAP, against exact patching where everything is linear, and against its definition."""

import pytest
import torch
from transformer_lens import TransformerBridge, TransformerBridgeConfig

import circuits
from circuits import InputError, Metric, PromptPairs, activation_patching, attribution_patching, edge_attribution
from circuits.graph.nodes import select_sites
from tests.tiny_models import ALL, FEW, atol, random_pairs, tiny

PRE_NORM = [name for name in ALL if name not in ("gemma2", "gemma3", "olmo2")]
"""Under a post-norm a node's z and its write are not linearly related, so AtP at z is another number there."""


@pytest.mark.parametrize("name", PRE_NORM)
def test_a_node_is_the_sum_of_its_out_edges(name):
    model, pairs = tiny(name), random_pairs(n=3, prefix=2)
    nodes = attribution_patching(model, pairs, nodes="input+heads+mlps" if any(model.graph.mlps) else "input+heads")
    edges = edge_attribution(model, pairs, gradient="clean", check_sign=False).values.sum(1)
    for name_, value in nodes.to_dict().items():
        assert value == pytest.approx(float(edges[model.graph.writer_index(name_)]), abs=atol(name), rel=1e-4)


@pytest.mark.parametrize("name", ["native-no-norm", "native-attention-only"])
def test_without_norms_a_head_input_is_the_sum_of_its_in_edges(name):
    model, pairs = tiny(name), random_pairs(n=2)
    nodes = attribution_patching(model, pairs, nodes="q+k+v")
    hidden = edge_attribution(model, pairs, gradient="clean", check_sign=False).values.sum(0)
    for node, value in nodes.to_dict().items():
        assert value == pytest.approx(float(hidden[model.graph.reader_index(node)]), abs=1e-9)


@pytest.mark.parametrize("name", FEW)
def test_positions_split_the_whole_and_identical_prompts_score_zero(name):
    model, pairs = tiny(name), random_pairs(n=3, prefix=2)
    groups = "heads+mlps+q+k+v+neurons" if model.n_neurons else "heads+q+k+v"
    whole = attribution_patching(model, pairs, nodes=groups)
    split = attribution_patching(model, pairs, nodes=groups, positions="each")
    torch.testing.assert_close(split.per_prompt.sum(1), whole.per_prompt, rtol=1e-4, atol=1e-6)
    assert not split.per_prompt[:, :2].any()
    same = PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    assert not attribution_patching(model, same, nodes=groups).per_prompt.any()


def test_neurons_sum_to_their_mlp():
    """An MLP's output is linear in its neurons."""
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    neurons = attribution_patching(model, pairs, nodes="neurons").per_prompt
    mlps = attribution_patching(model, pairs, nodes="mlps").per_prompt
    torch.testing.assert_close(neurons.reshape(len(mlps), -1, 2).sum(1), mlps)


def test_on_the_last_layer_of_a_model_without_norm_it_is_exact():
    """From a last-layer head to the logit difference all is linear."""
    config = TransformerBridgeConfig(
        d_model=16, d_head=8, n_layers=2, n_ctx=16, n_heads=2, d_vocab=40, act_fn="relu", normalization_type=None,
        attn_only=True, seed=0,
    )  # fmt: skip
    model = circuits.load_model(TransformerBridge.boot_native(config).double())
    pairs = random_pairs(n=3)
    heads = [site.name for site in select_sites(model.graph, "heads") if site.layer == 1]
    estimated = attribution_patching(model, pairs, nodes=heads).per_prompt
    exact = activation_patching(model, pairs, nodes=heads, direction="noising").per_prompt
    torch.testing.assert_close(estimated, exact, rtol=1e-9, atol=1e-9)


def test_batches_do_not_matter_and_contributions_are_means_of_absolute_values():
    model, pairs = tiny("gpt2"), random_pairs(n=5, prefix=1)
    one, five = (attribution_patching(model, pairs, batch_size=size) for size in (1, 5))
    torch.testing.assert_close(one.per_prompt, five.per_prompt)
    torch.testing.assert_close(five.contributions, five.per_prompt.abs().mean(-1))
    assert bool((five.contributions >= five.values.abs()).all())


@pytest.mark.parametrize("metric", ["kl_divergence", "rank"])
def test_metrics_without_a_gradient_are_refused(metric):
    with pytest.raises(InputError, match="gradient"):
        attribution_patching(tiny("gpt2"), random_pairs(n=1), metric=metric)
    with pytest.raises(InputError, match="another run"):
        attribution_patching(tiny("gpt2"), random_pairs(n=1), ablation="zero")
    assert Metric("m", lambda logits, targets: logits[:, 0]).gradient_at_clean


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox"])
def test_along_the_path_of_an_mlp_gradients_sum_to_the_effect_of_patching_it(name):
    model, pairs = tiny(name), random_pairs(n=3)
    along = {"gradient": "ig-activations", "quadrature": "midpoint"}
    scores = circuits.attribution_patching(model, pairs, nodes="mlps", steps=20, **along)
    exact = circuits.activation_patching(model, pairs, nodes="mlps", direction="noising")
    torch.testing.assert_close(scores.values, exact.values, atol=1e-3 * float(exact.values.abs().max()), rtol=0)


def test_along_the_path_of_a_layers_heads_gradients_sum_to_the_effect_of_patching_them_together():
    model, pairs = tiny("llama"), random_pairs(n=3)
    along = {"gradient": "ig-activations", "quadrature": "midpoint"}
    scores = circuits.attribution_patching(model, pairs, nodes="heads", steps=60, **along).to_dict()
    graph = model.graph
    for layer in range(graph.n_layers):
        heads = [node for node in scores if node.startswith(f"a{layer}.")]
        others = [edge for edge in graph.edges if edge.split("->")[0] not in heads]
        metric = circuits.circuit_metric(model, pairs, circuits.Circuit.from_edges(graph, others))
        clean = circuits.circuit_metric(model, pairs, circuits.Circuit.full(graph))
        lost = float((clean - metric).mean())
        assert sum(scores[head] for head in heads) == pytest.approx(lost, rel=1e-3)
