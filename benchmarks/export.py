"""Seconds, and processor seconds, that each export takes for a circuit of 1,000 edges in a graph of SmolLM2-135M's shape.

    python benchmarks/export.py [--edges 1000] [--seed 0]

Edges are random, which is harder to lay out than a found circuit. With pdflatex there, compiling the TikZ document is timed
too.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from circuits import Graph, random_circuit
from circuits.export.catalogue import FORMATS
from circuits.export.formats import export_circuit
from circuits.results.provenance import frozen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    graph = Graph(30, 9, 3, (True,) * 30)
    generator = torch.Generator().manual_seed(given.seed)
    circuit = random_circuit(graph, given.edges, generator)
    scores = torch.randn(graph.edge_mask.shape, generator=generator, dtype=torch.float64) * graph.edge_mask
    circuit = replace(circuit, scores=scores, provenance=frozen({"task": "ioi", "model": "smollm2-135m"}))
    print(
        f"{len(circuit)} edges, {len(circuit.nodes)} nodes\n\n| format | seconds | processor seconds | KB |\n|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as directory:
        for name, form in FORMATS.items():
            start = clocks()
            out = export_circuit(circuit, Path(directory) / f"{name}{form.suffix}", name)
            print(f"| {name} | {since(start)} | {out.stat().st_size / 1000:.0f} |", flush=True)
        if shutil.which("pdflatex"):
            start = clocks()
            command = ["pdflatex", "-interaction=batchmode", "-halt-on-error", "tikz.tex"]
            subprocess.run(command, cwd=directory, check=True, capture_output=True)
            print(f"| tikz by pdflatex | {since(start)} | |")


def clocks() -> tuple[float, float]:
    """Seconds on the wall, and of the processor for this process and those it waited for."""
    return time.perf_counter(), sum(os.times()[:4])


def since(start: tuple[float, float]) -> str:
    return " | ".join(f"{now - then:.2f}" for now, then in zip(clocks(), start, strict=True))


if __name__ == "__main__":
    main()
