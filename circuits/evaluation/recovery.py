"""Recovery of a known circuit: how well scores, or a circuit, find its edges.

Each edge has a score, and is true (in the known circuit) or false. For every threshold on the score,

    recall = true positive rate = TP / true        false positive rate = FP / false        precision = TP / (TP + FP)

AUROC is the area under (false positive rate, true positive rate): the probability that a true edge scores higher than a false
one, ties counting half (the Mann-Whitney statistic with mid-ranks). A circuit counts as scores of 1 and 0. Average precision is
Σ precision · Δrecall over the distinct scores (no interpolation).

| `level` | what is ranked | its score, from edges |
|---|---|---|
| `edges` | writer -> reader | |
| `merged` | writer -> node: edges into a head's q, k and v are one | the largest of them |
| `nodes` | heads and MLPs | the largest of all edges in and out |

The largest score, not the sum: a node is in a circuit if any of its edges is. So a node is true if it touches a true edge, and a
circuit recovers exactly its own nodes; a sum would favour nodes with many edges. `input` and `logits` are in every circuit and are
not ranked. If heads share keys and values, an edge into these belongs to every head of the group.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import InputError
from circuits.graph.graph import Graph
from circuits.plain_torch import plain_methods, plain_torch
from circuits.results.choice import check_ranking
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores
from circuits.shown import Shown

LEVELS = ("edges", "merged", "nodes")
NEGLIGIBLE = 1e-6
"""Share of the largest score below which scores may be float32 rounding."""


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Recovery(Shown):
    """A ranking of edges or nodes, and how well it finds the known circuit.

    Attributes:
        level: `edges`, `merged` or `nodes`.
        names: names of the ranked edges or nodes, in graph order.
        scores: their scores; higher ranks first.
        true: whether each is in the known circuit.
        thresholds: the distinct scores, highest first, after +inf (nothing selected).
        false_positive_rate, true_positive_rate: rates at each threshold (score ≥ threshold): the ROC curve.
        auroc: the area under it.
        average_precision: Σ precision · Δrecall.
        precision, recall: entry k - 1: among the k strongest; if k falls among equal scores, the expected value of a random
            choice between them.
    """

    level: str
    names: tuple[str, ...]
    scores: Float[Tensor, " ranked"]
    true: Bool[Tensor, " ranked"]
    thresholds: Float[Tensor, " point"]
    false_positive_rate: Float[Tensor, " point"]
    true_positive_rate: Float[Tensor, " point"]
    auroc: float
    average_precision: float
    precision: Float[Tensor, " ranked"]
    recall: Float[Tensor, " ranked"]

    def __len__(self) -> int:
        return len(self.names)

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the level, sizes and both areas."""
        return {
            "level": self.level, "ranked": len(self), "true": int(self.true.sum()), "auroc": self.auroc,
            "average_precision": self.average_precision,
        }  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """One row per edge or node: its score, and whether it is in the known circuit."""
        columns = zip(self.names, self.scores.tolist(), self.true.tolist(), strict=True)
        return [{"name": name, "score": score, "true": true} for name, score, true in columns]

    def _shown_rows(self) -> list[dict[str, Any]]:
        return sorted(self.rows(), key=lambda row: -row["score"])

    def __repr__(self) -> str:
        return (
            f"Recovery({int(self.true.sum())} true of {len(self)} {self.level}, AUROC {self.auroc:.3f}, "
            f"average precision {self.average_precision:.3f})"
        )


@plain_torch
def recovery(
    result: EdgeScores | NodeScores | Circuit,
    truth: Circuit | Iterable[str],
    *,
    level: str | None = None,
    by: str = "abs",
    negligible: float = 0.0,
    graph: Graph | None = None,
) -> Recovery:
    """Ranks edges or nodes and compares the ranking with a known circuit.

    Args:
        result: scores or a circuit. Scores of nodes have only the level `nodes`; only heads and MLPs among them are ranked.
        truth: the known circuit, or the names of its edges.
        level: what is ranked, see the module docstring. None: `edges`, or `nodes` for scores of nodes.
        by: `abs`: by the size of the score; `signed`: from the most positive.
        negligible: scores of at most this share of the largest count as 0, because their order would be rounding.
        graph: graph of the edges in `truth`; required if `truth` holds names and `result` scores nodes.

    Raises:
        InputError: unknown options or edges; circuits of two graphs; scores that are not numbers or have positions; or no true
            or no false entries at this level.
    """
    level = ("nodes" if isinstance(result, NodeScores) else "edges") if level is None else level
    if level not in LEVELS:
        raise InputError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    check_ranking(by)
    known = _truth(result, truth, graph)
    if isinstance(result, NodeScores):
        names, scores, true = _of_nodes(result, known, level)
        scores = scores.abs() if by == "abs" else scores
    else:
        names, true = _at(level, known.graph, known.mask)
        _, scores = _at(level, known.graph, _strengths(result, by))
    scores = scores.to("cpu", torch.float64)
    if negligible and len(scores):
        scores = scores.masked_fill(scores.abs() <= negligible * scores.abs().max(), 0.0)
    return _compared(level, names, scores, true.bool().cpu())


def _truth(result: EdgeScores | NodeScores | Circuit, truth: Circuit | Iterable[str], graph: Graph | None) -> Circuit:
    """The known circuit, in the graph of `found`."""
    own = graph if isinstance(result, NodeScores) else result.graph
    if isinstance(truth, str):
        raise InputError(f"truth is a circuit or a list of edges, not the text {truth!r}")
    if not isinstance(truth, Circuit):
        if own is None:
            raise InputError(
                "scores of nodes do not contain their graph: pass graph=model.graph, or the truth as a Circuit"
            )
        truth = Circuit.from_edges(own, truth)
    for other in (own, graph):
        if other is not None and other != truth.graph:
            raise InputError(f"the scores and the known circuit belong to two graphs: {other} and {truth.graph}")
    return truth


def _strengths(result: EdgeScores | Circuit, by: str) -> Float[Tensor, "writer reader"]:
    """The values by which edges are ranked."""
    if isinstance(result, Circuit):
        return result.mask.double()
    return result.values.double().abs() if by == "abs" else result.values.double()


def _of_nodes(
    node_scores: NodeScores, known: Circuit, level: str
) -> tuple[tuple[str, ...], Float[Tensor, " ranked"], Bool[Tensor, " ranked"]]:
    if level != "nodes":
        raise InputError(f"scores of nodes can be compared at level 'nodes' only, not {level!r}")
    if node_scores.positions is not None:
        raise InputError(
            "these scores have positions; score whole nodes (positions=None) to compare them with a circuit"
        )
    ranked, true = _at("nodes", known.graph, known.mask)
    if not set(ranked) & set(node_scores.nodes):
        raise InputError(
            f"none of the {len(node_scores)} scored nodes is a head or an MLP of the known circuit's graph"
        )
    chosen = [i for i, name in enumerate(ranked) if name in node_scores.nodes]
    scores = node_scores.values[[node_scores.nodes.index(ranked[i]) for i in chosen]]
    return tuple(ranked[i] for i in chosen), scores, true[chosen].bool()


def _at(level: str, graph: Graph, values: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """Names and values at a level; the value is the largest of the edges merged into one entry."""
    exists = graph.edge_mask.to(values.device)
    if level == "edges":
        return graph.edges, values[exists]
    targets = (*graph.writer_names[1:], "logits")
    position = {name: i for i, name in enumerate(targets)}
    into = torch.full((graph.n_writers, len(targets)), -torch.inf, dtype=torch.float64, device=values.device)
    there = torch.zeros_like(into, dtype=torch.bool)
    for r, reader in enumerate(graph.reader_nodes):
        column = values[:, r].double().masked_fill(~exists[:, r], -torch.inf)
        for node in graph.nodes_fed_by(reader) or ("logits",):
            t = position[node]
            into[:, t], there[:, t] = torch.maximum(into[:, t], column), there[:, t] | exists[:, r]
    if level == "merged":
        return tuple(f"{graph.writer_names[w]}->{targets[t]}" for w, t in there.nonzero().tolist()), into[there]
    return targets[:-1], torch.maximum(into.amax(0)[:-1], into.amax(1)[1:])


def _compared(level: str, names: tuple[str, ...], scores: Tensor, true: Tensor) -> Recovery:
    if bad := int(scores.isnan().sum()):
        raise InputError(f"{bad} of {len(scores)} scores are NaN, so they cannot be ranked")
    n_true, n_false = int(true.sum()), int((~true).sum())
    if not n_true or not n_false:
        which = "none" if not n_true else "all"
        raise InputError(
            f"{which} of the {len(names)} {level} belong to the known circuit; a ranking needs some that do and some that do not"
        )
    order = torch.sort(scores, descending=True, stable=True).indices
    ranked = scores[order]
    ends = torch.cat([(ranked[1:] != ranked[:-1]).nonzero()[:, 0], torch.tensor([len(ranked) - 1])])
    zero = torch.zeros(1, dtype=torch.float64)
    hits = torch.cat([zero, true[order].double().cumsum(0)[ends]])
    sizes = torch.cat([zero, ends.double() + 1])
    tpr, fpr = hits / n_true, (sizes - hits) / n_false
    precision = hits[1:] / sizes[1:]
    expected = _between(sizes, hits)
    return Recovery(
        level, names, scores, true,
        thresholds=torch.cat([torch.tensor([torch.inf], dtype=torch.float64), ranked[ends]]),
        false_positive_rate=fpr, true_positive_rate=tpr,
        auroc=float(torch.trapezoid(tpr, fpr)),
        average_precision=float((precision * tpr.diff()).sum()),
        precision=expected / torch.arange(1, len(names) + 1), recall=expected / n_true,
    )  # fmt: skip


def _between(sizes: Float[Tensor, " point"], hits: Float[Tensor, " point"]) -> Float[Tensor, " ranked"]:
    """Expected hits among the k strongest, for every k: linear interpolation within equal scores."""
    k = torch.arange(1, int(sizes[-1]) + 1, dtype=torch.float64)
    right = torch.searchsorted(sizes, k)
    left = right - 1
    share = (k - sizes[left]) / (sizes[right] - sizes[left])
    return hits[left] + share * (hits[right] - hits[left])
