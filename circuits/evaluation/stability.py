"""Stability: do other seeds, prompts, metrics or ablations give the same scores or circuits?

`stability` compares any runs on one model. `prompt_stability` needs no new runs: it bootstraps the effects per prompt and counts
how often each edge is among the strongest (SAM keeps the edges that always are).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import InputError
from circuits.plain_torch import plain_methods, plain_torch
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import finite
from circuits.shown import Shown
from circuits.stats.bootstrap import resampling_weights, row_sizes
from circuits.stats.correlation import correlation
from circuits.stats.overlap import jaccard


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Stability(Shown):
    """Agreement between several runs.

    Attributes:
        runs: names of the runs.
        k: number of edges (or nodes) compared, the strongest by absolute score; None for circuits, which keep their size.
        jaccard: Jaccard overlap of the edges of each two runs: edges in both / edges in either.
        rank: Spearman's correlation of each two runs' scores over all edges; NaN for circuits.
        frequency: share of runs that contain each edge, in graph order.
        names: names of the edges, or of the nodes (`node@position` for scores with positions).
        unit: `edges` or `nodes`.
    """

    runs: tuple[str, ...]
    k: int | None
    jaccard: Float[Tensor, "run run"]
    rank: Float[Tensor, "run run"]
    frequency: Float[Tensor, " edge"]
    names: tuple[str, ...]
    unit: str = "edges"

    @property
    def always(self) -> tuple[str, ...]:
        """Edges in every run."""
        return self.at_least(1.0)

    def at_least(self, share: float) -> tuple[str, ...]:
        """Edges in at least this share of the runs."""
        return tuple(e for e, f in zip(self.names, self.frequency.tolist(), strict=True) if f >= share - 1e-12)

    @property
    def mean_jaccard(self) -> float:
        """The mean overlap over pairs of runs."""
        return _off_diagonal(self.jaccard)

    @property
    def mean_rank(self) -> float:
        """The mean rank correlation over pairs of runs."""
        return _off_diagonal(self.rank)

    def rows(self) -> list[dict[str, Any]]:
        """One row per edge or node: the share of runs that contain it."""
        columns = zip(self.names, self.frequency.tolist(), strict=True)
        return [{"name": name, "frequency": frequency} for name, frequency in columns]

    def _shown_rows(self) -> list[dict[str, Any]]:
        return sorted(self.rows(), key=lambda row: -row["frequency"])

    def __repr__(self) -> str:
        return f"Stability({self})"

    def __str__(self) -> str:
        size = "circuits" if self.k is None else f"the {self.k} strongest {self.unit}"
        return (
            f"{len(self.runs)} runs, {size}: Jaccard {self.mean_jaccard:.2f}, rank correlation {self.mean_rank:.2f}, "
            f"{len(self.always)} {self.unit} in all of them"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with means over pairs of runs."""
        return {
            "resamples": len(self.runs), "k": self.k, "jaccard": self.mean_jaccard, "rank": finite(self.mean_rank),
            "always": list(self.always),
        }  # fmt: skip


@plain_torch
def stability(runs: Mapping[str, EdgeScores | NodeScores | Circuit], k: int | None = None) -> Stability:
    """Compares several runs.

    Args:
        runs: name -> edge scores or circuits of one graph, or scores of the same nodes at the same positions.
        k: number of strongest edges or nodes to compare; required for scores, not used for circuits.

    Raises:
        InputError: fewer than two runs, different graphs or nodes, scores mixed with circuits, or an invalid k.
    """
    if len(runs) < 2:
        raise InputError(f"stability needs at least two runs, got {len(runs)}")
    nodes = {name: run for name, run in runs.items() if isinstance(run, NodeScores)}
    if len(nodes) == len(runs):
        return _of_nodes(nodes, k)
    return _of_edges({name: run for name, run in runs.items() if not isinstance(run, NodeScores)}, k, mixed=bool(nodes))


def _of_nodes(runs: Mapping[str, NodeScores], k: int | None) -> Stability:
    runs = _with_inactive(runs)
    first = next(iter(runs.values()))
    if any((run.nodes, run.positions) != (first.nodes, first.positions) for run in runs.values()):
        raise InputError("the runs score different nodes or positions")
    if k is None:
        raise InputError("scores of nodes need k, the number of strongest nodes to compare")
    names = first.nodes
    if first.positions is not None:
        names = tuple(f"{node}@{position}" for node in first.nodes for position in first.positions)
    values = torch.stack([run.values.flatten().to("cpu", torch.float64) for run in runs.values()])
    members = _strongest(values, k, "nodes")
    return Stability(tuple(runs), k, jaccard(members), _ranks(values), members.double().mean(0), names, "nodes")


def _with_inactive(runs: Mapping[str, NodeScores]) -> Mapping[str, NodeScores]:
    """The runs with the features of dictionaries that only other runs list: a run leaves out inactive ones, whose effect is exactly 0."""
    every = list(dict.fromkeys(node for run in runs.values() for node in run.nodes))
    missing = {name: set(every) - set(run.nodes) for name, run in runs.items()}
    inactive = all(node.startswith("f:") for nodes in missing.values() for node in nodes)
    if not inactive or not any(missing.values()) or any(run.positions is not None for run in runs.values()):
        return runs
    place, filled = {node: i for i, node in enumerate(every)}, {}
    for name, run in runs.items():
        rows = torch.zeros(len(every), run.per_prompt.shape[-1], dtype=run.per_prompt.dtype)
        rows[[place[node] for node in run.nodes]] = run.per_prompt.cpu()
        filled[name] = NodeScores(tuple(every), rows, provenance=run.provenance)
    return filled


def _of_edges(runs: Mapping[str, EdgeScores | Circuit], k: int | None, mixed: bool) -> Stability:
    if mixed:
        raise InputError("scores of nodes cannot be compared with edges; choose one or the other")
    graph = next(iter(runs.values())).graph
    if any(run.graph != graph for run in runs.values()):
        raise InputError("the runs are of different graphs")
    scored = {name: run for name, run in runs.items() if isinstance(run, EdgeScores)}
    if scored and len(scored) < len(runs):
        raise InputError("scores and circuits cannot be mixed; choose circuits from the scores first")
    if bool(scored) != (k is not None):
        raise InputError("scores of edges need k, the number of strongest edges to compare; circuits take no k")
    rank = torch.full((len(runs), len(runs)), torch.nan, dtype=torch.float64)
    if scored:
        assert k is not None
        values = torch.stack([run.values[graph.edge_mask].double().cpu() for run in scored.values()])
        members, rank = _strongest(values, k), _ranks(values)
    else:
        masks = [run.mask[graph.edge_mask] for run in runs.values() if isinstance(run, Circuit)]
        members = torch.stack(masks)
    return Stability(tuple(runs), k, jaccard(members), rank, members.double().mean(0), graph.edges)


@plain_torch
def prompt_stability(scores: EdgeScores, k: int, resamples: int = 200, seed: int = 0) -> Stability:
    """Stability over prompts of the same kind, estimated from bootstrap resamples of the prompts.

    Args:
        scores: scores with effects per prompt.
        k: number of strongest edges to compare.
        resamples: number of resamples; at most 500 are compared with each other.
        seed: random seed of the resampling.

    Raises:
        InputError: scores without effects per prompt, or of a single prompt, or an invalid number.
    """
    if scores.per_prompt is None or len(scores.per_prompt) < 2:
        raise InputError(
            "resampling prompts needs effects per prompt of at least two prompts, which these scores do not have"
        )
    if not 2 <= resamples <= 500:
        raise InputError(f"resamples must be between 2 and 500, got {resamples}")
    rows = len(scores.per_prompt)
    sizes = row_sizes(scores.n_prompts, scores.group)
    weights = resampling_weights(rows, resamples, seed, sizes)
    values = weights @ scores.per_prompt.double()
    members = _strongest(values, k)
    ranks = values.argsort(1).argsort(1).double()
    rank = torch.corrcoef(ranks)
    names = tuple(f"resample {i}" for i in range(resamples))
    return Stability(names, k, jaccard(members), rank, members.double().mean(0), scores.graph.edges)


def _ranks(values: Float[Tensor, "run edge"]) -> Float[Tensor, "run run"]:
    n = len(values)
    return torch.stack([correlation(row[:, None].expand(-1, n), values.T, "spearman") for row in values])


def _strongest(values: Float[Tensor, "run edge"], k: int, what: str = "edges") -> Bool[Tensor, "run edge"]:
    if not 1 <= k <= values.shape[1]:
        raise InputError(f"k must be between 1 and the graph's {values.shape[1]} {what}, got {k}")
    order = torch.sort(values.abs(), dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros(values.shape, dtype=torch.bool).scatter_(1, order, True)


def _off_diagonal(matrix: Float[Tensor, "run run"]) -> float:
    pairs = [float(matrix[i, j]) for i, j in combinations(range(len(matrix)), 2)]
    return sum(pairs) / len(pairs)
