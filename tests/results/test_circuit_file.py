import json
import re

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits import Circuit, Graph, InputError
from circuits.results.circuit_file import to_networkx, write_json
from circuits.results.graphml import write_graphml
from circuits.results.provenance import frozen

GRAPHS = [(2, 2, 2, (True, True), False), (2, 4, 2, (True, False), False), (2, 2, 1, (True, True), True)]


def scored(shape, seed=0, share=0.4, scores=True):
    graph = Graph(*shape)
    generator = torch.Generator().manual_seed(seed)
    mask = graph.edge_mask & (torch.rand(graph.edge_mask.shape, generator=generator) < share)
    values, stderr = (torch.randn(mask.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    origin = frozen({"method": "eap", "options": {"steps": 5}, "seed": None, "task": "ünï <code> & 'quotes'"})
    return Circuit(graph, mask, values if scores else None, stderr if scores else None, origin)


def same(a, b):
    assert a == b
    assert dict(a.provenance) == dict(b.provenance)
    for name in ("scores", "stderr"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None)
        if x is not None:
            assert torch.equal(x[a.mask], y[a.mask])


@pytest.mark.parametrize("shape", GRAPHS)
@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("expand_groups", [True, False])
def test_networkx_round_trip_is_exact(shape, scores, expand_groups):
    circuit = scored(shape, scores=scores)
    same(Circuit.from_networkx(to_networkx(circuit, expand_groups)), circuit)


@pytest.mark.parametrize("shape", GRAPHS)
def test_json_round_trip_is_exact(shape, tmp_path):
    circuit = scored(shape)
    write_json(circuit, tmp_path / "c.json")
    same(Circuit.from_json(tmp_path / "c.json"), circuit)
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_the_multigraph_is_what_the_design_says():
    graph = to_networkx(Circuit.from_edges(Graph(*GRAPHS[0]), ["input->a0.h1<q>", "a0.h1->m0", "m0->logits"]))
    assert isinstance(graph, nx.MultiDiGraph)
    assert set(graph.edges(keys=True)) == {("input", "a0.h1", "q"), ("a0.h1", "m0", "in"), ("m0", "logits", "in")}
    assert graph.nodes["a0.h1"] == {"kind": "head", "layer": 0, "head": 1}
    assert nx.has_path(graph, "input", "logits")


def test_groups_are_one_node_or_written_out_per_query_head():
    circuit = Circuit.from_edges(Graph(*GRAPHS[1]), ["input->a0.kv1<k>", "a0.h3->logits"])
    graph = to_networkx(circuit)
    assert graph.number_of_edges() == len(circuit)
    assert graph.nodes["a0.kv1"]["heads"] == ["a0.h2", "a0.h3"]
    expanded = to_networkx(circuit, expand_groups=True)
    assert {edge for edge in expanded.edges(keys=True) if edge[2] == "k"} == {
        ("input", "a0.h2", "k"), ("input", "a0.h3", "k")
    }  # fmt: skip
    assert nx.has_path(expanded, "input", "logits")


@pytest.mark.parametrize("shape", GRAPHS)
def test_graphml_is_read_back_by_networkx_with_the_same_edges(shape, tmp_path):
    circuit = scored(shape)
    write_graphml(circuit, tmp_path / "c.graphml")
    graph = nx.read_graphml(tmp_path / "c.graphml", force_multigraph=True)
    source = to_networkx(circuit)
    result = {(u, v, data["kind"]): data["score"] for u, v, data in graph.edges(data=True)}
    assert result == {(u, v, key): data["score"] for u, v, key, data in source.edges(keys=True, data=True)}
    assert set(graph.nodes) == set(source.nodes)
    ids = re.findall(r'<edge [^>]*id="([^"]*)"', (tmp_path / "c.graphml").read_text())
    assert len(ids) == len(set(ids)) == len(circuit)


@pytest.mark.parametrize("shape", GRAPHS)
@pytest.mark.parametrize("scores", [True, False])
def test_the_file_is_the_node_link_data_that_networkx_reads(shape, scores, tmp_path):
    circuit = scored(shape, scores=scores)
    write_json(circuit, tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=1) + "\n"
    graph, source = nx.node_link_graph(json.loads(text), edges="edges"), to_networkx(circuit)
    assert graph.graph == source.graph
    assert dict(graph.nodes(data=True)) == dict(source.nodes(data=True))
    assert sorted(graph.edges(keys=True, data=True), key=str) == sorted(source.edges(keys=True, data=True), key=str)


def test_a_circuit_without_edges_comes_back(tmp_path):
    circuit = Circuit.empty(Graph(*GRAPHS[0]))
    write_json(circuit, tmp_path / "c.json")
    write_graphml(circuit, tmp_path / "c.graphml")
    assert Circuit.from_json(tmp_path / "c.json") == circuit
    assert nx.read_graphml(tmp_path / "c.graphml").number_of_edges() == 0


def test_edges_written_once_per_query_head_are_read_as_their_groups(tmp_path):
    circuit = scored(GRAPHS[1])
    data = nx.node_link_data(to_networkx(circuit, expand_groups=True), edges="edges")
    (tmp_path / "c.json").write_text(json.dumps(data))
    same(Circuit.from_json(tmp_path / "c.json"), circuit)


def test_entries_are_the_edges_with_their_numbers():
    circuit = scored(GRAPHS[1])
    writers, readers = circuit.graph.writer_names, circuit.graph.reader_names
    assert tuple(f"{writers[w]}->{readers[r]}" for w, r, _, _ in circuit.entries()) == circuit.edges
    assert [score for _, _, score, _ in circuit.entries()] == [circuit.score(edge) for edge in circuit.edges]
    assert [entry[2:] for entry in scored(GRAPHS[1], scores=False).entries()] == [(None, None)] * len(circuit)
    partly = Circuit(circuit.graph, circuit.mask, torch.full_like(circuit.scores, torch.nan))
    assert {entry[2:] for entry in partly.entries()} == {(None, None)}


def test_infinite_scores_are_refused(tmp_path):
    circuit = scored(GRAPHS[0])
    infinite = Circuit(circuit.graph, circuit.mask, circuit.scores / 0)
    for write in (write_json, write_graphml):
        with pytest.raises(InputError, match="infinite scores"):
            write(infinite, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


BROKEN = {
    "not json": "{",
    "deep": "[" * 100_000,
    "a list": "[]",
    "undirected": '{"directed": false, "multigraph": true}',
    "no edges": '{"directed": true, "multigraph": true, "graph": {}}',
    "wrong schema": '{"directed": true, "multigraph": true, "graph": {"schema": 99}, "edges": []}',
    "no graph": '{"directed": true, "multigraph": true, "graph": {"schema": 1}, "edges": []}',
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_by_name(name, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(BROKEN[name])
    with pytest.raises(InputError, match=r"c\.json"):
        Circuit.from_json(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "a9.h9"}, "no writer"),
        ({"key": "z"}, "expected one of q, k, v, in"),
        ({"key": 0}, "needs the strings"),
        ({"score": "1"}, "finite number"),
        ({"score": True}, "finite number"),
        ({"target": "input"}, "no reader"),
    ],
)
def test_broken_edges_are_refused_with_what_was_found(change, message, tmp_path):
    path = tmp_path / "c.json"
    write_json(scored(GRAPHS[0]), path)
    data = json.loads(path.read_text())
    data["edges"][0] |= change
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        Circuit.from_json(path)


def test_an_edge_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "c.json"
    write_json(scored(GRAPHS[0]), path)
    data = json.loads(path.read_text())
    data["edges"].append({**data["edges"][0], "score": 9.0})
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="twice"):
        Circuit.from_json(path)


def test_missing_files_and_directories_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        Circuit.from_json(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="cannot write"):
        write_json(scored(GRAPHS[0]), tmp_path / "nowhere" / "c.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({
    "directed": st.just(True), "multigraph": st.just(True),
    "graph": st.fixed_dictionaries({"schema": st.just(1), "graph": json_values, "provenance": json_values}),
    "edges": json_values,
}))  # fmt: skip
def test_no_json_makes_anything_but_an_input_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("json") / "c.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError):
        Circuit.from_json(path)
