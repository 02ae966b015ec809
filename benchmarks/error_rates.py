"""How often are the tests of "one circuit?" wrong where the truth is known? Simulated, at the stated 5%.

    python benchmarks/error_rates.py [--draws 400] [splits] [grouping] [traits] [shares] [areas] [specific] [overlap]

| part | what is simulated | stated |
|---|---|---|
| `splits` | the dip test of `circuits.families` on prompts of one family | splits at most 5% |
| `grouping` | p of `circuits.families(k=2)` on prompts of one family, with a metric that is the sum of a circuit's effects | p < .05 in at most 5% |
| `traits` | properties of prompts that have nothing to do with the families | any is named in at most 5% |
| `shares` | intervals of shares of a span: dissociations, specificity, curves, the guard | cover 95% |
| `areas` | intervals of CPR and CMD | cover 95% |
| `specific` | a circuit that costs another task as much as its own | called specific in at most 5% |
| `overlap` | p of the overlap of two circuits whose heads are exchanged at random | p < .05 in at most 5% |

Certificates, double dissociations, heads in many circuits and changed edges are simulated in `tests/evaluation`.
"""

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch

import circuits
from circuits import EdgeScores, Graph
from circuits.evaluation.curves import FRACTIONS, Curve, area_interval
from circuits.evaluation.dissociation_statistics import Measured
from circuits.evaluation.families import _Search
from circuits.evaluation.family_traits import PERMUTATIONS
from circuits.evaluation.hypothesis_statistics import holm
from circuits.evaluation.intervals import share_interval
from circuits.evaluation.specificity import Specificity, cost
from circuits.results.provenance import frozen
from circuits.results.random_circuits import exchanged_heads
from circuits.stats.grouping import association, two_groups_p, unit_gram

GRAPH = Graph(2, 4, 4, (True, True))
EDGES = GRAPH.n_edges


def base(seed: int) -> torch.Tensor:
    return torch.randn(EDGES, generator=torch.Generator().manual_seed(seed))


def normal(g: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=g)


def continuum(g: torch.Generator, n: int) -> torch.Tensor:
    """Each prompt uses two mechanisms in another proportion, from only one to only the other."""
    share = torch.rand(n, 1, generator=g)
    return share * base(1) + (1 - share) * base(2) + 0.1 * normal(g, n, EDGES)


ONE_FAMILY: dict[str, Callable[[torch.Generator, int], torch.Tensor]] = {
    "normal": lambda g, n: base(1) + normal(g, n, EDGES),
    "of different strength": lambda g, n: (base(1) + 0.5 * normal(g, n, EDGES)) * normal(g, n, 1).exp(),
    "heavy tails": lambda g, n: base(1) + normal(g, n, EDGES) / torch.rand(n, EDGES, generator=g),
    "skewed": lambda g, n: base(1) * normal(g, n, EDGES).exp(),
    "noise alone": lambda g, n: normal(g, n, EDGES),
    "a continuum of two mechanisms": continuum,
}
NOISE: dict[str, Callable[[torch.Generator, int], torch.Tensor]] = {
    "normal": lambda g, n: normal(g, n),
    "lognormal": lambda g, n: (normal(g, n).exp() - 1.6487) / 2.1612,
    "Student's t, 3 degrees": lambda g, n: normal(g, n) / (normal(g, n, 3).square().mean(1)).sqrt() / 3**0.5,
    "one prompt in five differs": lambda g, n: torch.where(torch.rand(n, generator=g) < 0.8, 0.1, 2.23) * normal(g, n),
}
"""Differences between prompts, with mean 0 and standard deviation 1."""


class Additive(_Search):
    """A search whose metric of a circuit is the sum of the prompt's own effects of its edges, so that no model is needed."""

    def __init__(self, rows: torch.Tensor, groupings: int, seed: int) -> None:
        values = torch.zeros(GRAPH.n_writers, GRAPH.n_readers, dtype=torch.float64)
        values[GRAPH.edge_mask] = rows.double().mean(0)
        scores = EdgeScores(GRAPH, values, torch.zeros_like(values), len(rows), frozen({}), per_prompt=rows.float())
        super().__init__(SimpleNamespace(), scores, 20, 0.95, groupings, seed, None)  # type: ignore[arg-type]

    def measure(self, members, result):
        masks = torch.stack([circuit.mask[GRAPH.edge_mask] for circuit in result]).double()
        return masks @ self.rows[members].T


def splits(draws: int) -> None:
    print(f"splits of one family, share of {draws} draws\n\n| prompts | n = 16 | n = 32 | n = 64 |\n|---|---|---|---|")
    for kind, drawn in ONE_FAMILY.items():
        cells = []
        for n in (16, 32, 64):
            wrong = sum(
                two_groups_p(unit_gram(drawn(torch.Generator().manual_seed(seed), n)), seed) < 0.05
                for seed in range(draws)
            )
            cells.append(f"{wrong / draws:.1%}")
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


def grouping(draws: int) -> None:
    draws //= 4
    print(f"p < .05 with k = 2 on one family, share of {draws} draws\n\n| prompts | n = 16 | n = 32 |\n|---|---|---|")
    for kind, drawn in ONE_FAMILY.items():
        cells = []
        for n in (16, 32):
            wrong = 0
            for seed in range(draws):
                search = Additive(drawn(torch.Generator().manual_seed(seed), n), 19, seed)
                wrong += search.faithfulness_p(torch.arange(n), 2) <= 0.05 + 1e-9
            cells.append(f"{wrong / draws:.1%}")
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


def traits(draws: int) -> None:
    draws, wrong = draws // 4, 0
    for seed in range(draws):
        g = torch.Generator().manual_seed(seed)
        labels = torch.randint(2, (24,), generator=g)
        labels[:2] = torch.tensor([0, 1])
        p = [
            association(labels, torch.randint(values, (24,), generator=g).tolist(), PERMUTATIONS, seed)[1]
            for values in (2, 2, 3, 4, 6, 12)
        ]
        wrong += bool((holm(torch.tensor(p, dtype=torch.float64)) < 0.05).any())
    print(f"any of six unrelated properties named: {wrong / draws:.1%} of {draws} draws")


SHARES = (5, 8, 12, 16, 32, 64)
CURVES = {
    "rising to the model": (0, 0.1, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.97, 1),
    "at the model from 5% on": (0, 0.2, 0.4, 0.7, 0.9, 1, 1, 1, 1, 1),
    "above the model": (0, 0.2, 0.5, 0.8, 1.0, 1.1, 1.1, 1.05, 1.02, 1),
}
"""True faithfulness at MIB's fractions."""


def share_coverage(kind: str, n: int, draws: int, span: float = 8.0) -> float:
    """Of a circuit that keeps 0.6 of the task on average; each prompt has a span of its own."""
    drawn, covered = NOISE[kind], 0
    for seed in range(draws):
        g = torch.Generator().manual_seed(seed)
        clean, ablated = span / 2 + drawn(g, n), -span / 2 + drawn(g, n)
        kept = ablated + 0.6 * (clean - ablated) + drawn(g, n)
        low, high = share_interval(kept[None], clean, ablated, torch.zeros(n), seed=seed)
        covered += float(low) <= 0.6 <= float(high)
    return covered / draws


def area_coverage(curve: str, kind: str, n: int, draws: int) -> tuple[float, float]:
    """Of the intervals of CPR and CMD; faithfulness of the points varies over prompts together and by itself."""
    drawn, f, p = (
        NOISE[kind],
        torch.tensor(CURVES[curve], dtype=torch.float64),
        torch.tensor(FRACTIONS, dtype=torch.float64),
    )
    covered, wanted = [0, 0], [float(torch.trapezoid(f, p)), float(torch.trapezoid((1 - f).abs(), p))]
    for seed in range(draws):
        g = torch.Generator().manual_seed(seed)
        clean, ablated, common = 4 + drawn(g, n), -4 + drawn(g, n), drawn(g, n)
        rows = [
            ablated + x * (clean - ablated) + (4 * x * (1 - x) + 0.3 * (x > 0)) * (common + drawn(g, n) / 2)
            for x in f[:-1]
        ]
        values = torch.stack([*rows, clean]).double()
        for i, by in enumerate(("signed", "abs")):
            curve = Curve(by, p, (), values, clean.double(), ablated.double(), p, p)
            low, high = area_interval(curve, 1000, seed)
            covered[i] += low - 1e-12 <= wanted[i] <= high + 1e-12
    return covered[0] / draws, covered[1] / draws


def shares(draws: int) -> None:
    heads = " | ".join(f"n = {n}" for n in SHARES)
    print(
        f"intervals of a share that contain it, of {draws} draws\n\n| between prompts | {heads} |\n|---|{'---|' * len(SHARES)}"
    )
    for span, words in ((8.0, ""), (3.0, ", three times the spread between prompts")):
        for kind in NOISE:
            cells = [f"{share_coverage(kind, n, draws, span):.1%}" for n in SHARES]
            print(f"| {kind}{words} | {' | '.join(cells)} |", flush=True)


def areas(draws: int) -> None:
    print(f"intervals that contain CPR, CMD, of {draws} draws\n\n| faithfulness | between prompts | n = 8 | n = 16 | n = 32 |\n|---|---|---|---|---|")  # fmt: skip
    for curve in CURVES:
        for kind in NOISE:
            found = [area_coverage(curve, kind, n, draws) for n in (8, 16, 32)]
            cells = " | ".join(f"{cpr:.0%}, {cmd:.0%}" for cpr, cmd in found)
            print(f"| {curve} | {kind} | {cells} |", flush=True)


def specific(draws: int) -> None:
    """The circuit costs its own task and two of four other tasks 0.6, and the rest nothing."""
    print(f"a circuit called specific that is not, share of {draws} draws\n\n| between prompts | n = 16 | n = 32 |\n|---|---|---|")  # fmt: skip
    for kind, drawn in NOISE.items():
        cells = []
        for n in (16, 32):
            wrong = 0
            for seed in range(draws):
                g = torch.Generator().manual_seed(seed)
                costs = []
                for task, lost in enumerate((0.6, 0.6, 0.6, 0.0, 0.0)):
                    clean = 4 + drawn(g, n)
                    measured = Measured(
                        clean, clean - 8, (clean - 8 * lost + 2 * drawn(g, n))[None], [torch.empty(0)], torch.zeros(n)
                    )
                    costs.append(cost(str(task), measured, 1 - 0.05 / 5, seed))
                wrong += bool(Specificity(costs[0], tuple(costs[1:]), 0.95, {}).specific)
            cells.append(f"{wrong / draws:.1%}")
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


def overlap(draws: int) -> None:
    draws, wrong = draws // 2, 0
    draw = torch.Generator().manual_seed(0)
    first, second = (circuits.random_circuit(Graph(3, 6, 6, (True,) * 3), 25, draw) for _ in range(2))
    for seed in range(draws):
        made = {"a": exchanged_heads(first, draw), "b": exchanged_heads(second, draw)}
        wrong += float(circuits.sharing(made, draws=39, seed=seed).edges_p[0, 1]) < 0.05
    print(f"overlap of unrelated circuits with p < .05: {wrong / draws:.1%} of {draws} draws")


PARTS = {"splits": splits, "grouping": grouping, "traits": traits, "shares": shares, "areas": areas, "specific": specific, "overlap": overlap}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--draws", type=int, default=400)
    asked = parser.parse_args()
    for part in asked.parts or PARTS:
        start = time.perf_counter()
        PARTS[part](asked.draws)
        print(f"({time.perf_counter() - start:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
