"""Circuits that know places and circuits that do not, at equal numbers of (edge, place) pairs."""

import pytest
import torch

from circuits import (
    Circuit,
    InputError,
    circuit_metrics,
    completeness,
    curves_over_places,
    edge_attribution,
    minimality,
)
from circuits.evaluation.curves import over_common_places
from circuits.graph.places import Places, over
from tests.placed_pairs import placed_pairs
from tests.tiny_models import tiny


def test_each_point_is_the_faithfulness_of_that_many_pairs():
    model, pairs = tiny("gpt2"), placed_pairs(n=4)
    blind, aware = edge_attribution(model, pairs), edge_attribution(model, pairs, positions="spans")
    curves = curves_over_places(model, pairs, {"blind": blind, "aware": aware}, fractions=(0.1, 0.4), resamples=10)
    graph = aware.over_places().graph
    spread = blind.spread(graph.places)
    for name, scores in {"blind": spread, "aware": aware.over_places()}.items():
        chosen = [scores.top(int(share * graph.n_edges)) for share in (0.1, 0.4)]
        ends = [Circuit.full(model.graph), Circuit.empty(model.graph)]
        full, empty, *values = circuit_metrics(model, pairs, [*ends, *chosen]).mean(1).tolist()
        wanted = [(value - empty) / (full - empty) for value in values]
        assert curves[name].absolute.faithfulness.tolist() == pytest.approx([*wanted, 1.0])
        assert curves[name].absolute.edges == (*map(len, chosen), graph.n_edges)


def test_an_edge_that_does_not_know_places_comes_with_all_of_them():
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    scores = edge_attribution(model, pairs)
    placed = over(model.graph, Places(pairs.spans, True, ("end",)))
    spread = scores.spread(placed.places)
    kept = spread.threshold(0.05)
    plain = scores.threshold(0.05)
    assert kept == plain.over(placed.places).pruned()


def test_scores_with_destinations_set_the_unit():
    model, pairs = tiny("llama"), placed_pairs(n=2)
    each = {
        "plain": edge_attribution(model, pairs),
        "places": edge_attribution(model, pairs, positions="spans"),
        "queries": edge_attribution(model, pairs, positions="spans", destinations=True),
    }
    together = over_common_places(each)
    assert len({scores.graph for scores in together.values()}) == 1
    name = next(edge for edge, _, _ in together["queries"].strongest(50) if "=>" in edge)
    assert together["places"][name] == pytest.approx(each["places"][name.partition("=>")[0]])


def test_scores_without_places_alone_are_refused():
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    with pytest.raises(InputError, match="none of these scores has places"):
        curves_over_places(model, pairs, {"a": edge_attribution(model, pairs)})


def test_other_evaluations_take_circuits_over_places():
    model, pairs = tiny("gpt2"), placed_pairs(n=3)
    circuit = edge_attribution(model, pairs, positions="spans").top(30, fill=True, places=True)
    assert completeness(model, pairs, circuit, subsets=2).to_dict()
    result = minimality(model, pairs, circuit)
    assert result.edges == circuit.edges
    edge = circuit.edges[3]
    without = circuit - Circuit.from_edges(circuit.graph, [edge])
    kept, gone = circuit_metrics(model, pairs, [circuit, without])
    torch.testing.assert_close(result.effects[3], kept - gone)
