"""MIB's rule against slow twins, the count of ours, and the scores of nodes and neurons."""

import math

import pytest
import torch

import circuits
from circuits import Importances, InputError
from circuits.engine.ablate import ablated_logits
from circuits.engine.ablate_mixed import capture_plain, mixed_logits
from circuits.engine.hooks import inference_state, run
from circuits.graph.ungrouped import summed_over_groups
from circuits.mib.curve import CIRCUITS, Part, measure_parts
from circuits.question.question import Question
from tests.tiny_models import FEW, random_hf_model, random_pairs, random_subset, tiny

PAIRS = random_pairs(4, 6, prefix=2)


@pytest.mark.parametrize("name", [name for name in FEW if name != "gemma2"])
def test_edges_are_ablated_as_everywhere_without_a_norm_after_attention(name):
    model, question = tiny(name), Question.ask(tiny(name), PAIRS)
    circuit = random_subset(model, 0.5)
    with inference_state(model.bridge):
        for batch in question.batches():
            _, clean = question.clean_run(batch.suffix)
            usual = ablated_logits(
                model.architecture, batch.suffix, question.replacement(batch.suffix, clean), circuit.mask
            )
            plain = capture_plain(model.architecture, batch.suffix.corrupted_tokens)
            mixed = mixed_logits(model.architecture, batch.suffix, plain, circuit.mask)
            torch.testing.assert_close(mixed, usual, atol=1e-10 if name != "llama" else 1e-5, rtol=0)


def _patched_by_hand(model, tokens, other, kept):
    """A run in which each writer's output keeps only some coordinates: hooks on the model itself, all positions."""
    architecture, hooks = model.architecture, []
    graph, plain = architecture.graph, capture_plain(architecture, other)

    def mixed(writer, own, replaced):
        return torch.where(kept[writer], own, replaced)

    def at_heads(block, value, z):
        weight = block.output_projection
        own, replaced = (torch.einsum("bphe,hed->bphd", x, weight) for x in (z, plain.heads[block.layer]))
        writers = range(*graph.head_writers(block.layer).indices(graph.n_writers))
        summed = sum(mixed(w, own[:, :, h], replaced[:, :, h]) for h, w in enumerate(writers))
        return summed if block.output_bias is None else summed + block.output_bias

    for block in architecture.blocks:
        held = {}
        hooks.append((block.z, lambda z, held=held: held.__setitem__("z", z)))
        hooks.append((block.attn_projected, lambda x, block=block, held=held: at_heads(block, x, held["z"])))
        hooks.append(
            (block.mlp_out, lambda x, block=block: mixed(graph.mlp_writer(block.layer), x, plain.mlps[block.layer]))
        )
    hooks.append((architecture.blocks[0].resid_pre, lambda x: mixed(0, x, plain.embedding)))
    with torch.no_grad():
        return run(architecture, tokens, hooks)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_nodes_and_neurons_are_replaced_in_the_residual_stream(name):
    """Also under a norm after attention: the norm sees the mixture of the heads."""
    model, question = tiny(name), Question.ask(tiny(name), PAIRS)
    graph, draw = model.graph, torch.Generator().manual_seed(0)
    neurons = torch.rand(graph.n_writers, 24, generator=draw) < 0.6
    nodes = (torch.rand(graph.n_writers, 1, generator=draw) < 0.6).expand(-1, 24)
    with inference_state(model.bridge):
        for batch in question.batches(share_prefix=False):
            suffix = batch.suffix
            plain = capture_plain(model.architecture, suffix.corrupted_tokens)
            for kept, given in ((neurons, neurons), (nodes, None)):
                mask = graph.edge_mask & kept.any(1, keepdim=True)
                result = mixed_logits(model.architecture, suffix, plain, mask, given)
                slow = _patched_by_hand(model, suffix.clean_tokens, suffix.corrupted_tokens, kept)
                torch.testing.assert_close(result, slow, atol=1e-4, rtol=0)


def test_neurons_of_a_layer_norm_model_are_centred():
    """Adding one number to all coordinates of a write changes nothing that the model computes, and here not the neurons either."""
    model, shifted = tiny("gpt2"), random_hf_model("gpt2")
    with torch.no_grad():
        for block in shifted.transformer.h:
            block.mlp.c_proj.weight += torch.randn(96, 1, generator=torch.Generator().manual_seed(1)).double()
    other = circuits.load_model(shifted)
    draw = torch.Generator().manual_seed(0)
    neurons = torch.rand(model.graph.n_writers, 24, generator=draw) < 0.6
    part = [Part(model.graph.edge_mask, 0, neurons)]
    values = [measure_parts(Question.ask(one, PAIRS), part).values for one in (model, other)]
    torch.testing.assert_close(*values, atol=1e-8, rtol=0)
    whole = [circuits.mib_importances(one, PAIRS, method="eap", level="neuron").neurons for one in (model, other)]
    torch.testing.assert_close(*whole, atol=1e-8, rtol=0)


def _curve_by_hand(model, scores, n_edges, masks, by):
    """f at every share, from the definition."""
    question = Question.ask(model, PAIRS)
    order = sorted(range(n_edges), key=lambda i: -(abs(scores[i]) if by == "abs" else scores[i]))
    parts = [Part(model.graph.edge_mask, 0), Part(model.graph.edge_mask & False, 0)]
    for share in CIRCUITS:
        mask = torch.zeros_like(model.graph.edge_mask)
        for i in order[: int(share * n_edges)]:
            mask |= masks[i]
        parts.append(Part(mask, 0))
    means = measure_parts(question, parts).values.mean(1)
    return (means[2:] - means[1]) / (means[0] - means[1])


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_our_count_keeps_or_ablates_a_shared_head_for_all_its_queries(name):
    model = circuits.load_model(random_hf_model(name), ungrouped=True)
    graph, grouped = model.graph, model.grouped_graph
    assert (graph.grouped, grouped.n_kv_heads, grouped) == (False, 2, tiny(name).graph)
    values = torch.randn(graph.edge_mask.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    importances = Importances(graph, values * graph.edge_mask, torch.zeros_like(graph.edge_mask))
    result = circuits.mib_curves(model, PAIRS, importances, resamples=10)
    assert (result.n_mib, result.n_ours) == (graph.n_edges, tiny(name).graph.n_edges)
    summed, masks = [], []
    for edge in grouped.edges:
        source, _, target = edge.partition("->")
        copies = [target]
        if ".kv" in target:
            layer, _, rest = target.partition(".kv")
            copies = [f"{layer}.h{h}<{rest[2]}>" for h in range(2 * int(rest[0]), 2 * int(rest[0]) + 2)]
        at = [graph.edge_index(f"{source}->{copy}") for copy in copies]
        summed.append(sum(float(importances.edges[where]) for where in at))
        mask = torch.zeros_like(graph.edge_mask)
        for where in at:
            mask[where] = True
        masks.append(mask)
    for curve, by in ((result.ours.signed, "signed"), (result.ours.absolute, "abs")):
        slow = _curve_by_hand(model, summed, grouped.n_edges, masks, by)
        torch.testing.assert_close(curve.faithfulness[:-1], slow, atol=1e-4, rtol=0)


def test_scores_of_query_heads_sum_to_those_of_the_shared_head():
    grouped, flat = tiny("llama"), circuits.load_model(random_hf_model("llama"), ungrouped=True)
    result = circuits.mib_importances(flat, PAIRS, method="eap")
    right = circuits.edge_attribution(grouped, PAIRS, gradient="clean")
    total = summed_over_groups(result.edges, grouped.graph, flat.graph)
    torch.testing.assert_close(total, right.values.double(), atol=1e-4, rtol=1e-4)
    assert (result.provenance["method"], result.provenance["level"]) == ("edge_attribution", "edge")


@pytest.mark.parametrize("name", ["gpt2", "neox", "granite"])
@pytest.mark.parametrize("method", ["eap", "eap-ig"])
def test_the_neurons_of_a_node_sum_to_its_score(name, method):
    nodes = circuits.mib_importances(tiny(name), PAIRS, method=method, level="node").nodes
    neurons = circuits.mib_importances(tiny(name), PAIRS, method=method, level="neuron").neurons
    torch.testing.assert_close(neurons.sum(1), nodes, atol=1e-6 if name != "granite" else 1e-3, rtol=1e-3)


def test_methods_of_nodes_and_nodes_without_a_score():
    model = tiny("gpt2")
    result = circuits.mib_importances(model, PAIRS, method="attribution-patching", level="node")
    edges = circuits.mib_importances(model, PAIRS, method="eap", level="node")
    torch.testing.assert_close(result.nodes, edges.nodes)
    part = result.nodes.clone()
    part[0] = math.nan
    curves = circuits.mib_curves(
        model, PAIRS, Importances(model.graph, result.edges, result.in_graph, part), resamples=10
    )
    assert (curves.level, curves.n_mib, curves.mib.signed.edges[0]) == ("node", model.graph.n_writers - 1, 1)


def test_what_cannot_be_evaluated_is_refused():
    model = tiny("gpt2")
    blank = Importances(model.graph, torch.zeros(model.graph.edge_mask.shape).double(), model.graph.edge_mask & False)
    with pytest.raises(InputError, match="load it with ungrouped=True"):
        circuits.mib_curves(tiny("llama"), PAIRS, blank)
    with pytest.raises(InputError, match="belongs to another model"):
        circuits.mib_curves(tiny("neox"), PAIRS, blank)
    with pytest.raises(InputError, match="no score of an edge other than 0"):
        circuits.mib_curves(model, PAIRS, blank)
    with pytest.raises(InputError, match="no scores of neurons"):
        circuits.mib_curves(model, PAIRS, blank, level="neuron")
    with pytest.raises(InputError, match="gives a circuit"):
        circuits.mib_importances(model, PAIRS, method="acdc")
    with pytest.raises(InputError, match="neurons are scored by eap or eap-ig"):
        circuits.mib_importances(model, PAIRS, method="atp-star", level="neuron")


def test_circuits_of_neurons_have_the_curve_of_their_scores(tmp_path):
    model = tiny("gpt2")
    scores = circuits.mib_importances(model, PAIRS, method="eap", level="neuron")
    places = circuits.write_cell(scores, tmp_path, task="ioi", model_name="gpt2", as_circuits=True)
    right = circuits.mib_curves(model, PAIRS, scores, resamples=10)
    for place, curve in zip(places, (right.mib.signed, right.mib.absolute), strict=True):
        for i, path in enumerate(sorted(place.iterdir())):
            path.rename(place / f"{(i * 4) % 9}.json")
        result = circuits.mib_curves(model, PAIRS, circuits.read_circuits(place), resamples=10)
        assert (result.level, result.mib.signed.edges[:-1]) == ("neuron", curve.edges[:-1])
        torch.testing.assert_close(result.mib.signed.faithfulness, curve.faithfulness)
