"""Edge attribution over tokens: its cost, and circuits with and without places at equal numbers of (edge, place) pairs.

python benchmarks/tokens.py                  # a few minutes on one core: IOI (order ABBA), 16 prompts, SmolLM2-135M
python benchmarks/tokens.py --n 4 --sizes 100
"""

import argparse
import time

import torch

import circuits
from circuits.graph.places import PlacedGraph

WAYS = {
    "without places": {},
    "spans": {"positions": "spans"},
    "spans and destinations": {"positions": "spans", "destinations": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="ioi(order=ABBA)")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 400, 1600, 6400])
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = circuits.load_model(asked.model)
    name, _, options = asked.task.rstrip(")").partition("(")
    given = dict(pair.split("=") for pair in options.split(",") if pair)
    pairs = circuits.load_task(name, **given).pairs(model, n=asked.n, seed=0)
    cost(model, pairs, asked.repeats)
    sizes(model, pairs, asked.sizes)


def cost(model, pairs, repeats: int) -> None:
    """Processor seconds of EAP, the least of some repeats."""
    print("| EAP | processor seconds | times |\n|---|---|---|")
    first = None
    for way, options in WAYS.items():
        taken = []
        for _ in range(repeats):
            start = time.process_time()
            circuits.edge_attribution(model, pairs, **options)
            taken.append(time.process_time() - start)
        first = first or min(taken)
        print(f"| {way} | {min(taken):.1f} | {min(taken) / first:.2f} |", flush=True)


def sizes(model, pairs, given: list[int]) -> None:
    """Faithfulness of circuits chosen with and without places."""
    scores = circuits.edge_attribution(model, pairs, gradient="ig", positions="spans", destinations=True)
    aware = scores.over_places()
    assert isinstance(aware.graph, PlacedGraph)
    blind = scores.spread(aware.graph.places)
    print("| pairs asked for | with places: pairs, faithfulness | without: pairs, faithfulness |\n|---|---|---|")
    for n in given:
        cells = []
        for chosen in (aware.top(n, fill=True), blind.top(n, fill=True)):
            start = time.process_time()
            value = circuits.faithfulness(model, pairs, chosen, n_random=0).value
            cells.append(f"{len(chosen)}, {value:.2f} ({time.process_time() - start:.0f} s)")
        print(f"| {n} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
