"""The viewer in a browser: it loads without errors, the slider and clicks do what they say, hostile names stay text."""

import json
import re
import time

import pytest
import torch

import circuits
from circuits import Circuit, Graph, InputError
from circuits.viewer import write_viewer
from circuits.viewer.attention import attention_patterns
from tests.command import discovered, run
from tests.tiny_models import random_pairs, tiny

HOSTILE = '</script><script>window.broken = 1</script><img src=x onerror="window.broken = 1">'


def scored(graph, n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    circuit = circuits.random_circuit(graph, n, draw)
    values = torch.where(circuit.mask, torch.randn(circuit.mask.shape, generator=draw), torch.nan)
    return Circuit(graph, circuit.mask, values, values.abs() / 10)


def opened(browser, path):
    start = time.perf_counter()
    browser.get(path.as_uri())
    assert browser.execute_script("return document.body.dataset.ready") == "yes"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    return time.perf_counter() - start


def shown(browser, panel=0):
    """Edges that are drawn, each once."""
    script = "return panels[arguments[0]].edges.filter(e => !e.path.classList.contains('off')).map(e => e.name)"
    return len(set(browser.execute_script(script, panel)))


def slide(browser, value):
    browser.execute_script(
        "const s = document.getElementById('slider'); s.value = arguments[0]; s.dispatchEvent(new Event('input'));",
        value,
    )


def click(browser, node):
    browser.execute_script(
        "document.querySelector(`[data-node='${arguments[0]}']`).dispatchEvent(new Event('click', {bubbles: true}));",
        node,
    )


def test_the_slider_changes_the_edges_and_a_click_lists_a_nodes(browser, tmp_path):
    model, pairs = tiny("llama"), random_pairs(n=2)
    circuit = scored(model.graph, 60)
    tokens, patterns = attention_patterns(model, pairs, circuit.nodes)
    write_viewer({"one": circuit}, tmp_path / "v.html", tokens=tokens, patterns=patterns, title=HOSTILE)
    opened(browser, tmp_path / "v.html")
    assert browser.title == HOSTILE
    drawn = browser.execute_script("return document.querySelectorAll('.edge').length")
    assert shown(browser) == 60 <= drawn
    told = browser.execute_script("return told(panels[0].edges[0], 'edge attribution')")
    assert re.fullmatch(r".+->.+\n[+−][\d.e-]+ ± [\d.e-]+ \(95%: .+ to .+\)\nby edge attribution", told)
    slide(browser, 7)
    assert shown(browser) == 7
    assert browser.execute_script("return document.getElementById('count').textContent") == "7 edges"
    slide(browser, 60)
    head = next(node for node in circuit.nodes if node.startswith("a2.h"))
    click(browser, head)
    side = browser.execute_script("return document.querySelector('aside').innerText")
    assert head in side
    assert re.search(r"\d+ incoming", side)
    assert browser.execute_script("return document.querySelectorAll('aside canvas').length") == 1
    dim = browser.execute_script("return document.querySelectorAll('.edge.dim').length")
    assert 0 < dim < drawn
    assert browser.execute_script("return window.broken") is None
    browser.execute_script("dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert browser.execute_script("return document.querySelectorAll('.edge.dim').length") == 0


def test_two_circuits_stand_side_by_side_with_what_they_share(browser, tmp_path):
    graph = tiny("gpt2").graph
    one, other = scored(graph, 30, 1), scored(graph, 40, 2)
    write_viewer({HOSTILE: one, "other": other}, tmp_path / "v.html", about=[HOSTILE])
    opened(browser, tmp_path / "v.html")
    assert [shown(browser, 0), shown(browser, 1)] == [30, 40]
    browser.execute_script(
        "const c = document.getElementById('colour'); c.value = 'shared'; c.dispatchEvent(new Event('change'));"
    )
    colours = browser.execute_script(
        "return [...document.querySelectorAll('.edge')].map(e => e.getAttribute('stroke'))"
    )
    assert colours.count("#5f6b7a") == 2 * len(one & other)
    assert browser.execute_script("return document.querySelector('.panel h2').textContent") == HOSTILE
    assert browser.execute_script("return window.broken") is None


def test_scores_without_sign_are_not_said_to_help_or_hurt(browser, tmp_path):
    graph = tiny("gpt2").graph
    effects, other = scored(graph, 30, 1), scored(graph, 40, 2)
    shares = Circuit(graph, other.mask, other.scores.abs(), None, {"method": "information_flow"})

    def legend_and_colours(**circuits):
        write_viewer(circuits, tmp_path / "v.html")
        opened(browser, tmp_path / "v.html")
        paths = "return [...document.querySelectorAll('.edge')].map(e => [e.getAttribute('stroke'), e.getAttribute('stroke-dasharray')].join())"
        return browser.execute_script("return document.getElementById('legend').innerText"), set(
            browser.execute_script(paths)
        )

    legend, colours = legend_and_colours(shares=shares)
    assert "share of the reader's input" in legend
    assert not re.search("helps|hurts", browser.execute_script("return document.body.innerText"))
    assert colours == {"#009E73,"}
    told = browser.execute_script("return told(panels[0].edges[0], '', panels[0].circuit.quantity)")
    assert re.fullmatch(r".+->.+\n[\d.e-]+", told)
    legend, colours = legend_and_colours(effects=effects)
    assert re.search("helps.*hurts", legend, re.DOTALL)
    assert colours == {"#0072B2,", "#D55E00,7 4"}
    legend, colours = legend_and_colours(effects=effects, shares=shares)
    assert re.search("helps.*hurts.*share of the reader's input", legend, re.DOTALL)
    assert colours == {"#0072B2,", "#D55E00,7 4", "#009E73,"}


def test_two_thousand_edges_stay_usable(browser, tmp_path):
    graph = Graph(n_layers=30, n_heads=9, n_kv_heads=3, mlps=(True,) * 30)
    write_viewer({"large": scored(graph, 2000)}, tmp_path / "v.html")
    assert (tmp_path / "v.html").stat().st_size < 8e6
    opened(browser, tmp_path / "v.html")
    slide(browser, 1000)
    assert shown(browser) == 1000


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
    for given, said in (
        ({}, "one circuit, or two"),
        ({"a": scored(graph, 5), "b": scored(other, 5)}, "two graphs"),
        ({"a": Circuit.empty(graph)}, "has 0 edges"),
    ):
        with pytest.raises(InputError, match=said):
            write_viewer(given, tmp_path / "v.html")
    assert not (tmp_path / "v.html").exists()


def test_the_data_is_json_with_the_circuits_numbers(tmp_path):
    circuit = scored(tiny("gpt2").graph, 20)
    write_viewer({"one": circuit}, tmp_path / "v.html")
    text = (tmp_path / "v.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    edges = {edge[5]: edge[3] for edge in data["circuits"][0]["edges"]}
    assert set(edges) == set(circuit.edges)
    for name, score in edges.items():
        assert score == pytest.approx(circuit.score(name), rel=1e-4)
    assert "http" not in re.sub(r"http://www.w3.org/2000/svg", "", text)


def test_the_command_shows_a_run_and_two_circuits(monkeypatch, tmp_path, capsys):
    eap = discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 12, "--random-circuits", 0)
    acdc = discovered(monkeypatch, tmp_path, "acdc", "acdc", "--threshold", 0.1, "--random-circuits", 0)
    assert run(monkeypatch, ["view", eap]) == 0
    text = (tmp_path / "eap" / "view.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["patterns"]
    given = ["view", f"{eap}/circuit.json", f"{acdc}/circuit.json", "--out", str(tmp_path / "both.html")]
    assert run(monkeypatch, given) == 0
    both = json.loads(re.search(r'id="data">(.*?)</script>', (tmp_path / "both.html").read_text(), re.DOTALL)[1])
    assert [circuit["name"] for circuit in both["circuits"]] == [f"{eap}/circuit.json", f"{acdc}/circuit.json"]
    assert run(monkeypatch, ["view", eap, "--edges", "12", "--no-attention"]) == 0
    for wrong, said in (
        (["view", str(tmp_path)], "is not a run directory"),
        (["view", eap, "--pair", "99"], "no pair 99"),
    ):
        assert run(monkeypatch, wrong) == 2
        assert said in capsys.readouterr().err
