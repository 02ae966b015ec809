"""EAP-IG's files both ways; what they mean is read here by EAP-IG's own formulas for its indices."""

import json

import pytest
import torch
from safetensors import safe_open

from circuits import Circuit, Graph, InputError
from circuits.export.eap_ig import read_eap_ig, read_eap_ig_tensors, write_eap_ig, write_eap_ig_tensors
from tests.exported import GRAPHS, scored


def matrices(data):
    """Scores and membership [writer, reader] of EAP-IG's JSON, indexed as its `Graph._forward_index` and `_backward_index`."""
    n_layers, n_heads = data["cfg"]["n_layers"], data["cfg"]["n_heads"]
    shape = (1 + n_layers * (n_heads + 1), n_layers * (3 * n_heads + 1) + 1)
    scores, inside = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)

    def forward(name):
        if name == "input":
            return 0
        layer, _, head = name[1:].partition(".h")
        return 1 + int(layer) * (n_heads + 1) + (n_heads if name[0] == "m" else int(head))

    def backward(name):
        if name == "logits":
            return -1
        node, _, part = name.rstrip(">").partition("<")
        layer, _, head = node[1:].partition(".h")
        start = int(layer) * (3 * n_heads + 1)
        return start + (3 * n_heads if name[0] == "m" else "qkv".index(part) * n_heads + int(head))

    for name, edge in data["edges"].items():
        source, target = name.split("->")
        scores[forward(source), backward(target)] = edge["score"]
        inside[forward(source), backward(target)] = edge["in_graph"]
    return scores, inside


@pytest.mark.parametrize("shape", GRAPHS)
def test_both_files_say_the_same_and_come_back(shape, tmp_path):
    circuit = scored(shape)
    write_eap_ig(circuit, tmp_path / "c.json", d_model=16)
    write_eap_ig_tensors(circuit, tmp_path / "c.safetensors", d_model=16)
    scores, inside = matrices(json.loads((tmp_path / "c.json").read_text()))
    with safe_open(tmp_path / "c.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("edges_scores"), scores)
        assert torch.equal(file.get_tensor("edges_in_graph"), inside)
        assert json.loads(file.metadata()["cfg"])["d_model"] == 16
    for back in (read_eap_ig(tmp_path / "c.json"), read_eap_ig_tensors(tmp_path / "c.safetensors")):
        assert back == circuit
        torch.testing.assert_close(back.scores.nan_to_num(), circuit.scores, rtol=1e-15, atol=0)


def test_a_file_has_every_edge_that_eap_ig_expects(tmp_path):
    write_eap_ig(scored(GRAPHS[0]), tmp_path / "c.json")
    data = json.loads((tmp_path / "c.json").read_text())
    assert set(data) == {"cfg", "nodes", "edges"}
    assert set(data["cfg"]) >= {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"}
    assert set(data["edges"]) == set(Graph(*GRAPHS[0]).edges)
    assert set(data["nodes"]) == {*Graph(*GRAPHS[0]).writers, "logits"}
    assert all(set(edge) == {"score", "in_graph"} for edge in data["edges"].values())


def test_a_shared_head_is_written_per_query_head_in_equal_shares(tmp_path):
    circuit = scored(GRAPHS[1], share=1.0)
    write_eap_ig(circuit, tmp_path / "c.json")
    edges = json.loads((tmp_path / "c.json").read_text())["edges"]
    halves = [edges[f"input->a1.h{head}<v>"]["score"] for head in (2, 3)]
    assert halves == [circuit.score("input->a1.kv1<v>") / 2] * 2
    assert edges["input->a1.h2<q>"]["score"] == circuit.score("input->a1.h2<q>")


def test_a_circuit_without_scores_comes_back_without(tmp_path):
    circuit = Circuit.from_edges(Graph(*GRAPHS[0]), ["input->m0", "m0->logits"])
    write_eap_ig(circuit, tmp_path / "c.json")
    assert read_eap_ig(tmp_path / "c.json") == circuit
    assert read_eap_ig(tmp_path / "c.json").scores is None


def test_a_file_that_eap_ig_wrote_is_read(tmp_path):
    """Without our key in `cfg`, and with what EAP-IG adds for scored nodes."""
    write_eap_ig(scored(GRAPHS[0]), tmp_path / "c.json")
    data = json.loads((tmp_path / "c.json").read_text())
    del data["cfg"]["n_key_value_heads"]
    for node in data["nodes"].values():
        node["score"] = 0.5
    (tmp_path / "c.json").write_text(json.dumps(data))
    assert read_eap_ig(tmp_path / "c.json") == scored(GRAPHS[0])


def broken(change):
    data = {
        "cfg": {"n_layers": 2, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 4},
        "nodes": {"m0": {"in_graph": True}},
        "edges": {"input->m0": {"score": 1.0, "in_graph": True}},
    }
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "'cfg', 'nodes' and 'edges'"),
        (broken(lambda d: d["edges"].update({"m1->m0": {"score": 1.0, "in_graph": True}})), "does not come before"),
        (broken(lambda d: d["edges"].update({"m0->m0": {"score": 1.0, "in_graph": True}})), "does not come before"),
        (broken(lambda d: d["edges"].update({"input->m7": {"score": 1.0, "in_graph": True}})), "no reader 'm7'"),
        (broken(lambda d: d["edges"].update({"<script>": {}})), "is not an edge"),
        (broken(lambda d: d["nodes"].update({"m9": {"in_graph": True}})), "no writer 'm9'"),
        (broken(lambda d: d["edges"].update({"input->m0": {"score": float("nan"), "in_graph": True}})), "finite"),
        (broken(lambda d: d["edges"].update({"input->m0": {"score": "1", "in_graph": True}})), "finite"),
        (broken(lambda d: d["edges"].update({"input->m0": {"score": 1.0}})), "in_graph"),
        (broken(lambda d: d["edges"].update({"input->m0": 3})), "in_graph"),
        (broken(lambda d: d["cfg"].update({"n_layers": 10**9})), "n_layers"),
        (broken(lambda d: d["cfg"].update({"n_heads": -1})), "n_heads"),
        (broken(lambda d: d["cfg"].pop("parallel_attn_mlp")), "parallel"),
    ],
)
def test_other_files_are_refused_with_the_reason(text, message, tmp_path):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=message) as problem:
        read_eap_ig(tmp_path / "c.json")
    assert "c.json" in str(problem.value)


def test_tensors_that_do_not_fit_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    path = tmp_path / "c.safetensors"
    write_eap_ig_tensors(scored(GRAPHS[0]), path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    every = torch.ones_like(tensors["edges_in_graph"])
    for changed, message in (
        ({"edges_scores": tensors["edges_scores"][:-1].clone()}, "shape"),
        ({"edges_scores": tensors["edges_scores"] / 0}, "finite"),
        ({"edges_in_graph": every}, "does not have"),
        ({"edges_in_graph": tensors["edges_in_graph"].float()}, "booleans"),
    ):
        save_file({**tensors, **changed}, path, metadata=header)
        with pytest.raises(InputError, match=message):
            read_eap_ig_tensors(path)
    save_file(tensors, path, metadata={**header, "src_nodes": '["x"]'})
    with pytest.raises(InputError, match="not those of its model"):
        read_eap_ig_tensors(path)
    save_file(tensors, path)
    with pytest.raises(InputError, match="is not a file of EAP-IG"):
        read_eap_ig_tensors(path)


def test_what_eap_ig_cannot_describe_is_refused(tmp_path):
    with pytest.raises(InputError, match="no MLP"):
        write_eap_ig(Circuit.full(Graph(2, 2, 2, (True, False))), tmp_path / "c.json")
    with pytest.raises(InputError, match="d_model"):
        write_eap_ig(scored(GRAPHS[0]), tmp_path / "c.json", d_model=0)
    assert list(tmp_path.iterdir()) == []
