"""Comparison of methods on one task: do they rank the same components high, and do their scores predict ablations?

All results are converted to node scores. Edge scores are summed over each node's out-edges. A circuit scores its nodes 1 and all
others 0. Circuits at several thresholds (`acdc_sweep`) score a node by the largest threshold at which it is kept. Measured are

- rank correlation (Spearman) of each two methods over the nodes, with a bootstrap interval over prompts (the same resamples for
  both methods);
- overlap: the share of the k strongest nodes that two methods have in common, for every k;
- counterfactual correlation: COAR's test, see `circuits.evaluation.counterfactual`;
- for circuits, the prediction of a COAR fit beside the measured metric, see `circuits.evaluation.circuit_predictions`.

Agreement is not evidence of correctness: methods can be wrong together. `circuits.faithfulness` measures circuits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.evaluation.circuit_predictions import CircuitPrediction
from circuits.evaluation.counterfactual import Correlation, Counterfactuals
from circuits.evaluation.curves import FaithfulnessCurves
from circuits.plain_torch import plain_methods, plain_torch
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import finite
from circuits.shown import Shown
from circuits.stats.bootstrap import resampling_weights
from circuits.stats.correlation import correlation
from circuits.stats.interactions import Interaction

Judged = NodeScores | EdgeScores | Circuit | Mapping[float, Circuit]
BY = ("abs", "signed")


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Shown):
    """Results of `compare`.

    Attributes:
        methods: names of the methods.
        nodes: the components that all methods score.
        by: `abs`: nodes are ranked by the size of their mean effect; `signed`: from the most helpful to the most harmful.
        rank: Spearman's correlation of two methods' mean scores over the nodes.
        low, high: its 95% bootstrap interval over prompts; nominal, see `circuits.stats.bootstrap`.
        overlap: entry k - 1: the share of the k strongest nodes that two methods have in common; NaN if the k strongest of
            one are not defined (for a circuit, unless k is the number of its nodes).
        counterfactual: method -> alpha -> correlation; empty if no ablations were given.
        circuits: predictions and measurements of circuits; empty if none were given.
        faithfulness: faithfulness of the methods' circuits, if known.
        scores: the node scores compared.
        judge: the ablations.
        ablations: method -> the ablation it measured under, if known.
        over_places: the methods' curves at equal numbers of (edge, place) pairs; empty if no method knows places.
    """

    methods: tuple[str, ...]
    nodes: tuple[str, ...]
    by: str
    rank: Float[Tensor, "method method"]
    low: Float[Tensor, "method method"]
    high: Float[Tensor, "method method"]
    overlap: Float[Tensor, "method method k"]
    counterfactual: dict[str, dict[float, Correlation]]
    circuits: tuple[CircuitPrediction, ...] = ()
    faithfulness: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, NodeScores] = field(default_factory=dict)
    judge: Counterfactuals | None = None
    ablations: Mapping[str, str] = field(default_factory=dict)
    over_places: Mapping[str, FaithfulnessCurves] = field(default_factory=dict)

    @property
    def leading(self) -> tuple[str, ...]:
        """The methods without the circuits that were chosen from scores that are here too."""
        return tuple(
            name
            for name in self.methods
            if name.removesuffix(CIRCUIT) == name or name.removesuffix(CIRCUIT) not in self.methods
        )

    @property
    def caution(self) -> str | None:
        """A warning if the results were measured under different ablations; otherwise None."""
        by: dict[str, list[str]] = {}
        for name, ablation in self.ablations.items():
            by.setdefault(ablation, []).append(name)
        parts = [f"{ablation} ablation by {', '.join(names)}" for ablation, names in by.items()]
        if self.judge is not None and {self.judge.ablation} != set(by):
            parts.append(f"{self.judge.ablation} ablation of the fresh sets that they are judged by")
        if len(parts) < 2:
            return None
        return f"Effects are those of different ablations, which need not agree: {'; '.join(parts)}."

    @property
    def without_sign(self) -> dict[str, str]:
        """Methods whose scores have no sign, and the kind of these scores."""
        kinds = {name: scores.quantity for name, scores in self.scores.items()}
        return {name: kind.name for name, kind in kinds.items() if not kind.signed}

    @property
    def on_signs(self) -> str | None:
        """A line on scores without a sign; None if all have one."""
        parts = [f"{name} ({what})" for name, what in self.without_sign.items()]
        if not parts:
            return None
        return (
            f"Scores without sign: {', '.join(parts)}. They rank nodes by size; they do not say in which direction a node moves the "
            "metric, and their sum does not predict the metric."
        )

    @property
    def interactions(self) -> dict[str, tuple[Interaction, ...]]:
        """For methods that measure interactions, the strongest pairs: those that a sum of effects does not describe."""
        by_method = {name: scores.interactions for name, scores in self.scores.items()}
        return {name: pairs for name, pairs in by_method.items() if pairs is not None}

    def rows(self) -> list[dict[str, Any]]:
        """One row per pair of methods: their rank correlation and its interval."""
        return [
            {
                "method": self.methods[i], "other": self.methods[j], "rank": float(self.rank[i, j]),
                "low": float(self.low[i, j]), "high": float(self.high[i, j]),
            }
            for i in range(len(self.methods))
            for j in range(i)
        ]  # fmt: skip

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.methods)}; {len(self.nodes)} nodes by {self.by})"

    def to_dict(self) -> dict[str, Any]:
        """JSON values; NaN as None."""

        def plain(tensor: Tensor) -> list[Any]:
            return [[finite(value) for value in row] for row in tensor.tolist()]

        return {
            "methods": list(self.methods),
            "nodes": list(self.nodes),
            "by": self.by,
            "ablations": dict(self.ablations),
            "judge": None if self.judge is None else self.judge.to_dict(),
            "caution": self.caution,
            "without_sign": self.without_sign,
            "rank_correlation": plain(self.rank),
            "rank_correlation_low": plain(self.low),
            "rank_correlation_high": plain(self.high),
            "overlap": [plain(rows) for rows in self.overlap],
            "counterfactual": {
                name: [{"alpha": alpha, **correlation.to_dict()} for alpha, correlation in correlations.items()]
                for name, correlations in self.counterfactual.items()
            },
            "faithfulness": {name: finite(value) for name, value in self.faithfulness.items()},
            "circuits": [prediction.to_dict() for prediction in self.circuits],
            "interactions": {name: [pair._asdict() for pair in pairs] for name, pairs in self.interactions.items()},
            "scores": {
                name: dict(zip(self.nodes, _at(scores, self.nodes).mean(1).tolist(), strict=True))
                for name, scores in self.scores.items()
            },
            **(
                {"over_places": {name: curves.to_dict() for name, curves in self.over_places.items()}}
                if self.over_places
                else {}
            ),
        }

    def __str__(self) -> str:
        width = max(map(len, self.methods))
        lines = [f"rank correlation over {len(self.nodes)} nodes, by {'size' if self.by == 'abs' else 'signed effect'}"]
        for i, name in enumerate(self.methods):
            cells = [f"{float(self.rank[i, j]):6.2f}" for j in range(len(self.methods))]
            lines.append(f"  {name:<{width}} {' '.join(cells)}")
        if self.counterfactual:
            alphas = list(next(iter(self.counterfactual.values())))
            lines.append("counterfactual correlation at alpha = " + ", ".join(f"{alpha:g}" for alpha in alphas))
            for name, correlations in self.counterfactual.items():
                cells = [f"{c.mean:.2f} ({c.low:.2f} to {c.high:.2f})" for c in correlations.values()]
                lines.append(f"  {name:<{width}} {'  '.join(cells)}")
        return "\n".join([*lines, *(line for line in (self.caution, self.on_signs) if line)])


CIRCUIT = " circuit"
"""Ends the name of a run's circuit."""


@plain_torch
def compare(
    results: Mapping[str, Judged],
    *,
    judge: Counterfactuals | None = None,
    circuits: Sequence[CircuitPrediction] = (),
    faithfulness: Mapping[str, float] | None = None,
    over_places: Mapping[str, FaithfulnessCurves] | None = None,
    by: str = "abs",
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compares scores and circuits of one model on the same prompts.

    Args:
        results: display name -> node scores (without positions), edge scores, a circuit, or {threshold: circuit}.
        judge: ablations on these prompts, from `circuits.counterfactuals`; None: no counterfactual correlation.
        circuits: from `circuits.predict_circuits`, to be shown beside the results.
        faithfulness: faithfulness of the methods' circuits, by the names in `results`, to be shown beside them.
        over_places: from `circuits.curves_over_places`, to be shown beside them.
        by: `abs` or `signed`, see `Comparison`. AtP* and circuits have no sign.
        resamples, seed: number of resamples and random seed of the bootstrap over prompts.

    Raises:
        InputError: fewer than two results, or results of different prompts, with positions, or without a common node.
    """
    if by not in BY:
        raise InputError(f"by must be one of {', '.join(BY)}, got {by!r}")
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")
    scored, nodes = comparable(results)
    n_prompts = next(iter(scored.values())).n_prompts
    per_prompt = torch.stack([_at(scores, nodes) for scores in scored.values()])
    means = _ranked_by(per_prompt.mean(-1), by)
    pairs = _pairwise(means[None])[0]
    resampled = torch.einsum("dp,mnp->dmn", resampling_weights(n_prompts, resamples, seed), per_prompt)
    low, high = torch.quantile(
        _pairwise(_ranked_by(resampled, by)).nan_to_num(),
        torch.tensor([0.025, 0.975], dtype=torch.float64),
        dim=0,
    )
    known = ~pairs.isnan() & (n_prompts > 1)
    given = {name: next(iter(one.values())) if isinstance(one, Mapping) else one for name, one in results.items()}
    judged = {} if judge is None else {name: judge.correlations(one, seed=seed) for name, one in scored.items()}
    return Comparison(
        methods=tuple(results),
        nodes=nodes,
        by=by,
        rank=pairs,
        low=torch.where(known, low, torch.nan),
        high=torch.where(known, high, torch.nan),
        overlap=_overlap(means),
        counterfactual=judged,
        circuits=tuple(circuits),
        faithfulness=dict(faithfulness or {}),
        scores=scored,
        judge=judge,
        ablations={name: one.provenance["ablation"] for name, one in given.items() if one.provenance.get("ablation")},
        over_places=dict(over_places or {}),
    )


def comparable(results: Mapping[str, Judged]) -> tuple[dict[str, NodeScores], tuple[str, ...]]:
    """The results as node scores, and the nodes that all of them score.

    Raises:
        InputError: the results cannot be compared, see `compare`.
    """
    if len(results) < 2:
        raise InputError(f"a comparison needs at least two results, got {len(results)}")
    n_prompts = _prompts(results)
    scored = {name: _as_nodes(name, result, n_prompts) for name, result in results.items()}
    first = next(iter(scored.values()))
    nodes = tuple(node for node in first.nodes if all(node in other.nodes for other in scored.values()))
    if len(nodes) < 2:
        raise InputError("the results have fewer than two nodes in common, so there is nothing to rank")
    return scored, nodes


def _prompts(results: Mapping[str, Judged]) -> int:
    scores = {name: result for name, result in results.items() if isinstance(result, NodeScores | EdgeScores)}
    counts = {name: result.n_prompts for name, result in scores.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"the results are of different prompts: {', '.join(f'{k}: {v}' for k, v in counts.items())}")
    digests = {result.provenance.get("pairs_sha256") for result in scores.values()} - {None}
    if len(digests) > 1:
        raise InputError("the results are of different prompts; score the same pairs with each method")
    return next(iter(counts.values()), 1)


def _as_nodes(name: str, result: Judged, n_prompts: int) -> NodeScores:
    if isinstance(result, Circuit):
        there = set(result.nodes)
        kept = torch.tensor([float(node in there) for node in result.graph.writer_names], dtype=torch.float64)
        return NodeScores(result.graph.writer_names, kept[:, None].expand(-1, n_prompts))
    if isinstance(result, Mapping):
        return _of_thresholds(name, result, n_prompts)
    if isinstance(result, EdgeScores):
        return result.to_nodes()
    if result.positions is not None:
        raise InputError(f"{name}: scores split by position cannot be compared; score all positions together")
    return result


def _of_thresholds(name: str, sweep: Mapping[float, Circuit], n_prompts: int) -> NodeScores:
    """The largest threshold at which each node is kept; 0 if there is none."""
    if not sweep or min(sweep) <= 0:
        raise InputError(f"{name}: thresholds must be positive, got {sorted(sweep)}")
    graph = next(iter(sweep.values())).graph
    highest = {
        node: max((threshold for threshold, circuit in sweep.items() if node in circuit.nodes), default=0.0)
        for node in graph.writer_names
    }
    values = torch.tensor(list(highest.values()), dtype=torch.float64)
    return NodeScores(graph.writer_names, values[:, None].expand(-1, n_prompts))


def _at(scores: NodeScores, nodes: tuple[str, ...]) -> Float[Tensor, "node prompt"]:
    place = {node: i for i, node in enumerate(scores.nodes)}
    return scores.per_prompt[[place[node] for node in nodes]].double()


def _ranked_by(means: Float[Tensor, "*draw method node"], by: str) -> Float[Tensor, "*draw method node"]:
    return means.abs() if by == "abs" else means


def _pairwise(values: Float[Tensor, "draw method node"]) -> Float[Tensor, "draw method method"]:
    """Spearman's correlation of each two methods."""
    methods = values.shape[1]
    correlations = torch.ones(len(values), methods, methods, dtype=torch.float64)
    for i in range(methods):
        for j in range(i):
            correlations[:, i, j] = correlations[:, j, i] = correlation(values[:, i].T, values[:, j].T, "spearman")
    return correlations


def _overlap(means: Float[Tensor, "method node"]) -> Float[Tensor, "method method node"]:
    """Overlap for every k; NaN if the k-th and the next node of either method tie, since its k strongest are then undefined."""
    values, order = torch.sort(means, dim=1, descending=True, stable=True)
    ends = torch.ones_like(values, dtype=torch.bool)
    ends[:, :-1] = values[:, :-1] > values[:, 1:]
    place = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order).contiguous())
    both = torch.maximum(place[:, None], place[None])  # the smallest k at which both methods include the node
    counts = torch.zeros(both.shape, dtype=torch.float64)
    counts.scatter_add_(2, both, torch.ones_like(counts))
    shares = counts.cumsum(2) / torch.arange(1, both.shape[2] + 1)
    return shares.masked_fill(~(ends[:, None] & ends[None]), torch.nan)
