"""No line of a drawing passes behind a box that it does not touch."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest

from circuits import Circuit, Graph, Naming
from circuits.export import layout as layouts
from circuits.export.dot import FRAME, STRAIGHT
from circuits.export.draw import draw
from circuits.export.drawing import Drawing
from circuits.export.layout import Layout, has_graphviz, lay_out

SHAPES = {
    "plain": Graph(3, 4, 4, (True, True, True)),
    "grouped": Graph(4, 4, 2, (True,) * 4),
    "parallel": Graph(6, 3, 3, (True,) * 6, True),
    "one head": Graph(8, 1, 1, (True,) * 8),
    "some MLPs": Graph(5, 6, 1, (True, False, True, False, False)),
}
DEEP = Graph(12, 12, 12, (True,) * 12)
STEPS = 60
"""Points looked at on each Bézier curve."""


@pytest.fixture(params=["graphviz", "rows"])
def program(request, monkeypatch):
    """Lays out by Graphviz, and without it."""
    if request.param == "rows":
        monkeypatch.setattr(layouts, "has_graphviz", lambda: False)
    elif not has_graphviz():
        pytest.skip("needs pygraphviz")
    return request.param


def some_edges(graph: Graph, n: int, seed: int) -> Circuit:
    names = random.Random(seed).sample(graph.edges, min(n, len(graph.edges)))
    return Circuit.from_edges(graph, names)


def points(curve: tuple) -> np.ndarray:
    """Many points on a chain of cubic Bézier curves, by de Casteljau's construction."""
    t = np.linspace(0, 1, STEPS)[:, None]
    pieces = []
    for i in range(0, len(curve) - 1, 3):
        level = [np.array(point) for point in curve[i : i + 4]]
        while len(level) > 1:
            level = [a + (b - a) * t for a, b in pairwise(level)]
        pieces.append(level[0])
    return np.concatenate(pieces)


def behind(drawing: Drawing, layout: Layout) -> list[tuple[str, str, str]]:
    """Source, target and box, for every line with a point inside a box that is neither."""
    boxes = []
    for node, (x, y) in zip(drawing.nodes, layout.nodes, strict=True):
        frame = FRAME if node.kind == "group" else 0.0
        boxes.append((x, y, node.width / 2 + frame, node.height / 2 + frame))
    result, sizes = [], np.array(boxes)
    for edge, curve in zip(drawing.edges, layout.curves, strict=True):
        away = np.abs(points(curve)[:, None] - sizes[:, :2])
        hit = (away < sizes[:, 2:]).all(-1).any(0)
        ids = [node.id for node, inside in zip(drawing.nodes, hit, strict=True) if inside]
        result += [(edge.source, edge.target, name) for name in ids if name not in (edge.source, edge.target)]
    return result


def loose(drawing: Drawing, layout: Layout) -> list[tuple[str, str]]:
    """Lines that do not run from the border of their source to that of their target."""
    boxes = {node.id: (node, place) for node, place in zip(drawing.nodes, layout.nodes, strict=True)}
    result = []
    for edge, curve in zip(drawing.edges, layout.curves, strict=True):
        for (u, v), end in ((curve[0], edge.source), (curve[-1], edge.target)):
            node, (x, y) = boxes[end]
            frame = FRAME if node.kind == "group" else 0.0
            aside = max(abs(u - x) - node.width / 2 - frame, abs(v - y) - node.height / 2 - frame)
            if not -1.5 < aside < 1.5:
                result.append((edge.source, edge.target))
    return result


def test_an_edge_that_skips_a_single_box_does_not_run_behind_it(program):
    names = ["input->m0", "m0->m1", "m1->m2", "m2->logits", "input->logits", "m0->m2", "m0->logits", "input->m2"]
    graph = Graph(3, 2, 2, (True, True, True))
    for direction in ("up", "right"):
        drawing = draw(Circuit.from_edges(graph, names), direction=direction)
        layout = lay_out(drawing)
        assert behind(drawing, layout) == []
        assert loose(drawing, layout) == []


@pytest.mark.parametrize("shape", SHAPES)
def test_no_line_of_a_random_circuit_passes_behind_a_foreign_box(shape, program):
    for seed in range(10):
        circuit = some_edges(SHAPES[shape], (5, 10, 20, 40, 100, 200)[seed % 6], seed)
        drawing = draw(circuit, direction="right" if seed % 5 == 4 else "up")
        layout = lay_out(drawing)
        assert behind(drawing, layout) == [], seed
        assert loose(drawing, layout) == [], seed


def test_no_line_passes_behind_merged_and_named_nodes(program):
    graph = SHAPES["plain"]
    for seed in range(10):
        naming = Naming(
            {"a2.h1": "a role with a long name"},
            {"first": ("a0.h0", "a0.h1", "m1"), "second": ("a1.h0", "a2.h0", "m0"), "pair": ("a1.h2", "a1.h3")},
        )
        naming = naming if {"a2.h1"} <= set(some_edges(graph, 120, seed).nodes) else Naming()
        drawing = draw(some_edges(graph, 120, seed), naming, direction="right" if seed % 2 else "up")
        layout = lay_out(drawing)
        assert behind(drawing, layout) == [], seed
        assert loose(drawing, layout) == [], seed


def test_many_lines_pass_no_foreign_box_either(program):
    drawing = draw(some_edges(DEEP, STRAIGHT + 100, 0))
    layout = lay_out(drawing)
    assert behind(drawing, layout) == []
    assert all(math.isfinite(c) for curve in layout.curves for point in curve for c in point)


def test_the_same_circuit_is_laid_out_alike(program):
    drawing = draw(some_edges(SHAPES["plain"], 60, 3))
    assert lay_out(drawing) == lay_out(drawing)
