"""Circuit files: MIB's are read, ours are what MIB reads; folders of circuits."""

import json
import math
from pathlib import Path

import pytest
import torch

import circuits
from circuits import Graph, Importances, InputError
from circuits.export.mib_names import MODELS, TABLE, TASKS, cell_of, find_task, track_name
from circuits.graph.ungrouped import ungrouped
from circuits.mib.files import CIRCUITS, circuit_name
from circuits.mib.submission import collect
from circuits.results.provenance import frozen
from tests.mib.shapes import SHAPES, random_scores

GOLDEN = Path(__file__).parents[1] / "golden/mib"
GRAPH = Graph(2, 4, 2, (True, True))


def importances(graph: Graph = GRAPH, **parts) -> Importances:
    mask, generator = ungrouped(graph).edge_mask, torch.Generator().manual_seed(0)
    scores = torch.randn(mask.shape, generator=generator, dtype=torch.float64) * mask
    return Importances(graph, scores, torch.zeros_like(mask), **parts)


def same(one: Importances, other: Importances) -> None:
    assert one.graph == other.graph
    for name in ("edges", "in_graph", "nodes", "neurons", "neurons_in_graph"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("level", ["node", "neuron"])
def test_the_files_that_mib_evaluated_are_the_ones_that_are_written(shape, level, tmp_path):
    """`tests/golden/mib/make.py files` wrote them; MIB's reader took them."""
    path = GOLDEN / f"{shape}-{level}.json"
    result = circuits.read_importances(path)
    assert result.level == level
    part = result.nodes if level == "node" else result.neurons
    drawn = random_scores(tuple(part.shape), 1 if level == "node" else 2)
    drawn = drawn if level == "node" else drawn.float().double()
    torch.testing.assert_close(part, drawn, rtol=0, atol=0, equal_nan=True)
    circuits.write_importances(result, tmp_path / "again.json", 32)
    assert json.loads((tmp_path / "again.json").read_text()).keys() == {"cfg", "nodes", "edges"}
    again = (tmp_path / "again.json").read_text()
    assert again == path.read_text()


def test_a_file_of_mib_has_an_edge_for_each_query_head():
    result = circuits.read_importances(GOLDEN / "llama-edge.json")
    plain = json.loads((GOLDEN / "llama-edge.json").read_text())["edges"]
    assert (result.graph.grouped, result.level, result.flat.n_edges) == (False, "edge", 262)
    assert result.edges[result.flat.edge_index("m0->a1.h2<k>")] == plain["m0->a1.h2<k>"]["score"]


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_files_keep_everything(suffix, tmp_path):
    nodes = random_scores((11,), 3)
    neurons = random_scores((11, 5), 4)
    for parts in ({}, {"nodes": nodes}, {"nodes": nodes, "neurons": neurons, "neurons_in_graph": neurons > 0}):
        made = importances(**parts)
        circuits.write_importances(made, tmp_path / f"a{suffix}")
        same(circuits.read_importances(tmp_path / f"a{suffix}"), made)


def test_json_keeps_the_provenance(tmp_path):
    made = importances(provenance=frozen({"method": "eap", "options": {"steps": 5}}))
    circuits.write_importances(made, tmp_path / "a.json")
    assert circuits.read_importances(tmp_path / "a.json").provenance == made.provenance


def test_neurons_of_a_head_may_stand_alone(tmp_path):
    data = json.loads((GOLDEN / "gpt2-two-heads-neuron.json").read_text())
    before = circuits.read_importances(GOLDEN / "gpt2-two-heads-neuron.json")
    for name, node in data["nodes"].items():
        if "neurons_scores" in node and name.startswith("a"):
            head = int(name.partition(".h")[2])
            node["neurons_scores"], node["neurons"] = node["neurons_scores"][head], node["neurons"][head]
    (tmp_path / "a.json").write_text(json.dumps(data))
    same(circuits.read_importances(tmp_path / "a.json"), before)


@pytest.mark.parametrize("name", ["a.pt", "a.pkl"])
def test_pickles_are_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04N.")
    with pytest.raises(InputError, match="pickle"):
        circuits.read_importances(tmp_path / name)
    with pytest.raises(InputError, match="pickle"):
        circuits.read_circuits(tmp_path)


def test_unusable_neurons_are_named(tmp_path):
    for wrong, why in (
        (["x"], "finite number"),
        ([[1.0], [2.0], [3.0]], "one for each head"),
        ([1.0, 2.0], "different numbers"),
    ):
        data = json.loads((GOLDEN / "gpt2-two-heads-neuron.json").read_text())
        data["nodes"]["m0"]["neurons_scores"] = wrong
        (tmp_path / "a.json").write_text(json.dumps(data))
        with pytest.raises(InputError, match=why):
            circuits.read_importances(tmp_path / "a.json")


def test_a_submission_of_scores(tmp_path):
    places = circuits.write_cell(importances(), tmp_path, task="arc_easy", model_name="llama3")
    assert [place.name for place in places] == ["arc-easy_llama3"]
    same(circuits.read_circuits(places[0]), importances())
    with pytest.raises(InputError, match="overwrite"):
        circuits.write_cell(importances(), tmp_path, task="arc_easy", model_name="llama3")
    circuits.write_cell(importances(), tmp_path, task="arc-easy", model_name="llama3", overwrite=True)
    (places[0] / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"notes.txt is not a circuit file"):
        circuits.write_cell(importances(), tmp_path, task="arc_easy", model_name="llama3", overwrite=True)


def test_a_submission_of_circuits(tmp_path):
    places = circuits.write_cell(importances(), tmp_path, task="ioi", model_name="gpt2", as_circuits=True)
    assert [str(place.relative_to(tmp_path)) for place in places] == ["abs-False/ioi_gpt2", "abs-True/ioi_gpt2"]
    assert {path.name for path in places[0].iterdir()} == {circuit_name("ioi_gpt2", share) for share in CIRCUITS}
    signed, by_size = map(circuits.read_circuits, places)
    flat = importances().flat
    scores = circuits.EdgeScores(flat, importances().edges, torch.full(flat.edge_mask.shape, math.nan), 1)
    for share, one, other in zip(CIRCUITS, signed, by_size, strict=True):
        n = int(share * flat.n_edges)
        assert torch.equal(one.in_graph, scores.top(n, by="signed").mask)
        assert torch.equal(other.in_graph, scores.top(n).mask)
    assert signed[-1].in_graph.sum() > 0
    (places[0] / circuit_name("ioi_gpt2", 0.5)).unlink()
    with pytest.raises(InputError, match="8 circuit files; expected 1 of importances, or 9"):
        circuits.read_circuits(places[0])


def test_the_circuits_of_a_folder_are_ordered_by_size_whatever_their_names(tmp_path):
    place = circuits.write_cell(importances(), tmp_path, task="ioi", model_name="gpt2", as_circuits=True)[1]
    before = circuits.read_circuits(place)
    files = sorted(place.iterdir())
    for i, path in enumerate(files):
        path.rename(place / f"{(i * 4) % 9}.json")
    assert [int(one.in_graph.sum()) for one in circuits.read_circuits(place)] == [
        int(one.in_graph.sum()) for one in before
    ]


def test_what_the_leaderboard_would_refuse_is_listed(tmp_path):
    gpt2 = Graph(12, 12, 12, (True,) * 12)
    circuits.write_cell(importances(), tmp_path, task="ioi", model_name="llama3")
    circuits.write_cell(importances(gpt2), tmp_path, task="ioi", model_name="gpt2")
    circuits.write_cell(importances(), tmp_path, task="mcqa", model_name="gpt2")
    (tmp_path / "arc-easy_gemma2").mkdir()
    result = circuits.check_submission([tmp_path])
    assert [(cell.task, cell.model) for cell in result.cells] == [("ioi", "gpt2"), ("ioi", "llama3"), ("mcqa", "gpt2")]
    message = "\n".join(result.problems)
    assert "arc-easy_gemma2 has no circuit file" in message
    assert f"its model has {importances().flat.n_edges} edges, and llama3 1,592,881" in message
    assert "no cell for mcqa and gpt2" in message
    assert len(result.problems) == 3
    alone = circuits.check_submission([tmp_path / "ioi_gpt2"])
    assert alone.problems == (
        "1 model; the leaderboard asks for at least 2", "1 task; the leaderboard asks for at least 2",
    )  # fmt: skip


def test_cells_are_collected(tmp_path):
    for task, model in (("ioi", "gpt2"), ("mcqa", "llama3")):
        circuits.write_cell(
            importances(), tmp_path / f"of-{task}", task=task, model_name=model, as_circuits=task == "mcqa"
        )
    collect([tmp_path / "of-ioi", tmp_path / "of-mcqa"], tmp_path / "all")
    result = circuits.check_submission([tmp_path / "all"])
    assert [(cell.task, cell.circuits) for cell in result.cells] == [("mcqa", True), ("mcqa", True), ("ioi", False)]
    with pytest.raises(InputError, match="two of the sources have a folder ioi_gpt2"):
        collect([tmp_path / "of-ioi", tmp_path / "all"], tmp_path / "other")


def test_mib_counts_the_edges_of_its_models():
    """Layers and heads of the four models give MIB's own counts (its `EDGE_COUNTS`)."""
    shapes = {"gpt2": (12, 12), "qwen2.5": (24, 14), "gemma2": (26, 8), "llama3": (32, 32)}
    for name, (n_layers, n_heads) in shapes.items():
        mine = (3 * n_heads + 1) * (n_layers + (n_heads + 1) * n_layers * (n_layers - 1) // 2) + n_layers * n_heads
        assert mine + 1 + n_layers * (n_heads + 1) == MODELS[name].n_edges
    assert Graph(12, 12, 12, (True,) * 12).n_edges == MODELS["gpt2"].n_edges


def test_names():
    assert {task for task, _ in TABLE} == set(TASKS)
    assert {model for _, model in TABLE} == set(MODELS)
    assert all(track_name(model.source) == name for name, model in MODELS.items())
    assert cell_of(Path("x/notes")) is None
    with pytest.raises(InputError, match="did you mean 'arc_easy'"):
        find_task("arc-eazy")
