"""Faithfulness against the number of edges, and the areas by which MIB ranks methods (Mueller et al. 2025, 2504.13151).

For each fraction p of the graph's edges, the circuit of the ⌊p · edges⌋ strongest has f(p) = (m(C) - m(∅)) / (m(all) - m(∅)) on
dataset means.

    CPR = ∫ f dp              edges by signed score: the share of the behaviour kept by circuits of helpful edges; above 1, a
                              circuit exceeds the model
    CMD = ∫ |1 - f| dp        edges by absolute score: the distance of a circuit's behaviour from the model's

Both use the trapezoid rule from the smallest fraction to 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.evaluation.faithfulness import CircuitMetrics, measure_circuits
from circuits.evaluation.intervals import interval_text, share_interval
from circuits.graph.places import PlacedGraph, common_places, over
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metric_range import MetricRange
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.choice import check_rule
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.provenance import finite
from circuits.shown import Shown
from circuits.stats.ratio import ratio_interval

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The fractions of MIB."""


@dataclass(frozen=True, eq=False)
class Curve:
    """f(p) for one ranking of edges.

    Attributes:
        by: `signed` or `abs`.
        fractions: p.
        edges: number of edges of each circuit, after dead ends are pruned.
        circuit: metric per prompt of each circuit.
        clean, ablated: metric per prompt of the model, and with all edges ablated.
        low, high: 95% interval of f over prompts, see `circuits.stats.ratio`; NaN with one prompt, infinite if the metric range
            cannot be told from 0.
    """

    by: str
    fractions: Float[Tensor, " size"]
    edges: tuple[int, ...]
    circuit: Float[Tensor, "size prompt"]
    clean: Float[Tensor, " prompt"]
    ablated: Float[Tensor, " prompt"]
    low: Float[Tensor, " size"]
    high: Float[Tensor, " size"]

    @property
    def faithfulness(self) -> Float[Tensor, " size"]:
        """f(p)."""
        return (self.circuit.mean(1) - self.ablated.mean()) / (self.clean.mean() - self.ablated.mean())


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class FaithfulnessCurves(Shown):
    """Both curves and their areas.

    Attributes:
        signed, absolute: edges by signed score (for CPR), and by absolute score (for CMD).
        cpr, cmd: the areas.
        cpr_interval, cmd_interval: 95% intervals over prompts, of the same kind.
        rule: the selection rule.
        metric, ablation: names of the metric and of the ablation.
    """

    signed: Curve
    absolute: Curve
    cpr: float
    cmd: float
    cpr_interval: tuple[float, float]
    cmd_interval: tuple[float, float]
    rule: str
    metric: str
    ablation: str

    def __str__(self) -> str:
        cpr, cmd = (interval_text(*ends) for ends in (self.cpr_interval, self.cmd_interval))
        return f"CPR {self.cpr:.3f} ({cpr}), CMD {self.cmd:.3f} ({cmd})"

    def rows(self) -> list[dict[str, Any]]:
        """One row per point of both curves."""
        return [
            {"by": curve.by, "fraction": fraction, "edges": edges, "faithfulness": value, "low": low, "high": high}
            for curve in (self.signed, self.absolute)
            for fraction, edges, value, low, high in zip(
                curve.fractions.tolist(), curve.edges, curve.faithfulness.tolist(), curve.low.tolist(),
                curve.high.tolist(), strict=True,
            )
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "cpr": self.cpr, "cpr_interval": [*map(finite, self.cpr_interval)],
            "cmd": self.cmd, "cmd_interval": [*map(finite, self.cmd_interval)],
            "rule": self.rule, "metric": self.metric, "ablation": self.ablation,
            **{
                name: {
                    "fractions": curve.fractions.tolist(), "edges": list(curve.edges),
                    "faithfulness": curve.faithfulness.tolist(),
                    "low": [*map(finite, curve.low.tolist())], "high": [*map(finite, curve.high.tolist())],
                }
                for name, curve in (("signed", self.signed), ("absolute", self.absolute))
            },
        }  # fmt: skip


@on_model
def faithfulness_curves(
    model: Model,
    pairs: PromptPairs,
    scores: EdgeScores,
    *,
    fractions: Sequence[float] = FRACTIONS,
    rule: str = "top",
    fill: bool = False,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> FaithfulnessCurves:
    """Measures circuits of increasing size, and the areas CPR and CMD.

    Args:
        model, metric, ablation, batch_size, progress: see `circuits.circuit_metrics`.
        pairs: the prompts to test on, preferably pairs that the scores were not computed on.
        scores: scores of all edges; of edges at places (`EdgeScores.over_places`), whose number is that of (edge, place) pairs.
        fractions: fractions of the graph's edges, each above 0 and at most 1; 1 (the whole graph) is added if missing.
        rule: selection rule: `top`, `greedy`, `optimal` (by signed and by absolute score), or `positive-share`, which has only
            one order, used for both areas.
        fill: continue down the ranking until that number of edges is connected; not for `optimal`.
        resamples, seed: number of resamples and random seed of the intervals.

    Raises:
        InputError: an invalid fraction, an unknown rule, scores of another graph, or a model whose metric is the same with all
            edges ablated, so that no fraction of it is defined.
    """
    return faithfulness_curves_of(
        Question.ask(model, pairs, metric, ablation, batch_size), scores, fractions=fractions, rule=rule, fill=fill,
        resamples=resamples, seed=seed, progress=progress,
    )  # fmt: skip


def faithfulness_curves_of(
    question: Question, scores: EdgeScores, *, fractions: Sequence[float] = FRACTIONS, rule: str = "top",
    fill: bool = False, resamples: int = 1000, seed: int = 0, progress: Progress | None = None,
) -> FaithfulnessCurves:  # fmt: skip
    """`faithfulness_curves` of scores for a question."""
    graph = scores.graph
    points = sorted({*map(float, fractions), 1.0})
    if not points[0] > 0 or points[-1] > 1:
        raise InputError(f"fractions must be above 0 and at most 1, got {list(fractions)}")
    options: dict[str, Any] = {"fill": True} if fill else {}
    check_rule(rule, options)
    if graph.base != question.model.graph:
        raise InputError(f"the scores belong to another graph ({scores.graph}) than {question.model.name}")
    orders: tuple[dict[str, Any], ...] = ({},) if rule == "positive-share" else ({"by": "signed"}, {"by": "abs"})
    ends, sizes = [Circuit.full(graph), Circuit.empty(graph)], [int(p * graph.n_edges) for p in points[:-1]]
    ranked = [[scores.select(n, rule, **order, **options) if n else ends[1] for n in sizes] for order in orders]
    measured = measure_circuits(question, [*ends, *(circuit for some in ranked for circuit in some)], progress)
    sizes_of = [(*map(len, some), graph.n_edges) for some in ranked]
    return curves_of_values(question, measured, points, sizes_of, rule=rule, resamples=resamples, seed=seed)


def curves_of_values(
    question: Question, measured: CircuitMetrics, points: Sequence[float], sizes: Sequence[Sequence[int]], *, rule: str,
    resamples: int = 1000, seed: int = 0,
) -> FaithfulnessCurves:  # fmt: skip
    """The curves and areas of metrics that were measured.

    Args:
        question: what was measured.
        measured: of the whole model, with everything ablated, and for each order of the items (by signed and by absolute score;
            or one order, used for both) of the circuit of each point but the last, which is the whole model.
        points: ascending fractions, the last 1.
        sizes: for each order, what `Curve.edges` shall say of each point.
        rule, resamples, seed: see `faithfulness_curves`.

    Raises:
        InputError: the metric is the same with everything ablated.
    """
    if missing := MetricRange.from_prompts(measured.values[0], measured.values[1], measured.rounding).undefined:
        raise InputError(missing)
    clean, ablated, *values = measured.values * question.metric.sign
    p = torch.tensor(points, dtype=torch.float64)
    curves, areas, intervals = [], [], []
    for i, by in enumerate(("signed", "abs")):
        order = i % len(sizes)
        rows = torch.stack([*values[order * (len(points) - 1) : (order + 1) * (len(points) - 1)], clean])
        ends = share_interval(rows, clean, ablated, measured.rounding, resamples=resamples, seed=seed)
        curves.append(Curve(by, p, tuple(sizes[order]), rows, clean, ablated, *ends))
        areas.append(float(_area(curves[i].faithfulness[:, None], p, by)))
        intervals.append(area_interval(curves[i], resamples, seed))
    names = question.metric.name, question.ablation.label
    return FaithfulnessCurves(curves[0], curves[1], areas[0], areas[1], intervals[0], intervals[1], rule, *names)


@on_model
def curves_over_places(
    model: Model,
    pairs: PromptPairs,
    scores: Mapping[str, EdgeScores],
    *,
    fractions: Sequence[float] = FRACTIONS,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, FaithfulnessCurves]:
    """CPR and CMD of several scores at equal numbers of (edge, place) pairs.

    Scores that do not know places give every place of an edge its whole effect (`EdgeScores.spread`), so an edge chosen from them
    comes with all its places. If some scores have destinations, pairs are counted with them.

    Args:
        model, pairs, fractions, metric, ablation, resamples, seed, batch_size: see `faithfulness_curves`.
        scores: name -> scores of one model, at least one with places.
        progress: called with (evaluations done, in total), for each scores anew.

    Raises:
        InputError: no scores have places, or two have different ones; see also `faithfulness_curves`.
    """
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    return {
        name: faithfulness_curves_of(
            question, each, fractions=fractions, resamples=resamples, seed=seed, progress=progress
        )
        for name, each in over_common_places(scores).items()
    }


def over_common_places(scores: Mapping[str, EdgeScores]) -> dict[str, EdgeScores]:
    """All scores over the places of those that have some; InputError if none has, or two have different ones."""
    each = {name: one if one.places is None else one.over_places() for name, one in scores.items()}
    graphs = [one.graph for one in each.values() if isinstance(one.graph, PlacedGraph)]
    if not graphs:
        raise InputError("none of these scores has places; compute some with positions='spans' or 'each'")
    places = graphs[0].places
    for graph in graphs[1:]:
        places = common_places(over(graph.base, places), graph)
    target = over(graphs[0].base, places)
    for name, one in each.items():
        if one.graph.base != target.base:
            raise InputError(f"the scores {name} belong to another graph ({one.graph.base}) than the others")
    return {name: one if one.graph == target else one.spread(places) for name, one in each.items()}


def _area(f: Float[Tensor, "size draw"], p: Float[Tensor, " size"], by: str) -> Float[Tensor, " draw"]:
    height = f if by == "signed" else (1 - f).abs()
    return torch.trapezoid(height, p, dim=0)


def area_interval(curve: Curve, resamples: int, seed: int) -> tuple[float, float]:
    """95% interval of an area, which is a ratio of means too: the sign of 1 - f at each point is taken as known."""
    weights = torch.zeros_like(curve.fractions)
    weights[:-1] += curve.fractions.diff() / 2
    weights[1:] += curve.fractions.diff() / 2
    if curve.by == "signed":
        area = weights @ (curve.circuit - curve.ablated)
    else:
        area = (weights * (1 - curve.faithfulness).sign()) @ (curve.clean - curve.circuit)
    low, high = ratio_interval(area[None], curve.clean - curve.ablated, resamples=resamples, seed=seed)
    least = float(low) if curve.by == "signed" else float(low.clamp(min=0))
    return least, float(high)
