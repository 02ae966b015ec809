"""No page and no figure of ours offers or makes a network request."""

import inspect
import json
import re
import socketserver
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler

import plotly.graph_objects as go
import pytest
import torch

from circuits import Circuit, Graph, random_circuit
from circuits.pages import comparison, evaluation, study
from circuits.plots import heatmaps, page
from circuits.plots.figure import CONFIG, UPLOADS, Figure
from circuits.results.node_scores import node_scores
from circuits.viewer import write_viewer
from tests.viewer.conftest import browser  # noqa: F401 - a fixture

SCRIPT = re.compile(r"<script[^>]*>.*?</script>", re.DOTALL)


def example():
    graph = Graph(3, 3, 3, (True,) * 3)
    chosen = random_circuit(graph, 30, torch.Generator().manual_seed(0))
    values = torch.randn(graph.edge_mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Circuit(graph, chosen.mask, values)


def figure_of_ours():
    effects = torch.randn((4, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return heatmaps.node_heatmap(node_scores(("a0.h0", "a0.h1", "m0", "m1"), effects, {"method": "coar"}))


def written(folder):
    """The kinds of pages that we write: a figure, sections, a figure that is not ours, and the viewer."""
    folder.mkdir(exist_ok=True)
    figure = figure_of_ours()
    page.write_html(figure, folder / "figure.html")
    figure.write_html(folder / "by_hand.html")
    page.write_html(go.Figure(figure.data), folder / "foreign.html")
    sections = [page.Section("One", "text", figure), page.Section("Two", "", go.Figure(figure.data))]
    page.write_page("Sections", sections, folder / "sections.html")
    write_viewer({"one": example()}, folder / "viewer.html")
    return sorted(folder.glob("*.html"))


def configurations(text):
    """What each `Plotly.newPlot` of a page is configured with."""
    return [json.loads(result) for result in re.findall(r"(\{[^{}]*\"displaylogo\"[^{}]*\})", text)]


@pytest.mark.parametrize("module", [comparison, evaluation, heatmaps, study])
def test_every_function_that_makes_a_figure_makes_one_of_ours(module):
    """Plotly's own class has the button again as soon as a notebook shows it."""
    makers = [f for _, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__]
    kinds = [inspect.signature(maker, eval_str=True).return_annotation for maker in makers]
    assert Figure in kinds
    assert go.Figure not in kinds
    source = inspect.getsource(module)
    assert "go.Figure" not in source
    assert "make_subplots" not in source


def test_a_figure_keeps_its_buttons_away_wherever_it_is_shown():
    figure = figure_of_ours()
    assert set(UPLOADS) <= set(figure.layout.modebar.remove)
    assert set(UPLOADS) <= set(figure.to_plotly_json()["layout"]["modebar"]["remove"])
    bundle = figure._repr_mimebundle_(renderer="plotly_mimetype+notebook")
    shown = bundle.get("application/vnd.plotly.v1+json")
    assert shown is None or shown["config"]["showSendToCloud"] is False
    for text in (figure.to_html(), figure.to_html(config={"scrollZoom": True}), figure.to_html(full_html=False)):
        (config,) = configurations(text)
        assert config["showSendToCloud"] is config["displaylogo"] is False


def test_a_notebook_shows_it_without_the_button(monkeypatch):
    import plotly.io as pio

    shown = []
    monkeypatch.setattr(pio, "show", lambda figure, *args, **named: shown.append(named))
    monkeypatch.setattr(type(pio.renderers), "render_on_display", True, raising=False)
    figure = figure_of_ours()
    figure.show()
    figure.show(config={"scrollZoom": True})
    assert [named["config"]["showSendToCloud"] for named in shown] == [False, False]
    assert shown[1]["config"]["scrollZoom"] is True


def test_what_we_write_names_no_place_on_the_network(tmp_path):
    """Outside plotly.js itself: no link, no source, no request. What plotly.js does is up to its configuration."""
    for path in written(tmp_path):
        text = path.read_text(encoding="utf-8")
        plots = text.count("Plotly.newPlot(\n") or len(re.findall(r"Plotly\.newPlot\(\s+\"", text))
        configured = configurations(text)
        assert len(configured) == plots, path.name
        assert all(CONFIG.items() - {("plotlyServerURL", "")} <= config.items() for config in configured)
        markup = SCRIPT.sub("", text)
        own = [script for script in SCRIPT.findall(text) if "plotly.js v" not in script[:400]]
        assert not re.search(r"""(?:src|href|action)\s*=|url\(|@import|<iframe|<link|<form""", markup), path.name
        for script in own:
            left = script.replace("http://www.w3.org/2000/svg", "")
            assert not re.search(
                r"https?:|//[a-z]+\.|fetch\(|XMLHttpRequest|sendBeacon|WebSocket|EventSource|import\(", left
            )


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False  # a browser keeps its connections


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder of pages on this machine, as a browser gets them: pages from the disk have rights of their own."""
    pages = written(tmp_path / "pages")
    with _Server(("127.0.0.1", 0), partial(_Quiet, directory=tmp_path / "pages")) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield [f"http://127.0.0.1:{server.server_address[1]}/{path.name}" for path in pages]
        server.shutdown()
        thread.join()


def test_no_page_makes_or_offers_a_request(browser, served):  # noqa: F811
    for address in served:
        browser.get(address)
        time.sleep(0.3)
        requested = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [url for url in requested if not url.endswith("/favicon.ico")] == [], address
        titles = browser.execute_script(
            "return [...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title || b.getAttribute('data-title'))"
        )
        assert not [title for title in titles if title and re.search("(?i)share|cloud|studio|plotly", title)], address
        if "viewer" not in address:
            assert titles, address  # the other buttons are there
        links = browser.execute_script(
            "return [...document.querySelectorAll('[href], form, iframe')].map(e => e.outerHTML)"
        )
        assert [link for link in links if not re.search(r'href="#', link)] == [], address


def test_the_figure_alone_removes_the_button(browser, tmp_path):  # noqa: F811
    """As a notebook shows it, with plotly's own configuration."""
    import plotly.io as pio

    path = tmp_path / "bare.html"
    path.write_text(pio.to_html(figure_of_ours().to_dict(), include_plotlyjs=True), encoding="utf-8")
    browser.get(path.as_uri())
    time.sleep(0.3)
    titles = browser.execute_script("return [...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert "Share chart..." not in titles
    assert len(titles) > 3
