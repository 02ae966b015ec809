"""The gallery of descriptions, docs/gallery.md: what each part of seven circuits of SmolLM2-135M does.

    python benchmarks/gallery.py [--tasks ioi,capital] [--edges 60]

EAP-IG (midpoint, 5 steps) on 16 pairs of each task, the strongest edges, `circuits.describe`.
"""

import argparse
import time
from pathlib import Path

import torch
from measuring import THREADS

import circuits
import tasks
from circuits.files.atomic import write_text

TASKS = ("ioi", "greater-than", "induction", "docstring", "subject-verb-agreement", "capital", "successor")
PAGE = Path(__file__).parents[1] / "docs" / "gallery.md"
INTRODUCTION = """# Gallery of descriptions

What `circuits describe` says about circuits of SmolLM2-135M: for each task the {edges} strongest edges of EAP-IG (midpoint rule, 5
steps) on {n} pairs. This page is written by `python benchmarks/gallery.py`; nothing in it is edited by hand.
[What each part does](descriptions.md) explains the numbers: `null` is the mean score of rotated heads, `p` its p value, and
`uniform` the attention that uniform attention would give to each token. Only lines of heads with a kind, and of the three
other nodes with the largest direct effects, are shown; the other nodes are counted.
"""
N, SHOWN = 16, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--edges", type=int, default=60)
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    model = circuits.load_model("smollm2-135m")
    parts = [INTRODUCTION.format(edges=given.edges, n=N)]
    for name in given.tasks.split(","):
        start = time.perf_counter()
        task = tasks.load(name)
        pairs = task.pairs(model, n=N)
        circuit = circuits.edge_attribution(model, pairs, gradient="ig", steps=5).top(given.edges)
        description = circuits.describe(model, pairs, circuit)
        parts.append(section(task.title, model, pairs, circuit, description))
        write_text(given.out, "\n".join(parts))
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)


def section(
    title: str,
    model: circuits.Model,
    pairs: circuits.PromptPairs,
    circuit: circuits.Circuit,
    description: circuits.Description,
) -> str:
    """One task's part of the page."""
    score = circuits.faithfulness(model, pairs, circuit, n_random=0)
    size = {line.node: abs(line.evidence["direct effect"]) for line in description.lines}
    others = sorted((line for line in description.lines if line.label is None), key=lambda line: -size[line.node])[
        :SHOWN
    ]
    shown = [line for line in description.lines if line.label is not None or line in others]
    hidden = len(description.lines) - len(shown)
    held = sum(test.held is True for test in description.tests)
    lines = [
        f"## {title}", "", f"`{pairs.texts[0][0]}`", "",
        f"{len(circuit.nodes) - 1} nodes; faithfulness {score.value:.2f} (interchange).", "",
        *(f"- {line.text}" for line in shown), "",
        f"{hidden} other nodes are not shown.", "",
        *(f"Group **{label}**: {', '.join(nodes)}.\n" for label, nodes in description.groups.items()),
        f"**Tests**: {held} of {len(description.tests)} held.", "", *(f"- {test.node}: {test}" for test in description.tests), "",
        "**Not said**", "", *(f"- {text}" for text in description.unsaid), "",
    ]  # fmt: skip
    return "\n".join(line.replace("<", "&lt;").replace("|", "\\|") for line in lines)


if __name__ == "__main__":
    main()
