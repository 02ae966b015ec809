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
