"""Results in a notebook: one line, a table, a DataFrame."""

import math

import pandas
import pytest
import torch

import circuits
from circuits import Circuit, EdgeScores, NodeScores
from circuits.shown import SHOWN_ROWS, Shown, html_table
from tests.public_calls import CALLS, Given
from tests.tiny_models import random_hf_model, random_pairs

PAIRS = random_pairs(n=3, length=5, prefix=1)


@pytest.fixture(scope="module")
def given():
    return Given(circuits.load_model(random_hf_model("gpt2")), PAIRS).ready()


def results(value):
    """All results in what a public call returns."""
    if isinstance(value, Shown):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from results(each)


@pytest.mark.parametrize("name", CALLS)
def test_every_result_has_one_line_a_table_and_a_data_frame(given, name):
    for result in results(CALLS[name](given)):
        assert "\n" not in repr(result)
        assert "tensor(" not in repr(result)
        assert len(repr(result)) < 400
        frame = result.to_pandas()
        assert isinstance(frame, pandas.DataFrame)
        assert len(frame) == len(result.rows())
        assert "<table>" in result._repr_html_() or not len(frame)


def test_a_table_of_edges_has_every_edge_and_shows_the_strongest_first(given):
    scores = circuits.edge_attribution(given.model, PAIRS)
    frame = scores.to_pandas().set_index("edge")
    assert dict(frame["effect"]) == scores.to_dict()
    assert list(scores.top(5).to_pandas()["edge"]) == list(scores.top(5).edges)
    html = scores._repr_html_()
    assert html.index(scores.strongest(1)[0][0].replace(">", "&gt;")) < html.index(
        scores.strongest(2)[1][0].replace(">", "&gt;")
    )
    assert f"{len(scores) - SHOWN_ROWS} more rows" in html


def test_nodes_at_positions_have_a_row_each():
    scores = NodeScores(("a0.h0", "m0"), torch.tensor([[[1.0], [2.0]], [[-3.0], [4.0]]]), positions=("S", "end"))
    frame = scores.to_pandas()
    assert list(zip(frame["node"], frame["position"], frame["effect"], strict=True)) == [
        ("a0.h0", "S", 1.0), ("a0.h0", "end", 2.0), ("m0", "S", -3.0), ("m0", "end", 4.0),
    ]  # fmt: skip
    assert frame["stderr"].map(math.isnan).all()


def test_text_in_a_table_is_escaped():
    assert "<b>" not in html_table("<b>", [{"<b>": "<b>", "list": ["<b>"]}])


def test_an_edge_of_a_circuit_gives_its_score(given):
    scores = circuits.edge_attribution(given.model, PAIRS)
    circuit = scores.top(5)
    edge = circuit.edges[0]
    assert circuit[edge] == pytest.approx(scores[edge])
    other = next(edge for edge in Circuit.full(given.model.graph) if edge not in circuit)
    with pytest.raises(circuits.InputError, match="not in this circuit"):
        circuit[other]
    with pytest.raises(circuits.InputError):
        circuit["a9.h9->logits"]


def test_a_result_without_pandas_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(circuits.InputError, match="pip install pandas"):
        EdgeScores.to_pandas(circuits.EdgeScores)  # type: ignore[arg-type]


def test_arrays_hold_heads_and_mlps_in_their_places(given):
    edges, nodes = circuits.edge_attribution(given.model, PAIRS, gradient="clean"), given.nodes
    graph = given.model.graph
    for scores, value in ((edges, edges.__getitem__), (nodes, nodes.__getitem__)):
        heads, mlps = scores.to_array()
        assert heads.shape == (graph.n_layers, graph.n_heads)
        assert heads[1, 2] == pytest.approx(value("a1.h2"))
        assert mlps[0] == pytest.approx(value("m0"))


def test_a_node_of_edge_scores_is_the_sum_over_its_out_edges(given):
    scores = circuits.edge_attribution(given.model, PAIRS)
    out = [effect for edge, effect in scores.to_dict().items() if edge.startswith("a0.h1->")]
    assert scores["a0.h1"] == pytest.approx(sum(out))


def test_positions_are_the_last_axis_of_an_array():
    scores = NodeScores(("a0.h0", "a1.h1"), torch.arange(4.0).reshape(2, 2, 1), positions=("S", "end"))
    heads, mlps = scores.to_array()
    assert heads[1, 1].tolist() == [2.0, 3.0]
    assert heads[0, 1].isnan().all()
    assert mlps.isnan().all()


def test_results_draw_themselves_in_a_notebook(given, tmp_path):
    assert given.nodes.plot().data
    assert given.edges.plot().data
    drawing = given.circuit.plot()
    assert drawing._repr_svg_().lstrip().startswith("<")
    drawing.save(tmp_path / "circuit.svg")
    assert "<svg" in (tmp_path / "circuit.svg").read_text()


def test_the_viewers_page_is_shown_in_a_frame(given, tmp_path):
    page = given.circuit.view(given.model, PAIRS, height=400)
    assert page._repr_html_().startswith("<iframe")
    assert "height:400px" in page._repr_html_()
    page.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page.html
    with pytest.raises(circuits.InputError, match="give both, or neither"):
        given.circuit.view(given.model)
