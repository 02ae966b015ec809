"""Completeness, minimality, and random circuits of the same layers."""

import pytest
import torch

import circuits
from circuits import Circuit, InputError
from circuits.results.random_circuits import exchanged_heads, random_circuits
from tests.tiny_models import random_pairs, random_subset, tiny


def test_the_whole_model_is_complete_and_nothing_is_not():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    assert circuits.completeness(model, pairs, Circuit.full(model.graph), subsets=2).value == pytest.approx(1)
    nothing = circuits.completeness(model, pairs, Circuit.empty(model.graph), subsets=0)
    assert nothing.complement == pytest.approx(1)
    whole = circuits.completeness(model, pairs, Circuit.full(model.graph), subsets=3)
    assert whole.incompleteness == pytest.approx(0)


def test_subsets_are_left_out_of_circuit_and_model():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    circuit = random_subset(model, 0.5)
    result = circuits.completeness(model, pairs, circuit, subsets=2, seed=5)
    generator = torch.Generator().manual_seed(5)
    full = Circuit.full(model.graph)
    ends = [float(circuits.circuit_metric(model, pairs, c).mean()) for c in (full, Circuit.empty(model.graph))]
    for i in range(2):
        k = Circuit(model.graph, circuit.mask & (torch.rand(circuit.mask.shape, generator=generator) < 0.5))
        for c, share in ((circuit - k, result.circuit_without[i]), (full - k, result.model_without[i])):
            wanted = (float(circuits.circuit_metric(model, pairs, c).mean()) - ends[1]) / (ends[0] - ends[1])
            assert float(share) == pytest.approx(wanted)
        assert result.sizes[i] == len(k)


def test_minimality_is_the_loss_without_each_edge():
    model, pairs = tiny("llama"), random_pairs(n=2)
    circuit = circuits.random_circuit(model.graph, 20, torch.Generator().manual_seed(0))
    result = circuits.minimality(model, pairs, circuit)
    whole = circuits.circuit_metric(model, pairs, circuit)
    assert result.edges == circuit.edges
    for edge, effect in zip(result.edges, result.effects, strict=True):
        without = circuit - Circuit.from_edges(model.graph, [edge])
        torch.testing.assert_close(effect, whole - circuits.circuit_metric(model, pairs, without), rtol=1e-4, atol=1e-6)
    strongest = result.edges[int(result.values.abs().argmax())]
    assert strongest not in result.idle(0.5)
    with pytest.raises(InputError, match="no edges"):
        circuits.minimality(model, pairs, Circuit.empty(model.graph))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_exchanged_heads_keep_size_layers_and_shape(name):
    model = tiny(name)
    circuit = circuits.random_circuit(model.graph, 25, torch.Generator().manual_seed(1))
    for rival in random_circuits(circuit, 6, "same_layers", seed=2):
        assert len(rival) == len(circuit)
        assert rival.pruned() == rival
        assert layers(rival) == layers(circuit)
    assert len(set(random_circuits(circuit, 6, "same_layers", seed=2))) > 1
    assert random_circuits(circuit, 2, "same_layers", seed=3) == random_circuits(circuit, 2, "same_layers", seed=3)
    full = Circuit.full(model.graph)
    assert exchanged_heads(full, torch.Generator().manual_seed(0)) == full


def layers(circuit):
    """How many edges go from which layer and kind into which."""
    graph = circuit.graph
    return sorted(
        (
            graph.writer_nodes[w].layer,
            graph.writer_nodes[w].kind,
            graph.reader_nodes[r].layer,
            graph.reader_nodes[r].part,
        )
        for w, r in circuit.mask.nonzero().tolist()
    )


def test_faithfulness_tells_both_ratios_and_a_p_value():
    model, pairs = tiny("gpt2"), random_pairs(n=4)
    circuit = circuits.edge_attribution(model, pairs).top(60)
    result = circuits.faithfulness(model, pairs, circuit, n_random=9, random_kind="same_layers")
    ratios = (result.circuit - result.ablated) / (result.clean - result.ablated)
    assert result.mean_of_ratios == pytest.approx(float(ratios.mean()))
    near = (result.random - result.clean.mean()).abs() <= (result.circuit - result.clean).mean().abs()
    assert result.p_value == pytest.approx((1 + int(near.sum())) / 10)
    assert "interchange ablation" in result.name
    alone = circuits.faithfulness(model, pairs, circuit, n_random=0)
    assert alone.p_value != alone.p_value
    with pytest.raises(InputError, match="random circuits must be one of"):
        circuits.faithfulness(model, pairs, circuit, random_kind="similar")
