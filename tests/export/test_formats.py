"""All formats: each is written, none trips over a hostile string, and nothing leaves where it was sent."""

import csv
import json

import networkx as nx
import pytest

from circuits import Circuit, Graph, InputError, Naming, export_circuit
from circuits.export.catalogue import FORMATS, find_format
from circuits.export.mib import write_mib
from circuits.export.neuronpedia import attribution_graph, write_neuronpedia
from circuits.export.tables import write_csv_edges, write_csv_nodes
from circuits.results.graphml import write_gexf, write_graphml
from circuits.results.provenance import frozen
from tests.exported import GRAPHS, HOSTILE, scored

NODES = ("input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1")
NAMED = Naming(dict(zip(NODES, HOSTILE, strict=True)))
PICTURES = ("svg", "pdf", "png")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_writes_one_whole_file(name, tmp_path):
    if name in PICTURES:
        pytest.importorskip("pygraphviz")
    form = FORMATS[name]
    out = tmp_path / f"c{form.suffix}"
    options = {"naming": NAMED} if "naming" in form.takes else {}
    written = export_circuit(scored(GRAPHS[0], share=0.8), out, name, **options)
    assert written.stat().st_size > 100
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [written]
    with pytest.raises(InputError, match="--overwrite"):
        export_circuit(scored(GRAPHS[0]), out, name, **options)
    assert export_circuit(scored(GRAPHS[0]), out, name, overwrite=True, **options) == written


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if "naming" in f.takes and n not in PICTURES])
@pytest.mark.parametrize("label", ["a\x00b", "a\x1b[31m", "\u202egnp.exe", "\ud83d"])
def test_control_characters_are_refused_by_every_format(name, label, tmp_path):
    with pytest.raises(InputError, match=r"control character"):
        export_circuit(scored(GRAPHS[0]), tmp_path / "c", name, naming=Naming({"m0": label}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("write", "read"), [(write_graphml, nx.read_graphml), (write_gexf, nx.read_gexf)])
@pytest.mark.parametrize("shape", GRAPHS)
def test_networkx_reads_graphs_back_with_effects_and_labels(write, read, shape, tmp_path):
    circuit = scored(shape)
    write(circuit, tmp_path / "g", NAMED)
    graph = read(tmp_path / "g")
    source = circuit.to_networkx()
    output = {(s, t, d["kind"]): (d["score"], d["stderr"]) for s, t, d in graph.edges(data=True)}
    assert output == {(s, t, k): (d["score"], d["stderr"]) for s, t, k, d in source.edges(keys=True, data=True)}
    for node, data in source.nodes(data=True):
        assert graph.nodes[node]["kind"] == data["kind"]
        assert graph.nodes[node]["label"] == NAMED.labels.get(node, node)


@pytest.mark.parametrize("shape", GRAPHS)
def test_csv_gives_the_edges_and_effects_back_exactly(shape, tmp_path):
    circuit = scored(shape)
    write_csv_edges(circuit, tmp_path / "e.csv", NAMED)
    with (tmp_path / "e.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    parts = {row["input"] for row in rows}
    assert parts <= {"q", "k", "v", "in"}
    names = [f"{r['source']}->{r['target']}" + ("" if r["input"] == "in" else f"<{r['input']}>") for r in rows]
    assert Circuit.from_edges(circuit.graph, names) == circuit
    assert [float(row["effect"]) for row in rows] == [circuit.score(name) for name in names]
    assert {row["source_label"] for row in rows} <= {*HOSTILE, "", "'" + HOSTILE[4]}


def test_a_spreadsheet_runs_no_label_as_a_formula(tmp_path):
    naming = Naming({"m0": "=1+1", "m1": "@SUM(1)", "a0.h0": "-1", "a1.h0": "+1"})
    write_csv_nodes(scored(GRAPHS[0], share=1.0), tmp_path / "n.csv", naming)
    with (tmp_path / "n.csv").open(encoding="utf-8", newline="") as file:
        labels = {row["node"]: row["label"] for row in csv.DictReader(file)}
    assert [labels[node] for node in ("m0", "m1", "a0.h0", "a1.h0")] == ["'=1+1", "'@SUM(1)", "'-1", "'+1"]


def test_node_tables_count_edges_and_sum_effects(tmp_path):
    circuit = scored(GRAPHS[1], share=1.0)
    write_csv_nodes(circuit, tmp_path / "n.csv")
    with (tmp_path / "n.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["node"]: row for row in csv.DictReader(file)}
    w = circuit.graph.writer_index("m0")
    assert int(rows["m0"]["edges_out"]) == int(circuit.mask[w].sum())
    assert float(rows["m0"]["effect_out"]) == pytest.approx(float(circuit.scores[w].sum()))
    assert int(rows["a1.h3"]["edges_in"]) == 3 * 6
    assert rows["logits"]["effect_out"] == ""


# --- MIB -------------------------------------------------------------------------------------------------------------


def test_a_submission_has_a_folder_for_each_task_and_model(tmp_path):
    circuit = scored(GRAPHS[0])
    first = write_mib(circuit, tmp_path / "sub")
    second = write_mib(circuit, tmp_path / "sub", task="arc_easy", model="llama3")
    assert {first, second} == {tmp_path / "sub" / name / "importances.json" for name in ("ioi_gpt2", "arc-easy_llama3")}
    assert len(json.loads(first.read_text())["edges"]) == circuit.graph.n_edges
    known = circuit.with_provenance(model="Qwen/Qwen2.5-0.5B")
    assert write_mib(known, tmp_path / "sub").parent.name == "ioi_qwen2.5"


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a/b", "C:\\x", "\x00x", "~root", "x\n/y"])
def test_no_name_leaves_the_submission(name, tmp_path):
    inside = tmp_path / "deep" / "sub"
    try:
        write_mib(scored(GRAPHS[0]).with_provenance(task=name, model=name), inside)
    except InputError:
        assert name in ("..",)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.parent.parent == inside for path in files)


def test_a_link_in_the_submission_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "ioi_gpt2").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a symbolic link"):
        write_mib(scored(GRAPHS[0]), tmp_path / "sub")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_submission_needs_every_edge_and_names(tmp_path):
    with pytest.raises(InputError, match="every edge"):
        write_mib(Circuit.full(Graph(*GRAPHS[0])), tmp_path)
    circuit = scored(GRAPHS[0])
    nameless = Circuit(circuit.graph, circuit.mask, circuit.scores)
    with pytest.raises(InputError, match="the task must have a name"):
        write_mib(nameless, tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        write_mib(circuit, tmp_path / "file")


# --- attribution graphs ------------------------------------------------------------------------------------------------

NEEDED = {
    "node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "jsNodeId": str, "clerp": str
}  # fmt: skip
"""What Neuronpedia's published schema (graph-schema.json, version 1.0.0) asks of a node."""


@pytest.mark.parametrize("shape", GRAPHS)
def test_attribution_graphs_follow_the_published_schema(shape, tmp_path):
    circuit = scored(shape)
    naming = Naming(NAMED.labels, {"late": ("a1.h0", "m1")})
    write_neuronpedia(circuit, tmp_path / "g.json", naming, prompt="The cat", tokens=["The", " cat"])
    raw = (tmp_path / "g.json").read_text()
    assert "<" not in raw
    data = json.loads(raw)
    assert set(data) == {"metadata", "qParams", "nodes", "links"}
    assert all(isinstance(data["metadata"][key], str) for key in ("slug", "scan", "prompt"))
    assert data["metadata"]["prompt_tokens"] == ["The", " cat"]
    for node in data["nodes"]:
        assert all(type(node[key]) is kind for key, kind in NEEDED.items())
        assert 0 <= node["ctx_idx"] < 2
    texts = {node["clerp"] for node in data["nodes"]}
    assert f"{HOSTILE[0]} (input)" in texts


@pytest.mark.parametrize("shape", GRAPHS)
def test_links_and_supernodes_of_attribution_graphs_name_its_nodes(shape, tmp_path):
    circuit = scored(shape)
    naming = Naming(NAMED.labels, {"late": ("a1.h0", "m1")})
    write_neuronpedia(circuit, tmp_path / "g.json", naming, prompt="The cat", tokens=["The", " cat"])
    data = json.loads((tmp_path / "g.json").read_text())
    ids = [node["node_id"] for node in data["nodes"]]
    assert len(set(ids)) == len(ids) == len(circuit.nodes)
    assert all(link["source"] in ids and link["target"] in ids for link in data["links"])
    assert all(isinstance(link["weight"], float) for link in data["links"])
    assert set(data["qParams"]["supernodes"][0][1:]) <= set(ids) == set(data["qParams"]["pinnedIds"])


def test_circuit_tracers_viewer_can_read_a_graph():
    """What its util-cg.js does: it hides features that occur at more than two thirds of the tokens, and takes the output's name and
    probability out of its text (without `(p=` it fails)."""
    for tokens in ((), ("The",), ("The", " cat")):
        data = attribution_graph(scored(GRAPHS[0]), tokens=tokens)
        columns = data["metadata"]["prompt_tokens"]
        at = [(node["layer"], node["feature"], node["ctx_idx"]) for node in data["nodes"]]
        assert max(map(at.count, at)) <= len(columns) * 2 / 3
        (output,) = (node["clerp"] for node in data["nodes"] if node["feature_type"] == "logit")
        assert output.split('"')[1] == "logits"
        assert float(output.split("(p=")[1].split(")")[0]) == 1.0
        assert not any(node["influence"] for node in data["nodes"])


def test_a_links_weight_is_the_sum_of_its_parts():
    circuit = scored(GRAPHS[0], share=1.0)
    data = attribution_graph(circuit)
    ids = {node["clerp"]: node["node_id"] for node in data["nodes"]}
    link = next(x for x in data["links"] if (x["source"], x["target"]) == (ids["m0"], ids["a1.h1"]))
    parts = {part: circuit.score(f"m0->a1.h1<{part}>") for part in "qkv"}
    assert link["inputs"] == parts
    assert link["weight"] == pytest.approx(sum(parts.values()))


def test_an_attribution_graph_needs_scores():
    with pytest.raises(InputError, match="needs a score"):
        attribution_graph(Circuit.full(Graph(*GRAPHS[0])))


def test_a_slug_is_safe_in_an_address():
    circuit = scored(GRAPHS[0]).with_provenance(task="../<b>?x=1&y", method=None)
    assert attribution_graph(circuit)["metadata"]["slug"] == "b-x-1-y-edges"


# --- the table of formats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "name"),
    [("c.json", "json"), ("c.tex", "tikz"), ("c.TIKZ", "tikzpicture"), ("c.csv", "csv-edges"), ("c.gv", "dot"),
     ("c.safetensors", "eap-ig-tensors"), ("c.gexf", "gexf"), ("c.png", "png")],
)  # fmt: skip
def test_a_suffix_names_its_format(out, name):
    assert find_format(None, out).name == name


def test_unknown_formats_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean graphml"):
        find_format("graphlm", "x")
    with pytest.raises(InputError, match=r"no format has the suffix '\.docx'"):
        find_format(None, "x.docx")
    with pytest.raises(InputError, match="no format has the suffix ''"):
        find_format(None, "folder")


def test_options_that_a_format_does_not_take_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"gexf takes no option max_edges; these do: dot"):
        export_circuit(scored(GRAPHS[0]), tmp_path / "c.gexf", max_edges=3)
    with pytest.raises(InputError, match=r"json takes no labels or groups"):
        export_circuit(scored(GRAPHS[0]), tmp_path / "c.json", naming=NAMED)


def test_where_nothing_can_be_written_is_said(tmp_path):
    with pytest.raises(InputError, match="is a directory"):
        export_circuit(scored(GRAPHS[0]), tmp_path, "json")
    with pytest.raises(InputError, match="cannot write"):
        export_circuit(scored(GRAPHS[0]), tmp_path / "absent" / "c.json")


def test_a_provenance_full_of_markup_stays_text(tmp_path):
    circuit = scored(GRAPHS[0])
    circuit = Circuit(
        circuit.graph, circuit.mask, circuit.scores, None, frozen({f"{i}": s for i, s in enumerate(HOSTILE)})
    )
    write_graphml(circuit, tmp_path / "c.graphml")
    kept = json.loads(nx.read_graphml(tmp_path / "c.graphml").graph["provenance"])
    assert list(kept.values()) == list(HOSTILE)
    export_circuit(circuit, tmp_path / "c.json")
    assert list(Circuit.from_json(tmp_path / "c.json").provenance.values()) == list(HOSTILE)
