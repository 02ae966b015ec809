"""Tests of the claim that a circuit does the task (Shi et al. 2024, 2410.13032).

With m the metric, M the model, C the circuit, ¬C the rest and ∅ all edges ablated:

| test | null hypothesis | speaks for the circuit |
|---|---|---|
| equivalence | C and M are equally likely to have the higher metric, up to ε: abs(P(m(C) > m(M)) - ½) < ε | not rejected |
| independence | what ¬C keeps, m(¬C) - m(∅), does not depend on m(M) - m(∅) (HSIC, permutations) | not rejected |
| minimality | of an edge of C: leaving it out matters more than leaving out a random edge of an inflated C in at least a share q of cases | no edge rejected |
| sufficiency | C is more faithful than a random circuit of equal size in at most a share q of cases | rejected |
| partial necessity | leaving out C hurts more than leaving out a random circuit of equal size in at most a share q of cases | rejected |

p values are corrected by Holm (1979): over the edges within minimality, whose smallest is its p value, and over the tests.

We depart from the paper in two points. Prompts on which C and M give the same metric count half for each side. And independence
is asked of what is left above ∅: under interchange m(∅) is the corrupted prompt's metric, which depends on the prompt as
m(M) does even where the complement keeps nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.ablations import Ablation
from circuits.circuit import Circuit
from circuits.errors import InputError
from circuits.evaluation.completeness import minimality
from circuits.evaluation.faithfulness import circuit_metrics
from circuits.metrics import Metric, MetricFunction
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.pairs import PromptPairs
from circuits.plain_torch import plain_methods
from circuits.provenance import finite
from circuits.question import Progress, Question
from circuits.random_circuits import random_circuit, random_circuits

NAMES = ("equivalence", "independence", "minimality", "sufficiency", "partial necessity")
TIE = 1e-6
"""Metrics closer than this, relative to the model's spread, are equal."""
INFLATION_ATTEMPTS = 50


@dataclass(frozen=True)
class HypothesisTest:
    """One test.

    Attributes:
        name: see the module docstring.
        statistic: what was computed: the share of prompts on which C is above M; HSIC; the smallest share of random edges
            that an edge of C outdoes; the share of random circuits that C outdoes (twice).
        p: p value.
        corrected: after Holm's correction over the tests.
        rejected: the null hypothesis, at the level.
        supports: whether the outcome speaks for the circuit; None where the test could not be made.
        n: prompts, permutations, edges or random circuits that it rests on.
    """

    name: str
    statistic: float
    p: float
    corrected: float
    rejected: bool
    supports: bool | None
    n: int


@plain_methods
@dataclass(frozen=True, eq=False)
class HypothesisTests:
    """All of them.

    Attributes:
        tests: in the order of the module's table.
        edges: of the circuit, that minimality was asked of.
        edge_p: their p values, corrected over the edges.
        level: of significance.
        metric, ablation: what they were made with.
    """

    tests: tuple[HypothesisTest, ...]
    edges: tuple[str, ...]
    edge_p: Float[Tensor, " edge"]
    level: float
    metric: str
    ablation: str

    def __getitem__(self, name: str) -> HypothesisTest:
        return self.tests[NAMES.index(name)]

    @property
    def unnecessary(self) -> tuple[str, ...]:
        """Edges found not to matter more than random ones."""
        return tuple(edge for edge, p in zip(self.edges, self.edge_p.tolist(), strict=True) if p < self.level)

    def __str__(self) -> str:
        said = {True: "for the circuit", False: "against it", None: "could not be made"}
        lines = [f"{t.name:<18} {t.statistic:8.3g}  p {t.corrected:8.3g}  {said[t.supports]}" for t in self.tests]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        rows = [
            vars(test) | {name: finite(getattr(test, name)) for name in ("statistic", "p", "corrected")}
            for test in self.tests
        ]
        return {
            "tests": rows, "level": self.level, "unnecessary_edges": list(self.unnecessary), "metric": self.metric,
            "ablation": self.ablation,
        }  # fmt: skip


@on_model
def hypothesis_tests(
    model: Model,
    pairs: PromptPairs,
    circuit: Circuit,
    *,
    epsilon: float = 0.1,
    quantile: float = 0.9,
    n_random: int = 50,
    permutations: int = 1000,
    level: float = 0.05,
    metric: str | Metric | MetricFunction | None = None,
    ablation: str | Ablation = "interchange",
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> HypothesisTests:
    """Tests a circuit.

    Args:
        model, pairs, circuit: what is asked; best pairs that the circuit was not found on.
        epsilon: ε of equivalence.
        quantile: q of minimality, sufficiency and partial necessity.
        n_random: random circuits, and inflated circuits. With q = 0.9 below 44 nothing can be significant after correction.
        permutations: of independence.
        level: of significance.
        metric: None: the one the task prefers.
        ablation: what replaces an ablated edge's value.
        seed: of all that is drawn.
        batch_size, progress: see `circuits.circuit_metrics`.

    Raises:
        InputError: a number that cannot be used, or an empty circuit.
    """
    for name, share, most in (("epsilon", epsilon, 0.5), ("quantile", quantile, 1), ("level", level, 1)):
        if not 0 < share < most:
            raise InputError(f"{name} must be between 0 and {most}, got {share}")
    if n_random < 1 or permutations < 1:
        raise InputError(f"n_random and permutations must be at least 1, got {n_random} and {permutations}")
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    asked: dict[str, Any] = {"metric": question.metric, "ablation": question.ablation, "batch_size": batch_size}
    full, empty = Circuit.full(model.graph), Circuit.empty(model.graph)
    rivals = random_circuits(circuit, n_random, "connected", seed)
    grown = inflated(circuit, n_random, seed)
    values = circuit_metrics(
        model, pairs,
        [full, empty, circuit, ~circuit, *rivals, *(~r for r in rivals), *(c for pair in grown for c in pair)],
        progress=progress, **asked,
    ) * question.metric.sign  # fmt: skip
    own, none, kept, left = values[:4]
    random, without = values[4 : 4 + n_random], values[4 + n_random : 4 + 2 * n_random]
    matter = minimality(model, pairs, circuit, **asked).effects.abs().mean(1)
    steps = values[4 + 2 * n_random :].reshape(len(grown), 2, len(pairs))
    rates = _outdone(matter, (steps[:, 0] - steps[:, 1]).abs().mean(1))
    edge_p = holm(binomial(rates, len(grown), quantile, "less")) if len(grown) else torch.ones(len(matter)).double()
    losses = [(x - own).abs().mean(-1) for x in (kept, random, left, without)]
    equal = TIE * (float(own.std(correction=0)) or 1.0)
    raw = [
        _equivalence(kept - own, epsilon, equal),
        _independence(left - none, own - none, permutations, seed),
        (float(rates.min()), float(edge_p.min()), len(matter)),
        _above(losses[0] <= losses[1] + equal, quantile),
        _above(losses[2] >= losses[3] - equal, quantile),
    ]
    corrected = holm(torch.tensor([p for _, p, _ in raw], dtype=torch.float64)).tolist()
    tests = []
    for name, (statistic, p, n), c in zip(NAMES, raw, corrected, strict=True):
        rejected = c < level
        supports = rejected if name in ("sufficiency", "partial necessity") else not rejected
        possible = not (name == "minimality" and not grown)
        tests.append(HypothesisTest(name, statistic, p, c, rejected, supports if possible else None, n))
    return HypothesisTests(tuple(tests), circuit.edges, edge_p, level, question.metric.name, question.ablation.label)


def inflated(circuit: Circuit, n: int, seed: int = 0) -> list[tuple[Circuit, Circuit]]:
    """The circuit with a random path added, and the same without a random edge of what was added; n such pairs.

    Fewer, or none, where the graph has no paths beside the circuit.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    found = []
    for _ in range(n):
        for _ in range(INFLATION_ATTEMPTS):
            length = int(torch.randint(2, 2 + circuit.graph.n_layers, (1,), generator=generator))
            path = random_circuit(circuit.graph, min(length, circuit.graph.n_edges), generator)
            added = (path.mask & ~circuit.mask).nonzero()
            if len(added):
                larger = Circuit(circuit.graph, circuit.mask | path.mask)
                w, r = added[int(torch.randint(len(added), (1,), generator=generator))].tolist()
                cut = larger.mask.clone()
                cut[w, r] = False
                found.append((larger, Circuit(circuit.graph, cut)))
                break
    return found


def holm(p: Float[Tensor, " test"]) -> Float[Tensor, " test"]:
    """p values after Holm's correction for their number."""
    order = p.argsort(stable=True)
    factors = torch.arange(len(p), 0, -1, dtype=p.dtype)
    stepped = (p[order] * factors).cummax(0).values.clamp(max=1)
    return torch.empty_like(p).scatter_(0, order, stepped)


def binomial(shares: Float[Tensor, " test"], n: int, q: float, alternative: str) -> Float[Tensor, " test"]:
    """p values of shares of n draws, the null being a chance of q; `alternative`: less or greater."""
    from scipy.stats import binom

    counts = (shares * n).round().numpy()
    p = binom.cdf(counts, n, q) if alternative == "less" else binom.sf(counts - 1, n, q)
    return torch.as_tensor(p, dtype=torch.float64)


def hsic(x: Float[Tensor, " n"], y: Float[Tensor, " n"], permutations: int, seed: int) -> tuple[float, float]:
    """The Hilbert-Schmidt independence criterion with Gaussian kernels of median width, and its permutation p value.

    (Gretton et al. 2007.) A constant is independent of everything: 0 and 1.
    """
    centre = torch.eye(len(x), dtype=torch.float64) - 1 / len(x)
    kernels = []
    for values in (x, y):
        distance = (values.double()[:, None] - values.double()).abs()
        width = distance[distance > 0].median() if bool((distance > 0).any()) else None
        if width is None:
            return 0.0, 1.0
        kernels.append(torch.exp(-0.5 * (distance / width).square()))
    centred, other = centre @ kernels[0] @ centre, kernels[1]
    generator = torch.Generator().manual_seed(seed)
    found = float((centred * other).sum())
    drawn = torch.stack([torch.randperm(len(x), generator=generator) for _ in range(permutations)])
    random = torch.stack([(centred * other[order][:, order]).sum() for order in drawn])
    p = (1 + int((random >= found - 1e-12 * abs(found)).sum())) / (1 + permutations)
    return found / (len(x) - 1) ** 2, p


_Raw = tuple[float, float, int]


def _equivalence(difference: Float[Tensor, " prompt"], epsilon: float, equal: float) -> _Raw:
    """The share of prompts on which the circuit is above the model, and the p value of it being within ε of ½."""
    from scipy.stats import binom

    n = len(difference)
    same = difference.abs() <= equal
    above = float(((difference > 0) & ~same).sum() + 0.5 * same.sum())
    far = abs(above / n - 0.5)
    counts = torch.arange(n + 1, dtype=torch.float64)
    extreme = (counts / n - 0.5).abs() >= far - 1e-12
    p = float((torch.as_tensor(binom.pmf(counts.numpy(), n, 0.5 + epsilon)) * extreme).sum())
    return above / n, min(1.0, p), n


def _independence(left: Tensor, own: Tensor, permutations: int, seed: int) -> _Raw:
    spread = float(own.abs().mean())
    if float(left.abs().max()) <= TIE * spread:
        return 0.0, 1.0, permutations  # the complement keeps nothing at all
    statistic, p = hsic(left, own, permutations, seed)
    return statistic, p, permutations


def _outdone(candidates: Float[Tensor, " edge"], random: Float[Tensor, " draw"]) -> Float[Tensor, " edge"]:
    """For each edge the share of random edges that it matters more than; 1 without any."""
    if not len(random):
        return torch.ones(len(candidates), dtype=torch.float64)
    return (candidates[:, None] > random).double().mean(1)


def _above(won: Sequence[bool] | Tensor, quantile: float) -> _Raw:
    share = torch.as_tensor(won).double().mean()
    return float(share), float(binomial(share[None], len(won), quantile, "greater")[0]), len(won)
