"""What descriptions cost, in forward passes of the same model in the same process.

    python benchmarks/describing.py [--runs 7]

SmolLM2-135M, indirect object identification, 16 pairs; medians of alternating runs.
"""

import argparse
from functools import partial

import torch
from measuring import THREADS, medians

import circuits
import tasks
from circuits.engine.hooks import TokenBatch, inference_state, run


def forward(model: circuits.Model, pairs: circuits.PromptPairs) -> None:
    """The clean prompts, with logits at the answer positions."""
    with inference_state(model.bridge), torch.no_grad():
        for batch in pairs.batches(64):
            run(model.architecture, TokenBatch(batch.clean, batch.position))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    torch.set_num_threads(THREADS)
    model = circuits.load_model("smollm2-135m")
    pairs = tasks.load("ioi").pairs(model, n=16)
    direct = partial(circuits.direct_effects, model, pairs)
    seconds = medians(
        {
            "forward": partial(forward, model, pairs),
            "direct effects": direct,
            "direct effects by role": partial(direct, positions="roles"),
            "logit lens": partial(circuits.logit_lens, model, pairs),
            "attention of all heads": partial(circuits.attention, model, pairs),
        },
        runs,
    )
    for name, time in seconds.items():
        print(f"{name:24} {time:6.2f} s  {time / seconds['forward']:5.2f} forwards")


if __name__ == "__main__":
    main()
