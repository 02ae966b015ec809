"""What it costs to find the nodes of largest effect for certain, with the help of AtP*, its parts and its baselines.

    python benchmarks/recall.py [--pairs 8] [--tasks ioi greater-than subject-verb-agreement]
    python benchmarks/recall.py --redraw    # from the last run

On SmolLM2-135M, each node at all positions together: 270 queries, 90 keys, 90 values, 270 heads, 30 MLPs. The oracle is
exact patching of all 750, and a node is as large as its contribution, the mean over the pairs of its absolute effect.

**Cost of verified recall** (Kramár et al. 2024, 2403.00745): with a method's help nodes are patched one after the other; the
cost of K is how many forward passes it takes until the K nodes that are truly largest have all been patched, those of the
method included. A forward pass over the pairs counts 1, a backward pass 2; a patched run counts 1 however late it begins.
The summary is the geometric mean of cost / K over all K, weighted by 1/K; `of the order` leaves out the method's own
passes.

Prints tables of docs/verification.md; writes docs/recall.png, and what they are made from to runs/recall.json.
"""

import argparse
import heapq
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from recall_figures import recall_figure
from torch import Tensor

import circuits
import tasks
from circuits import Diagnosis, Model, NodeScores, PromptPairs
from circuits.measure.placed_nodes import placed_nodes
from circuits.measure.store import Pieces
from circuits.measure.subsets import SetRuns
from circuits.question.ablations import RunAblation
from circuits.question.question import Question
from circuits.stats.welch import differences

ROOT = Path(__file__).parents[1]
NODES = "q+k+v+heads+mlps"
BLOCK_SIZES, BRANCHES = (3, 5, 10, 25), (3, 5, 10)
SHARES, SAMPLES = (1 / 16, 1 / 4), (32, 64, 128, 256)
SHOWN = (10, 30, 100)


def setup_costs(n_layers: int) -> dict[str, int]:
    """Forward passes that each score takes: both runs and a backward pass; two passes more for the QK fix; the L - 1
    backward passes of GradDrop, which are (L - 1)/2 whole ones."""
    atp = 1 + 1 + 2
    return {"AtP": atp, "AtP+QK": atp + 2, "AtP*": atp + 2 + (n_layers - 1)}


def cost_curve(cost: Tensor, truth: Tensor) -> list[float]:
    """Cost of K for K = 1, 2, …, from what had been spent when each node was patched."""
    return cost[truth.argsort(descending=True)].cummax(0).values.tolist()


def by_order(estimates: Tensor, setup: float) -> Tensor:
    """What had been spent when each node was patched, in the order of estimates."""
    cost = torch.empty(len(estimates), dtype=torch.float64)
    cost[estimates.argsort(descending=True, stable=True)] = setup + torch.arange(1, len(estimates) + 1).double()
    return cost


def random_curve(n: int) -> list[float]:
    """Expected cost of K in random order: the largest of K ranks out of n."""
    return [k * (n + 1) / (k + 1) for k in range(1, n + 1)]


def summary(curve: Sequence[float]) -> float:
    """Geometric mean of cost / K, weighted by 1/K."""
    k = torch.arange(1, len(curve) + 1).double()
    return float(((torch.tensor(curve).double() / k).log() / k).sum().div((1 / k).sum()).exp())


class Groups:
    """How large the effect of neighbouring nodes is that are patched as one, in the order of the forward pass."""

    def __init__(self, model: Model, pairs: PromptPairs, sets: Iterable[range], truth: Tensor) -> None:
        question = Question.ask(model, pairs)
        assert isinstance(question.ablation, RunAblation)
        nodes = placed_nodes(model, pairs, NODES)
        wanted = [s for s in dict.fromkeys(sets) if len(s) > 1]
        result, _ = SetRuns(question, question.ablation, Pieces(None, {})).outcomes(
            "groups", [nodes[s.start : s.stop] for s in wanted]
        )
        self.size = dict(zip(wanted, result.abs().mean(1).tolist(), strict=True))
        self.size |= {range(i, i + 1): value for i, value in enumerate(truth.tolist())}


def cut(whole: range, size: int) -> list[range]:
    """A range in pieces."""
    return [range(i, min(i + size, whole.stop)) for i in range(whole.start, whole.stop, size)]


def blocks(groups: Groups, n: int, size: int) -> Tensor:
    """Every block is patched, then the nodes of the largest block, of the next, …"""
    all_blocks = cut(range(n), size)
    order = sorted(all_blocks, key=lambda block: -groups.size[block])
    cost = torch.empty(n, dtype=torch.float64)
    cost[torch.tensor([node for block in order for node in block])] = len(order) + torch.arange(1, n + 1).double()
    return cost


def tree(n: int, branches: int) -> dict[range, list[range]]:
    """Each range of nodes with the ranges it is split into; the first is all nodes."""
    split, waiting = {}, [range(n)]
    while waiting:
        whole = waiting.pop()
        if len(whole) > 1:
            width = branches ** max(0, next(d for d in range(99) if branches**d >= len(whole)) - 1)
            split[whole] = cut(whole, width)
            waiting += split[whole]
    return split


def hierarchical(groups: Groups, n: int, branches: int) -> Tensor:
    """The largest group seen so far is opened, and its parts are patched, down to single nodes."""
    split, spent = tree(n, branches), 0
    cost = torch.empty(n, dtype=torch.float64)
    heap: list[tuple[float, int, range]] = [(0.0, 0, range(n))]
    while heap:
        _, _, whole = heapq.heappop(heap)
        for part in split[whole]:
            spent += 1
            if len(part) == 1:
                cost[part.start] = spent
            else:
                heapq.heappush(heap, (-groups.size[part], part.start, part))
    return cost


def subsampled(result: Diagnosis) -> Tensor:
    """The estimated contribution of each node."""
    drawn = slice(result.n_joint, None)
    return differences(result.included[drawn], result.outcomes[drawn]).mean.nan_to_num(0).abs().mean(1)


def curves(
    model: Model,
    pairs: PromptPairs,
    truth: Tensor,
    samples: Mapping[float, Diagnosis],
    scores: Mapping[str, NodeScores],
) -> dict[str, tuple[str, list[float]]]:
    """Per method its setting and its cost of K; where it has settings, the best of them in hindsight."""
    n = len(truth)
    setup = setup_costs(model.graph.n_layers)
    result: dict[str, tuple[str, list[float]]] = {
        name: ("", cost_curve(by_order(s.contributions, setup[name]), truth)) for name, s in scores.items()
    }
    sets = [block for size in BLOCK_SIZES for block in cut(range(n), size)]
    sets += [part for branches in BRANCHES for parts in tree(n, branches).values() for part in parts]
    groups = Groups(model, pairs, sets, truth)
    tried = {
        "subsampling": {
            f"{m} samples, p = 1/{1 / share:.0f}": by_order(subsampled(samples[share].first(m)), m)
            for share in SHARES
            for m in SAMPLES
        },
        "blocks": {f"of {size}": blocks(groups, n, size) for size in BLOCK_SIZES},
        "hierarchical": {f"{b} branches": hierarchical(groups, n, b) for b in BRANCHES},
    }
    for name, settings in tried.items():
        every = {setting: cost_curve(cost, truth) for setting, cost in settings.items()}
        best = min(every, key=lambda setting: summary(every[setting]))
        result[name] = best, every[best]
    result["random order"] = "expected", random_curve(n)
    result["oracle"] = "", [float(k) for k in range(1, n + 1)]
    return result


def measure(model: Model, task: str, n: int) -> dict[str, tuple[str, list[float]]]:
    """The curves of one task."""
    pairs, start = tasks.load(task).pairs(model, n=n, seed=0), time.process_time()
    exact = circuits.activation_patching(model, pairs, nodes=NODES, direction="noising")
    fixes = {"AtP": (False, False), "AtP+QK": (True, False), "AtP*": (True, True)}
    scores = {
        name: circuits.atp_star(model, pairs, positions=False, qk_fix=qk_fix, grad_drop=grad_drop)
        for name, (qk_fix, grad_drop) in fixes.items()
    }
    samples = {p: circuits.diagnose(model, pairs, nodes=NODES, samples=SAMPLES[-1], share=p) for p in SHARES}
    result = curves(model, pairs, exact.contributions, samples, scores)
    print(f"{task}: {time.process_time() - start:.0f} s of processor time", flush=True)
    return result


def report(measured: Mapping[str, Any]) -> None:
    """Prints the tables. All nodes cost themselves and what the method itself takes."""
    for task, result in measured.items():
        print(f"\n**{task}**\n\n| method | own | " + " | ".join(f"K = {k}" for k in SHOWN) + " | mean | of the order |")
        print("|---|---|" + "---|" * (len(SHOWN) + 2))
        for name, (setting, curve) in result.items():
            label = f"{name} ({setting})" if setting else name
            own = round(curve[-1]) - len(curve)
            cells = [f"{curve[k - 1]:.0f}" for k in SHOWN]
            order = "–" if name == "hierarchical" else f"{summary([cost - own for cost in curve]):.2f}"
            print(f"| {label} | {own} | " + " | ".join(cells) + f" | {summary(curve):.2f} | {order} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--tasks", nargs="*", default=["ioi", "greater-than", "subject-verb-agreement"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--redraw", action="store_true", help="only tables and the figure of the last run")
    asked = parser.parse_args()
    results = ROOT / "runs" / "recall.json"
    if not asked.redraw:
        torch.set_num_threads(asked.threads)
        model = circuits.load_model("smollm2-135m")
        results.parent.mkdir(exist_ok=True)
        done: dict[str, Any] = {}
        for task in asked.tasks:
            done[task] = measure(model, task, asked.pairs)
            results.write_text(json.dumps(done))
    measured = json.loads(results.read_text())
    report(measured)
    recall_figure(measured).write_image(ROOT / "docs" / "recall.png", scale=2)


if __name__ == "__main__":
    main()
