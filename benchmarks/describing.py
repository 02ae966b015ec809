"""What descriptions cost, in forward passes of the same model in the same process.

    python benchmarks/describing.py [--runs 7] [--edges 200]

SmolLM2-135M, indirect object identification, 16 pairs; the fastest of alternating runs, which other work on the machine disturbs least.
Then `describe` of a circuit of so many edges, once: seconds, seconds of processor time, and how far memory rises.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from measuring import THREADS, peak_bytes

import circuits
import tasks
from circuits.engine.hooks import TokenBatch, inference_state, run


def forward(model: circuits.Model, pairs: circuits.PromptPairs) -> None:
    """The clean prompts, with logits at the answer positions."""
    with inference_state(model.bridge), torch.no_grad():
        for batch in pairs.batches(64):
            run(model.architecture, TokenBatch(batch.clean, batch.position))


def fastest(works: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """The fewest seconds of each, run in turn, after one run that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for run_ in range(runs + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if run_:
                seconds[name].append(time.perf_counter() - start)
    return {name: min(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--edges", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    model = circuits.load_model("smollm2-135m")
    pairs = tasks.load("ioi").pairs(model, n=16)
    direct = partial(circuits.direct_effects, model, pairs)
    seconds = fastest(
        {
            "forward": partial(forward, model, pairs),
            "direct effects": direct,
            "direct effects by role": partial(direct, positions="roles"),
            "logit lens": partial(circuits.logit_lens, model, pairs),
            "attention of all heads": partial(circuits.attention, model, pairs),
        },
        given.runs,
    )
    for name, best in seconds.items():
        print(f"{name:24} {best:6.2f} s  {best / seconds['forward']:5.2f} forwards")
    circuit = circuits.edge_attribution(model, pairs).top(given.edges)
    start, processor = time.perf_counter(), time.process_time()
    rise = peak_bytes(partial(circuits.describe, model, pairs, circuit))
    took, processor = time.perf_counter() - start, time.process_time() - processor
    memory = rise / 1e9
    print(
        f"describe, {given.edges} edges      {took:6.1f} s, {processor:.1f} s of processor time, memory rises by {memory:.2f} GB"
    )


if __name__ == "__main__":
    main()
