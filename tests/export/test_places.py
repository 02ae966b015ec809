"""Circuits over places in every format: with their places, or without them and a warning; and the picture over tokens."""

import csv
import json
import math
import re
import warnings
from dataclasses import replace

import pytest
import torch

from circuits import Circuit, Graph, InputError, Naming, export_circuit
from circuits.errors import ContentWarning
from circuits.export.catalogue import FORMATS
from circuits.export.columns import placed_in_columns
from circuits.export.draw import draw
from circuits.export.eap_ig import read_eap_ig, read_eap_ig_tensors
from circuits.export.layout import lay_out
from circuits.export.routing import Box, Streets
from circuits.export.tables import write_csv_edges, write_csv_nodes
from circuits.graph.places import ARROW
from tests.exported import GRAPHS, compiled, placed

PLAIN = ("eap-ig", "eap-ig-tensors", "neuronpedia")
"""Formats without places."""
PICTURES = ("svg", "pdf", "png")
HOSTILE = '</script>\\input{x} "]; & <b> $_%'


@pytest.mark.parametrize("destinations", [False, True])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "mib"])
def test_every_format_writes_a_circuit_over_places_or_warns_that_it_has_none(name, destinations, tmp_path):
    if name in PICTURES:
        pytest.importorskip("pygraphviz")
    form, circuit = FORMATS[name], placed(destinations=destinations)
    out = tmp_path / f"c{form.suffix}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        written = export_circuit(circuit, out, name)
    about = [str(w.message) for w in caught if w.category is ContentWarning and "places" in str(w.message)]
    assert len(about) == (name in PLAIN)
    assert all(
        f"{len(circuit)} edges at places were written as {len(circuit.without_places())} edges" in t for t in about
    )
    text = written.read_bytes().decode(errors="replace")
    if name not in (*PLAIN, "pdf", "png"):
        assert "S+" in text or "S{}+" in text


@pytest.mark.parametrize("name", [n for n in FORMATS if n not in ("pdf", "png", "mib")])
def test_a_hostile_name_of_a_span_stays_text(name, tmp_path):
    if name == "svg":
        pytest.importorskip("pygraphviz")
    circuit = placed(spans=("start", HOSTILE, "S+", "end"), share=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ContentWarning)
        out = export_circuit(circuit, tmp_path / f"c{FORMATS[name].suffix}", name)
    text = out.read_text(encoding="utf-8") if name != "eap-ig-tensors" else ""
    assert "<b>" not in text or name in ("json", "csv-edges", "csv-nodes", "dot")
    if name in ("tikz", "tikzpicture", "latex-edges", "latex-nodes"):
        assert "\\input{" not in text.replace("\\usepackage", "")
    if name == "dot":
        pygraphviz = pytest.importorskip("pygraphviz")
        graph = pygraphviz.AGraph(string=text)
        assert len(graph.nodes()) == len(draw(circuit).nodes) + len(draw(circuit).rows)
    if name == "tikz":
        compiled(out)


def test_formats_without_places_hold_what_the_circuit_without_places_holds(tmp_path):
    circuit = placed()
    plain = circuit.without_places()
    with pytest.warns(ContentWarning, match="cannot hold places"):
        export_circuit(circuit, tmp_path / "c.json", "eap-ig")
    with pytest.warns(ContentWarning, match="cannot hold places"):
        export_circuit(circuit, tmp_path / "c.safetensors", "eap-ig-tensors")
    for read in (read_eap_ig(tmp_path / "c.json"), read_eap_ig_tensors(tmp_path / "c.safetensors")):
        assert read == plain
        for name in plain.edges:
            assert read.score(name) == pytest.approx(plain.score(name))


@pytest.mark.parametrize("destinations", [False, True])
@pytest.mark.parametrize("shape", GRAPHS)
def test_csv_has_the_position_and_gives_the_edges_back(shape, destinations, tmp_path):
    circuit = placed(shape, destinations=destinations)
    write_csv_edges(circuit, tmp_path / "e.csv")
    with (tmp_path / "e.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    part = {"in": "", "q": "<q>", "k": "<k>", "v": "<v>"}
    names = [f"{r['source']}->{r['target']}{part[r['input']]}@{r['position']}" for r in rows]
    assert Circuit.from_edges(circuit.graph, names) == circuit
    assert [float(row["effect"]) for row in rows] == [circuit.score(name) for name in names]
    assert any(ARROW in row["position"] for row in rows) is (destinations and len(rows) > 9)
    write_csv_nodes(circuit, tmp_path / "n.csv")
    with (tmp_path / "n.csv").open(encoding="utf-8", newline="") as file:
        nodes = list(csv.DictReader(file))
    assert [f"{n['node']}@{n['position']}" if n["position"] else n["node"] for n in nodes] == list(circuit.outputs)
    assert sum(int(node["edges_out"]) for node in nodes) == len(circuit)
    for node in nodes:  # counted anew from the names of the edges
        writes = [name for name in names if name.split("->")[0] == node["node"]]
        here = [name for name in writes if name.split("@")[1].split(ARROW)[0] == node["position"]]
        assert len(here) == int(node["edges_out"])


def test_latex_tables_have_a_column_for_the_position_and_compile(tmp_path):
    circuit = placed()
    text = r"\documentclass{article}\usepackage{booktabs,longtable}\begin{document}"
    for name in ("latex-edges", "latex-nodes"):
        export_circuit(circuit, tmp_path / f"{name}.tex", name)
        table = (tmp_path / f"{name}.tex").read_text()
        assert " & at & " in table
        text += table
    assert r"S{}+ \ensuremath{\rightarrow} end" in text or r"S+ \ensuremath{\rightarrow} end" in text
    compiled(tmp_path / "t.tex", text + r"\end{document}")


@pytest.mark.parametrize("destinations", [False, True])
@pytest.mark.parametrize("shape", GRAPHS)
def test_over_tokens_every_edge_is_a_line_from_where_it_is_read_to_the_outputs_that_use_it(shape, destinations):
    circuit = placed(shape, destinations=destinations)
    drawing = draw(circuit)
    spans, outputs = circuit.places or (), set(circuit.outputs)
    wanted = {}
    for name in circuit.edges:  # from the names alone
        edge, _, place = name.partition("@")
        source, _, target = edge.partition("->")
        node, _, part = target.rstrip(">").partition("<")
        at, arrow, end = place.partition(ARROW)
        first = spans.index(at)
        if node == "logits":
            heads, ends = ["logits"], [first]
        else:
            size = circuit.graph.group_size
            layer, _, kv = node.partition(".kv")
            heads = [f"{layer}.h{int(kv) * size + i}" for i in range(size)] if kv else [node]
            ends = [spans.index(end)] if arrow else [*range(first, len(spans))] if part in ("k", "v") else [first]
        for head in heads:
            for i in ends:
                if head == "logits" or f"{head}@{spans[i]}" in outputs:
                    key = (f"{source}@{first}", f"{head}@{i}", part or "in")
                    wanted.setdefault(key, []).append(circuit.score(name))
    result = {(edge.source, edge.target, edge.kind): edge.score for edge in drawing.edges}
    assert result.keys() == wanted.keys()
    assert len(result) == len(drawing.edges)
    for key, scores in wanted.items():
        assert result[key] == pytest.approx(math.fsum(scores))


def test_the_graph_layout_is_the_drawing_of_the_circuit_without_places():
    circuit = placed()
    plain = replace(circuit.without_places())
    assert draw(circuit, layout="graph") == draw(plain)
    assert draw(plain).columns == ()


@pytest.mark.parametrize("seed", range(3))
def test_boxes_stand_in_their_columns_without_overlap_and_lines_pass_them(seed):
    circuit = placed((4, 4, 2, (True,) * 4, False), seed=seed, share=0.08)
    drawing = draw(circuit, Naming({"m1": "an MLP with a long label"}, {"pair": ("a1.h0", "a1.h1")}))
    places, columns = placed_in_columns(drawing)
    assert [low for low, _ in columns[1:]] == [high for _, high in columns[:-1]]
    boxes = [Box(*place, node.width, node.height) for node, place in zip(drawing.nodes, places, strict=True)]
    for node, box in zip(drawing.nodes, boxes, strict=True):
        low, high = columns[node.column or 0]
        assert low <= box.x - box.width / 2
        assert box.x + box.width / 2 <= high
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert abs(a.x - b.x) >= (a.width + b.width) / 2 or abs(a.y - b.y) >= (a.height + b.height) / 2
    layout = lay_out(drawing)
    streets = Streets(
        [Box(*at, n.width, n.height) for n, at in zip(drawing.nodes, layout.nodes, strict=True)], 3.0, 3.0
    )
    numbers = {node.id: i for i, node in enumerate(drawing.nodes)}
    for edge, curve in zip(drawing.edges, layout.curves, strict=True):
        assert not streets.hidden((numbers[edge.source], numbers[edge.target]), curve, 0.5)


def test_max_edges_draws_only_paths_from_the_input_to_the_logits():
    drawing = draw(placed(share=0.4), max_edges=30)
    assert 0 < len(drawing.edges) <= 30
    fed = {edge.source for edge in drawing.edges} - {edge.target for edge in drawing.edges}
    assert all(node.startswith("input@") for node in fed)
    ends = {edge.target for edge in drawing.edges} - {edge.source for edge in drawing.edges}
    assert all(node.startswith("logits@") for node in ends)


def test_words_of_an_example_stand_below_their_spans_in_svg(tmp_path):
    pytest.importorskip("pygraphviz")
    export_circuit(placed(), tmp_path / "c.svg", max_edges=40, words={"S": "Chris", "end": "to & <fro>"})
    text = (tmp_path / "c.svg").read_text()
    for words in ("Chris", "to &amp; &lt;fro&gt;", "S+"):
        assert f">{words}<" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "spans"}, "layout must be 'graph' or 'tokens', got 'spans'"),
        ({"layout": "tokens"}, "no places.*--positions spans"),
        ({"words": {"S": "x"}}, "words for the span 'S'"),
    ],
)
def test_what_cannot_be_drawn_over_tokens_is_refused(options, message):
    plain = Circuit.full(Graph(*GRAPHS[0]))
    with pytest.raises(InputError, match=message):
        draw(plain, **options)


def test_a_picture_over_tokens_goes_up():
    with pytest.raises(InputError, match="over tokens layers go up"):
        draw(placed(), direction="right")
    assert draw(placed(), direction="right", layout="graph").rightward


def test_mib_takes_the_scores_of_all_edges_of_a_run_over_places(tmp_path):
    import circuits
    from circuits.runs.source import read_source
    from tests.placed_pairs import placed_pairs
    from tests.tiny_models import tiny

    scores = circuits.edge_attribution(tiny("llama"), placed_pairs(), positions="spans", destinations=True)
    scores.save(tmp_path / "scores.safetensors")
    with pytest.raises(InputError, match="every edge"), pytest.warns(ContentWarning, match="cannot hold places"):
        export_circuit(scores.top(30, places=True), tmp_path / "mib", "mib", task="ioi", model="llama")
    source = read_source(tmp_path / "scores.safetensors", 30)
    assert source.circuit.places == placed_pairs().spans
    with pytest.warns(ContentWarning, match="cannot hold places"):
        every = read_source(tmp_path / "scores.safetensors", 30, every_edge=True).circuit
    assert every == source.circuit.without_places()
    assert every.scores is not None
    assert torch.equal(every.scores, scores.values)
    export_circuit(every, tmp_path / "mib", "mib", task="ioi", model="llama")
    data = json.loads(next((tmp_path / "mib").rglob("*.json")).read_text())
    assert sum(edge["in_graph"] for edge in data["edges"].values()) >= len(every)
    assert not re.search("@", json.dumps(data["edges"]))
