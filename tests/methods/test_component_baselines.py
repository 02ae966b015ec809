"""COAR's baselines against autograd on the parameters themselves, integrals against the path's ends, and rows of matrices."""

import pytest
import torch

import circuits
from circuits import InputError, PromptPairs
from circuits.graph.graph import Graph
from circuits.graph.nodes import Widths, select_sites
from circuits.measure.component_samples import Sampler, in_blocks
from circuits.question.question import Question
from tests.tiny_models import random_hf_model, random_native_bridge, random_pairs, tiny


def theta_times_gradient(model, pairs, parameters):
    """θ · ∂metric/∂θ of each parameter on each prompt, by autograd."""
    for parameter in parameters:
        parameter.requires_grad_()
    result = []
    for one in (pairs[i : i + 1] for i in range(len(pairs))):
        logits = model.bridge(torch.tensor(one.clean))[0, -1]
        gradients = torch.autograd.grad(logits[one.answers[0][0]] - logits[one.distractors[0][0]], parameters)
        result.append(
            [parameter.detach() * gradient for parameter, gradient in zip(parameters, gradients, strict=True)]
        )
    return result


def test_gradient_times_parameter_is_that_of_the_parameters():
    model, pairs = circuits.load_model(random_hf_model("llama")), random_pairs(n=3)
    got = circuits.gradient_times_parameter(model, pairs)
    for layer, block in enumerate(model.bridge.original_model.model.layers):
        attention = [getattr(block.self_attn, f"{x}_proj").weight for x in "qkvo"]
        heads = [i for i, node in enumerate(got.nodes) if node.startswith(f"a{layer}.")]
        mlp = [block.mlp.gate_proj.weight, block.mlp.up_proj.weight, block.mlp.down_proj.weight]
        for parameters, rows in ((attention, heads), (mlp, [got.nodes.index(f"m{layer}")])):
            products = theta_times_gradient(model, pairs, parameters)
            wanted = torch.tensor([sum(float(p.sum()) for p in prompt) for prompt in products], dtype=torch.float64)
            torch.testing.assert_close(got.per_prompt[rows].sum(0), wanted, rtol=1e-4, atol=1e-5)


def products_by_map(model, pairs, layer):
    """{`q_proj`: θ · ∂metric/∂θ of its weight, [prompt, out, in], and of its bias, [prompt, out, 1], if it has one}, by autograd."""
    named = dict(model.bridge.original_model.model.layers[layer].named_parameters())
    named = {name: parameter for name, parameter in named.items() if "_proj" in name}
    products = theta_times_gradient(model, pairs, list(named.values()))
    result = {}
    for i, name in enumerate(named):
        stacked = torch.stack([prompt[i] for prompt in products]).double()
        part = next(word for word in name.split(".") if word.endswith("_proj"))
        result.setdefault(part, []).append(stacked.reshape(2, stacked.shape[1], -1))
    return result


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "olmo2", "qwen2", "llama", "granite"])
def test_components_behind_and_without_post_norms_against_autograd_on_their_own_parameters(name):
    """Separate projections: heads with shared keys and values, MLPs, neurons, queries, keys, values and output rows."""
    model, pairs = circuits.load_model(random_hf_model(name)), random_pairs(n=2)
    layer, d_head = 1, model.widths.d_head
    n_heads, n_kv = model.graph.n_heads, model.graph.n_kv_heads
    products = products_by_map(model, pairs, layer)

    def by_head(part, heads):
        return sum(value.reshape(2, heads, d_head, -1).sum((2, 3)) for value in products[f"{part}_proj"])

    q, k, v = by_head("q", n_heads), by_head("k", n_kv), by_head("v", n_kv)
    o = next(value for value in products["o_proj"] if value.shape[2] > 1)
    group = n_heads // n_kv
    kv = "kv" if model.graph.grouped else "h"
    wanted = {}
    for h in range(n_heads):
        shared = (k + v)[:, h // group] / group
        wanted[f"a1.h{h}"] = q[:, h] + shared + o.reshape(2, -1, n_heads, d_head)[:, :, h].sum((1, 2))
    wanted |= {"a1.h1<q>": q[:, 1], f"a1.{kv}0<k>": k[:, 0], f"a1.{kv}1<v>": v[:, 1]}
    mlp = [*products["up_proj"], *products["gate_proj"]]
    wanted["m1"] = sum(value.sum((1, 2)) for value in [*mlp, *products["down_proj"]])
    wanted["m1.n5"] = sum(value[:, 5].sum(1) for value in mlp)
    for node, part in (("a1.W_O[3]", "o"), ("m1.W_out[7]", "down"), ("a1.W_Q[9]", "q")):
        row = int(node[:-1].split("[")[1])
        wanted[node] = sum(value[:, row].sum(1) for value in products[f"{part}_proj"])
    got = circuits.gradient_times_parameter(model, pairs, nodes=list(wanted))
    for row, node in enumerate(got.nodes):
        torch.testing.assert_close(
            got.per_prompt[row], wanted[node], rtol=1e-3, atol=1e-4, msg=lambda m, node=node: f"{node}: {m}"
        )


def test_gradient_times_parameter_of_single_heads_and_neurons_biases_included():
    model, pairs = circuits.load_model(random_native_bridge("native")), random_pairs(n=2)
    named = dict(model.bridge.blocks[1].attn.named_parameters())
    projections = {name: p for name, p in named.items() if ".o." not in name}
    output = next(p for name, p in named.items() if ".o." in name and name.endswith("weight"))
    wanted = torch.zeros(3, 2, dtype=torch.float64)
    for i, products in enumerate(theta_times_gradient(model, pairs, [*projections.values(), output])):
        for product in products[:-1]:
            wanted[:, i] += product.reshape(3, 8, -1).sum((1, 2))
        wanted[:, i] += products[-1].reshape(24, 3, 8).sum((0, 2))
    got = circuits.gradient_times_parameter(model, pairs, nodes=["a1.h0", "a1.h1", "a1.h2"])
    torch.testing.assert_close(got.per_prompt, wanted, rtol=1e-6, atol=1e-8)
    inner = [p for name, p in model.bridge.blocks[1].mlp.named_parameters() if ".in." in name or "_in" in name]
    assert len(inner) == 2
    neuron = circuits.gradient_times_parameter(model, pairs, nodes=["m1.n5"])
    rows = [sum(float(p[5].sum()) for p in products) for products in theta_times_gradient(model, pairs, inner)]
    torch.testing.assert_close(neuron.per_prompt[0], torch.tensor(rows, dtype=torch.float64), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_conductance_of_the_embedding_is_the_whole_change_and_of_nodes_that_of_their_edges(name):
    model, pairs = tiny(name), random_pairs(n=2)
    result = circuits.neuron_conductance(model, pairs, nodes="input+heads+mlps", ablation="interchange", steps=20)
    ends = circuits.circuit_metric(model, pairs, circuits.Circuit.empty(model.graph))
    torch.testing.assert_close(result.per_prompt[0], result.clean - ends.double(), rtol=0.1, atol=0.1)
    edges = circuits.edge_attribution(model, pairs, gradient="conductance", steps=20).to_nodes()
    rows = [result.nodes.index(node) for node in edges.nodes]
    torch.testing.assert_close(result.per_prompt[rows], edges.per_prompt.double(), rtol=1e-4, atol=1e-4)


def test_internal_influence_on_a_linear_path_is_the_gradient():
    model, pairs = tiny("native-attention-only"), random_pairs(n=2)
    same = PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    result = circuits.internal_influence(model, same, ablation="interchange", steps=3)
    sampler = Sampler.for_question(Question.ask(model, same, None, "interchange"), ["a2.h1"])
    assert sampler.nodes == ("a2.h1",)
    tokens = torch.tensor(same.clean)
    kept = {}

    def add(value, hook):
        kept["zero"] = torch.zeros_like(value, requires_grad=True)
        return value + kept["zero"]

    logits = model.bridge.run_with_hooks(tokens, fwd_hooks=[("blocks.2.attn.hook_z", add)])[:, -1]
    rows = torch.arange(2)
    right, wrong = ([ids[0] for ids in which] for which in (same.answers, same.distractors))
    (logits[rows, right] - logits[rows, wrong]).sum().backward()
    torch.testing.assert_close(result.per_prompt[result.nodes.index("a2.h1")], kept["zero"].grad[:, :, 1].sum((1, 2)))


@pytest.mark.parametrize("row", ["a1.W_Q[13]", "a1.W_K[7]", "a1.W_V[4]", "a1.W_O[20]", "m1.W_out[3]", "m1.n9"])
def test_an_ablated_row_is_a_matrix_without_it(row):
    pairs = random_pairs(n=3)
    model = circuits.load_model(random_hf_model("llama"))
    sampler = Sampler.for_question(Question.ask(model, pairs, None, "zero"), [row])
    got = sampler.measured("row", in_blocks(torch.ones(1, 1).bool())).outcomes[0]
    cut = random_hf_model("llama")
    block = cut.model.layers[1]
    number = int(row.split("[")[-1].strip("]")) if "[" in row else int(row.split("n")[-1])
    part = row.split("_")[-1].split("[")[0] if "[" in row else "in"
    matrices = {
        "Q": block.self_attn.q_proj, "K": block.self_attn.k_proj, "V": block.self_attn.v_proj,
        "O": block.self_attn.o_proj, "out": block.mlp.down_proj, "in": block.mlp.up_proj,
    }  # fmt: skip
    with torch.no_grad():
        matrices[part].weight[number] = 0
    without = circuits.load_model(cut)
    wanted = circuits.circuit_metric(without, pairs, circuits.Circuit.full(without.graph))
    torch.testing.assert_close(got, wanted.double(), rtol=1e-5, atol=1e-5)


def test_groups_of_rows_and_wholes_mix_and_rows_are_counted():
    model, pairs = tiny("llama"), random_pairs(n=2)
    sampler = Sampler.for_question(Question.ask(model, pairs, None, "zero"), "rows")
    assert len(sampler.nodes) == 3 * (24 + 12 + 12 + 24 + 32 + 24)
    mixed = ["m1", "m1.W_out[3]", "a1.h2", "a1.h2<q>", "a1.W_Q[2]", "a1.W_Q[13]"]
    sampler = Sampler.for_question(Question.ask(model, pairs, None, "zero"), mixed)
    assert set(sampler.nodes) == set(mixed)
    one = sampler.measured("all", in_blocks(torch.ones(1, 6).bool())).outcomes[0]
    fewer = Sampler.for_question(Question.ask(model, pairs, None, "zero"), ["m1", "a1.h2", "a1.W_Q[2]"])
    torch.testing.assert_close(one, fewer.measured("all", in_blocks(torch.ones(1, 3).bool())).outcomes[0])


@pytest.mark.parametrize("name", ["a1.W_Q[24]", "a1.W_K[12]", "a9.W_Q[0]", "m1.W_out[24]", "a1.W_X[0]"])
def test_rows_that_are_not_there_are_refused(name):
    with pytest.raises(InputError, match="there is no"):
        circuits.coar(tiny("llama"), random_pairs(n=2), nodes=[name], samples=4)


def test_what_baselines_cannot_score_is_refused():
    model, pairs = tiny("llama"), random_pairs(n=2)
    with pytest.raises(InputError, match="embedding"):
        circuits.gradient_times_parameter(model, pairs, nodes="input")
    with pytest.raises(InputError, match="steps"):
        circuits.neuron_conductance(model, pairs, steps=0)
    with pytest.raises(InputError, match="gradient"):
        circuits.internal_influence(model, pairs, metric="accuracy")
    with pytest.raises(InputError, match="experts"):
        circuits.gradient_times_parameter(tiny("mixtral"), pairs, nodes="mlps")


INPUT_ROWS = {
    "a1.W_QKV.in[5]": ("attn.c_attn", 5), "a1.W_O.in[17]": ("attn.c_proj", 17),
    "m1.W_in.in[3]": ("mlp.c_fc", 3), "m1.W_out.in[40]": ("mlp.c_proj", 40),
}  # fmt: skip
"""Rows of GPT-2's Conv1D weights, as COAR's authors zero them."""


def test_input_rows_are_rows_of_conv1d_weights_with_their_biases_kept():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    block = model.bridge.original_model.transformer.h[1]
    assert all(bool(block.get_submodule(name).bias.abs().min() > 0) for name, _ in INPUT_ROWS.values())
    sampler = Sampler.for_question(Question.ask(model, pairs, None, "zero"), list(INPUT_ROWS))
    masks = torch.cat([torch.eye(4).bool(), torch.ones(1, 4).bool()])
    got = sampler.measured("rows", in_blocks(masks)).outcomes
    for mask, outcome in zip(masks, got, strict=True):
        cut = random_hf_model("gpt2")
        with torch.no_grad():
            for name, gone in zip(sampler.nodes, mask.tolist(), strict=True):
                module, row = INPUT_ROWS[name]
                if gone:
                    cut.transformer.h[1].get_submodule(module).weight[row] = 0
        without = circuits.load_model(cut)
        wanted = circuits.circuit_metric(without, pairs, circuits.Circuit.full(without.graph))
        torch.testing.assert_close(outcome, wanted.double(), rtol=1e-8, atol=1e-8)


def test_gradient_times_parameter_of_input_rows_leaves_biases_out():
    model, pairs = circuits.load_model(random_hf_model("gpt2")), random_pairs(n=2)
    block, attention = (
        model.bridge.original_model.transformer.h[1],
        dict(model.bridge.blocks[1].attn.named_parameters()),
    )
    weights = [block.get_submodule(name).weight for name, _ in INPUT_ROWS.values() if name != "attn.c_attn"]
    split = [
        attention[f"{part}._original_component.weight"] for part in "qkv"
    ]  # of c_attn, as the model uses it: [out, in]
    whole = block.attn.c_attn.weight
    assert torch.equal(torch.cat(split).T, whole)
    products = theta_times_gradient(model, pairs, [*weights, *split])
    got = circuits.gradient_times_parameter(model, pairs, nodes=list(INPUT_ROWS))
    wanted = {"a1.W_QKV.in[5]": [sum(product[:, 5].sum() for product in prompt[3:]) for prompt in products]}
    for i, (node, (_, row)) in enumerate(list(INPUT_ROWS.items())[1:]):
        wanted[node] = [prompt[i][row].sum() for prompt in products]
    for node, values in wanted.items():
        torch.testing.assert_close(got.per_prompt[got.nodes.index(node)], torch.stack(values), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["llama", "gemma2", "neox"])
def test_input_rows_of_separate_matrices_are_zeroed_together(name):
    """The queries', keys' and values' columns; the gate's and the input matrix's."""
    model, pairs = tiny(name), random_pairs(n=2)
    sampler = Sampler.for_question(Question.ask(model, pairs, None, "zero"), ["a1.W_QKV.in[5]", "m1.W_in.in[7]"])
    got = sampler.measured("rows", in_blocks(torch.eye(2).bool())).outcomes
    for i, (column, which) in enumerate(
        [(5, ("q_proj", "k_proj", "v_proj", "query_key_value")), (7, ("gate_proj", "up_proj", "dense_h_to_4h"))]
    ):
        cut = random_hf_model(name)
        layers = cut.gpt_neox.layers if name == "neox" else cut.model.layers
        with torch.no_grad():
            for path, module in layers[1].named_modules():
                if path.split(".")[-1] in which:
                    module.weight[:, column] = 0
        without = circuits.load_model(cut)
        wanted = circuits.circuit_metric(without, pairs, circuits.Circuit.full(without.graph))
        torch.testing.assert_close(got[i], wanted.double(), rtol=1e-4, atol=1e-4)


def test_gpt2_small_has_the_authors_number_of_input_rows_and_ours_of_output_rows():
    graph = Graph(n_layers=12, n_heads=12, n_kv_heads=12, mlps=(True,) * 12)
    widths = Widths(d_head=64, d_model=768, neurons=3072)
    assert len(select_sites(graph, "input_rows", widths)) == 64_512
    assert len(select_sites(graph, "rows", widths)) == 82_944


@pytest.mark.parametrize(
    "name", ["a1.W_QKV.in[24]", "a9.W_O.in[0]", "m1.W_in.in[24]", "m1.W_out.in[99]", "a1.W_Q.in[0]"]
)
def test_input_rows_that_are_not_there_are_refused(name):
    with pytest.raises(InputError, match="there is no"):
        circuits.coar(tiny("llama"), random_pairs(n=2), nodes=[name], samples=4)
    with pytest.raises(InputError, match="no such matrix"):
        circuits.coar(tiny("native-attention-only"), random_pairs(n=2), nodes=["m1.W_in.in[0]"], samples=4)


def test_atp_star_refuses_rows_that_it_cannot_score():
    for node in ("a1.W_Q[3]", "m1.W_out[3]", "a1.W_O.in[3]", "m1.W_in.in[2]"):
        with pytest.raises(InputError, match="whole nodes"):
            circuits.atp_star(tiny("gpt2"), random_pairs(n=2), nodes=[node])
