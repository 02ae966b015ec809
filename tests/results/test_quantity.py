"""What pictures, tables and pages say of scores: help and harm only of scores with a sign, and else what the scores are."""

import html
import json
import re

import pytest
import torch

import circuits
from circuits import Circuit, Graph, random_circuit
from circuits.evaluation.comparison import compare
from circuits.export.dot import write_dot
from circuits.export.draw import draw
from circuits.export.drawing import SIGN_COLOURS
from circuits.export.inline import inline_svg
from circuits.export.latex import escape
from circuits.export.neuronpedia import attribution_graph
from circuits.export.tables import write_latex_edges, write_latex_nodes
from circuits.export.tikz import write_tikz
from circuits.plots import node_heatmap
from circuits.plots.page import NEGATIVE, POSITIVE, SIZE
from circuits.results.node_scores import node_scores
from circuits.results.provenance import frozen
from circuits.results.quantity import node_caption
from circuits.results.recorded import edge_caption, quantity_of
from circuits.viewer import write_viewer
from tests.command import discovered, run
from tests.tiny_models import random_pairs, tiny

SIGNED = {
    "edge_attribution": ("effect", "helps", "hurts"),
    "acdc": ("change when tested", "helps", "hurts"),
    "edge_pruning": ("log-odds of the mask", "mask open", "mask closed"),
}
UNSIGNED = {"information_flow": "share of the reader's input", "atp_star": "contribution"}
"""AtP* gives scores of nodes only; a circuit of edges may still come with its name."""
NODES = ("a0.h0", "a0.h1", "a1.h0", "m0", "m1")
SIGN_WORDS = re.compile(r"helps|hurts|positive|negative|vermilion", re.IGNORECASE)


def circuit_of(method, **origin):
    graph = Graph(3, 2, 2, (True,) * 3)
    mask = random_circuit(graph, 25, torch.Generator().manual_seed(0)).mask
    values = torch.randn(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values = values.abs() if method in UNSIGNED else values
    return Circuit(graph, mask, values, values.abs() / 10, frozen({"method": method, **origin}))


def scores_of(method, corrupted=-1.0, **options):
    values = torch.randn((len(NODES), 4), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = values.abs() if method == "atp_star" or options.get("signed") is False else values
    origin = {"method": method, "metric": "logit_difference", "ablation": "interchange", "options": options}
    return node_scores(NODES, values, origin, None, torch.ones(4), torch.full((4,), corrupted))


def numbers(figure):
    """Of all hover texts: what follows the name."""
    texts = (
        text
        for trace in figure.data
        for row in trace.text or ()
        for text in ([row] if isinstance(row, str) else row or ())
    )
    return [text.split("<br>")[1] for text in texts if text]


@pytest.mark.parametrize(
    ("method", "name", "unit"),
    [("activation_patching", "effect", "logits"), ("coar", "weight", "logits"), ("shapley", "Shapley value", "logits"),
     ("internal_influence", "influence", "")],
)  # fmt: skip
def test_a_heat_map_of_scores_with_a_sign_diverges_from_0(method, name, unit):
    scores = scores_of(method)
    figure, axis = node_heatmap(scores), node_heatmap(scores).layout.coloraxis
    assert -axis.cmin == axis.cmax > 0
    assert [colour for _, colour in axis.colorscale] == [NEGATIVE, "#ffffff", POSITIVE]
    assert axis.colorbar.title.text == (f"{name} ({unit})" if unit else name)
    assert figure.layout.title.subtitle.text.startswith(name)
    assert "logit difference" in figure.layout.title.subtitle.text
    assert {text[0] for text in numbers(figure)} == {"+", "-"}
    words = ("raises", "lowers") if method == "internal_influence" else ("helps", "hurts")
    assert all(word in node_caption(scores.quantity) for word in words)


@pytest.mark.parametrize("corrupted", [-1.0, 3.0])
@pytest.mark.parametrize(("method", "name"), [("atp_star", "contribution"), ("another", "size of the effect")])
def test_a_heat_map_of_scores_without_sign_begins_at_0(method, name, corrupted):
    scores = scores_of(method, corrupted, signed=False)
    assert not scores.signed
    for normalised in (False, True):
        figure = node_heatmap(scores, normalised)
        axis = figure.layout.coloraxis
        shown = [value for trace in figure.data for row in trace.z for value in row if value is not None]
        assert axis.cmin == 0 <= min(shown)
        assert axis.cmax == max(shown)
        assert [colour for _, colour in axis.colorscale] == ["#ffffff", SIZE]
        assert axis.colorbar.title.text.startswith(name)
        assert all(text[0].isdigit() for text in numbers(figure))
        assert not SIGN_WORDS.search(figure.to_json())


@pytest.mark.parametrize("corrupted", [-1.0, 3.0])
@pytest.mark.parametrize(("method", "name"), [("atp_star", "contribution"), ("another", "size of the effect")])
def test_the_caption_of_scores_without_sign_names_no_sign(method, name, corrupted):
    scores = scores_of(method, corrupted, signed=False)
    assert name in node_caption(scores.quantity)
    assert not SIGN_WORDS.search(node_caption(scores.quantity))
    # The sign that a share has where the corrupted run has more of the metric stays in the values themselves.
    assert bool((scores.normalised() < 0).any()) == (corrupted > 1)


@pytest.mark.parametrize(("method", "words"), SIGNED.items())
def test_a_circuit_of_scores_with_a_sign_names_both_signs(method, words, tmp_path):
    circuit, (name, positive, negative) = circuit_of(method, metric="logit_difference"), words
    assert all(word in edge_caption(circuit) for word in words)
    drawing = draw(circuit)
    assert [line.text for line in drawing.legend[:2]] == [f"positive {name}", f"negative {name}"]
    assert {edge.colour for edge in drawing.edges} == {SIGN_COLOURS["helps"], SIGN_COLOURS["hurts"]}
    page = shown_in_viewer(circuit, tmp_path)
    assert page["quantity"] == {
        "name": name,
        "unit": "logits" * (method == "acdc" or method == "edge_attribution"),
        "signed": True,
        "helps": positive,
        "hurts": negative,
    }
    assert f"sign of the {name}" in page["text"]
    assert f"positive: {positive}" in described(circuit)
    assert escape(name) in latex(circuit, tmp_path)
    assert "$+" in latex(circuit, tmp_path)


@pytest.mark.parametrize(("method", "name"), UNSIGNED.items())
def test_a_circuit_of_scores_without_sign_is_drawn_in_one_colour(method, name, tmp_path):
    circuit = circuit_of(method)
    drawing = draw(circuit)
    assert {(edge.colour, edge.dashed) for edge in drawing.edges} == {(SIGN_COLOURS["size"], False)}
    assert drawing.legend[0].text.startswith(name)
    page = shown_in_viewer(circuit, tmp_path)
    assert (page["quantity"]["name"], page["quantity"]["signed"]) == (name, False)


@pytest.mark.parametrize(("method", "name"), UNSIGNED.items())
def test_a_circuit_of_scores_without_sign_is_never_said_to_help_or_hurt(method, name, tmp_path):
    circuit = circuit_of(method)
    page = shown_in_viewer(circuit, tmp_path)
    write_dot(circuit, tmp_path / "c.dot")
    write_tikz(circuit, tmp_path / "c.tex")
    dot, tikz = (tmp_path / "c.dot").read_text(), (tmp_path / "c.tex").read_text()
    assert escape(name) in tikz
    assert "dash" not in tikz
    assert "dashed" not in dot
    result = [edge_caption(circuit), described(circuit), latex(circuit, tmp_path), page["text"], page["facts"]]
    assert all(name in text for text in (*result[:2], page["facts"]))
    assert escape(name) in result[2]
    for text in (inline_svg(circuit), dot, tikz, *result):
        assert not SIGN_WORDS.search(text)
        assert "effect" not in text
    assert "$+" not in result[2]


def test_a_circuit_without_scores_says_nothing_of_them():
    graph = Graph(2, 2, 2, (True, True))
    circuit = Circuit.full(graph)
    assert edge_caption(circuit) == "Layers upward; the edges have no scores."


def shown_in_viewer(circuit, tmp_path):
    """The data of the page, and its text without scripts and styles."""
    write_viewer({"one": circuit}, tmp_path / "v.html")
    page = (tmp_path / "v.html").read_text()
    data = json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    text = html.unescape(re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL))
    return {**data["circuits"][0], "text": text}


def described(circuit):
    return attribution_graph(circuit)["metadata"]["info"]["description"]


def latex(circuit, tmp_path):
    write_latex_edges(circuit, tmp_path / "edges.tex")
    write_latex_nodes(circuit, tmp_path / "nodes.tex")
    return (tmp_path / "edges.tex").read_text() + (tmp_path / "nodes.tex").read_text()


def test_scores_of_the_methods_themselves_are_what_the_table_says():
    model, pairs = tiny("llama"), random_pairs(n=2)
    flow = circuits.information_flow(model, pairs)
    star = circuits.atp_star(model, pairs, nodes="heads+mlps", positions=False)
    eap = circuits.edge_attribution(model, pairs)
    assert quantity_of(flow.top(5).provenance).label == "share of the reader's input"
    assert star.quantity.name == "contribution"
    assert bool((star.values >= 0).all())
    assert quantity_of(eap.top(5).provenance).signed
    search = circuits.acdc(model, pairs, 0.01)
    assert quantity_of(search.provenance).name == "change when tested"
    result = compare({"star": star, "eap": eap, "flow": flow}, resamples=10)
    assert result.without_sign == {"star": "contribution", "flow": "share of the reader's input"}
    assert result.on_signs in str(result)
    assert compare({"eap": eap, "again": eap}, resamples=10).on_signs is None


def test_a_report_and_the_terminal_speak_of_each_runs_scores(monkeypatch, tmp_path, capsys):
    star = discovered(monkeypatch, tmp_path, "star", "atp-star", "--positions", "all")
    assert "contribution" in capsys.readouterr().out
    flow = discovered(monkeypatch, tmp_path, "flow", "information-flow", "--edges", 40, "--random-circuits", 0)
    assert "share of the reader's input" in capsys.readouterr().out
    eap = discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 12, "--random-circuits", 0)
    page = tmp_path / "report.html"
    texts = {}
    for runs in ([star], [flow], [eap]):
        assert run(monkeypatch, ["report", *runs, "--out", str(page)]) == 0
        texts[runs[0]] = html.unescape(page.read_text())
    assert "Darker green is a larger contribution; it has no sign, so it does not tell help from harm." in texts[star]
    assert "share of the reader's input, which has no sign" in texts[flow]
    assert "blue: positive effect (helps); vermilion, dashed: negative effect (hurts); width: its size." in texts[eap]
    capsys.readouterr()
    assert run(monkeypatch, ["compare", star, eap, "--samples", "0"]) == 0
    assert "Scores without sign: AtP* (contribution)." in capsys.readouterr().err
