"""A page of the viewer in a browser, and what must hold of it at any width."""

import json
import re
import time

from circuits import Graph

HOSTILE = '</script><script>window.broken = 1</script><img src=x onerror="window.broken = 1">'
LARGE = Graph(n_layers=30, n_heads=9, n_kv_heads=3, mlps=(True,) * 30)


def opened(browser, path):
    browser.execute_script("try { state.changed = false } catch {}")  # else the page that is left asks whether to save
    start = time.perf_counter()
    browser.get(path.as_uri())
    assert browser.execute_script("return document.body.dataset.ready") == "yes"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    return time.perf_counter() - start


def js(browser, script, *given):
    return browser.execute_script(f"return {script}", *given)


def set_to(browser, name, value, event="change"):
    browser.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event(arguments[2]));",
        name, value, event,
    )  # fmt: skip


def resized(browser, width, height=900):
    browser.set_window_size(width, height)
    inner = js(browser, "[innerWidth, innerHeight]")
    browser.set_window_size(2 * width - inner[0], 2 * height - inner[1])


def data_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])


SMALL = """[...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
    && !['SCRIPT', 'STYLE', 'OPTION'].includes(e.tagName) && parseFloat(getComputedStyle(e).fontSize) < 11).map(e => e.outerHTML.slice(0, 99))"""
CLIPPED = """(() => {
    const out = [], over = (e) => e.scrollWidth > e.clientWidth + 1;
    for (const e of document.querySelectorAll('header, #controls, #prompts, .prompt, .view, aside, aside table, .heat, footer, h1, p, h2')) if (over(e)) out.push(e.outerHTML.slice(0, 99));
    if (document.documentElement.scrollWidth > innerWidth || document.documentElement.scrollHeight > innerHeight) out.push('page');
    for (const svg of document.querySelectorAll('.view svg, .heat svg, .bar, .axis svg')) {
        const area = svg.getBoundingClientRect();
        for (const e of svg.querySelectorAll('text, .node rect')) {
            const b = e.getBoundingClientRect();
            if (b.left < area.left - 1 || b.right > area.right + 1 || b.top < area.top - 1 || b.bottom > area.bottom + 1) out.push(e.outerHTML.slice(0, 99));
        }
    }
    return out;
})()"""
OVERLAPS = """(() => {
    const boxes = [...document.querySelectorAll('.node rect')].map(e => e.getBoundingClientRect()), out = [];
    boxes.forEach((a, i) => boxes.slice(0, i).forEach(b => { if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) out.push([a.x, a.y]); }));
    return out;
})()"""


def check_layout(browser, acts):
    """After each of these scripts no text is small, nothing is clipped, and no boxes overlap."""
    for act in acts:
        browser.execute_script(act)
        assert js(browser, SMALL) == []
        assert js(browser, CLIPPED) == []
        assert js(browser, OVERLAPS) == []
