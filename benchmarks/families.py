"""Families of prompts in SmolLM2-135M: two tasks in one file, one task, and the two orders of IOI.

    python benchmarks/families.py [--n 24] [--edges 200] [--groupings 39] [mixture capital ioi]

`mixture`: half of the prompts from IOI and half from capitals. The false splits on homogeneous profiles, and the recovery of compiled
mechanisms, are simulated in `tests/evaluation/test_families.py`.
"""

import argparse
import time
from collections import Counter

import circuits
from circuits import Model, PromptPairs


def pairs_of(name: str, model: Model, n: int) -> tuple[PromptPairs, list[str]]:
    """The prompts, and what is known of each."""
    if name == "mixture":
        parts = [(task, circuits.load_task(task).pairs(model, n=n // 2, seed=0)) for task in ("ioi", "capital")]
        together = [(pair, task) for task, part in parts for pair in part]
        pairs = PromptPairs.from_pairs([pair for pair, _ in together], source="mixture")
        return pairs, [task for _, task in together]
    pairs = circuits.load_task(name).pairs(model, n=n, seed=0)
    return pairs, [
        " ".join(sorted(role, key=lambda one, role=role: str(role[one]).zfill(4))) for role in map(dict, pairs.roles)
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", default=["mixture", "capital", "ioi"])
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--edges", type=int, default=200)
    parser.add_argument("--groupings", type=int, default=39)
    asked = parser.parse_args()
    model = circuits.load_model("smollm2-135m")
    for name in asked.what:
        pairs, known = pairs_of(name, model, asked.n)
        start = time.perf_counter()
        scores = circuits.edge_attribution(model, pairs, gradient="ig", steps=5)
        scored = time.perf_counter()
        result = circuits.families(model, pairs, scores, edges=asked.edges, groupings=asked.groupings)
        print(f"{name}, {len(pairs)} prompts: {result}")
        for split in result.splits:
            print(f"  {split}")
        print(f"  faithfulness {[[round(f, 2) for f in row] for row in result.faithfulness.tolist()]}")
        print(f"  family and what is known: {sorted(Counter(zip(result.labels.tolist(), known, strict=True)).items())}")
        print(f"  {[(trait.name, round(trait.strength, 2), trait.p) for trait in result.traits[:3]]}")
        print(f"  {scored - start:.0f} s for scores, {time.perf_counter() - scored:.0f} s for families", flush=True)


if __name__ == "__main__":
    main()
