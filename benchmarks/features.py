"""Memory and time of AtP over the features of all 30 layers of SmolLM2-135M: `python benchmarks/features.py`.

16 prompts of 16 tokens; a transcoder with 16,384 random features, 32 of them active per token, at each layer. Random weights need the memory
of trained ones. Also measured: the sum over all parts against the effects of the MLPs, which must agree to rounding.
`python benchmarks/features.py edges`: in a process of its own, all edges between the strongest 200 of these nodes (EAP).
"""

import resource
import sys
import time

import torch

import circuits

FEATURES, ACTIVE, TOKENS, PROMPTS, NODES = 16_384, 32, 16, 16, 200


def transcoder(layer: int, d: int, draw: torch.Generator) -> circuits.Dictionary:
    encoder = torch.randn(d, FEATURES, generator=draw) / d**0.5
    decoder = torch.randn(FEATURES, d, generator=draw) / d**0.5
    zeros = torch.zeros(FEATURES), torch.zeros(d)
    return circuits.Dictionary.from_weights(
        f"transcoder.{layer}", encoder, zeros[0], decoder, zeros[1], "topk", k=ACTIVE
    )


def peak_memory() -> float:
    """In GiB, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def edges(model: circuits.Model, pairs: circuits.PromptPairs, scores: circuits.NodeScores, dictionaries: list) -> None:
    """The edges between the strongest nodes."""
    strongest = [name for name, *_ in scores.strongest(NODES)]
    start, before = time.perf_counter(), peak_memory()
    table = circuits.feature_edges(model, pairs, strongest, dictionaries=dictionaries)
    print(f"{len(table):,} edges between {NODES} nodes; {time.perf_counter() - start:.0f} s")
    print(
        f"peak memory {peak_memory():.2f} GiB, {before:.2f} GiB before the edges; strongest {table.strongest(1)[0][0]}"
    )


def main() -> None:
    model = circuits.load_model("smollm2-135m")
    draw = torch.Generator().manual_seed(0)
    clean, corrupted = (torch.randint(100, 40_000, (PROMPTS, TOKENS), generator=draw).tolist() for _ in range(2))
    pairs = circuits.PromptPairs.from_tokens(clean, corrupted, [[5]] * PROMPTS, [[6]] * PROMPTS)
    dictionaries = [transcoder(layer, int(model.bridge.cfg.d_model), draw) for layer in range(model.graph.n_layers)]
    before = peak_memory()
    start = time.perf_counter()
    scores = circuits.attribution_patching(model, pairs, nodes="features", dictionaries=dictionaries)
    seconds = time.perf_counter() - start
    peak = peak_memory()
    if sys.argv[1:] == ["edges"]:
        edges(model, pairs, scores, dictionaries)
        return
    whole = circuits.attribution_patching(model, pairs, nodes="mlps").to_dict()
    sums = dict.fromkeys(whole, 0.0)
    for node, value in scores.to_dict().items():
        sums[node.split(":")[1].split(".")[0]] += value
    worst = max(abs(sums[node] - whole[node]) for node in whole)
    print(f"{len(scores):,} active features and errors of {len(dictionaries)} x {FEATURES:,}; {seconds:.0f} s")
    print(f"peak memory {peak:.2f} GiB, {before:.2f} GiB of it with the model and the dictionaries alone")
    print(
        f"largest difference between the sum over an MLP's parts and the MLP: {worst:.1e}; largest effect {max(map(abs, whole.values())):.2f}"
    )


if __name__ == "__main__":
    main()
