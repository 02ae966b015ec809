"""Edge pruning beside EAP-IG on IOI, and what a step costs: prints the tables of docs/edge_pruning.md.

    python docs/edge_pruning.py [--edges 400] [--pairs 16] [--steps 300] [--seeds 0 1 2]

Some three to five minutes a seed on one CPU core.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import torch

import circuits
import tasks
from circuits import Circuit, Model, PromptPairs
from circuits.engine.hooks import inference_state, run
from circuits.measure.mask_training import Objective, Training
from circuits.question.question import Question

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from measuring import medians, peak_bytes

HELD_OUT = 32


def cost(model: Model, pairs: PromptPairs, edges: int, result: Circuit) -> None:
    """A step of training, with the masks as they are at first and in the end, against a plain forward and backward pass on
    the same batch."""
    question = Question.ask(model, pairs, "kl_divergence", batch_size=8)
    assert result.scores is not None
    with inference_state(model.bridge):
        objective = Objective(question, absolute=False)
        objective.parts = [max(objective.parts, key=lambda part: len(part.batch))]
        first, last = (Training(objective, edges, 100, 1e-9, 0) for _ in range(2))
        last.log_alpha.data.copy_(result.scores[model.graph.edge_mask])
        suffix, targets = objective.parts[0].batch.suffix, objective.parts[0].batch.targets
        start = (model.architecture.blocks[0].resid_pre, lambda x: x.detach().requires_grad_())

        def plain() -> None:
            with torch.enable_grad():
                logits = run(model.architecture, suffix.clean_tokens, [start])
                question.metric(logits, targets).mean().backward()

        works = {"forward and backward": plain, "first step": first.step, "last step": last.step}
        seconds = medians(works, runs=9)
        peaks = {name: peak_bytes(work) / 2**20 for name, work in works.items()}
    print(f"{len(suffix.clean)} pairs of {suffix.clean.shape[1]} tokens behind their prefix")
    for name in seconds:
        ratio = seconds[name] / seconds["forward and backward"]
        print(f"{name}: {seconds[name]:.2f} s ({ratio:.2f} ×), {peaks[name]:.0f} MiB above the model")


def judged(name: str, model: Model, given: PromptPairs, fresh: PromptPairs, result: Circuit, seconds: float) -> None:
    cells = [f"{len(result)}"]
    for metric in ("kl_divergence", "logit_difference"):
        for pairs in (given, fresh):
            if metric == "kl_divergence":
                value = float(circuits.circuit_metric(model, pairs, result, metric).mean())
            else:
                value = circuits.faithfulness(model, pairs, result, metric=metric, n_random=0).value
            cells.append(f"{value:.3f}")
    print(f"| {name} | " + " | ".join(cells) + f" | {seconds:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("edges", 400), ("pairs", 16), ("steps", 300)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = circuits.load_model("smollm2-135m")
    pairs, fresh = (tasks.load("ioi").pairs(model, n=n, seed=s) for n, s in ((asked.pairs, 0), (HELD_OUT, 1)))
    print("| | edges | KL | KL, fresh | faithfulness | faithfulness, fresh | seconds |\n|---|---|---|---|---|---|---|")

    def scored(metric: str, **how: object) -> Callable[[], Circuit]:
        return lambda: circuits.edge_attribution(model, pairs, metric=metric).top(asked.edges, **how)  # type: ignore[arg-type]

    def pruned(seed: int) -> Callable[[], Circuit]:
        return lambda: circuits.edge_pruning(model, pairs, asked.edges, steps=asked.steps, seed=seed)

    works = {
        "EAP-IG": scored("logit_difference"),
        "EAP-IG, filled": scored("logit_difference", fill=True),
        "EAP-IG of KL, filled": scored("kl_divergence", fill=True),
        **{f"edge pruning, seed {seed}": pruned(seed) for seed in asked.seeds},
    }
    result: dict[str, Circuit] = {}
    for name, work in works.items():
        start = time.perf_counter()
        result[name] = work()
        judged(name, model, pairs, fresh, result[name], time.perf_counter() - start)
    for one, other in combinations([name for name in result if name != "EAP-IG of KL, filled"], 2):
        print(f"{one} and {other}: {len(result[one] & result[other])} edges in both")
    cost(model, pairs, asked.edges, result[name])


if __name__ == "__main__":
    main()
