import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits import Circuit, Graph, InputError, random_circuit

GRAPHS = {
    "plain": (2, 2, 2, (True, True), False),
    "grouped": (2, 4, 2, (True, True), False),
    "parallel": (3, 2, 2, (True, True, True), True),
    "attention-only": (3, 3, 1, (False, False, False), False),
}


def subset(graph, seed, share):
    generator = torch.Generator().manual_seed(seed)
    return Circuit(graph, graph.edge_mask & (torch.rand(graph.edge_mask.shape, generator=generator) < share))


shapes = st.sampled_from(sorted(GRAPHS))
seeds = st.integers(0, 10_000)
shares = st.sampled_from([0.02, 0.1, 0.3, 0.8])


def naive_pruned(circuit):
    """Edges on a path from input to logits, by searching paths in a graph in which every reader is a node of its own."""
    graph = circuit.graph
    wiring = nx.DiGraph()
    wiring.add_nodes_from([("w", "input"), ("w", "logits")])
    for reader in graph.reader_nodes:
        for node in graph.nodes_fed_by(reader) or ("logits",):
            wiring.add_edge(("r", reader.name), ("w", node))
    for edge in circuit.edges:
        writer, reader = edge.split("->")
        wiring.add_edge(("w", writer), ("r", reader))
    down = nx.descendants(wiring, ("w", "input")) | {("w", "input")}
    up = nx.ancestors(wiring, ("w", "logits"))
    return {e for e in circuit.edges if ("w", e.split("->")[0]) in down and ("r", e.split("->")[1]) in up}


@given(shapes, seeds, shares)
def test_pruning_keeps_exactly_the_edges_on_a_path_from_input_to_logits(shape, seed, share):
    circuit = subset(Graph(*GRAPHS[shape]), seed, share)
    pruned = circuit.pruned()
    assert set(pruned.edges) == naive_pruned(circuit)
    assert pruned.pruned() == pruned <= circuit


@given(shapes, seeds, seeds, shares)
def test_circuits_combine_like_sets_of_their_edges(shape, a, b, share):
    graph = Graph(*GRAPHS[shape])
    one, two = subset(graph, a, share), subset(graph, b, 0.3)
    first, second = set(one.edges), set(two.edges)
    assert set((one | two).edges) == first | second
    assert set((one & two).edges) == first & second
    assert set((one - two).edges) == first - second
    assert set((one ^ two).edges) == first ^ second
    assert set((~one).edges) == set(graph.edges) - first


@given(shapes, seeds, seeds, shares)
def test_circuits_compare_like_sets_of_their_edges(shape, a, b, share):
    graph = Graph(*GRAPHS[shape])
    one, two = subset(graph, a, share), subset(graph, b, 0.3)
    first, second = set(one.edges), set(two.edges)
    assert (one <= two) == (first <= second)
    assert (one == two) == (first == second)
    assert len(one) == len(first)
    assert one & two <= one <= one | two
    assert hash(one) == hash(Circuit.from_edges(graph, sorted(first)))


def test_full_and_empty():
    graph = Graph(*GRAPHS["grouped"])
    assert Circuit.full(graph).edges == graph.edges
    assert Circuit.empty(graph).edges == ()
    assert Circuit.full(graph).pruned() == Circuit.full(graph)
    assert Circuit.full(graph).nodes == (*graph.writers, "logits")


def test_nodes_of_an_edge_into_a_shared_key_are_the_whole_group():
    circuit = Circuit.from_edges(Graph(*GRAPHS["grouped"]), ["a0.h3->a1.kv1<k>"])
    assert circuit.nodes == ("a0.h3", "a1.h2", "a1.h3")


def test_membership_asks_for_real_edges():
    circuit = Circuit.from_edges(Graph(*GRAPHS["plain"]), ["input->logits"])
    assert "input->logits" in circuit
    assert "input->m0" not in circuit
    with pytest.raises(InputError, match="no writer"):
        assert "inptu->m0" in circuit


@given(shapes, seeds, st.integers(0, 10**6))
def test_random_circuits_have_the_asked_size_and_no_dead_ends(shape, seed, wish):
    graph = Graph(*GRAPHS[shape])
    size = wish % (graph.n_edges + 1)
    circuit = random_circuit(graph, size, torch.Generator().manual_seed(seed))
    assert len(circuit) == size
    if size != 0 and size <= graph.n_edges // 2:
        assert circuit.pruned() == circuit


def test_random_circuits_are_seeded():
    graph = Graph(*GRAPHS["plain"])
    one, same, other = (random_circuit(graph, 12, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_circuits_of_two_graphs_do_not_mix():
    one, two = (Circuit.full(Graph(*GRAPHS[shape])) for shape in ("plain", "grouped"))
    with pytest.raises(InputError, match="two graphs"):
        one | two
    assert one != two


def test_edges_that_the_graph_does_not_have_are_refused():
    graph = Graph(*GRAPHS["plain"])
    with pytest.raises(InputError, match="does not have"):
        Circuit(graph, torch.ones_like(graph.edge_mask))
    with pytest.raises(InputError, match="shape"):
        Circuit(graph, torch.zeros(2, 2, dtype=torch.bool))


def scored(graph, seed, share):
    """A circuit with tables, some of its edges without a score."""
    chosen = subset(graph, seed, share)
    draw = torch.Generator().manual_seed(seed + 1)
    values = torch.randn(graph.edge_mask.shape, generator=draw, dtype=torch.float64)
    values[torch.rand(values.shape, generator=draw) < 0.2] = torch.nan
    return Circuit(graph, chosen.mask, values)


@given(shapes, seeds, shares)
def test_a_circuit_from_a_list_is_the_one_from_tables(shape, seed, share):
    tables = scored(Graph(*GRAPHS[shape]), seed, share)
    w, r = tables.mask.nonzero(as_tuple=True)
    order = torch.randperm(len(w), generator=torch.Generator().manual_seed(seed))
    twice = torch.cat([order, order[:3]])
    listed = Circuit.from_indices(tables.graph, w[twice], r[twice], tables.scores[w, r][twice])
    for _ in range(2):  # the second time with the tables made
        assert len(listed) == len(tables)
        assert (listed.entries(), listed.edges, listed.nodes) == (tables.entries(), tables.edges, tables.nodes)
        assert listed.column("stderr") is tables.column("stderr") is None
        assert torch.equal(listed.column("scores").nan_to_num(), tables.column("scores").nan_to_num())
        assert listed == tables
        assert torch.equal(listed.mask, tables.mask)
    inside = torch.where(tables.mask, tables.scores, torch.nan)
    torch.testing.assert_close(listed.scores, inside, rtol=0, atol=0, equal_nan=True)
    assert listed.stderr is None
    assert (listed | tables).pruned() == tables.pruned()


def test_a_listed_circuit_puts_its_tables_off():
    graph = Graph(*GRAPHS["plain"])
    circuit = Circuit.from_indices(graph, torch.tensor([0]), torch.tensor([0]), torch.tensor([1.5]))
    assert circuit.edges == ("input->a0.h0<q>",)
    assert {"mask", "scores", "stderr"}.isdisjoint(vars(circuit))
    assert circuit.score("input->a0.h0<q>") == 1.5
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = circuit.colour


def test_a_list_with_an_edge_that_the_graph_does_not_have_is_refused():
    graph = Graph(*GRAPHS["plain"])
    with pytest.raises(InputError, match=r"no edge .m1->a0\.h0<q>."):
        Circuit.from_indices(graph, torch.tensor([0, graph.n_writers - 1]), torch.tensor([0, 0]))
