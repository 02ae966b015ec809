"""Certified selection: its cost at SmolLM2-135M's size, and what is certified at several deletion probabilities.

    python benchmarks/certificate.py [RUN]

Without a run, effects are drawn: a few strong edges, many weak ones, and noise between prompts. With a run directory
(`circuits discover`), its scores are certified, over places if it has some. Times are processor seconds. The simulation of the error rate is in `tests/evaluation/test_certificate.py`.
"""

import sys
import time
from pathlib import Path

import torch

import circuits
from circuits import EdgeScores, Graph
from circuits.runs.read import read_run

SMOLLM2 = Graph(30, 9, 3, (True,) * 30)


def drawn(rows: int = 64, seed: int = 0) -> EdgeScores:
    """Effects whose means fall off as a power of their rank, those of a random circuit first, with normal noise between prompts."""
    generator = torch.Generator().manual_seed(seed)
    circuit = circuits.random_circuit(SMOLLM2, 180, generator).mask[SMOLLM2.edge_mask]
    order = torch.cat(
        [part[torch.randperm(len(part), generator=generator)] for part in (circuit.nonzero(), (~circuit).nonzero())]
    )
    rank = torch.empty(SMOLLM2.n_edges).scatter_(0, order[:, 0], torch.arange(1.0, 1 + SMOLLM2.n_edges))
    per_prompt = 2 / rank**0.7 + 0.05 * torch.randn(rows, SMOLLM2.n_edges, generator=generator)
    values = torch.zeros(SMOLLM2.n_writers, SMOLLM2.n_readers, dtype=torch.float64)
    values[SMOLLM2.edge_mask] = per_prompt.double().mean(0)
    return EdgeScores(SMOLLM2, values, torch.zeros_like(values), rows, per_prompt=per_prompt)


def main() -> None:
    scores, edges = drawn(), 200
    if len(sys.argv) > 1:
        run = read_run(Path(sys.argv[1]))
        scores = next(one for one in run.results.values() if isinstance(one, EdgeScores))
        scores = scores if scores.places is None else scores.over_places()
    assert scores.per_prompt is not None
    print(
        f"{scores.graph.n_edges:,} edges, {len(scores.per_prompt)} rows of {scores.group}, top {edges}, 1,000 subsamples"
    )
    print(
        "| deletion probability | in | abstained | deletions (median, largest) | replacements (median, largest) | s |"
    )
    print("|---|---|---|---|---|---|")
    for delta in (0.5, 0.7, 0.8, 0.9, 0.95):
        start = time.process_time()
        result = circuits.certify(scores, edges=edges, deletions=delta)
        inside = result.states == 1
        seconds = time.process_time() - start
        radii = [
            f"{int(r.median())}, {int(r.max())}" if len(r) else "–"
            for r in (result.radii[inside], result.replaceable[inside])
        ]
        print(
            f"| {delta} | {int(inside.sum())} | {int((result.states == 0).sum())} | {radii[0]} | {radii[1]} | {seconds:.1f} |"
        )


if __name__ == "__main__":
    main()
