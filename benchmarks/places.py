"""Circuits over places against circuits that do not know places, and what places cost: the tables of docs/tokens.md.

    python benchmarks/places.py size [--tasks ioi greater-than …] [--pairs 16] [--tests 16] [--sizes 50 100 …]
    python benchmarks/places.py cost

`size`: on SmolLM2-135M, EAP-IG (5 steps) scores the edges on some pairs; circuits of growing size are tested on others. Size is the
number of (edge, place) pairs. Three rankings: `blind` gives every place of an edge the edge's whole effect, so that an edge comes with
all its places; `places` ranks edges at places; `destinations` ranks keys and values by the span of the query too, where a pair
(edge, place) counts as kept if any destination is. Every circuit is pruned, so no ranking is charged for places that cannot matter.
The size needed is that of the smallest circuit tested from which on faithfulness stays at 0.8 or above (Haklay et al. 2025,
2502.04577, compare sizes at equal faithfulness). `without places` counts the different edges of these circuits.

`cost`: seconds of edge attribution with places and with destinations, as a multiple of the same without; medians, in one process.
"""

import argparse
import time
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from measuring import MODELS, THREADS, medians

import circuits
import tasks
from circuits import AttributionWarning, Circuit, EdgeScores, Model, PromptPairs
from circuits.graph.places import PlacedGraph

TASKS = ("ioi", "greater-than", "subject-verb-agreement", "docstring")
OPTIONS = {"ioi": {"order": "ABBA"}}
SIZES = (50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600)
WANTED = 0.8


def rankings(model: Model, pairs: PromptPairs) -> dict[str, EdgeScores]:
    """The scores of edges at places, by name of the ranking."""
    at_places = circuits.edge_attribution(model, pairs, positions="spans")
    for_queries = circuits.edge_attribution(model, pairs, positions="spans", destinations=True)
    placed = at_places.over_places()
    assert isinstance(placed.graph, PlacedGraph)
    return {"blind": at_places.spread(placed.graph.places), "places": placed, "destinations": for_queries.over_places()}


def size(circuit: Circuit) -> int:
    """(edge, place) pairs, whatever the destinations."""
    return len({edge.partition("=>")[0] for edge in circuit.edges})


def curve(model: Model, pairs: PromptPairs, scores: EdgeScores, sizes: Sequence[int]) -> list[tuple[int, int, float]]:
    """(pairs, different edges, faithfulness) of circuits of growing size."""
    chosen = [scores.top(n) for n in sizes if n <= scores.graph.n_edges]
    ends = [Circuit.full(model.graph), Circuit.empty(model.graph)]
    full, empty, *values = circuits.circuit_metrics(model, pairs, [*ends, *chosen]).mean(1).tolist()
    return [
        (size(circuit), len(circuit.without_places()), (value - empty) / (full - empty))
        for circuit, value in zip(chosen, values, strict=True)
    ]


def needed(points: Sequence[tuple[int, int, float]]) -> tuple[int, int] | None:
    """Size, and number of different edges, of the circuit from which on faithfulness stays at WANTED."""
    result = None
    for n, edges, value in reversed(points):
        if value < WANTED:
            break
        result = n, edges
    return result


def compare_sizes(names: Sequence[str], n: int, tests: int, sizes: Sequence[int]) -> None:
    model = circuits.load_model("smollm2-135m")
    for name in names:
        start = time.perf_counter()
        pairs = tasks.load(name, **OPTIONS.get(name, {})).pairs(model, n + tests)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AttributionWarning)
            ranked = rankings(model, pairs[:n])
        print(f"\n{name}, spans {', '.join(pairs.spans)}; {ranked['places'].graph.n_edges} pairs in all\n", flush=True)
        curves: dict[str, list[tuple[int, int, float]]] = {}
        for kind, scores in ranked.items():
            curves[kind] = curve(model, pairs[n:], scores, sizes)
            result = needed(curves[kind])
            reached = "not reached" if result is None else f"{result[0]} pairs, {result[1]} different edges"
            print(f"{kind}: {reached}", flush=True)
        print(f"\n| asked | {' | '.join(ranked)} |\n|---|{'---|' * len(ranked)}")
        for i, asked in enumerate(sizes):
            cells = [f"{c[i][2]:.2f} ({c[i][0]}, {c[i][1]})" if i < len(c) else "–" for c in curves.values()]
            print(f"| {asked} | {' | '.join(cells)} |")
        print(f"{time.perf_counter() - start:.0f} s", flush=True)


def costs() -> None:
    for name, load in MODELS.items():
        model = load()
        pairs = spanned(model)
        for gradient in ("clean", "ig"):
            asked: dict[str, dict[str, Any]]
            asked = {"without places": {}, "places": {"positions": "spans"}}
            asked["destinations"] = {**asked["places"], "destinations": True}
            attribution = partial(circuits.edge_attribution, model, pairs, gradient=gradient, check_sign=False)
            seconds = medians({kind: partial(attribution, **options) for kind, options in asked.items()}, runs=3)
            whole = seconds["without places"]
            rest = ", ".join(
                f"{kind} × {took / whole:.2f}" for kind, took in seconds.items() if kind in ("places", "destinations")
            )
            print(f"{name}, {gradient}: {whole:.2f} s without, {rest}", flush=True)


def spanned(model: Model, n: int = 16, length: int = 16, n_spans: int = 6) -> PromptPairs:
    """Random tokens in six spans, without a common prefix."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = (torch.randint(3, model.d_vocab, (n, length), generator=generator).tolist() for _ in range(2))
    cuts = [length * i // n_spans for i in range(n_spans + 1)]
    roles = {f"s{i}": (cuts[i], cuts[i + 1]) for i in range(n_spans)}
    return PromptPairs.from_tokens(clean, corrupted, [5] * n, [9] * n, roles=[roles] * n)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("size", "cost"))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--tests", type=int, default=16)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES), help="numbers of pairs asked for, rising")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    if arguments.part == "cost":
        costs()
    else:
        compare_sizes(arguments.tasks, arguments.pairs, arguments.tests, arguments.sizes)


if __name__ == "__main__":
    main()
