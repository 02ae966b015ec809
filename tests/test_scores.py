import json

import pytest
import torch
from safetensors.torch import save_file

from circuits import EdgeScores, Graph, InputError
from circuits.provenance import frozen


def example(seed=0):
    graph = Graph(2, 4, 2, (True, True))
    generator = torch.Generator().manual_seed(seed)
    values, stderr = (torch.randn(graph.edge_mask.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return EdgeScores(graph, values * graph.edge_mask, stderr.abs() * graph.edge_mask, 7, frozen({"method": "test"}))


@pytest.mark.parametrize("by", ["abs", "signed"])
@pytest.mark.parametrize("n", [0, 1, 10, 36])
def test_top_chooses_the_strongest_edges_and_prunes(by, n):
    scores = example()
    size = abs if by == "abs" else float
    ranked = sorted(scores.to_dict().items(), key=lambda item: -size(item[1]))
    chosen = {edge for edge, _ in ranked[:n]}
    found = scores.top(n, by=by)
    assert set(found.edges) <= chosen
    assert found == found.pruned()
    assert found.provenance["selection"] == {"rule": "top", "by": by, "n": n, "kept": len(found)}
    for edge in found.edges:
        assert found.score(edge) == scores[edge]


def test_all_edges_make_the_full_circuit():
    scores = example()
    assert scores.top(len(scores)).edges == scores.graph.edges


def test_ties_are_broken_by_graph_order():
    graph = Graph(1, 2, 2, (True,))
    scores = EdgeScores(graph, graph.edge_mask.double(), graph.edge_mask.double(), 1)
    assert [edge for edge, _, _ in scores.strongest(3)] == list(graph.edges[:3])


def test_strongest_lists_effects_with_their_errors():
    scores = example()
    listed = scores.strongest(5)
    assert [abs(score) for _, score, _ in listed] == sorted((abs(s) for s in scores.to_dict().values()), reverse=True)[
        :5
    ]
    for edge, score, stderr in listed:
        index = scores.graph.edge_index(edge)
        assert (score, stderr) == (float(scores.values[index]), float(scores.stderr[index]))


@pytest.mark.parametrize(("n", "by"), [(-1, "abs"), (10**6, "abs"), (3, "size")])
def test_impossible_choices_are_refused(n, by):
    with pytest.raises(InputError):
        example().top(n, by=by)


def test_files_round_trip_exactly(tmp_path):
    scores = example()
    scores.save(tmp_path / "s.safetensors")
    back = EdgeScores.load(tmp_path / "s.safetensors")
    assert back.graph == scores.graph
    assert torch.equal(back.values, scores.values)
    assert torch.equal(back.stderr, scores.stderr)
    assert (back.n_prompts, dict(back.provenance)) == (7, {"method": "test"})


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    with pytest.raises(InputError, match="cannot read"):
        EdgeScores.load(path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="not a file of edge scores"):
        EdgeScores.load(path)
    save_file({"values": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="schema"):
        EdgeScores.load(path)
    header = {"schema": "mech-circuits edge scores 1", "graph": json.dumps(example().graph.to_dict()), "provenance": "{}",
              "n_prompts": "3"}  # fmt: skip
    save_file({"values": torch.zeros(2, 2), "stderr": torch.zeros(2, 2)}, path, metadata=header)
    with pytest.raises(InputError, match="does not fit"):
        EdgeScores.load(path)
    save_file({"values": torch.zeros(2, 2)}, path, metadata={**header, "graph": "[" * 10_000})
    with pytest.raises(InputError):
        EdgeScores.load(path)
