"""What is drawn, before any format."""

import math

import pytest

from circuits import Circuit, Graph, InputError, Naming
from circuits.export import layout as layouts
from circuits.export.draw import draw
from circuits.export.drawing import FILLS, KIND_COLOURS, SIGN_COLOURS, THICKEST
from circuits.export.layout import lay_out
from tests.exported import GRAPHS, scored

GRAPH = Graph(2, 2, 2, (True, True))


@pytest.mark.parametrize("shape", GRAPHS)
def test_every_edge_is_a_line_between_its_nodes(shape):
    circuit = scored(shape)
    graph, drawing = circuit.graph, draw(circuit)
    expected = set()
    for name in circuit.edges:
        w, r = graph.edge_index(name)
        reader = graph.reader_nodes[r]
        for target in graph.nodes_fed_by(reader) or ("logits",):
            if target in circuit.nodes:
                expected.add((graph.writer_names[w], target, reader.kind, float(circuit.scores[w, r])))
    assert {(e.source, e.target, e.kind, e.score) for e in drawing.edges} == expected
    assert {n.id for n in drawing.nodes} == set(circuit.nodes)


def test_rows_follow_the_forward_pass():
    drawing = draw(Circuit.full(GRAPH))
    assert [[node.id for node in row] for row in drawing.rows] == [
        ["input"], ["a0.h0", "a0.h1"], ["m0"], ["a1.h0", "a1.h1"], ["m1"], ["logits"]
    ]  # fmt: skip


def test_sign_is_colour_and_dash_and_size_is_width():
    drawing = draw(scored(GRAPHS[0]))
    for edge in drawing.edges:
        assert edge.dashed == (edge.score < 0)
        assert edge.colour == SIGN_COLOURS["hurts" if edge.score < 0 else "helps"]
    sizes = [abs(edge.score) for edge in drawing.edges]
    widths = [edge.width for edge in drawing.edges]
    assert sizes == sorted(sizes)
    assert widths == sorted(widths)
    assert widths[-1] == THICKEST
    assert {edge.colour for edge in draw(scored(GRAPHS[0]), colours="kind").edges} <= set(KIND_COLOURS.values())


def lightness(colour):
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_lines_and_text_stand_out_from_what_they_lie_on():
    for colour in (*SIGN_COLOURS.values(), *KIND_COLOURS.values()):
        assert 1.05 / (lightness(colour) + 0.05) > 3.0
    for colour in FILLS.values():
        assert (lightness(colour) + 0.05) / 0.05 > 12.0


def test_a_circuit_without_scores_is_drawn_alike_throughout():
    drawing = draw(Circuit.full(GRAPH))
    assert {(edge.sign, edge.width, edge.dashed) for edge in drawing.edges} == {
        ("unscored", drawing.edges[0].width, False)
    }


def test_merged_nodes_sum_their_edges_and_lose_those_inside():
    circuit = scored(GRAPHS[0], share=1.0)
    drawing = draw(circuit, Naming(groups={"early": ("a0.h0", "a0.h1", "m0"), "late": ("a1.h0", "a1.h1")}))
    ids = {node.label: node for node in drawing.nodes}
    assert set(ids) == {"input", "early", "late", "m1", "logits"}
    assert ids["early"].kind == "group"
    assert ids["early"].members == ("a0.h0", "a0.h1", "m0")
    result = {(e.source, e.target, e.kind): e.score for e in drawing.edges}
    assert all(source != target for source, target, _ in result)
    names = [f"{w}->{r}<q>" for w in ("a0.h0", "a0.h1", "m0") for r in ("a1.h0", "a1.h1")]
    summed = math.fsum(circuit.score(name) for name in names)
    assert result[ids["early"].id, ids["late"].id, "q"] == pytest.approx(summed)


def test_a_shared_key_value_head_counts_once_for_a_merged_group():
    circuit = Circuit(*(getattr(scored(GRAPHS[1], share=1.0), f) for f in ("graph", "mask", "scores")))
    drawing = draw(circuit, Naming(groups={"pair": ("a0.h0", "a0.h1")}))
    pair = next(node.id for node in drawing.nodes if node.label == "pair")
    edge = next(e for e in drawing.edges if (e.source, e.target, e.kind) == ("input", pair, "k"))
    assert edge.score == pytest.approx(circuit.score("input->a0.kv0<k>"))


def test_merging_may_make_a_cycle():
    circuit = Circuit.from_edges(GRAPH, ["input->m0", "m0->a1.h0<q>", "a1.h0->m1", "m1->logits"])
    drawing = draw(circuit, Naming(groups={"MLPs": ("m0", "m1")}))
    group = next(node for node in drawing.nodes if node.label == "MLPs")
    ends = {(edge.source, edge.target) for edge in drawing.edges}
    assert {(group.id, "a1.h0"), ("a1.h0", group.id)} <= ends
    layout = lay_out(drawing)
    for edge, curve in zip(drawing.edges, layout.curves, strict=True):
        places = dict(zip((node.id for node in drawing.nodes), layout.nodes, strict=True))
        (x0, y0), (x1, y1) = places[edge.source], places[edge.target]
        assert math.dist(curve[0], (x0, y0)) < math.dist(curve[0], (x1, y1))


def test_a_group_may_be_called_like_a_node():
    drawing = draw(Circuit.full(GRAPH), Naming(groups={"m1": ("a0.h0", "a0.h1")}))
    assert sorted(node.label for node in drawing.nodes) == ["a1.h0", "a1.h1", "input", "logits", "m0", "m1", "m1"]


@pytest.mark.parametrize("most", range(1, 12))
def test_max_edges_keeps_the_strongest_without_dead_ends_and_says_how_many_it_left_out(most):
    circuit = scored(GRAPHS[0])
    drawing = draw(circuit, max_edges=most)
    strongest = sorted(circuit.edges, key=lambda name: -abs(circuit.score(name)))[:most]
    wanted = Circuit.from_edges(circuit.graph, strongest).pruned().edges or strongest
    assert {abs(edge.score) for edge in drawing.edges} == {abs(circuit.score(name)) for name in wanted}
    assert drawing.left_out == len(circuit) - most
    assert drawing.dead_ends == most - len(wanted)


def test_all_edges_are_drawn_with_their_dead_ends():
    circuit = Circuit.from_edges(GRAPH, ["input->a0.h0<q>", "input->logits"])
    assert len(draw(circuit).edges) == len(draw(circuit, max_edges=2).edges) == 2
    assert draw(circuit).selection == "2 of 2 lines drawn, the strongest"


@pytest.mark.parametrize("options", [{"max_edges": 0}, {"colours": "rainbow"}, {"direction": "down"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError):
        draw(Circuit.full(GRAPH), **options)


def test_more_lines_than_can_be_drawn_are_refused():
    with pytest.raises(InputError, match="max_edges"):
        draw(Circuit.full(Graph(8, 12, 12, (True,) * 8)))


@pytest.mark.parametrize("graphviz", [True, False])
@pytest.mark.parametrize("direction", ["up", "right"])
def test_layouts_keep_boxes_apart_and_layers_in_order(graphviz, direction, monkeypatch):
    if graphviz:
        pytest.importorskip("pygraphviz")
    monkeypatch.setattr(layouts, "has_graphviz", lambda: graphviz)
    drawing = draw(scored(GRAPHS[2], share=0.7), direction=direction)
    layout = lay_out(drawing)
    axis = 0 if direction == "right" else 1
    for (a, p), (b, q) in [
        ((a, p), (b, q))
        for a, p in zip(drawing.nodes, layout.nodes, strict=True)
        for b, q in zip(drawing.nodes, layout.nodes, strict=True)
    ]:
        if a.row < b.row:
            assert p[axis] < q[axis]
        if a is not b:
            apart = abs(p[0] - q[0]) > (a.width + b.width) / 2 or abs(p[1] - q[1]) > (a.height + b.height) / 2
            assert apart, (a.id, b.id)
    assert all(len(curve) % 3 == 1 for curve in layout.curves)
    assert len(layout.legend) == len(drawing.legend) == 8


def test_nothing_to_draw_is_drawn():
    drawing = draw(Circuit.empty(GRAPH))
    assert (drawing.nodes, drawing.edges) == ((), ())
    assert lay_out(drawing).curves == ()
