"""Faithfulness of the circuits that each rule of selection makes from the same scores.

    python benchmarks/selection.py

SmolLM2-135M, indirect object identification, EAP-IG on 32 pairs, tested on 32 other pairs; the table of docs/selection.md.
"""

import time
from collections.abc import Callable

import torch

import circuits
import tasks
from circuits import Circuit, EdgeScores

PAIRS, SIZES = 32, (50, 100, 200, 500)
RULES: dict[str, Callable[[EdgeScores, int], Circuit]] = {
    "`top(n)`": lambda s, n: s.top(n),
    "`top(n, by='signed')`": lambda s, n: s.top(n, by="signed"),
    "`top(n, fill=True)`": lambda s, n: s.top(n, fill=True),
    "`top(n, by='signed', fill=True)`": lambda s, n: s.top(n, by="signed", fill=True),
    "`greedy(n)`": lambda s, n: s.greedy(n),
    "`greedy(n, fill=True)`": lambda s, n: s.greedy(n, fill=True),
    "`positive_share(n, 0.5, fill=True)`": lambda s, n: s.positive_share(n, fill=True),
    "`positive_share(n, 0.8, fill=True)`": lambda s, n: s.positive_share(n, 0.8, fill=True),
    "`optimal(n)`": lambda s, n: s.optimal(n),
    "`optimal(n, by='signed')`": lambda s, n: s.optimal(n, by="signed"),
    "`significant(0.95).top(n, fill=True)`": lambda s, n: s.significant(0.95).top(n, fill=True),
}


def main() -> None:
    torch.set_num_threads(1)
    model = circuits.load_model("smollm2-135m")
    seen, fresh = (tasks.load("ioi").pairs(model, n=PAIRS, seed=seed) for seed in (0, 1))
    scores = circuits.edge_attribution(model, seen, gradient="ig", steps=5)
    for kind, correction in (("bootstrap", "none"), ("t", "none"), ("t", "bh"), ("t", "bonferroni")):
        start = time.perf_counter()
        result = scores.significant(0.95, kind, correction)
        seconds = time.perf_counter() - start
        print(f"significant(0.95, {kind!r}, {correction!r}): {len(result)} of {len(scores)} edges, {seconds:.1f} s")
    result, seconds = {}, {}
    for name, rule in RULES.items():
        start = time.perf_counter()
        result[name] = [rule(scores, n) for n in SIZES]
        seconds[name] = (time.perf_counter() - start) / len(SIZES)
    ends = [Circuit.full(model.graph), Circuit.empty(model.graph)]
    asked = [*ends, *(circuit for row in result.values() for circuit in row)]
    clean, ablated, *values = circuits.circuit_metrics(model, fresh, asked).mean(1).tolist()
    shares = iter([(value - ablated) / (clean - ablated) for value in values])
    print("| rule | " + " | ".join(f"n = {n}" for n in SIZES) + " | seconds |")
    print("|---|" + "---|" * (len(SIZES) + 1))
    for name, row in result.items():
        cells = [f"{next(shares):.2f} ({len(circuit)})" for circuit in row]
        print(f"| {name} | " + " | ".join(cells) + f" | {seconds[name]:.2f} |")


if __name__ == "__main__":
    main()
