"""Node scores on disk; those of edges are in tests/results/test_scores.py."""

import json

import pytest
import torch
from safetensors.torch import save_file

from circuits import EdgeScores, InputError, NodeScores
from circuits.results.node_scores import node_scores

HEADER = {
    "schema": "mech-circuits node scores 1",
    "nodes": '["a0.h0", "m0"]',
    "positions": "null",
    "provenance": "{}",
}
EFFECTS = torch.zeros(2, 3, dtype=torch.float64)


def example(positions=None, runs=True):
    shape = (2, *(() if positions is None else (len(positions),)), 3)
    effects = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    both = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ends = tuple(both) if runs else (None, None)
    return node_scores(("a0.h0", "a0.h0<q>"), effects, {"method": "test", "options": {"window": 3}}, positions, *ends)


@pytest.mark.parametrize("positions", [None, ("IO", "S1")])
@pytest.mark.parametrize("runs", [True, False])
def test_files_round_trip_exactly(tmp_path, positions, runs):
    scores = example(positions, runs)
    scores.save(tmp_path / "s.safetensors")
    back = NodeScores.load(tmp_path / "s.safetensors")
    assert (back.nodes, back.positions, back.provenance) == (scores.nodes, positions, scores.provenance)
    assert torch.equal(back.per_prompt, scores.per_prompt)
    for name in ("clean", "corrupted"):
        ours, theirs = getattr(scores, name), getattr(back, name)
        assert theirs is None if ours is None else torch.equal(ours, theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path):
    for path, message in ((tmp_path / "none", "cannot read"), (tmp_path, "directory|cannot read|not a file")):
        with pytest.raises(InputError, match=message):
            NodeScores.load(path)
    (tmp_path / "x").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="x is not a file of node scores"):
        NodeScores.load(tmp_path / "x")


def test_node_and_edge_scores_are_not_confused(tmp_path):
    example().save(tmp_path / "s")
    with pytest.raises(InputError, match="expected 'mech-circuits edge scores 2'"):
        EdgeScores.load(tmp_path / "s")
    save_file({"per_prompt": EFFECTS}, tmp_path / "s", metadata={**HEADER, "schema": "mech-circuits edge scores 2"})
    with pytest.raises(InputError, match="expected 'mech-circuits node scores 1'"):
        NodeScores.load(tmp_path / "s")


@pytest.mark.parametrize(
    ("header", "tensors", "message"),
    [
        ({"nodes": '{"a": 1}'}, {}, "nodes must be a list of names"),
        ({"nodes": "[]"}, {"per_prompt": EFFECTS[:0]}, "nodes must be a list of names"),
        ({"nodes": '["a0.h0", 3]'}, {}, "nodes must be a list of names"),
        ({"nodes": "[" * 100_000}, {}, "not a file of node scores"),
        ({"nodes": "no json"}, {}, "not a file of node scores"),
        ({"nodes": '["a0.h0"]'}, {}, r"expected torch.float64 \(1,\)"),
        ({"positions": '"IO"'}, {}, "positions must be a list of names"),
        ({"positions": '["IO", "S1"]'}, {}, r"expected torch.float64 \(2, 2\)"),
        ({"provenance": "[]"}, {}, "provenance must be an object"),
        ({}, {"per_prompt": EFFECTS.float()}, "float32"),
        ({}, {"per_prompt": torch.tensor(1.0, dtype=torch.float64)}, "expected"),
        ({}, {"per_prompt": EFFECTS[:, :0]}, "and the prompts"),
        ({}, {"clean": torch.zeros(4, dtype=torch.float64)}, r"clean is torch.float64 \(4,\)"),
        ({}, {"corrupted": torch.zeros(3)}, "corrupted is torch.float32"),
    ],
)
def test_hostile_files_are_refused(tmp_path, header, tensors, message):
    path = tmp_path / "s.safetensors"
    save_file({"per_prompt": EFFECTS} | tensors, path, metadata=HEADER | header)
    with pytest.raises(InputError, match=message):
        NodeScores.load(path)


@pytest.mark.parametrize("missing", ["nodes", "positions", "provenance", "per_prompt"])
def test_incomplete_files_are_refused(tmp_path, missing):
    path = tmp_path / "s.safetensors"
    tensors = {"other": EFFECTS} if missing == "per_prompt" else {"per_prompt": EFFECTS}
    save_file(tensors, path, metadata={name: text for name, text in HEADER.items() if name != missing})
    with pytest.raises(InputError, match="not a file of node scores"):
        NodeScores.load(path)


def test_the_header_is_json(tmp_path):
    from safetensors import safe_open

    example(("IO", "S1")).save(tmp_path / "s")
    with safe_open(tmp_path / "s", framework="pt") as file:
        header = file.metadata()
    assert json.loads(header["positions"]) == ["IO", "S1"]
    assert json.loads(header["provenance"])["options"] == {"window": 3}
