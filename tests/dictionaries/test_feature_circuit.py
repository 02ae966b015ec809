"""Circuits of mixed nodes: chosen, written, read back, and exchanged with circuit-tracer's attribution graphs."""

import json

import networkx as nx
import pytest

import circuits
from circuits import FeatureCircuit, InputError, read_attribution_graph, write_attribution_graph
from tests.dictionaries.naive import random_dictionary
from tests.tiny_models import random_pairs, tiny


@pytest.fixture(scope="module")
def made():
    model, pairs = tiny("llama"), random_pairs(n=3)
    dictionaries = [random_dictionary(model, "transcoder.0", 6, skip=True), random_dictionary(model, "mlp_out.2", 6)]
    scores = circuits.attribution_patching(model, pairs, nodes="features+heads", dictionaries=dictionaries)
    nodes = [node for node, *_ in scores.strongest(12)]
    edges = circuits.feature_edges(model, pairs, nodes, dictionaries=dictionaries)
    return model, pairs, dictionaries, scores, edges


def test_the_strongest_nodes_and_edges_make_a_circuit_whose_faithfulness_is_measured(made):
    model, pairs, dictionaries, scores, edges = made
    circuit = FeatureCircuit.from_scores(scores, 8, edges, 10)
    assert set(circuit.nodes) == {node for node, *_ in scores.strongest(8)}
    assert dict(zip(circuit.nodes, circuit.node_scores, strict=True)) == {node: scores[node] for node in circuit.nodes}
    ends = [name.split("->") for name, *_ in edges.strongest(len(edges))]
    inside = [
        (s, t)
        for s, t in ends
        if s in circuit.nodes and (t.split("<")[0] in circuit.nodes or t == "logits" or ".kv" in t)
    ]
    assert list(circuit.edges) == inside[:10]
    assert len(circuit.edges) == 10
    among = {"dictionaries": dictionaries, "among": "features+heads+mlps+input"}
    result = circuits.feature_faithfulness(model, pairs, circuit.nodes, **among)
    everything = [*scores.nodes, "m1", "input", *(f"f:{p}.{i}" for p in ("m0", "m2") for i in range(6))]
    whole = circuits.feature_faithfulness(model, pairs, everything, **among)
    assert whole.value == pytest.approx(1, abs=1e-9)
    assert result.value != pytest.approx(whole.value)
    assert "edges" in repr(circuit)


def test_files_and_graphs_hold_all_of_it(made, tmp_path):
    circuit = FeatureCircuit.from_scores(made[3], 8, made[4], 10)
    circuit.to_json(tmp_path / "circuit.json")
    again = FeatureCircuit.from_json(tmp_path / "circuit.json")
    assert again == circuit
    assert again.provenance["nodes"]["dictionaries"][0]["site"] == "mlp_in.0->mlp_out.0"
    graph = nx.node_link_graph(json.loads((tmp_path / "circuit.json").read_text()), edges="edges")
    assert graph.number_of_edges() == 10
    assert graph.nodes[circuit.nodes[0]]["kind"] in ("feature", "error", "skip", "head")
    assert FeatureCircuit(("f:m0.1",)).to_networkx().nodes["f:m0.1"]["score"] is None
    for change, message in (
        (lambda d: d["graph"].update(format="x"), "not a circuit of features"), (lambda d: d["nodes"][0].update(id="f:m1"), "not the name of a node"),
        (lambda d: d["edges"][0].update(key="w"), "unknown end or key"), (lambda d: d["edges"].append(d["edges"][0]), "twice"),
        (lambda d: d["nodes"][0].update(score="x"), "finite number"), (lambda d: d.update(edges={}), "must be a list"),
    ):  # fmt: skip
        data = json.loads((tmp_path / "circuit.json").read_text())
        change(data)
        (tmp_path / "bad.json").write_text(json.dumps(data))
        with pytest.raises(InputError, match=message):
            FeatureCircuit.from_json(tmp_path / "bad.json")


@pytest.fixture(scope="module")
def circuit(made):
    return FeatureCircuit.from_scores(made[3], 8, made[4], 10)


@pytest.fixture(scope="module", params=["with a prompt", "without"])
def written(request, circuit, tmp_path_factory):
    """An attribution graph as JSON, and its file."""
    path = tmp_path_factory.mktemp("graph") / "graph.json"
    prompt = {"prompt": "a b", "tokens": ["a", " b"], "labels": {circuit.nodes[0]: "a </script> label"}}
    write_attribution_graph(circuit, path, **(prompt if request.param == "with a prompt" else {}))
    return json.loads(path.read_text()), path


def test_an_attribution_graph_is_read_back(written, circuit):
    again = read_attribution_graph(written[1])
    both = [dict(zip(one.edges, one.edge_scores, strict=True)) for one in (again, circuit)]
    assert both[0] == both[1]
    assert set(circuit.nodes) <= set(again.nodes)


def test_the_links_of_an_attribution_graph_join_its_nodes(written):
    data, path = written
    ids = {node["node_id"] for node in data["nodes"]}
    assert len(ids) == len(data["nodes"])
    assert all(link["source"] in ids and link["target"] in ids for link in data["links"])
    assert "</script>" not in path.read_text()


def test_circuit_tracers_viewer_can_read_an_attribution_graph(written, circuit):
    # What it does (util-cg.js): it hides features at most tokens, and parses the texts of logits.
    data = written[0]
    columns = len(data["metadata"]["prompt_tokens"])
    at = [(node["layer"], node["feature"], node["ctx_idx"]) for node in data["nodes"]]
    assert max(at.count(one) for one in at) <= columns * 2 / 3
    outputs = [node["clerp"] for node in data["nodes"] if node["feature_type"] == "logit"]
    assert [text.split('"')[1] for text in outputs] == ["logits"]
    assert [float(text.split("(p=")[1].split(")")[0]) for text in outputs] == [1.0]
    assert all(node["ctx_idx"] < columns for node in data["nodes"])


def test_the_strongest_effects_have_the_smallest_influence(written, circuit):
    # Nodes whose influence is above a threshold are hidden.
    by_name = {node["name"]: node["influence"] for node in written[0]["nodes"] if node["influence"] is not None}
    sizes = {name: abs(score) for name, score in zip(circuit.nodes, circuit.node_scores, strict=True)}
    assert sorted(by_name, key=by_name.get) == sorted(sizes, key=lambda name: -sizes[name])
    assert max(by_name.values()) == pytest.approx(1)


def test_attribution_graphs_that_cannot_be_written_are_refused(circuit, tmp_path):
    with pytest.raises(InputError, match="which is not in the circuit"):
        write_attribution_graph(circuit, tmp_path / "g.json", labels={"m9": "x"})
    with pytest.raises(InputError, match="needs a score for each edge"):
        write_attribution_graph(FeatureCircuit(("m0",), (("m0", "logits"),)), tmp_path / "g.json")


def test_a_graph_of_circuit_tracer_is_summed_over_positions(tmp_path):
    """In the form that its `create_graph_files` writes."""

    def node(identity, layer, kind):
        return {
            "node_id": identity,
            "feature": 0,
            "layer": layer,
            "ctx_idx": 1,
            "feature_type": kind,
            "jsNodeId": identity,
            "clerp": "",
        }

    nodes = [
        node("E_17_0", "E", "embedding"), node("E_9_1", "E", "embedding"), node("2_40_0", "2", "cross layer transcoder"),
        node("2_40_1", "2", "cross layer transcoder"), node("0_3_1", "3", "mlp reconstruction error"), node("27_5_1", "27", "logit"),
    ]  # fmt: skip
    links = [
        {"source": "E_17_0", "target": "2_40_0", "weight": 1.5}, {"source": "E_9_1", "target": "2_40_1", "weight": -0.25},
        {"source": "2_40_1", "target": "27_5_1", "weight": 2.0}, {"source": "0_3_1", "target": "27_5_1", "weight": 0.5},
    ]  # fmt: skip
    path = tmp_path / "theirs.json"
    data = {"metadata": {"slug": "x", "scan": "gemma", "prompt": "a"}, "qParams": {}, "nodes": nodes, "links": links}
    path.write_text(json.dumps(data))
    circuit = read_attribution_graph(path)
    assert circuit.nodes == ("input", "f:m2.40", "e:m3")
    edges = dict(zip(circuit.edges, circuit.edge_scores, strict=True))
    assert edges == {("input", "f:m2.40"): 1.25, ("f:m2.40", "logits"): 2.0, ("e:m3", "logits"): 0.5}
    for bad, message in (
        ({"links": [{"source": "x"}]}, "unknown end"),
        ({"nodes": [node("a", "1", "x")]}, "is not known here"),
        ({"nodes": 3}, "list of objects"),
    ):
        path.write_text(json.dumps(data | bad))
        with pytest.raises(InputError, match=message):
            read_attribution_graph(path)
