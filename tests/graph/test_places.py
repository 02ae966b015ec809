"""Graphs over places: their names, what depends on what, and names of edges with and without places."""

import pytest
import torch

from circuits import Circuit, InputError
from circuits.graph.graph import Graph
from circuits.graph.places import REST, Places, from_dict, over
from circuits.results.random_circuits import KINDS, random_circuits

GRAPH = Graph(n_layers=2, n_heads=4, n_kv_heads=2, mlps=(True, True))
SPANS = ("start", "S", "end")


def placed(destinations=False, read=("end",), graph=GRAPH):
    return over(graph, Places(SPANS, destinations, read))


def reachable(graph, mask):
    """Edges on a path from the input to logits, by following (node, span) pairs one by one."""
    spans = graph.places.spans
    edges = [(graph.writer_names[w], graph.reader_nodes[r]) for w, r in mask.nonzero().tolist()]

    def source(writer, reader):
        return writer, reader.place.partition("=>")[0]

    def targets(reader):
        if reader.part == "logits":
            return {("logits", None)}
        span, _, query = reader.place.partition("=>")
        if reader.part in ("q", "mlp"):
            return {(reader.node, span)}
        queries = [query] if query else spans[spans.index(span) :]
        return {(head, q) for head in graph.nodes_fed_by(reader) for q in queries}

    forward, backward = {("input", span) for span in spans}, {("logits", None)}
    for _ in range(20):
        forward |= {t for writer, reader in edges if source(writer, reader) in forward for t in targets(reader)}
        backward |= {source(writer, reader) for writer, reader in edges if targets(reader) & backward}
    return {
        f"{writer}->{reader.name}"
        for writer, reader in edges
        if source(writer, reader) in forward and targets(reader) & backward
    }


@pytest.mark.parametrize("destinations", [False, True])
@pytest.mark.parametrize("read", [None, ("end",)])
def test_the_number_of_edges_counts_places(destinations, read):
    graph = placed(destinations, read)
    per_reader = {
        "q": 3,
        "mlp": 3,
        "k": 6 if destinations else 3,
        "v": 6 if destinations else 3,
        "logits": 3 if read is None else 1,
    }
    assert {part: graph.places.count(part) for part in per_reader} == per_reader
    assert graph.n_edges == sum(reader.n_writers * per_reader[reader.part] for reader in GRAPH.reader_nodes)
    assert len(graph.edges) == graph.n_edges == int(graph.edge_mask.sum())
    assert [graph.edge_index(name) for name in graph.edges] == [tuple(e) for e in graph.edge_mask.nonzero().tolist()]


@pytest.mark.parametrize("graph", [GRAPH, Graph(3, 2, 2, (True, False, True), parallel=True)])
@pytest.mark.parametrize("destinations", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
def test_pruning_leaves_the_edges_on_a_path_through_nodes_at_spans(graph, destinations, share):
    graph = placed(destinations, graph=graph)
    for seed in range(3):
        drawn = torch.rand(graph.edge_mask.shape, generator=torch.Generator().manual_seed(seed)) < share
        circuit = Circuit(graph, drawn & graph.edge_mask)
        # One pass may leave what a second would remove only if the rules differ.
        assert set(circuit.pruned().edges) == reachable(graph, circuit.pruned().mask)
        assert set(circuit.pruned().edges) <= reachable(graph, circuit.mask)


def test_an_edge_named_without_a_place_means_all_places_and_without_an_arrow_all_destinations():
    circuit = Circuit.from_edges(placed(destinations=True), ["m0->a1.kv0<v>@S", "a0.h1->m1", "m0->logits"])
    assert circuit.edges == (
        "a0.h1->m1@start", "a0.h1->m1@S", "a0.h1->m1@end", "m0->a1.kv0<v>@S=>S", "m0->a1.kv0<v>@S=>end", "m0->logits@end",
    )  # fmt: skip
    assert "a0.h1->m1" in circuit
    assert "a0.h1->m1@S" in circuit
    assert "m0->a1.kv0<v>" not in circuit
    assert circuit.places == SPANS
    assert circuit.without_places() == Circuit.from_edges(GRAPH, ["m0->a1.kv0<v>", "a0.h1->m1", "m0->logits"])
    assert circuit.at("S") == Circuit.from_edges(GRAPH, ["m0->a1.kv0<v>", "a0.h1->m1"])


def test_names_with_places_alone_make_a_circuit_with_a_rest():
    circuit = Circuit.from_edges(GRAPH, ["m0->a1.kv0<v>@S=>end", "a0.h1->m1"])
    assert circuit.places == ("S", "end", REST)
    assert circuit.edges == ("a0.h1->m1@S", "a0.h1->m1@end", "a0.h1->m1@*", "m0->a1.kv0<v>@S=>end")
    whole = circuit.over(Places(SPANS, True, ("end",)))
    assert whole == Circuit.from_edges(placed(destinations=True), ["m0->a1.kv0<v>@S=>end", "a0.h1->m1"])


def test_circuits_with_and_without_places_combine():
    plain = Circuit.from_edges(GRAPH, ["a0.h1->m1", "m0->logits"])
    at = Circuit.from_edges(placed(), ["a0.h1->m1@S", "input->m0@end"])
    assert (at | plain).edges == ("input->m0@end", "a0.h1->m1@start", "a0.h1->m1@S", "a0.h1->m1@end", "m0->logits@end")
    assert (at & plain).edges == ("a0.h1->m1@S",)
    assert (plain & at) == (at & plain)
    assert (plain - at).edges == ("a0.h1->m1@start", "a0.h1->m1@end", "m0->logits@end")
    assert (at & plain) <= plain
    named = Circuit.from_edges(GRAPH, ["a0.h1->m1@S"])
    assert (named & plain) <= at


def test_scores_go_along():
    graph = placed()
    scores = torch.arange(graph.edge_mask.numel(), dtype=torch.float64).reshape(graph.edge_mask.shape)
    circuit = Circuit(graph, graph.edge_mask, scores)
    w, columns = GRAPH.edge_index("a0.h1->m1")[0], [graph.edge_index(f"a0.h1->m1@{span}")[1] for span in SPANS]
    assert circuit.score("a0.h1->m1") == pytest.approx(float(scores[w, columns].sum()))
    assert circuit.without_places().score("a0.h1->m1") == pytest.approx(float(scores[w, columns].sum()))
    assert circuit.score("a0.h1->m1@S") == float(scores[w, columns[1]])


@pytest.mark.parametrize("destinations", [False, True])
def test_files_and_networkx_give_the_circuit_back(destinations, tmp_path):
    graph = placed(destinations)
    drawn = torch.rand(graph.edge_mask.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    mask = drawn & graph.edge_mask
    circuit = Circuit(graph, mask, torch.where(mask, 0.25, torch.nan).double())
    circuit.to_json(tmp_path / "circuit.json")
    assert Circuit.from_json(tmp_path / "circuit.json") == circuit
    multigraph = circuit.to_networkx()
    assert multigraph.number_of_edges() == len(circuit)
    assert Circuit.from_networkx(multigraph) == circuit
    assert {data["position"] for _, _, data in multigraph.edges(data=True)} >= set(
        SPANS[:1] if not destinations else ()
    )
    assert from_dict(graph.to_dict()) == graph


@pytest.mark.parametrize("kind", KINDS)
def test_random_circuits_over_places_are_connected_and_of_the_same_size(kind):
    graph = placed(destinations=True)
    circuit = Circuit.from_edges(
        graph,
        ["input->a0.kv0<v>@S=>end", "a0.h0->a1.h1<q>@end", "a1.h1->logits@end", "input->m0@S", "m0->a1.kv0<k>@S=>end"],
    )
    assert circuit.pruned() == circuit
    for rival in random_circuits(circuit, 3, kind):
        assert len(rival) == len(circuit)
        assert rival.pruned() == rival
        assert rival != circuit


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a0.h1->m1@middle"], "no span 'middle'; the spans are start, S, end"),
        (["a0.h1->m9@S"], "no reader 'm9'"),
        (["a0.h1->m1@S=>end"], "only edges into keys and values have one"),
        (["m0->a1.kv0<k>@end=>S"], "no reader 'a1.kv0<k>@end=>S'"),
    ],
)
def test_names_that_no_edge_has_are_refused(names, message):
    with pytest.raises(InputError, match=message):
        Circuit.from_edges(placed(destinations=True), names)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"spans": [], "destinations": False}, "between 1 and"),
        ({"spans": ["a", "a"], "destinations": False}, "occurs twice"),
        ({"spans": ["a", "b@c"], "destinations": False}, "cannot name a span"),
        ({"spans": ["a"], "destinations": 1}, "true or false"),
        ({"spans": "ab", "destinations": False}, "a list of names"),
        ({"spans": ["*", "a"], "destinations": False}, "comes last"),
        ({"spans": ["a"], "destinations": False, "read": ["b"]}, "no span 'b'"),
        ([], "places"),
        ({"spans": [f"s{i}" for i in range(4000)], "destinations": True}, "larger than can be read"),
    ],
)
def test_hostile_descriptions_are_refused(data, message):
    with pytest.raises(InputError, match=message):
        from_dict(GRAPH.to_dict() | {"places": data})


def test_circuits_over_different_spans_do_not_combine():
    other = over(GRAPH, Places(("start", "middle", "end")))
    with pytest.raises(InputError, match="different spans"):
        Circuit.full(other) & Circuit.full(placed())
