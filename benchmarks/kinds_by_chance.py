"""How often heads of random models have a kind by chance, against the level of the test.

    python benchmarks/kinds_by_chance.py [--seeds 40]

Small random models of five architectures (normal weights, attention far from uniform), on random prompts whose answers stand in them;
tokens 3 to 32 take the part of three series of words for `successor`. Per kind: the share of heads with p <= 0.05, its 95% interval
(the percentiles of 2,000 resamplings of whole models, whose heads share their prompts and rotations), and the share that also lies
0.2 above its null, as a kind needs.
"""

import argparse
import sys
from pathlib import Path
from unittest.mock import patch

import torch
from measuring import THREADS

import circuits
from circuits.descriptions.head_kinds import LEVEL
from circuits.descriptions.series import SeriesTokens

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.tiny_models import FEW, NATIVE, random_hf_model, random_native_bridge

SERIES = SeriesTokens((1,), tuple(range(3, 33)), tuple(-1 if token % 10 == 2 else token + 1 for token in range(3, 33)))


def prompts(seed: int, n: int = 8, length: int = 9) -> circuits.PromptPairs:
    """Random prompts that hold their answer once and their distractor twice."""
    generator = torch.Generator().manual_seed(seed)
    clean, answers, distractors = [], [], []
    for _ in range(n):
        tokens = [1, *(3 + torch.randperm(30, generator=generator)[: length - 1]).tolist()]
        tokens[4] = tokens[2]
        clean, answers, distractors = [*clean, tokens], [*answers, tokens[3]], [*distractors, tokens[2]]
    return circuits.PromptPairs.from_tokens(clean, clean[1:] + clean[:1], answers, distractors)


def of_model(name: str, seed: int) -> tuple[tuple[str, ...], torch.Tensor]:
    """The kinds; and of one model's heads, how many there are, have p at most the level, and have the kind: [3, kind]."""
    make = random_native_bridge if name in NATIVE else random_hf_model
    model = circuits.load_model(make(name, torch.float32, seed))
    with patch("circuits.descriptions.head_kinds.series_tokens", lambda _: SERIES):
        kinds = circuits.head_kinds(model, prompts(seed), seed=seed, draws=19)
    claimed = [[kind in kinds.significant(head) for kind in kinds.kinds] for head in kinds.heads]
    low = kinds.p <= LEVEL
    return kinds.kinds, torch.stack([torch.ones_like(low).sum(0), low.sum(0), torch.tensor(claimed).sum(0)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40)
    torch.set_num_threads(THREADS)
    measured = [of_model(name, seed) for seed in range(parser.parse_args().seeds) for name in FEW]
    kinds, counts = measured[0][0], torch.stack([table for _, table in measured]).double()
    drawn = torch.randint(len(counts), (2000, len(counts)), generator=torch.Generator().manual_seed(0))
    again = counts[drawn].sum(1)
    shares = (again[:, 1] / again[:, 0]).quantile(torch.tensor([0.025, 0.975]).double(), 0)
    heads, low, claimed = counts.sum(0)
    print(f"{int(heads[0])} heads of {len(counts)} models\n{'kind':24} p <= {LEVEL:<6} 95% interval    kind")
    for i, kind in enumerate(kinds):
        print(
            f"{kind:24} {low[i] / heads[i]:.3f}       {shares[0, i]:.3f} to {shares[1, i]:.3f}  {claimed[i] / heads[i]:.4f}"
        )


if __name__ == "__main__":
    main()
