"""How often heads of random models have a kind by chance, against the level of the test.

    python benchmarks/kinds_by_chance.py [--seeds 10]

Small random models of five architectures (normal weights, attention far from uniform), on random prompts whose answers stand in them.
Per kind: the share of heads with p <= 0.05, and the share that also lies 0.2 above its null, as a kind needs.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch

import circuits
from circuits.descriptions.head_kinds import LEVEL

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.tiny_models import FEW, NATIVE, random_hf_model, random_native_bridge


def prompts(seed: int, n: int = 8, length: int = 9) -> circuits.PromptPairs:
    """Random prompts that hold their answer once and their distractor twice."""
    generator = torch.Generator().manual_seed(seed)
    clean, answers, distractors = [], [], []
    for _ in range(n):
        tokens = [1, *(3 + torch.randperm(30, generator=generator)[: length - 1]).tolist()]
        tokens[4] = tokens[2]
        clean, answers, distractors = [*clean, tokens], [*answers, tokens[3]], [*distractors, tokens[2]]
    return circuits.PromptPairs.from_tokens(clean, clean[1:] + clean[:1], answers, distractors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    by_chance, claimed, heads = Counter[str](), Counter[str](), 0
    for seed in range(parser.parse_args().seeds):
        for name in FEW:
            make = random_native_bridge if name in NATIVE else random_hf_model
            model = circuits.load_model(make(name, torch.float32, seed))
            kinds = circuits.head_kinds(model, prompts(seed), seed=seed, draws=19)
            heads += len(kinds.heads)
            for head, row in zip(kinds.heads, kinds.p, strict=True):
                by_chance.update(kind for kind, p in zip(kinds.kinds, row.tolist(), strict=True) if p <= LEVEL)
                claimed.update(kinds.of(head))
    print(f"{heads} heads")
    for kind in kinds.kinds:
        print(f"{kind:20} {by_chance[kind] / heads:.3f} {claimed[kind] / heads:.3f}")


if __name__ == "__main__":
    main()
