"""`circuits export`: from a run, a circuit, scores or EAP-IG's files, to any format."""

import json
import re
from xml.etree import ElementTree

import pytest
import torch

from circuits import Circuit, EdgeScores, Graph
from circuits.errors import ContentWarning
from circuits.export.catalogue import FORMATS
from circuits.export.eap_ig import write_eap_ig, write_eap_ig_tensors
from circuits.export.formats import export_circuit
from tests.command import GOLDEN, run, write_pairs
from tests.exported import GRAPHS, scored


def export(monkeypatch, *arguments):
    return run(monkeypatch, ["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """A run directory of two layers of two heads, MLPs included; its circuit has 12 edges."""
    folder = tmp_path_factory.mktemp("run")
    case = json.loads((GOLDEN / "acdc_2l2h_kl" / "case.json").read_text())
    given = [
        "discover", write_pairs(case, folder / "PAIRS.jsonl"), "--model", GOLDEN / "acdc_2l2h_kl" / "model", "--method", "eap",
        "--metric", "logit_difference", "--dtype", "float64", "--edges", 12, "--random-circuits", 0, "--out", folder / "eap",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, [str(argument) for argument in given]) == 0
    return folder / "eap"


def test_a_run_is_exported_by_suffix_and_by_name(monkeypatch, a_run, tmp_path, capsys):
    assert export(monkeypatch, a_run, "--out", tmp_path / "c.gexf") == 0
    assert export(monkeypatch, a_run, "--to", "neuronpedia", "--out", tmp_path / "g.json") == 0
    assert f"written to {tmp_path / 'g.json'}" in capsys.readouterr().out.replace("\n", "")
    assert ElementTree.parse(tmp_path / "c.gexf").getroot().tag.endswith("gexf")
    graph = json.loads((tmp_path / "g.json").read_text())
    assert len(graph["metadata"]["prompt_tokens"]) > 1


def test_how_much_of_a_circuit_is_drawn_is_told(monkeypatch, a_run, tmp_path, capsys):
    assert export(monkeypatch, a_run, "--to", "tikz", "--max-edges", 5, "--out", tmp_path / "c.tex") == 0
    assert re.match(r"\d of 10 lines drawn, the strongest", capsys.readouterr().out)
    assert export(monkeypatch, a_run, "--to", "latex-edges", "--max-edges", 5, "--out", tmp_path / "t.tex") == 0
    assert "lines drawn" not in capsys.readouterr().out


def test_a_run_gives_eap_ig_and_mib_the_scores_of_every_edge(monkeypatch, a_run, tmp_path):
    assert (
        export(monkeypatch, a_run, "--to", "mib", "--mib-task", "ioi", "--mib-model", "gpt2", "--out", tmp_path / "s")
        == 0
    )
    assert export(monkeypatch, a_run, "--to", "eap-ig", "--d-model", 16, "--out", tmp_path / "c.json") == 0
    edges = json.loads((tmp_path / "s" / "ioi_gpt2" / "importances.json").read_text())["edges"]
    scores = EdgeScores.load(a_run / "scores.safetensors")
    assert {name: edge["score"] for name, edge in edges.items()} == scores.to_dict()
    circuit = Circuit.from_json(a_run / "circuit.json")
    assert {name for name, edge in edges.items() if edge["in_graph"]} == set(circuit.edges)
    assert json.loads((tmp_path / "c.json").read_text())["cfg"]["d_model"] == 16


def test_edges_are_chosen_from_scores(monkeypatch, a_run, tmp_path, capsys):
    scores = a_run / "scores.safetensors"
    assert export(monkeypatch, a_run, "--edges", 5, "--out", tmp_path / "c.json") == 0
    assert export(monkeypatch, scores, "--edges", 5, "--out", tmp_path / "d.json") == 0
    expected = EdgeScores.load(scores).top(5)
    assert Circuit.from_json(tmp_path / "c.json") == Circuit.from_json(tmp_path / "d.json") == expected
    assert export(monkeypatch, scores, "--out", tmp_path / "e.json") == 2
    output = capsys.readouterr().err
    assert "no edge that was chosen is on a path" in output  # of five, none
    assert "--edges N" in output
    assert export(monkeypatch, tmp_path / "c.json", "--edges", 5, "--out", tmp_path / "f.json") == 2


def test_files_of_eap_ig_come_in(monkeypatch, tmp_path):
    circuit = scored(GRAPHS[1])
    write_eap_ig(circuit, tmp_path / "in.json")
    write_eap_ig_tensors(circuit, tmp_path / "in.safetensors")
    for name in ("in.json", "in.safetensors"):
        assert export(monkeypatch, tmp_path / name, "--overwrite", "--out", tmp_path / "out.json") == 0
        back = Circuit.from_json(tmp_path / "out.json")
        assert back == circuit
        torch.testing.assert_close(back.scores[back.mask], circuit.scores[back.mask], rtol=1e-15, atol=0)


def test_labels_and_groups_reach_the_picture(monkeypatch, a_run, tmp_path, capsys):
    node = Circuit.from_json(a_run / "circuit.json").nodes[1]
    (tmp_path / "n.toml").write_text(f'[labels]\n"{node}" = "<script>"\n')
    assert export(monkeypatch, a_run, "--labels", tmp_path / "n.toml", "--out", tmp_path / "c.tikz") == 0
    assert r"\ensuremath{<}script" in (tmp_path / "c.tikz").read_text()
    (tmp_path / "n.toml").write_text('[labels]\n"a99.h0" = "x"\n')
    assert export(monkeypatch, a_run, "--labels", tmp_path / "n.toml", "--out", tmp_path / "d.tikz") == 2
    assert "no node 'a99.h0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "--out", "c.svg"], "no run directory or file absent"),
        ([".", "--out", "c.json"], "is not a run directory"),
        (["RUN", "--to", "pfd", "--out", "c.pdf"], "did you mean pdf"),
        (["RUN", "--out", "c.doc"], "--to"),
        (["RUN", "--out", "taken.json"], "--overwrite"),
        (["RUN", "--out", "c.json", "--max-edges", "3"], "takes no option max_edges"),
        (["RUN", "--out", "c.dot", "--colours", "red"], "'sign' or 'kind'"),
        (["old.json", "--out", "c.svg"], "schema 0; this version reads schema 1"),
        (["cyclic.json", "--out", "c.svg"], "does not come before"),
        (["unknown.json", "--out", "c.svg"], "no node 'a7.h7'"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(monkeypatch, a_run, tmp_path, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.json").write_text("mine")
    data = json.loads((a_run / "circuit.json").read_text())
    for name, changed in (
        ("old", {"graph": data["graph"] | {"schema": 0}}),
        ("cyclic", {"edges": [{"source": "a1.h0", "target": "a0.h0", "key": "q"}]}),
        ("unknown", {"nodes": [*data["nodes"], {"id": "a7.h7"}]}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(data | changed))
    before = sorted(path.name for path in tmp_path.iterdir())
    assert export(monkeypatch, *[a_run if argument == "RUN" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "taken.json").read_text() == "mine"


def test_the_help_names_every_format(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    assert export(monkeypatch, "--help") == 0
    assert ", ".join(FORMATS) in capsys.readouterr().out


def importances(folder, scores):
    """A file of EAP-IG or MIB with scores and nothing in its graph, as their scoring scripts write it; one layer of one head."""
    nodes = {name: {"in_graph": False} for name in ("input", "a0.h0", "m0", "logits")}
    edges = {name: {"score": score, "in_graph": False} for name, score in scores.items()}
    config = {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 8}
    path = folder / "importances.json"
    path.write_text(json.dumps({"cfg": config, "nodes": nodes, "edges": edges}))
    return path


IMPORTANCES = {
    "input->a0.h0<q>": 0.1, "input->a0.h0<k>": 0.2, "input->a0.h0<v>": 0.9, "input->m0": -0.4, "a0.h0->m0": 0.3,
    "input->logits": 0.05, "a0.h0->logits": 0.8, "m0->logits": -0.7,
}  # fmt: skip


def test_edges_are_chosen_by_the_scores_of_a_file_with_nothing_in_its_graph(monkeypatch, tmp_path, capsys):
    path = importances(tmp_path, IMPORTANCES)
    assert export(monkeypatch, path, "--edges", 4, "--out", tmp_path / "x.json") == 0
    strongest = sorted(IMPORTANCES, key=lambda edge: -abs(IMPORTANCES[edge]))[:4]
    result = Circuit.from_json(tmp_path / "x.json")
    assert set(result.edges) == set(strongest)
    assert {edge: result.score(edge) for edge in strongest} == {edge: IMPORTANCES[edge] for edge in strongest}
    assert capsys.readouterr().err == ""
    assert run(monkeypatch, ["view", str(path), "--edges", "4", "--out", str(tmp_path / "x.html")]) == 0
    assert "4 edges" in (tmp_path / "x.html").read_text()


@pytest.mark.parametrize("form", ["csv-edges", "latex-edges", "json", "dot", "tikz"])
def test_an_empty_export_warns_and_says_what_to_do(monkeypatch, tmp_path, capsys, form):
    path = importances(tmp_path, IMPORTANCES)
    assert export(monkeypatch, path, "--to", form, "--out", tmp_path / "x") == 0
    error = capsys.readouterr().err
    assert "no edges" in error
    assert "--edges N" in error
    assert error.count("\n") == 1
    assert run(monkeypatch, ["view", str(path), "--out", str(tmp_path / "x.html")]) == 2
    assert "--edges N" in capsys.readouterr().err


def test_scores_go_from_one_file_of_eap_ig_to_another_without_a_circuit(monkeypatch, tmp_path, capsys):
    path = importances(tmp_path, IMPORTANCES)
    assert export(monkeypatch, path, "--to", "eap-ig-tensors", "--out", tmp_path / "x.safetensors") == 0
    assert export(monkeypatch, tmp_path / "x.safetensors", "--edges", 4, "--out", tmp_path / "y.json") == 0
    assert len(Circuit.from_json(tmp_path / "y.json")) == 4
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("form", ["eap-ig", "eap-ig-tensors", "mib"])
def test_our_own_exports_give_the_choice_that_the_run_gives(monkeypatch, a_run, tmp_path, form):
    out = tmp_path / "x"
    names = ("--mib-task", "ioi", "--mib-model", "gpt2") if form == "mib" else ()
    if form == "eap-ig-tensors":
        out = tmp_path / "x.safetensors"
    assert export(monkeypatch, a_run, "--to", form, *names, "--out", out) == 0
    source = out / "ioi_gpt2" / "importances.json" if form == "mib" else out
    assert export(monkeypatch, source, "--edges", 20, "--out", tmp_path / "y.json") == 0
    assert Circuit.from_json(tmp_path / "y.json") == EdgeScores.load(a_run / "scores.safetensors").top(20)


def test_more_edges_than_have_a_score_are_not_taken_silently(monkeypatch, a_run, tmp_path, capsys):
    few = {edge: score if abs(score) > 0.5 else 0.0 for edge, score in IMPORTANCES.items()}
    path = importances(tmp_path, few)
    assert export(monkeypatch, path, "--edges", 5, "--out", tmp_path / "x.json") == 0
    assert "only 3 edges have a score other than 0" in capsys.readouterr().err
    path = importances(tmp_path, dict.fromkeys(IMPORTANCES, 0.0))
    assert export(monkeypatch, path, "--edges", 5, "--out", tmp_path / "y.json") == 2
    assert "no score other than 0" in capsys.readouterr().err
    circuit = Circuit.from_json(a_run / "circuit.json")
    assert export(monkeypatch, a_run / "circuit.json", "--edges", 3, "--out", tmp_path / "z.json") == 0
    assert Circuit.from_json(tmp_path / "z.json") <= circuit
    circuit.from_edges(circuit.graph, circuit.edges).to_json(tmp_path / "bare.json")
    assert export(monkeypatch, tmp_path / "bare.json", "--edges", 3, "--out", tmp_path / "u.json") == 2
    assert "without scores" in capsys.readouterr().err


def test_an_empty_circuit_warns_in_the_library_too(tmp_path):
    with pytest.warns(ContentWarning, match="no edges"):
        export_circuit(Circuit.empty(Graph(*GRAPHS[0])), tmp_path / "x.csv")


@pytest.mark.parametrize("command", ["compare", "evaluate", "report"])
def test_what_needs_a_run_says_so_of_a_file_of_scores(monkeypatch, tmp_path, capsys, command):
    path = str(importances(tmp_path, IMPORTANCES))
    more = [path] if command == "compare" else ["--out", str(tmp_path / "r.html")] if command == "report" else []
    assert run(monkeypatch, [command, path, *more]) == 2
    assert "is a file and not a run directory" in capsys.readouterr().err
