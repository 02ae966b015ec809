"""EAP here against EAP in TransformerLens 4.3 (`attribution_patch`, edges): seconds, and whether the scores agree.

    THREADS=1 python benchmarks/against_transformer_lens.py [--pairs 4] [--runs 3]

Both in this process, in turn, on one model: random weights of GPT-2 small's shape, 32,491 edges, pairs of 16 tokens without a
common prefix. TransformerLens takes one pair at a time, and models with as many key/value heads as heads and without post-norms.
It takes the gradient on the corrupted prompts and scores the way back to the clean ones, so here clean and corrupted are
exchanged, and the sign with them. The check of the sign of `input->m0`, which TransformerLens does not have, is left out.
"""

import argparse
from collections import defaultdict
from functools import partial

import torch
from against_auto_circuit import Timed, agreement, alternated, gpt2_shaped
from cost import seconds
from measuring import THREADS, random_pairs
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, Node, attribution_patch

import circuits

ANSWER, DISTRACTOR = 5, 9
"""The tokens of `random_pairs`."""


def exchanged(pairs: circuits.PromptPairs) -> circuits.PromptPairs:
    """Clean and corrupted prompts exchanged."""
    return circuits.PromptPairs.from_tokens(pairs.corrupted, pairs.clean, pairs.answers, pairs.distractors)


def theirs(model: circuits.Model, pairs: circuits.PromptPairs) -> dict[tuple[Node, Node], float]:
    """TransformerLens' scores, at each position."""

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, ANSWER] - logits[0, -1, DISTRACTOR]

    clean, corrupted = torch.tensor(pairs.clean), torch.tensor(pairs.corrupted)
    config = EdgeAttributionConfig(granularity="edge")
    return attribution_patch(model.bridge, clean, corrupted, metric, config).edge_scores


def ours(model: circuits.Model, pairs: circuits.PromptPairs) -> circuits.EdgeScores:
    return circuits.edge_attribution(model, exchanged(pairs), gradient="clean", check_sign=False)


def our_name(node: Node) -> str:
    """
    >>> our_name(Node("q_input", 3, layer=2, head=1)), our_name(Node("mlp_out", 0, layer=4)), our_name(Node("embed", 0))
    ('a2.h1<q>', 'm4', 'input')
    """
    if node.kind in ("embed", "logits"):
        return "input" if node.kind == "embed" else "logits"
    if node.kind in ("mlp_out", "mlp_in"):
        return f"m{node.layer}"
    part = "" if node.kind == "attn_head_out" else f"<{node.kind[0]}>"
    return f"a{node.layer}.h{node.head}{part}"


def by_edge(scores: dict[tuple[Node, Node], float]) -> dict[str, float]:
    """Sums over positions, with the sign of the exchanged pairs."""
    summed: dict[str, float] = defaultdict(float)
    for (writer, reader), score in scores.items():
        summed[f"{our_name(writer)}->{our_name(reader)}"] -= score
    return summed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    model = circuits.load_model(gpt2_shaped(torch.float32))
    pairs = random_pairs(model, asked.pairs)
    print(f"{THREADS} thread(s), {asked.pairs} pairs, median of {asked.runs}")
    works: dict[str, Timed] = {
        "TransformerLens": partial(seconds, partial(theirs, model, pairs)),
        "here": partial(seconds, partial(ours, model, pairs)),
    }
    took = alternated(works, asked.runs)
    for name, (clock, processor) in took.items():
        print(f"{name}: {clock:.2f} s, {processor:.2f} s of processors")
    for unit, label in enumerate(("by the clock", "of processors")):
        print(f"{took['TransformerLens'][unit] / took['here'][unit]:.1f} times faster, seconds {label}")
    print(agreement(ours(model, pairs).to_dict(), by_edge(theirs(model, pairs))))


if __name__ == "__main__":
    main()
