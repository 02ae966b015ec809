import itertools

import pytest
import torch

from circuits import Circuit, Graph, random_circuit
from circuits.plots import _drawn_edges, _places, circuit_figure, write_html
from circuits.provenance import frozen


def example(scores=True):
    graph = Graph(4, 4, 2, (True,) * 4)
    circuit = random_circuit(graph, 40, torch.Generator().manual_seed(0))
    values = torch.randn(graph.edge_mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Circuit(graph, circuit.mask, values if scores else None, None, frozen(None))


@pytest.mark.parametrize("scores", [True, False])
def test_every_edge_and_node_is_drawn_and_named(scores):
    circuit = example(scores)
    figure = circuit_figure(circuit)
    shown = {text.split("<br>")[0] for trace in figure.data for text in trace.text if text}
    assert set(circuit.edges) <= shown
    assert {annotation.text for annotation in figure.layout.annotations} == set(circuit.nodes)


def test_nodes_do_not_overlap_and_edges_go_upward():
    circuit = example()
    edges = _drawn_edges(circuit)
    places = _places(circuit, edges)
    assert len(set(places.values())) == len(places)
    rows = {}
    for x, y in places.values():
        rows.setdefault(y, []).append(x)
    for xs in rows.values():
        xs.sort()
        assert all(b - a >= 0.99 for a, b in itertools.pairwise(xs))
    assert all(places[edge.source][1] < places[edge.target][1] for edge in edges)


def test_an_empty_circuit_is_a_figure_too():
    assert circuit_figure(Circuit.empty(Graph(1, 1, 1, (True,)))).layout.title.text == "0 edges, 0 nodes"


def test_the_page_works_offline(tmp_path):
    write_html(circuit_figure(example()), tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text()
    assert "Plotly.newPlot" in page
    assert '<script src="http' not in page
