"""The viewer in a browser: it loads without errors, controls do what they say, nothing is clipped, hostile names stay text."""

import json
import re
import time
import webbrowser
from pathlib import Path

import pytest
import torch

import circuits
from circuits import Circuit, InputError
from circuits.results.naming import Naming, read_naming
from circuits.viewer import ShownPrompt, shown_prompts, write_viewer
from circuits.viewer.attention import attention_patterns
from tests.command import command, discovered_in, performed
from tests.tiny_models import random_pairs, tiny
from tests.viewer.browsing import HOSTILE, LARGE, check_layout, data_of, js, opened, resized, set_to


def scored(graph, n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    circuit = circuits.random_circuit(graph, n, draw)
    values = torch.where(circuit.mask, torch.randn(circuit.mask.shape, generator=draw), torch.nan)
    return Circuit(graph, circuit.mask, values, values.abs() / 10)


def prompts_of(n_tokens=15, heads=(), n=3):
    """Made-up prompts, each query attending to itself and the first token."""
    rows = [[0.75 * (j == 0) + 0.25 * (j == i) for j in range(n_tokens)] for i in range(n_tokens)]
    tokens = ["<|endoftext|>", *(f" token{i}" for i in range(1, n_tokens))]
    return [
        ShownPrompt(
            i, tokens, [*tokens[:-2], " other", tokens[-1]], [f" answer{i}"], [f" wrong{i}"], {"end": n_tokens - 1},
            dict.fromkeys(heads, rows),
        )
        for i in range(n)
    ]  # fmt: skip


def page_of(tmp_path, circuit, **more):
    path = tmp_path / "v.html"
    write_viewer({"one": circuit}, path, **more)
    return path


def shown(browser, panel=0):
    """Edges that are drawn, each once."""
    return len(set(js(browser, "panels[arguments[0]].lines.map(e => e.name)", panel)))


def click(browser, node):
    browser.execute_script(
        "document.querySelector(`[data-node='${arguments[0]}']`).dispatchEvent(new Event('click', {bubbles: true}));",
        node,
    )


@pytest.fixture(scope="module")
def with_prompts(tmp_path_factory):
    """A page of 60 edges with prompts, under a hostile title; and its circuit."""
    model, pairs = tiny("llama"), random_pairs(n=2)
    circuit = scored(model.graph, 60)
    folder = tmp_path_factory.mktemp("page")
    return page_of(folder, circuit, prompts=shown_prompts(model, pairs, [circuit]), title=HOSTILE), circuit


def test_the_page_opens_with_forty_edges_and_the_slider_changes_them(browser, with_prompts):
    opened(browser, with_prompts[0])
    assert browser.title == HOSTILE
    assert shown(browser) == 40
    assert js(browser, "document.getElementById('count').textContent") == "40 of 60 edges"
    set_to(browser, "slider", 7, "input")
    assert shown(browser) == 7


def test_an_edge_shows_its_effect_and_interval(browser, with_prompts):
    opened(browser, with_prompts[0])
    text = js(
        browser, "edgeText(panels[0].lines.find(e => e.part === 'q'), {name: 'effect', unit: 'logits', signed: true})"
    )
    assert re.fullmatch(r".+->.+\ninto the query of a.+\neffect [+−][\d.e-]+ logits ± [\d.e-]+ \(95%: .+ to .+\)", text)


def test_a_click_lists_a_nodes_edges_and_escape_ends_it(browser, with_prompts):
    page, circuit = with_prompts
    opened(browser, page)
    set_to(browser, "slider", 60, "input")
    head = next(node for node in circuit.nodes if node.startswith("a2.h"))
    click(browser, head)
    side = js(browser, "document.querySelector('aside').innerText")
    assert head in side
    assert re.search(r"\d+ edges? in", side)
    assert js(browser, "document.querySelectorAll('.heat svg').length") == 1
    dim, drawn = (js(browser, f"document.querySelectorAll('.edge{kind}').length") for kind in (".dim", ""))
    assert 0 < dim < drawn
    assert js(browser, "window.broken") is None
    browser.execute_script("dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert js(browser, "document.querySelectorAll('.edge.dim').length") == 0


def test_query_key_and_value_are_marked_and_direction_and_width_have_a_legend(browser, tmp_path):
    circuit = scored(tiny("gpt2").graph, 40)
    opened(browser, page_of(tmp_path, circuit))
    lines = js(browser, "panels[0].lines.map(e => [e.target, e.part, e.path.getAttribute('marker-end')])")
    ports = js(browser, "[...document.querySelectorAll('.port')].map(e => e.textContent)")
    assert len(ports) == len({(target, part) for target, part, _ in lines if part in "qkv"}) > 3
    assert {arrow for *_, arrow in lines} == {"url(#arrow-helps)", "url(#arrow-hurts)"}
    legend = js(browser, "document.getElementById('legend').innerText")
    for words in ("helps", "hurts", "from writer to reader", "query, key or value", "width: size of the effect"):
        assert words in legend
    largest = max(abs(circuit.score(name)) for name in circuit.edges)
    widest = js(browser, "Math.max(...panels[0].lines.map(e => Number(e.path.getAttribute('stroke-width'))))")
    samples = js(
        browser, "[...document.querySelectorAll('#legend line')].map(e => Number(e.getAttribute('stroke-width')))"
    )
    assert widest == pytest.approx(samples[-3], abs=0.01)  # the largest of three
    assert f"{largest:.2g}" in legend
    set_to(browser, "colour", "part")
    assert "into a query" in js(browser, "document.getElementById('legend').innerText")


def test_prompts_are_shown_and_can_be_switched(browser, tmp_path):
    circuit = scored(tiny("gpt2").graph, 40)
    head = next(node for node in circuit.nodes if node.startswith("a1.h"))
    opened(browser, page_of(tmp_path, circuit, prompts=prompts_of(heads=[head])))
    text = js(browser, "document.getElementById('prompts').innerText")
    for words in ("clean", "token14", "corrupted", "other", "answer0", "wrong0", "pair 0"):
        assert words in text
    assert js(browser, "document.querySelectorAll('.prompt .differs').length") == 2
    browser.execute_script("dispatchEvent(new KeyboardEvent('keydown', {key: ']'}))")
    assert "answer1" in js(browser, "document.getElementById('prompts').innerText")
    browser.execute_script("turn(state.prompt - 2)")
    assert "answer2" in js(browser, "document.getElementById('prompts').innerText")
    click(browser, head)
    assert "pair 2" in js(browser, "document.querySelector('aside h3').innerText")
    text = js(browser, "document.querySelector('aside').innerText")
    assert "“token14” (token 14) attends to “<|endoftext|>” 0.75, “token14” 0.25" in text
    browser.execute_script("document.querySelectorAll('button.token')[3].click()")
    assert "“token3” (token 3) attends to" in js(browser, "document.querySelector('aside').innerText")
    other = next(node for node in circuit.nodes if node.startswith("a2.h"))
    click(browser, other)
    assert "Left out to keep the page small" in js(browser, "document.querySelector('aside').innerText")


def test_the_page_holds_the_models_attention_with_labels_and_a_colour_bar(browser, tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    circuit = Circuit.full(model.graph)
    prompts = shown_prompts(model, pairs, [circuit])
    opened(browser, page_of(tmp_path, circuit, prompts=prompts))
    tokens, patterns = attention_patterns(model, pairs, ["a1.h2"], pair=1)
    browser.execute_script("turn(1); choose('a1.h2')")
    n = len(tokens)
    weights = js(
        browser, "Array.from({length: arguments[0]}, (_, i) => Array.from({length: i + 1}, (_, j) => weight(patternOf('a1.h2'), i, j)))", n
    )  # fmt: skip
    for i, row in enumerate(weights):
        assert row == pytest.approx(patterns["a1.h2"][i][: i + 1], abs=2e-4)
    ticks = js(browser, "[...document.querySelectorAll('.heat .tick')].map(e => e.textContent)")
    assert sorted(ticks) == sorted([*tokens, *tokens])
    assert js(browser, "document.querySelector('.bar').textContent") == "0attention weight1"


def test_two_circuits_stand_side_by_side_with_what_they_share(browser, tmp_path):
    graph = tiny("gpt2").graph
    one, other = scored(graph, 30, 1), scored(graph, 40, 2)
    write_viewer({HOSTILE: one, "other": other}, tmp_path / "v.html", about=[HOSTILE])
    opened(browser, tmp_path / "v.html")
    assert [shown(browser, 0), shown(browser, 1)] == [30, 40]
    places = js(browser, "panels.map(p => [...p.layout.places].map(([box, {x, y}]) => [box, x, y].join()).sort())")
    assert places[0] == places[1]
    set_to(browser, "colour", "shared")
    colours = js(browser, "[...document.querySelectorAll('.line')].map(e => e.getAttribute('stroke'))")
    assert colours.count("#5f6b7a") == 2 * len(one & other)
    assert js(browser, "document.querySelector('.panel h2').textContent") == HOSTILE
    assert js(browser, "window.broken") is None


def test_scores_without_sign_are_not_said_to_help_or_hurt(browser, tmp_path):
    graph = tiny("gpt2").graph
    effects, other = scored(graph, 30, 1), scored(graph, 40, 2)
    shares = Circuit(graph, other.mask, other.scores.abs(), None, {"method": "information_flow"})

    def legend_and_colours(**circuits):
        write_viewer(circuits, tmp_path / "v.html")
        opened(browser, tmp_path / "v.html")
        paths = "[...document.querySelectorAll('.line')].map(e => [e.getAttribute('stroke'), e.getAttribute('stroke-dasharray')].join())"
        return js(browser, "document.getElementById('legend').innerText"), set(js(browser, paths))

    legend, colours = legend_and_colours(shares=shares)
    assert "share of the reader's input" in legend
    assert not re.search("helps|hurts", js(browser, "document.body.innerText"))
    assert colours == {"#009E73,"}
    result = js(browser, "edgeText(panels[0].lines[0], panels[0].circuit.quantity)")
    assert re.search(r"\nshare of the reader's input [\d.e-]+$", result)
    legend, colours = legend_and_colours(effects=effects)
    assert re.search("helps.*hurts", legend, re.DOTALL)
    assert colours == {"#0072B2,", "#D55E00,7 4"}
    legend, colours = legend_and_colours(effects=effects, shares=shares)
    assert re.search("helps.*hurts.*share of the reader's input", legend, re.DOTALL)
    assert colours == {"#0072B2,", "#D55E00,7 4", "#009E73,"}


def test_two_thousand_edges_open_at_once_and_stay_usable(browser, tmp_path):
    page = page_of(tmp_path, scored(LARGE, 2000))
    assert page.stat().st_size < 500_000
    assert opened(browser, page) < 2
    assert shown(browser) == 40
    start = time.perf_counter()
    set_to(browser, "slider", 2000, "input")
    assert shown(browser) == 2000
    assert time.perf_counter() - start < 4


def test_two_hundred_edges_with_prompts_take_less_than_300_kb(tmp_path):
    circuit = scored(LARGE, 200)
    heads = [node for node in circuit.nodes if node[0] == "a"]
    assert page_of(tmp_path, circuit, prompts=prompts_of(n=8, heads=heads[:70])).stat().st_size < 300_000
    model = tiny("gpt2")
    pairs, full = random_pairs(n=20), Circuit.full(model.graph)
    assert len(shown_prompts(model, pairs, [full])) == 8
    assert not any(prompt.patterns for prompt in shown_prompts(model, pairs, [full], room=0))
    few = shown_prompts(model, pairs, [full], room=600)
    assert sum(len(p.clean) * (len(p.clean) + 1) * len(p.patterns) for p in few) <= 600
    assert few[0].patterns


@pytest.mark.parametrize("width", [900, 1400, 2000])
def test_nothing_is_small_clipped_or_overlapping_at_any_width(browser, tmp_path, width):
    circuit = scored(LARGE, 300)
    strongest = max(circuit.edges, key=lambda name: abs(circuit.score(name)))
    head = next(node for node in (strongest.split("->")[0], *circuit.nodes) if node[0] == "a")
    about = ["159 of 70,651 edges, chosen by EAP-IG, recover 52% of the logit difference.", "The strongest is m0."]
    naming = Naming(
        {head: "name mover"}, {"S-inhibition heads": tuple(n for n in circuit.nodes if n.startswith("a7."))}
    )
    try:
        resized(browser, width)
        opened(browser, page_of(tmp_path, circuit, prompts=prompts_of(heads=[head]), about=about, naming=naming))
        check_layout(browser, ("choose(null)", f"choose('{head}')", "state.count = 300, redraw()"))
    finally:
        resized(browser, 1400)


def test_everything_can_be_reached_by_keyboard(browser, tmp_path):
    circuit = scored(tiny("gpt2").graph, 40)
    opened(browser, page_of(tmp_path, circuit))
    focused = "document.activeElement.dataset.node"
    press = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))"
    assert js(browser, "document.querySelectorAll('.node[tabindex=\"0\"]').length") == 1
    browser.execute_script("document.querySelector('.node[tabindex=\"0\"]').focus()")
    seen = {js(browser, focused)}
    for key in ["ArrowUp"] * 12 + ["ArrowDown"] * 12 + ["ArrowLeft"] * 4 + ["ArrowRight"] * 4:
        browser.execute_script(press, key)
        seen.add(js(browser, focused))
    assert {"logits", "input"} <= seen
    assert len(seen) > 6
    browser.execute_script(press, "Enter")
    chosen = js(browser, "state.chosen")
    assert chosen in seen
    browser.execute_script(press, "p")
    assert js(browser, "[...names.pins]") == [chosen]
    assert js(browser, "[...document.querySelectorAll('aside td button')].every(b => b.tabIndex === 0)")


CAPTIONS = "[...document.querySelectorAll('.node text')].map(e => e.textContent)"


def edited(browser, tmp_path):
    """A page on which a head got a label, two others a group and pins; the circuit and four of its heads."""
    circuit = scored(tiny("gpt2").graph, 60)
    heads = [node for node in circuit.nodes if node[0] == "a"][:4]
    opened(browser, page_of(tmp_path, circuit, naming=Naming({heads[3]: "from Python"})))
    set_to(browser, "slider", 60, "input")
    click(browser, heads[0])
    set_to(browser, "label", f"  name\u202e mover {HOSTILE}")
    for head in heads[1:3]:
        click(browser, head)
        set_to(browser, "group", "movers")
    return circuit, heads


def test_labels_and_groups_are_drawn(browser, tmp_path):
    _, heads = edited(browser, tmp_path)
    captions = js(browser, CAPTIONS)
    assert f"{heads[3]} from Python" in captions
    assert any(text.startswith(f"{heads[0]} name mover") for text in captions)
    assert "movers (2)" in captions
    assert heads[1] not in captions


def test_pins_and_groups_are_opened_and_shown_alone(browser, tmp_path):
    circuit, heads = edited(browser, tmp_path)
    browser.execute_script("document.getElementById('pin').click()")
    browser.execute_script("document.getElementById('merge').click()")
    assert heads[1] in js(browser, CAPTIONS)
    browser.execute_script("document.getElementById('pins').click()")
    between = [name for name in circuit.edges if all(end.split("<")[0] in heads[1:3] for end in name.split("->"))]
    assert shown(browser) == len(between)
    assert js(browser, "window.broken") is None


def test_labels_groups_and_pins_are_saved_and_loaded(browser, tmp_path):
    circuit, heads = edited(browser, tmp_path)
    browser.execute_script("document.getElementById('pin').click()")
    saved = js(browser, "saved()")
    (tmp_path / "labels.json").write_text(saved)
    naming = read_naming(tmp_path / "labels.json").checked(circuit.graph)
    assert naming.groups == {"movers": (heads[1], heads[2])}
    assert naming.labels[heads[0]].startswith("name mover </script>")
    assert set(naming.pinned) == set(heads[1:3])
    opened(browser, page_of(tmp_path, circuit))
    assert js(browser, "load(arguments[0])", saved) == "Loaded."
    assert json.loads(js(browser, "saved()")) == json.loads(saved)


def test_other_files_are_not_loaded_as_labels(browser, tmp_path):
    opened(browser, page_of(tmp_path, scored(tiny("gpt2").graph, 60)))
    before = js(browser, "saved()")
    for wrong in ("", "[1]", '{"colour": 1}', '{"groups": {"a": ["a0.h0"], "b": ["a0.h0"]}}', '{"labels": {"m0": 3}}'):
        assert js(browser, "load(arguments[0])", wrong).startswith("This is not a file of labels")
    assert js(browser, "saved()") == before
    assert "Not in this circuit: a99.h9" in js(browser, 'load(\'{"labels": {"a99.h9": "x"}}\')')


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_patterns_are_attention(name):
    model, pairs = tiny(name), random_pairs(n=2)
    tokens, patterns = attention_patterns(model, pairs, ["a1.h2", "m0", "a0.h0"], pair=1)
    assert tokens == [str(i) for i in pairs.clean[1]]
    assert list(patterns) == ["a1.h2", "a0.h0"]
    for rows in patterns.values():
        pattern = torch.tensor(rows)
        torch.testing.assert_close(pattern.sum(1), torch.ones(len(tokens)))
        assert not pattern.triu(1).any()
    with pytest.raises(InputError, match="no pair 5"):
        attention_patterns(model, pairs, ["a1.h2"], pair=5)


def test_what_cannot_be_shown_is_refused(tmp_path):
    graph, other = tiny("gpt2").graph, tiny("llama").graph
    for given, message in (
        ({}, "one circuit, or two"),
        ({"a": scored(graph, 5), "b": scored(other, 5)}, "different graphs"),
    ):
        with pytest.raises(InputError, match=message):
            write_viewer(given, tmp_path / "v.html")
    assert not (tmp_path / "v.html").exists()


def test_a_circuit_without_edges_has_a_page_too(browser, tmp_path):
    opened(browser, page_of(tmp_path, Circuit.empty(tiny("gpt2").graph)))
    assert "no edges to show" in js(browser, "document.body.innerText")


def test_the_data_is_json_with_the_circuits_numbers(tmp_path):
    circuit = scored(tiny("gpt2").graph, 20)
    page = page_of(tmp_path, circuit)
    edges = {edge[5]: edge[3] for edge in data_of(page)["circuits"][0]["edges"]}
    assert set(edges) == set(circuit.edges)
    for name, score in edges.items():
        assert score == pytest.approx(circuit.score(name), rel=1e-4)
    assert "http" not in re.sub(r"http://www.w3.org/2000/svg", "", page.read_text())


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A run of EAP and one of ACDC."""
    folder = tmp_path_factory.mktemp("viewed")
    eap = discovered_in(folder, "eap", "eap", "--edges", 12, "--random-circuits", 0)
    return eap, discovered_in(folder, "acdc", "acdc", "--threshold", 0.1, "--random-circuits", 0)


def test_a_run_has_a_page_with_attention_and_its_result(two_runs):
    data = data_of(Path(two_runs[0]) / "circuit.html")
    assert data["prompts"][0]["patterns"]
    assert "chosen by EAP, recover" in data["about"][0]
    assert "logit difference" in data["about"][0]


def test_view_opens_the_runs_own_page(two_runs, monkeypatch):
    opened_pages, own = [], Path(two_runs[0]) / "circuit.html"
    before = own.read_bytes()
    monkeypatch.setattr(webbrowser, "open", lambda url: opened_pages.append(url) or True)
    command("view", two_runs[0], "--open")
    assert opened_pages == [own.resolve().as_uri()]
    assert own.read_bytes() == before


def test_view_replaces_a_page_of_an_older_version(two_runs):
    own = Path(two_runs[0]) / "circuit.html"
    own.write_text("a page of an older version")
    command("view", two_runs[0])
    assert data_of(own)["prompts"][0]["patterns"]


def test_view_shows_two_circuits_and_what_they_share(two_runs, tmp_path):
    command("view", *(f"{run}/circuit.json" for run in two_runs), "--out", tmp_path / "both.html")
    both = data_of(tmp_path / "both.html")
    assert [circuit["name"] for circuit in both["circuits"]] == ["EAP", "ACDC"]
    assert "The circuits share" in both["about"][0]


def test_labels_are_shown_and_exported(two_runs, tmp_path):
    node = data_of(Path(two_runs[0]) / "circuit.html")["nodes"][0][0]
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"labels": {node: "a label"}, "pinned": [node]}))
    command("view", two_runs[0], "--edges", "12", "--no-attention", "--labels", labels)
    naming = data_of(Path(two_runs[0]) / "view.html")["naming"]
    assert naming == {"labels": {node: "a label"}, "groups": {}, "pinned": [node]}
    command("export", two_runs[0], "--labels", labels, "--out", tmp_path / "c.dot")
    assert "a label" in (tmp_path / "c.dot").read_text()


def test_view_refuses_what_is_not_a_run_and_a_pair_that_is_not_there(two_runs, tmp_path):
    for wrong, message in (
        (("view", tmp_path), "is not a run directory"),
        (("view", two_runs[0], "--pair", "99"), "no pair 99"),
    ):
        assert message in performed(*wrong, code=2)[1]
