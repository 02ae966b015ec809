"""What tests of exports share: circuits with scores, hostile strings, and tools that may not be installed."""

import shutil
import subprocess

import pytest
import torch

from circuits import Circuit, Graph
from circuits.graph.places import Places, over
from circuits.results.provenance import frozen

GRAPHS = [(2, 2, 2, (True, True), False), (2, 4, 2, (True, True), False), (3, 2, 1, (True, True, True), True)]
HOSTILE = (
    "<script>alert('x')</script>",
    r"\input{/etc/passwd} \N \\ $x^2_3$ #1 %~",
    'a" ]; evil [label="b" & &lt; {x|y}',
    "naïve Größe → β ≤ 5 “quoted”",
    "=HYPERLINK(1,2)",
    "]]> <![CDATA[ --> -- ?` !`",
    "../../outside",
)


def scored(shape, seed=0, share=0.4):
    graph = Graph(*shape)
    generator = torch.Generator().manual_seed(seed)
    mask = graph.edge_mask & (torch.rand(graph.edge_mask.shape, generator=generator) < share)
    values, stderr = (torch.randn(mask.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    origin = frozen({"method": "eap", "task": "ioi", "model": "gpt2", "note": HOSTILE[0]})
    return Circuit(graph, mask, values * graph.edge_mask, stderr * graph.edge_mask, origin)


def compiled(path, text=None):
    """The PDF that pdflatex makes of a file; the test is skipped where there is none."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    if text is not None:
        path.write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", path.name]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    return path.with_suffix(".pdf")


def pdf_tool(name, *arguments):
    """What a tool of poppler says; the test is skipped where it is not installed."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return subprocess.run([name, *map(str, arguments)], capture_output=True, text=True, check=True).stdout


def placed(shape=GRAPHS[1], seed=0, share=0.4, destinations=True, spans=("start", "S", "S+", "end")):
    """A circuit over four spans, with effects; the third span may have any name."""
    graph = over(Graph(*shape), Places(spans, destinations, (spans[-1],)))
    generator = torch.Generator().manual_seed(seed)
    mask = graph.edge_mask & (torch.rand(graph.edge_mask.shape, generator=generator) < share)
    values, stderr = (torch.randn(mask.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    origin = frozen({"method": "eap", "task": "ioi", "model": "gpt2", "metric": "logit_difference"})
    return Circuit(graph, mask, values * graph.edge_mask, stderr.abs() * graph.edge_mask, origin).pruned()
