"""Circuits that a circuit is compared with: never itself, never one twice, and refused where there are too few."""

import math
from itertools import combinations

import pytest
import torch

import circuits
from circuits import Circuit, Graph, InputError
from circuits.results.random_circuits import KINDS, distinct_rivals, random_circuits
from tests.tiny_models import random_pairs, tiny

SMALL = Graph(1, 1, 1, (True,))
"""input, one head, one MLP: 8 edges."""


def connected(graph, n):
    """All circuits of n edges of which each lies on a path, by enumeration."""
    edges = graph.edges
    every = (Circuit.from_edges(graph, chosen) for chosen in combinations(edges, n))
    return {circuit for circuit in every if circuit.pruned() == circuit}


@pytest.mark.parametrize("n", range(1, SMALL.n_edges + 1))
def test_rivals_in_a_small_graph_are_other_connected_circuits_and_all_of_them_where_all_can_be_drawn(n):
    every = connected(SMALL, n)
    for circuit in list(every)[:2]:
        rivals = distinct_rivals(circuit, 100)
        assert circuit not in rivals
        assert len(set(rivals)) == len(rivals)
        assert set(rivals) <= every - {circuit}
        if n not in (4, 5, 6):  # a few of these sizes are never drawn: no walk begins them
            assert set(rivals) == every - {circuit}


@pytest.mark.parametrize("kind", KINDS)
def test_rivals_differ_from_the_circuit_and_from_each_other(kind):
    model = tiny("llama")
    for n in (2, 6, 30, model.graph.n_edges - 2):
        circuit = circuits.random_circuit(model.graph, n, torch.Generator().manual_seed(n))
        rivals = distinct_rivals(circuit, 12, kind, seed=1)
        assert circuit not in rivals
        assert len(set(rivals)) == len(rivals)
        assert all(len(rival) == n for rival in rivals)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_graph_the_direct_edge_and_the_empty_circuit_have_no_rivals(kind):
    graph = tiny("gpt2").graph
    for circuit in (Circuit.full(graph), Circuit.from_edges(graph, ["input->logits"]), Circuit.empty(graph)):
        assert distinct_rivals(circuit, 5, kind) == []
        with pytest.raises(InputError, match="none of 5 random circuits"):
            random_circuits(circuit, 5, kind)
    assert random_circuits(Circuit.full(graph), 0, kind) == []


def test_a_circuit_of_mlps_has_no_rival_of_the_same_layers_and_one_of_a_head_as_many_as_there_are_other_heads():
    graph = tiny("gpt2").graph
    mlps = Circuit.from_edges(graph, ["input->m0", "m0->logits"])
    assert distinct_rivals(mlps, 5, "same_layers") == []
    head = Circuit.from_edges(graph, ["input->a1.h0<v>", "a1.h0->logits"])
    assert len(distinct_rivals(head, 20, "same_layers")) == graph.n_heads - 1
    with pytest.raises(InputError, match="only 2 of 20"):
        random_circuits(head, 20, "same_layers")


def test_faithfulness_has_as_many_rivals_as_there_are_and_says_so():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    direct = circuits.faithfulness(model, pairs, Circuit.from_edges(model.graph, ["input->logits"]), n_random=4)
    assert len(direct.random) == 0
    assert math.isnan(direct.p_value)
    assert direct.too_few_random is not None
    assert "none of 4" in direct.too_few_random
    head = Circuit.from_edges(model.graph, ["input->a1.h0<v>", "a1.h0->logits"])
    result = circuits.faithfulness(model, pairs, head, n_random=20, random_kind="same_layers")
    assert len(result.random) == 2
    assert result.p_value >= 1 / 3
    assert "only 2 of 20" in str(result)
    enough = circuits.faithfulness(model, pairs, head, n_random=2, random_kind="same_layers")
    assert enough.too_few_random is None


@pytest.mark.parametrize("name", ["gpt2", "neox"])
def test_a_circuit_without_rivals_is_neither_sufficient_nor_necessary(name):
    model, pairs = tiny(name), random_pairs(n=8)
    for circuit in (Circuit.full(model.graph), Circuit.from_edges(model.graph, ["input->logits"])):
        result = circuits.hypothesis_tests(model, pairs, circuit, n_random=40, permutations=20)
        for claim in ("sufficiency", "partial necessity"):
            assert result[claim].supports is None
            assert "at least 36 are needed" in str(result[claim].reason)


def test_nothing_can_be_tested_where_ablation_changes_nothing():
    model = tiny("gpt2", torch.float32)
    pairs = random_pairs(n=8)
    same = circuits.PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    circuit = circuits.random_circuit(model.graph, 12, torch.Generator().manual_seed(1))
    result = circuits.hypothesis_tests(model, same, circuit, n_random=40, permutations=20)
    assert {test.supports for test in result.tests} == {None}
    assert len(result.not_made) == 1
    assert result.unnecessary == ()
    assert all(row["p"] is None and row["reason"] for row in result.to_dict()["tests"])


def test_tests_that_could_not_be_rejected_are_not_made():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    circuit = circuits.random_circuit(model.graph, 12, torch.Generator().manual_seed(1))
    result = circuits.hypothesis_tests(model, pairs, circuit, n_random=10, permutations=9)
    assert "at least 7 are needed" in str(result["equivalence"].reason)  # 0.6**7 + 0.4**7 = 0.03
    assert "cannot show a dependence" in str(result["independence"].reason)
    assert "10 random circuits were requested" in str(result["sufficiency"].reason)
