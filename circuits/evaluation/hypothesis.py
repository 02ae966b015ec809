"""Tests of the claim that a circuit does the task (Shi et al. 2024, 2410.13032).

With m the metric, M the model, C the circuit, ¬C the rest and ∅ all edges ablated:

| test | null hypothesis | speaks for the circuit |
|---|---|---|
| equivalence | C and M are equally likely to have the higher metric, up to ε: abs(P(m(C) > m(M)) - ½) < ε | not rejected |
| independence | what ¬C keeps, m(¬C) - m(∅), does not depend on m(M) - m(∅) (HSIC, permutations) | not rejected |
| minimality | for an edge of C: ablating it matters more than ablating a random edge of an inflated C in at least a share q of cases | no edge rejected |
| sufficiency | C is more faithful than a random circuit of equal size in at most a share q of cases | rejected |
| partial necessity | ablating C hurts more than ablating a random circuit of equal size in at most a share q of cases | rejected |

Two numbers that differ only by rounding (`circuits.question.metric_range`) are a tie, and a tie is not a win: C does not count as more
faithful, or more necessary, than a random circuit with the same metric. All random circuits differ from C and from each other.

Holm's correction (1979) is applied only where it makes a claim for the circuit harder. Sufficiency and partial necessity are such
claims, so the two are corrected together. In the first three tests, not rejecting speaks for the circuit; a correction would make
that easier, so each is tested at the level alone. Within minimality, p values are corrected over the edges, since the null
hypothesis is that every edge matters; its p value is the smallest of them.

A test is not made if its outcome is determined beforehand: if the metric with everything ablated equals the model's on every
prompt, or if there are too few prompts or distinct circuits to reject, or to support, the hypothesis. `reason` says which.

Departures from the paper: prompts on which C and M have the same metric count half for each side. Independence is tested on
differences from m(∅): under interchange, m(∅) is the corrupted prompt's metric, which depends on the prompt as m(M) does, even if
the complement keeps nothing. The authors' code counts ties as wins in sufficiency alone; here ties are never wins.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import InputError
from circuits.evaluation.completeness import minimality_of
from circuits.evaluation.faithfulness import measure_circuits
from circuits.evaluation.hypothesis_statistics import binomial, equivalence, holm, hsic, least
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.provenance import finite
from circuits.results.random_circuits import distinct_rivals, inflated, too_few
from circuits.shown import Shown

NAMES = ("equivalence", "independence", "minimality", "sufficiency", "partial necessity")
CLAIMS = ("sufficiency", "partial necessity")
"""Tests in which rejecting the null hypothesis speaks for the circuit."""
TIE = 1e-6
"""Metrics closer than this, relative to the model's spread, are equal, as are metrics that differ only by rounding."""


OUTCOMES = {True: "for the circuit", False: "against it", None: "could not be made"}
"""Labels of a test's `supports`."""


@dataclass(frozen=True)
class HypothesisTest:
    """The result of one test.

    Attributes:
        name: see the module docstring.
        statistic: the share of prompts on which C is above M; HSIC; the smallest share of random edges that an edge of C
            outdoes; the share of random circuits that C outdoes (for sufficiency and for partial necessity).
        p: p value; NaN if the test could not be made.
        corrected: the value compared with the level: p, or for sufficiency and partial necessity p after Holm's correction.
        rejected: whether the null hypothesis is rejected at the level.
        supports: whether the outcome speaks for the circuit; None if the test could not be made.
        n: number of prompts, permutations, edges or random circuits used.
        reason: why the test could not be made; None if it was made.
    """

    name: str
    statistic: float
    p: float
    corrected: float
    rejected: bool
    supports: bool | None
    n: int
    reason: str | None = None


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class HypothesisTests(Shown):
    """The results of all tests.

    Attributes:
        tests: in the order of the module's table.
        edges: edges of the circuit that minimality was tested on.
        edge_p: their p values, corrected over the edges.
        level: significance level.
        metric, ablation: names of the metric and of the ablation.
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
        """Edges that do not matter more than random ones."""
        return tuple(edge for edge, p in zip(self.edges, self.edge_p.tolist(), strict=True) if p < self.level)

    def __str__(self) -> str:
        lines = [f"{t.name:<18} {t.statistic:8.3g}  p {t.corrected:8.3g}  {OUTCOMES[t.supports]}" for t in self.tests]
        return "\n".join([*lines, *(f"{names}: {reason}" for reason, names in self.not_made.items())])

    @property
    def not_made(self) -> dict[str, str]:
        """Tests that could not be made, with the reason."""
        by: dict[str, list[str]] = {}
        for test in self.tests:
            if test.reason is not None:
                by.setdefault(test.reason, []).append(test.name)
        return {reason: ", ".join(names) for reason, names in by.items()}

    def rows(self) -> list[dict[str, Any]]:
        """One row per test."""
        numbers = ("statistic", "p", "corrected")
        return [vars(test) | {name: finite(getattr(test, name)) for name in numbers} for test in self.tests]

    def __repr__(self) -> str:
        outcomes = ", ".join(f"{test.name} {OUTCOMES[test.supports]}" for test in self.tests)
        return f"HypothesisTests({outcomes}; {self.metric}, {self.ablation} ablation)"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "tests": self.rows(), "level": self.level, "unnecessary_edges": list(self.unnecessary), "metric": self.metric,
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
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> HypothesisTests:
    """Tests a circuit with the five tests of the module docstring.

    Args:
        model, metric, ablation, batch_size, progress: see `circuits.circuit_metrics`.
        pairs: the prompts to test on, preferably pairs that the circuit was not chosen on.
        circuit: the circuit to test.
        epsilon: ε of equivalence.
        quantile: q of minimality, sufficiency and partial necessity.
        n_random: number of random circuits and of inflated circuits. With q = 0.9 and level 0.05, sufficiency and partial
            necessity need 36.
        permutations: number of permutations for independence.
        level: significance level.
        seed: random seed.

    Raises:
        InputError: an invalid number, or an empty circuit.
    """
    return hypothesis_tests_of(
        Question.ask(model, pairs, metric, ablation, batch_size), circuit, epsilon=epsilon, quantile=quantile,
        n_random=n_random, permutations=permutations, level=level, seed=seed, progress=progress,
    )  # fmt: skip


def hypothesis_tests_of(
    question: Question, circuit: Circuit, *, epsilon: float = 0.1, quantile: float = 0.9, n_random: int = 50,
    permutations: int = 1000, level: float = 0.05, seed: int = 0, progress: Progress | None = None,
) -> HypothesisTests:  # fmt: skip
    """`hypothesis_tests` of a circuit for a question."""
    for name, share, most in (("epsilon", epsilon, 0.5), ("quantile", quantile, 1), ("level", level, 1)):
        if not 0 < share < most:
            raise InputError(f"{name} must be between 0 and {most}, got {share}")
    if n_random < 1 or permutations < 1:
        raise InputError(f"n_random and permutations must be at least 1, got {n_random} and {permutations}")
    graph, n_pairs = question.model.graph, len(question.pairs)
    rivals, grown = distinct_rivals(circuit, n_random, "connected", seed), inflated(circuit, n_random, seed)
    compared = [Circuit.full(graph), Circuit.empty(graph), circuit, ~circuit]
    compared += [*rivals, *(~rival for rival in rivals), *(one for pair in grown for one in pair)]
    measured = measure_circuits(question, compared, progress)
    ends, of_rivals, left_by_rivals, steps = (measured.values * question.metric.sign).split(
        [4, len(rivals), len(rivals), 2 * len(grown)]
    )
    own, none, kept, left = ends
    equal = max(TIE * float(own.std(correction=0)), float(measured.rounding.mean()))
    matter = minimality_of(question, circuit).effects.abs().mean(1)
    before, after = steps.reshape(len(grown), 2, n_pairs).unbind(1)
    lost = (before - after).abs().mean(1)
    minimal, edge_p = _minimality(matter, lost, quantile, equal, level, len(set(grown)))
    few = _too_few_rivals(len(rivals), n_random, quantile, level, len(circuit))
    losses = [(values - own).abs().mean(-1) for values in (kept, of_rivals, left, left_by_rivals)]
    made = [
        _equivalence_or_why_not(kept - own, epsilon, equal, level),
        _independence(left - none, own - none, permutations, seed, equal, level),
        minimal,
        _above(losses[0] < losses[1] - equal, quantile, few),
        _above(losses[2] > losses[3] + equal, quantile, few),
    ]
    if float((own - none).abs().mean()) <= equal:
        nothing = "ablating everything does not change the metric on any prompt, so there is nothing to test"
        made = [raw._replace(reason=nothing) for raw in made]
        edge_p = torch.ones_like(edge_p)
    return HypothesisTests(
        _judged(made, level), circuit.edges, edge_p, level, question.metric.name, question.ablation.label
    )


class _Raw(NamedTuple):
    statistic: float
    p: float
    n: int
    reason: str | None = None


def _judged(made: list[_Raw], level: float) -> tuple[HypothesisTest, ...]:
    """The tests, with the values compared with the level and their outcomes."""
    claims = [name for name, raw in zip(NAMES, made, strict=True) if name in CLAIMS and raw.reason is None]
    p = torch.tensor([made[NAMES.index(name)].p for name in claims], dtype=torch.float64)
    corrected = dict(zip(claims, holm(p).tolist(), strict=True))
    tests = []
    for name, (statistic, own, n, reason) in zip(NAMES, made, strict=True):
        if reason is not None:
            tests.append(HypothesisTest(name, statistic, math.nan, math.nan, False, None, n, reason))
            continue
        compared = corrected.get(name, own)
        rejected = compared < level
        tests.append(HypothesisTest(name, statistic, own, compared, rejected, rejected == (name in CLAIMS), n))
    return tuple(tests)


def _equivalence(difference: Float[Tensor, " prompt"], epsilon: float, equal: float) -> tuple[float, float, int]:
    """`hypothesis_statistics.equivalence`, and the number of prompts."""
    return (*equivalence(difference, epsilon, equal), len(difference))


def _equivalence_or_why_not(difference: Float[Tensor, " prompt"], epsilon: float, equal: float, level: float) -> _Raw:
    raw = _Raw(*_equivalence(difference, epsilon, equal))

    def shows(n: int) -> bool:
        return (0.5 + epsilon) ** n + (0.5 - epsilon) ** n < level

    if shows(raw.n):
        return raw
    return raw._replace(reason=f"{raw.n} prompts are too few for this level; at least {least(shows)} are needed")


def _independence(left: Tensor, own: Tensor, permutations: int, seed: int, equal: float, level: float) -> _Raw:
    orders = math.factorial(min(len(own), 20))
    if min(1 + permutations, orders) * level <= 1:
        what = f"{permutations} permutations" if permutations < orders else f"{len(own)} prompts"
        return _Raw(math.nan, 1.0, permutations, f"{what} cannot show a dependence at this level")
    if float(left.abs().max()) <= max(equal, TIE * float(own.abs().mean())):
        return _Raw(0.0, 1.0, permutations)  # the complement keeps nothing
    return _Raw(*hsic(left, own, permutations, seed, equal), permutations)


def _minimality(
    matter: Float[Tensor, " edge"],
    lost: Float[Tensor, " draw"],
    quantile: float,
    equal: float,
    level: float,
    distinct: int,
) -> tuple[_Raw, Float[Tensor, " edge"]]:
    """The test, and the p value of each edge after Holm's correction over the edges.

    Args:
        matter: effect of ablating each edge of the circuit.
        lost: effect of ablating a random edge of an inflated circuit.
        quantile, equal, level: q, the largest difference that is a tie, and the level.
        distinct: number of distinct inflated circuits.
    """
    ones = torch.ones(len(matter), dtype=torch.float64)
    if not len(lost):
        return _Raw(1.0, 1.0, len(matter), "the graph has no path beside the circuit to inflate it by"), ones
    rates = (matter[:, None] > lost + equal).double().mean(1)
    raw = _Raw(float(rates.min()), 1.0, len(matter))
    if max(float(matter.max()), float(lost.max())) <= equal:
        same = "neither leaving out an edge of the circuit nor a random one changes the metric by more than rounding"
        return raw._replace(reason=same), ones
    if (1 - quantile) ** distinct * len(matter) >= level:
        few = f"the circuit can be inflated in {distinct} ways only, too few to show that an edge does not matter"
        return raw._replace(reason=few), ones
    edge_p = holm(binomial(rates, len(lost), quantile, "less"))
    return raw._replace(p=float(edge_p.min())), edge_p


def _too_few_rivals(n: int, asked: int, quantile: float, level: float, n_edges: int) -> str | None:
    """Why n random circuits are too few to reject; None if they suffice."""

    def shows(rivals: int) -> bool:
        return quantile**rivals * len(CLAIMS) < level

    if shows(n):
        return None
    there = too_few(n, asked, n_edges, "connected") if n < asked else f"{n} random circuits were requested"
    return f"{there}; at least {least(shows)} are needed at this level"


def _above(won: Bool[Tensor, " draw"], quantile: float, few: str | None) -> _Raw:
    """Tests whether the circuit wins against more than a share q of the random ones."""
    if not len(won):
        return _Raw(math.nan, 1.0, 0, few)
    share = won.double().mean()
    return _Raw(float(share), float(binomial(share[None], len(won), quantile, "greater")[0]), len(won), few)
