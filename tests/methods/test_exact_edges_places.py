"""Exact effects at places against one ablated pass for each edge at each place."""

import pytest
import torch

from circuits import Circuit, InputError, circuit_metrics, exact_edge_effects
from circuits.graph.places import over
from circuits.question.places import SpanTable
from tests.placed_pairs import placed_pairs, random_placed
from tests.tiny_models import atol, random_subset, tiny

SEVERAL = ("gpt2", "llama", "neox", "gemma2", "mistral", "native-attention-only")


def naive(model, pairs, graph, edges, ablation="interchange"):
    full = Circuit.full(graph)
    without = [full - Circuit.from_edges(graph, [edge]) for edge in edges]
    values = circuit_metrics(model, pairs, [full, *without], ablation=ablation)
    return values[0] - values[1:]


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("destinations", [False, True])
def test_every_edge_alone_at_a_place_is_one_ablated_pass(name, destinations):
    model, pairs = tiny(name), placed_pairs(n=2)
    graph = over(model.graph, SpanTable(pairs).places(destinations))
    keys = [edge for edge in graph.edges if "<k>" in edge or "<v>" in edge]
    edges = [*graph.edges[:: max(1, len(graph.edges) // 6)], *keys[:: max(1, len(keys) // 8)]]
    edges = [edge for edge in graph.edges if edge in edges]
    result = exact_edge_effects(model, pairs, edges, positions="spans", destinations=destinations)
    assert result.edges == tuple(edges)
    wanted = naive(model, pairs, graph, edges)
    assert float(wanted.abs().max()) > 1e-3
    torch.testing.assert_close(result.per_prompt, wanted, rtol=1e-4, atol=max(1e-5, atol(name)))


def test_a_common_prefix_and_the_ablation_are_those_of_the_pass():
    model, pairs = tiny("gpt2"), placed_pairs(n=2, prefix=3)
    graph = over(model.graph, SpanTable(pairs).places(True))
    edges = graph.edges[::97]
    for ablation in ("interchange", "mean"):
        result = exact_edge_effects(model, pairs, edges, positions="spans", destinations=True, ablation=ablation)
        torch.testing.assert_close(result.per_prompt, naive(model, pairs, graph, edges, ablation), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize(("destinations", "with_places"), [(False, True), (True, True), (True, False)])
def test_in_a_circuit_an_edge_is_ablated_or_restored_at_its_place(name, destinations, with_places):
    model, pairs = tiny(name), placed_pairs(n=2, prefix=1)
    graph = over(model.graph, SpanTable(pairs).places(destinations))
    context = random_placed(model, pairs, 0.5, destinations) if with_places else random_subset(model, 0.5)
    edges = graph.edges[:: max(1, len(graph.edges) // 8)]
    result = exact_edge_effects(
        model, pairs, edges, positions="spans", destinations=destinations, context=context, batch_size=1
    ).per_prompt
    inside = context.over(graph.places)
    for edge, got in zip(edges, result, strict=True):
        one = Circuit.from_edges(graph, [edge])
        more, less = circuit_metrics(model, pairs, [inside | one, inside - one])
        torch.testing.assert_close(got, more - less, rtol=1e-4, atol=max(1e-6, atol(name)))
    assert 0 < sum(edge in inside for edge in edges) < len(edges)


def test_all_edges_at_places_make_scores_from_which_circuits_are_chosen():
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    exact = exact_edge_effects(model, pairs, positions="spans")
    scores = exact.to_scores()
    assert scores.to_dict() == pytest.approx(exact.to_dict())
    assert scores.top(30, fill=True, places=True).places == pairs.spans
    one = exact_edge_effects(model, pairs, ["input->m0"], positions="spans")
    assert one.edges == tuple(f"input->m0@{span}" for span in pairs.spans)


def test_a_store_of_other_places_and_contexts_are_refused(tmp_path):
    model, pairs = tiny("gpt2"), placed_pairs(n=1)
    first = exact_edge_effects(model, pairs, ["input->m0"], positions="spans", store=tmp_path / "s")
    again = exact_edge_effects(model, pairs, ["input->m0"], positions="spans", store=tmp_path / "s")
    assert torch.equal(first.per_prompt, again.per_prompt)
    with pytest.raises(InputError, match="another question"):
        exact_edge_effects(model, pairs, ["input->m0"], positions="each", store=tmp_path / "s")
    with pytest.raises(InputError, match="the context has places"):
        exact_edge_effects(model, pairs, context=random_placed(model, pairs, 0.5, False))
    with pytest.raises(InputError, match="have destinations"):
        exact_edge_effects(model, pairs, positions="spans", context=random_placed(model, pairs, 0.5, True))
    with pytest.raises(InputError, match="'spans' or 'each'"):
        exact_edge_effects(model, pairs, positions="roles")
    with pytest.raises(InputError, match="destinations=True needs positions"):
        exact_edge_effects(model, pairs, destinations=True)
