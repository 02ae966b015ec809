"""What the diagnostics of AtP* are worth: bounds and verifications against exact patching of all nodes.

    python benchmarks/verification.py [--pairs 8] [--tasks ioi greater-than subject-verb-agreement] [--each]
    python benchmarks/verification.py --redraw    # from the last run
    python benchmarks/verification.py --bounds [--seeds 400]    # how often bounds fail on functions made to break them; no model

On SmolLM2-135M, each node at all positions together: 270 queries, 90 keys, 90 values, 270 heads, 30 MLPs; with `--each` also
greater-than with a node for each position, which takes most of the time. The size of an effect is the absolute value of its mean
over the pairs, and `verify` is asked for 2% of the difference between clean and corrupted prompts.

Prints tables of docs/verification.md; writes docs/bounds.png, and what they are made from to runs/verification.json.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from recall_figures import bounds_figure

import circuits
import tasks
from circuits import Diagnosis, Model, NodeScores, PromptPairs
from circuits.measure.subsets import draw_subsets

ROOT = Path(__file__).parents[1]
NODES = "q+k+v+heads+mlps"
PATCHED, SAMPLES, SHOWN = (0, 30, 100), (32, 64, 96, 128, 192, 256), (64, 128, 256)
BOUNDED = (128, 256, 1024)
BELOW = 0.02
EACH = "greater-than, each position"


def bounds(model: Model, pairs: PromptPairs, exact: NodeScores, star: NodeScores) -> list[dict[str, Any]]:
    """For some numbers of nodes patched in AtP* order: the bound on the rest after so many samples, and what is true."""
    order = star.contributions.argsort(descending=True, stable=True).tolist()
    result = []
    for patched in PATCHED:
        left_out = [exact.nodes[i] for i in order[:patched]]
        drawn = circuits.diagnose(model, pairs, nodes=NODES, excluding=left_out, samples=SAMPLES[-1], seed=1)
        truth = torch.tensor([exact[node] for node in drawn.nodes])
        low, high = drawn.interval()
        result.append({
            "patched": patched,
            "bounds": {m: drawn.first(m).to_dict()["bound"] for m in SAMPLES},
            "truth": float(truth.abs().max()),
            "covered": float(((low <= truth) & (truth <= high)).double().mean()),
        })  # fmt: skip
    return result


def verified(model: Model, pairs: PromptPairs, exact: NodeScores, star: NodeScores) -> dict[str, Any]:
    """`verify` at a share of the metric's span, and which nodes it really missed."""
    assert exact.clean is not None
    assert exact.corrupted is not None
    below = BELOW * float(exact.clean.mean() - exact.corrupted.mean())
    result = circuits.verify(model, pairs, star, below=below, seed=2)
    names = [f"{a}@{b}" for a in exact.nodes for b in exact.positions] if exact.positions else exact.nodes
    truth = {node: abs(value) for node, value in zip(names, exact.values.flatten().tolist(), strict=True)}
    return {
        "below": below, "nodes": len(names), "found": len(result.found),
        "missed": sum(value >= below for value in truth.values()) - len(result.found),
        "patched": len(result.effects), "bound": result.bound, "passes": result.passes,
        "truth": max((truth[node] for node in result.unverified), default=0.0),
    }  # fmt: skip


def measure_each(model: Model, n: int) -> dict[str, Any]:
    """`verify` on many more nodes: greater-than, each at every position that is not in the common prefix."""
    pairs = tasks.load("greater-than").pairs(model, n=n, seed=0)
    prefix = min(pairs.prefix(i) for i in range(len(pairs)))
    exact = circuits.activation_patching(model, pairs, nodes=NODES, positions="each", direction="noising")
    star = circuits.atp_star(model, pairs)
    labels = (exact.positions or ())[prefix:]
    behind = (replace(scores, per_prompt=scores.per_prompt[:, prefix:], positions=labels) for scores in (exact, star))
    return {"verified": verified(model, pairs, *behind)}


def measure(model: Model, task: str, n: int) -> dict[str, Any]:
    """All numbers of one task."""
    pairs = tasks.load(task).pairs(model, n=n, seed=0)
    exact = circuits.activation_patching(model, pairs, nodes=NODES, direction="noising")
    star = circuits.atp_star(model, pairs, positions=False)
    return {
        "unit": exact.provenance["metric"],
        "bounds": bounds(model, pairs, exact, star),
        "verified": verified(model, pairs, exact, star),
    }


def miss_rates(seeds: int, share: float = 0.0625, confidence: float = 0.95) -> None:
    """Prints how often a stated bound is below the largest average effect, on the set functions of the tests."""
    sys.path.insert(0, str(ROOT))
    from tests.set_functions import FUNCTIONS, N

    print(
        f"{N} nodes, share {share}, confidence {confidence}, {seeds} seeds: bound failed / median bound over the truth"
    )
    print("\n| function | " + " | ".join(f"{n} samples" for n in BOUNDED) + " |\n" + "|---" * (1 + len(BOUNDED)) + "|")
    names = tuple(map(str, range(N)))
    for name, function in FUNCTIONS.items():
        truth, cells = float(function.average_effects(share).abs().max()), []
        for samples in BOUNDED:
            bounds = []
            for seed in range(seeds):
                included = draw_subsets(N, samples, share, seed)
                bounds.append(Diagnosis(names, included, function(included)[:, None], confidence).bound)
            drawn = torch.tensor(bounds, dtype=torch.float64)
            missed = float((drawn < truth - 1e-12).double().mean())
            cells.append(f"{missed:.1%} / {float(drawn.median()) / truth:.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def report(measured: Mapping[str, Any]) -> None:
    """Prints the tables."""
    print("\n| task | patched | largest effect left | bound, 64 | 128 | 256 samples | intervals that cover |")
    print("|---|---|---|---|---|---|---|")
    for task, result in measured.items():
        for row in result.get("bounds", ()):
            known = {int(m): bound for m, bound in row["bounds"].items()}
            cells = " | ".join("–" if known[m] is None else f"{known[m]:.3g}" for m in SHOWN)
            print(f"| {task} | {row['patched']} | {row['truth']:.3g} | {cells} | {row['covered']:.1%} |")
    print("\n| task | nodes | below | found | missed | patched | largest left | bound | forward passes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for task, result in measured.items():
        v = result["verified"]
        print(
            f"| {task} | {v['nodes']} | {v['below']:.3g} | {v['found']} | {v['missed']} | {v['patched']} | {v['truth']:.3g} "
            f"| {v['bound']:.3g} | {v['passes']} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--tasks", nargs="*", default=["ioi", "greater-than", "subject-verb-agreement"])
    parser.add_argument("--each", action="store_true", help="also greater-than with a node for each position")
    parser.add_argument("--bounds", action="store_true", help="only how often bounds fail on set functions")
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--redraw", action="store_true", help="only tables and the figure of the last run")
    asked = parser.parse_args()
    if asked.bounds:
        torch.set_num_threads(asked.threads)
        return miss_rates(asked.seeds)
    results = ROOT / "runs" / "verification.json"
    if not asked.redraw:
        torch.set_num_threads(asked.threads)
        model = circuits.load_model("smollm2-135m")
        results.parent.mkdir(exist_ok=True)
        done: dict[str, Any] = {}
        for task in [*asked.tasks, *([EACH] if asked.each else [])]:
            start = time.process_time()
            done[task] = measure_each(model, asked.pairs) if task == EACH else measure(model, task, asked.pairs)
            results.write_text(json.dumps(done))
            print(f"{task}: {time.process_time() - start:.0f} s of processor time", flush=True)
    measured = json.loads(results.read_text())
    report(measured)
    drawn = {task: result for task, result in measured.items() if "bounds" in result}
    if drawn:
        bounds_figure(drawn).write_image(ROOT / "docs" / "bounds.png", scale=2)


if __name__ == "__main__":
    main()
