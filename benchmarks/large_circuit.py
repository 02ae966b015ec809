"""What the whole graph of Llama-3.1-8B's shape costs as a circuit: 805,681 edges, opened, filtered and written in every format.

    python benchmarks/large_circuit.py [--layers 32] [--heads 32] [--kv-heads 8] [--only csv] [--keep DIR]

Each line is a process of its own, begun anew: its seconds by the clock and of the processor, imports and reading included,
and its peak resident memory. The circuit has a random effect and a standard error for every edge.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAKE = """
import sys, json, torch
from pathlib import Path
from circuits import Circuit, EdgeScores, Graph
from circuits.results.provenance import frozen
layers, heads, kv_heads = map(int, sys.argv[1:])
graph = Graph(layers, heads, kv_heads, (True,) * layers)
draw = torch.Generator().manual_seed(0)
values, stderr = (torch.randn(graph.edge_mask.shape, generator=draw, dtype=torch.float64) * graph.edge_mask for _ in range(2))
origin = frozen({"task": "ioi", "model": "llama-3.1-8b", "method": "eap", "metric": "logit_difference"})
EdgeScores(graph, values, stderr.abs(), 64, origin).save("scores.safetensors")
Circuit(graph, graph.edge_mask, values, stderr.abs(), origin).to_json("circuit.json")
"""
OPEN = "from circuits import Circuit\ncircuit = Circuit.from_json('circuit.json')\n"
SCORES = "from circuits import EdgeScores\nscores = EdgeScores.load('scores.safetensors')\n"

LIBRARY = {
    "make and write `circuit.json`": MAKE,
    "`import circuits, torch`": "import circuits, torch",
    "`Circuit.from_json`": OPEN,
    "and `.edges`": OPEN + "assert len(circuit.edges) == len(circuit)",
    "and effects above 2 (a mask), pruned": OPEN
    + "from dataclasses import replace\nreplace(circuit, mask=circuit.mask & (circuit.scores.abs() >= 2)).pruned()",
    "and `& Circuit.from_edges(…)` of 100,000 names": OPEN
    + "circuit & Circuit.from_edges(circuit.graph, circuit.edges[::8])",
    "and `to_networkx`": OPEN + "assert circuit.to_networkx().number_of_edges() == len(circuit)",
    "and `to_networkx`, back again": OPEN + "assert Circuit.from_networkx(circuit.to_networkx()) == circuit",
    "`EdgeScores.load`, `top(200)`": SCORES + "scores.top(200)",
    "`EdgeScores.load`, `top(400_000)`": SCORES + "scores.top(400_000)",
    "`EdgeScores.load`, `threshold(2)`": SCORES + "scores.threshold(2.0)",
    "`EdgeScores.load`, `to_dict`": SCORES + "scores.to_dict()",
    "`read_eap_ig`": "from circuits.export.eap_ig import read_eap_ig\nread_eap_ig('eap-ig.json')",
}
FORMATS = {
    "json": ".json", "graphml": ".graphml", "gexf": ".gexf", "csv-edges": ".csv", "csv-nodes": ".csv", "latex-edges": ".tex",
    "latex-nodes": ".tex", "eap-ig": ".json", "eap-ig-tensors": ".safetensors", "mib": "", "neuronpedia": ".json",
    "dot": ".dot", "tikz": ".tex", "svg": ".svg",
}  # fmt: skip
SHORTENED = ("latex-edges", "dot", "tikz", "svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--only", default="", help="steps with this in their name (and the first)")
    parser.add_argument("--keep", type=Path, help="a directory for the files; default: a temporary one")
    given = parser.parse_args()
    print("| step | seconds | processor seconds | peak MB | file MB | |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        place = given.keep or Path(temporary)
        place.mkdir(exist_ok=True)
        for name, command, written in steps(given):
            if given.only in name or command[2] == MAKE:
                measure(name, command, place, written)


def steps(given: argparse.Namespace) -> list[tuple[str, list[str], str]]:
    """Names, commands and the files they write; one that later steps read comes first."""
    circuits = [sys.executable, "-m", "circuits"]
    result = []
    for name, suffix in FORMATS.items():
        out = f"{name}{suffix}"
        result.append(
            (
                f"`export --to {name}`",
                [*circuits, "export", "circuit.json", "--to", name, "--out", out, "--overwrite"],
                out,
            )
        )
    for name in SHORTENED:
        out = f"short{FORMATS[name]}"
        command = [*circuits, "export", "circuit.json", "--to", name, "--max-edges", "200", "--out", out, "--overwrite"]
        result.append((f"`export --to {name} --max-edges 200`", command, out))
    result += [
        ("`export scores.safetensors --edges 5000 --to json`", [*circuits, "export", "scores.safetensors", "--edges", "5000", "--out", "top.json", "--overwrite"], "top.json"),
        ("`view circuit.json`", [*circuits, "view", "circuit.json"], ""),
        ("`view scores.safetensors --edges 5000`", [*circuits, "view", "scores.safetensors", "--edges", "5000", "--out", "view.html"], "view.html"),
    ]  # fmt: skip
    sizes = [str(n) for n in (given.layers, given.heads, given.kv_heads)]
    library = [
        (name, [sys.executable, "-c", code, *(sizes if code == MAKE else [])], "") for name, code in LIBRARY.items()
    ]
    return [*library[:-1], *result, library[-1]]


def measure(name: str, command: list[str], place: Path, written: str) -> None:
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (place / "errors").open("w+") as errors:
        process = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        errors.seek(0)
        message = errors.read().strip().splitlines()
    file = place / written
    size = sum(path.stat().st_size for path in ([file] if file.is_file() else file.rglob("*.*"))) if written else 0
    size = f"{size / 1e6:.1f}" if size else ""
    code = os.waitstatus_to_exitcode(status)
    refused = f"refused: {message[-1]}" if code else ""
    print(
        f"| {name} | {seconds:.1f} | {used.ru_utime + used.ru_stime:.1f} | {used.ru_maxrss / 1024:.0f} | {size} | {refused} |",
        flush=True,
    )
    process.returncode = code


if __name__ == "__main__":
    main()
