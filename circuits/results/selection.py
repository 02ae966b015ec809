"""Rules that select a connected circuit of at most n edges by scores.

Every rule gives a circuit without dead ends (each edge is on a path from `input` to `logits`, see `Circuit.pruned`), chooses only
from `scores.candidates`, breaks ties by graph order (except `optimal`, where the solver does), and records in
`provenance["selection"]` how many edges were requested and kept.

| rule | takes |
|---|---|
| `top` | the n strongest edges |
| `threshold` | every edge of at least a given strength |
| `greedy` | n times the strongest edge into a node of the circuit, beginning at `logits` (EAP-IG: Hanna et al. 2024, 2403.17806) |
| `positive-share` | a share of the budget for the most positive edges, the rest by absolute value (after the ratio-based selection of Nikankin et al. 2025, 2510.25786) |
| `optimal` | the connected circuit with the largest sum of scores, by integer programming (idea: Nikankin et al. 2025) |

Nikankin et al. also proposed to keep only edges whose scores are significant in a bootstrap over prompts
(`EdgeScores.significant`). None of this was compared with their code.

All rules but `threshold` and `optimal` rank edges, take the first n and prune, which may leave far fewer than n. With `fill=True`
they continue down the ranking as long as at most n edges remain after pruning.
"""

import heapq
import math
from bisect import bisect_right
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.graph.graph import Graph
from circuits.graph.paths import readers_by_output
from circuits.results.choice import check_ranking, check_rule, check_share
from circuits.results.circuit import Circuit
from circuits.results.provenance import Provenance


@runtime_checkable
class Scored(Protocol):
    """The parts of `circuits.EdgeScores` that rules use."""

    @property
    def graph(self) -> Graph: ...
    @property
    def values(self) -> Float[Tensor, "writer reader"]: ...
    @property
    def stderr(self) -> Float[Tensor, "writer reader"]: ...
    @property
    def candidates(self) -> Bool[Tensor, "writer reader"]: ...
    @property
    def provenance(self) -> Provenance: ...


def top(scores: Scored, n: int, by: str = "abs", fill: bool = False) -> Circuit:
    """See `EdgeScores.top`."""
    _check_budget(scores, n)
    return _first(scores, ranking(scores, by), n, fill, {"rule": "top", "by": by})


def threshold(scores: Scored, tau: float, by: str = "abs") -> Circuit:
    """See `EdgeScores.threshold`."""
    check_ranking(by)
    if not math.isfinite(tau):
        what = "not a number" if math.isnan(tau) else f"{tau}, which is not finite"
        raise InputError(f"tau is {what}; give the smallest score that an edge may have")
    strong = (scores.values.abs() if by == "abs" else scores.values) >= tau
    return _noted(scores, strong & scores.candidates, {"rule": "threshold", "by": by, "tau": float(tau)})


def greedy(scores: Scored, n: int, by: str = "abs", fill: bool = False) -> Circuit:
    """See `EdgeScores.greedy`."""
    _check_budget(scores, n)
    return _first(scores, _growth(scores, by), n, fill, {"rule": "greedy", "by": by})


def positive_share(scores: Scored, n: int, share: float = 0.5, fill: bool = False) -> Circuit:
    """See `EdgeScores.positive_share`."""
    _check_budget(scores, n)
    check_share(share)
    return _first(scores, _shared(scores, share), n, fill, {"rule": "positive-share", "share": share})


def optimal(scores: Scored, n: int, by: str = "abs", time_limit: float | None = 60.0) -> Circuit:
    """See `EdgeScores.optimal`."""
    from circuits.results.optimal_selection import best_connected

    _check_budget(scores, n)
    check_ranking(by)
    if time_limit is not None and not time_limit > 0:
        raise InputError(f"time_limit must be a positive number of seconds or None, got {time_limit}")
    gains = scores.values.abs() if by == "abs" else scores.values
    # More edges than the positive ones would only add negative gains.
    budget = min(n, int((gains[scores.candidates] > 0).sum()))
    guesses = [rule(scores, budget, by=by, fill=True).mask for rule in (top, greedy)]
    best = best_connected(scores.graph, scores.candidates, gains, n, guesses, time_limit)
    how = {"rule": "optimal", "by": by, "n": n, "sum": best.total, "bound": best.bound, "gap": best.gap}
    return _noted(scores, best.mask, how)


RULES = {"top": top, "greedy": greedy, "positive-share": positive_share, "optimal": optimal}
"""The rules that take a budget; their options are in `circuits.results.choice`."""


def select(scores: Scored, n: int, rule: str = "top", **options: Any) -> Circuit:
    """See `EdgeScores.select`."""
    check_rule(rule, options)
    return RULES[rule](scores, n, **options)


def ranking(scores: Scored, by: str) -> Int[Tensor, "edge 2"]:
    """(writer, reader) of every candidate, strongest first; ties in graph order."""
    check_ranking(by)
    values = scores.values[scores.candidates]
    order = torch.sort(values.abs() if by == "abs" else values, descending=True, stable=True).indices
    return scores.candidates.nonzero()[order]


def _growth(scores: Scored, by: str) -> Int[Tensor, "edge 2"]:
    """Candidates in the order in which a circuit grows from `logits`.

    The next edge is the strongest one into a reader of a node of the circuit; its writer then adds its readers.
    """
    ranked = ranking(scores, by)
    graph, by_output, edges = scores.graph, readers_by_output(scores.graph), ranked.tolist()
    into: list[list[int]] = [[] for _ in graph.reader_nodes]
    for rank, (_, r) in enumerate(edges):
        into[r].append(rank)
    opened: set[int] = set()
    heap: list[int] = []
    order: list[int] = []

    def open_output(output: str) -> None:
        for r in by_output.get(output, ()):
            if r not in opened:
                opened.add(r)
                for rank in into[r]:
                    heapq.heappush(heap, rank)

    open_output("logits")
    while heap:
        order.append(heapq.heappop(heap))
        w, r = edges[order[-1]]
        open_output(graph.output_read(w, graph.reader_nodes[r]))
    return ranked[torch.tensor(order, dtype=torch.long)]


def _shared(scores: Scored, share: float) -> Int[Tensor, "edge 2"]:
    """Candidates in an order whose first k, for every k, are the ⌊share·k⌋ most positive edges and the strongest others."""
    strongest = ranking(scores, "abs")
    values = scores.values[strongest[:, 0], strongest[:, 1]]
    # Equal positive values keep their graph order.
    positive = (values > 0).nonzero()[:, 0].tolist()
    taken: set[int] = set()
    order: list[int] = []
    next_positive, next_strongest = iter(positive), iter(range(len(strongest)))
    for k in range(1, len(strongest) + 1):
        due = math.floor(share * k) > math.floor(share * (k - 1))
        edge = next(next_positive, None) if due else None
        while edge is None or edge in taken:
            edge = next(next_strongest)
        taken.add(edge)
        order.append(edge)
    return strongest[torch.tensor(order, dtype=torch.long)]


def _first(scores: Scored, order: Int[Tensor, "edge 2"], n: int, fill: bool, how: dict[str, object]) -> Circuit:
    """The first n edges of an order, or with `fill` as many as leave at most n after pruning."""
    graph = scores.graph
    k = min(n, len(order))
    if fill:
        # More edges never leave fewer after pruning, so the largest k is found by bisection.
        sizes = range(k, len(order) + 1)
        k += bisect_right(sizes, n, key=lambda k: len(Circuit(graph, graph.mask_at(order[:k])).pruned())) - 1
        how = {**how, "fill": True, "considered": k}
    return _noted(scores, graph.mask_at(order[:k]), {**how, "n": n})


def _noted(scores: Scored, mask: Tensor, how: dict[str, object]) -> Circuit:
    circuit = Circuit(scores.graph, mask, scores.values, scores.stderr, scores.provenance).pruned()
    return circuit.with_provenance(selection={**how, "kept": len(circuit)})


def _check_budget(scores: Scored, n: int) -> None:
    if not 0 <= n <= scores.graph.n_edges:
        raise InputError(f"cannot choose {n} edges: this graph has {scores.graph.n_edges}")
