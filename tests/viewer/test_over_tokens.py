"""The viewer over tokens: what is drawn where, the switch to the graph, attention from a place, and the promises of the page."""

import json

import pytest
import torch

from circuits import Circuit, Graph
from circuits.graph.places import ARROW, Places, over
from circuits.prompts.pair import bounds
from circuits.results.naming import Naming
from circuits.viewer import ShownPrompt, shown_prompts, write_viewer
from circuits.viewer.data import placed_lines
from tests.exported import GRAPHS, placed
from tests.placed_pairs import placed_pairs
from tests.tiny_models import tiny
from tests.viewer.browsing import HOSTILE, LARGE, check_layout, data_of, js, opened, resized, set_to

SPANS = ("start", "IO", "IO+", "S1", "S1+", "S2", "S2+", "end")
STARTS = (0, 3, 4, 5, 6, 12, 13, 14)


def large(n, seed=0, destinations=True, spans=SPANS):
    """A circuit of n edges at places of a graph of SmolLM2's shape, with effects; all are between few nodes."""
    graph = over(LARGE, Places(spans, destinations, (spans[-1],)))
    draw = torch.Generator().manual_seed(seed)
    nodes = [w for w, node in enumerate(graph.writer_nodes) if node.name in ("input", "m0") or node.layer % 5 == 3]
    free = [
        (w, r)
        for r, reader in enumerate(graph.reader_nodes)
        if reader.layer % 5 in (0, 3)
        for w in nodes
        if w < reader.n_writers
    ]
    edges = torch.tensor([free[i] for i in torch.randperm(len(free), generator=draw)[:n].tolist()])
    values = torch.randn(n, generator=draw, dtype=torch.float64)
    return Circuit.from_indices(graph, edges[:, 0], edges[:, 1], values, values.abs() / 10)


def prompts_of(heads=(), n=2):
    rows = [[0.75 * (j == 0) + 0.25 * (j == i) for j in range(15)] for i in range(15)]
    tokens = ["<|endoftext|>", *(f" token{i}" for i in range(1, 15))]
    spans = {name: (start, end) for name, start, end in zip(SPANS, STARTS, (*STARTS[1:], 15), strict=True)}
    return [
        ShownPrompt(i, tokens, tokens, [" a"], [" b"], {"end": 14}, dict.fromkeys(heads, rows), spans) for i in range(n)
    ]


@pytest.mark.parametrize("destinations", [False, True])
@pytest.mark.parametrize("shape", GRAPHS)
def test_the_lines_over_tokens_are_those_of_the_picture(shape, destinations):
    from circuits.export.draw import draw

    circuit = placed(shape, destinations=destinations)
    wanted = {(edge.source, edge.target, edge.kind): edge.score for edge in draw(circuit).edges}
    sums: dict = {}
    for source, target, part, score, _, name, start, end in placed_lines(circuit):
        assert name in circuit
        key = (f"{source}@{start}", f"{target}@{end}", part)
        sums[key] = sums.get(key, 0.0) + score
    assert sums.keys() == wanted.keys()
    for key, score in sums.items():
        assert score == pytest.approx(wanted[key], rel=1e-3, abs=1e-4)


def test_the_page_shows_spans_and_words_and_switches_to_the_graph_and_back(browser, tmp_path):
    circuit = large(120)
    head = next(node for node in circuit.nodes if node[0] == "a")
    write_viewer({"one": circuit}, tmp_path / "v.html", prompts=prompts_of([head]))
    opened(browser, tmp_path / "v.html")
    assert js(browser, "state.mode") == "tokens"
    assert js(browser, "document.getElementById('count').textContent") == "40 of 120 edges at places"
    names = js(browser, "[...document.querySelectorAll('.span-name')].map(e => e.textContent)")
    assert names == list(SPANS)
    assert "token14" in js(browser, "document.querySelector('.axis').textContent")
    set_to(browser, "slider", 120, "input")
    outside = """panels[0].lines.filter(({source, target}) => [source, target].some(box => {
        const {x, width} = panels[0].layout.places.get(box), {left, right} = panels[0].layout.columns[spanOf(box)];
        return x - width / 2 < left || x + width / 2 > right; })).length"""
    assert js(browser, outside) == 0
    up = "panels[0].lines.every(({source, target}) => panels[0].layout.places.get(source).y > panels[0].layout.places.get(target).y)"
    assert js(browser, up) is True
    set_to(browser, "mode", "graph")
    plain = circuit.without_places()
    assert js(browser, "document.getElementById('count').textContent") == f"40 of {len(plain)} edges"
    assert js(browser, "document.querySelector('.axis').offsetHeight") == 0
    set_to(browser, "mode", "tokens")
    assert js(browser, "document.querySelector('.axis').offsetHeight") > 20


def test_a_click_shows_attention_from_that_place(browser, tmp_path):
    circuit = large(120)
    wanted = next(o for o in circuit.outputs if o[0] == "a" and o.endswith("@S1+"))
    write_viewer({"one": circuit}, tmp_path / "v.html", prompts=prompts_of([wanted.split("@")[0]]))
    opened(browser, tmp_path / "v.html")
    set_to(browser, "slider", 120, "input")
    browser.execute_script(
        "document.querySelector(`[data-node='${arguments[0]}']`).dispatchEvent(new Event('click', {bubbles: true}))",
        wanted,
    )
    side = js(browser, "document.querySelector('aside').innerText")
    assert wanted.replace("@", " at ") in side
    assert "“token11” (token 11) attends to" in side  # the last of S1+
    here = [name for name in circuit.edges if name.startswith(wanted.split("@")[0] + "->") and "@S1+" in name]
    counted = js(browser, "panels[0].lines.filter(l => l.source === state.chosen).map(l => l.name)")
    assert set(counted) == set(here)
    set_to(browser, "mode", "graph")
    assert js(browser, "state.chosen") == wanted.split("@")[0]
    assert "“token14” (token 14) attends to" in js(browser, "document.querySelector('aside').innerText")


@pytest.mark.parametrize("width", [900, 1400, 2000])
def test_nothing_is_small_clipped_or_overlapping_over_tokens(browser, tmp_path, width):
    circuit = large(200)
    head = next(node for node in circuit.nodes if node[0] == "a")
    naming = Naming(
        {head: "name mover"}, {"S-inhibition heads": tuple(n for n in circuit.nodes if n.startswith("a8."))}
    )
    prompts = prompts_of([node for node in circuit.nodes if node[0] == "a"])
    try:
        resized(browser, width)
        write_viewer({"one": circuit}, tmp_path / "v.html", prompts=prompts, naming=naming)
        assert (tmp_path / "v.html").stat().st_size < 300_000
        opened(browser, tmp_path / "v.html")
        check_layout(browser, ("choose(null)", f"choose(firstAt('{head}'))", "state.count = 200, redraw()"))
    finally:
        resized(browser, 1400)


def test_every_box_is_reached_by_keyboard_and_labels_groups_and_pins_work(browser, tmp_path):
    circuit = placed(share=0.6)
    write_viewer({"one": circuit}, tmp_path / "v.html")
    opened(browser, tmp_path / "v.html")
    set_to(browser, "slider", len(circuit), "input")
    browser.execute_script("document.querySelector('.node[tabindex=\"0\"]').focus()")
    press = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))"
    focused = "document.activeElement.dataset.node"
    seen = set()
    for key in ["ArrowUp"] * 8 + ["ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft"] * 8:
        browser.execute_script(press, key)
        seen.add(js(browser, focused))
    assert len(seen) > 8
    assert len({node.split("@")[1] for node in seen}) > 1
    browser.execute_script(press, "Enter")
    chosen = js(browser, "nodeOf(state.chosen)")
    browser.execute_script(press, "p")
    assert js(browser, "[...names.pins]") == [chosen]
    heads = [node for node in circuit.nodes if node[0] == "a"][:2]
    for head in heads:
        browser.execute_script(f"choose(firstAt('{head}')); group('{head}', 'movers')")
    drawn = js(browser, "[...document.querySelectorAll('.node')].map(e => e.dataset.node)")
    assert any(node.startswith("group movers@") for node in drawn)
    assert not any(node.split("@")[0] in heads for node in drawn)


def test_hostile_names_of_spans_stay_text(browser, tmp_path):
    spans = ("start", HOSTILE[:60], "S+", "end")
    circuit = placed(spans=spans, share=0.6)
    write_viewer({"one": circuit}, tmp_path / "v.html")
    opened(browser, tmp_path / "v.html")
    assert js(browser, "window.broken") is None
    assert js(browser, "data.spans") == list(spans)


def test_circuits_with_and_without_places_are_shown_as_graphs_and_alike_ones_over_tokens(browser, tmp_path):
    one, other = placed(seed=0), placed(seed=1)
    plain = one.without_places()
    write_viewer({"placed": one, "plain": plain}, tmp_path / "v.html")
    data = data_of(tmp_path / "v.html")
    assert data["spans"] is None
    assert {edge[5] for edge in data["circuits"][0]["edges"]} == set(plain.edges)
    assert all(edge[6] for edge in data["circuits"][0]["edges"])
    write_viewer({"one": one, "other": other}, tmp_path / "v.html")
    data = data_of(tmp_path / "v.html")
    both = {line[5] for line in data["circuits"][0]["placed"] if line[6]}
    assert both == set((one & other).edges)
    opened(browser, tmp_path / "v.html")
    set_to(browser, "colour", "shared")
    assert js(browser, "panels.length") == 2


def test_prompts_have_the_tokens_of_their_spans():
    pairs = placed_pairs()
    graph = over(tiny("gpt2").graph, Places(pairs.spans, True, ("end",)))
    prompts = shown_prompts(tiny("gpt2"), pairs, [Circuit.full(graph)], room=0)
    for i, prompt in enumerate(prompts):
        assert [bounds(place)[0] for place in prompt.spans.values()] == list(pairs.span_starts(i))
        assert list(prompt.spans) == list(pairs.spans)


def test_a_circuit_without_places_has_no_switch(browser, tmp_path):
    write_viewer({"one": Circuit.full(Graph(*GRAPHS[0]))}, tmp_path / "v.html")
    opened(browser, tmp_path / "v.html")
    assert js(browser, "document.getElementById('show').offsetHeight") == 0
    assert ARROW not in json.dumps(data_of(tmp_path / "v.html")["circuits"])
