"""The connected circuit with the largest sum of scores under a budget of edges, as an integer programme.

(The idea is Nikankin et al.'s, 2025, 2510.25786; this formulation was not compared with theirs.)

    maximise Σ gain_e x_e   over x_e (edge e = w→r is kept) and y_v (node v is there), all 0 or 1, such that
    Σ x_e ≤ n
    x_e ≤ y_w,  x_e ≤ Σ y_v over the nodes v that r feeds       an edge joins two nodes that are there
    y_v ≤ Σ x_e over the edges into v,  y_v ≤ Σ x_e out of v    a node has an input and an output

`input` and `logits` are always there. A head is fed by any of its q, k and v, and a shared key or value leads on if any head
of its group does, as in `Circuit.pruned`. Edges lead from earlier to later nodes, so every solution is connected: a circuit
satisfies the constraints exactly if pruning does not change it.

For scores of language models the linear relaxation is nearly always integral, and then it is the answer: 0.6 s for SmolLM2's
70,651 edges, where the integer programme takes up to a minute. Otherwise edges are excluded whose reduced cost shows that no
circuit with them can be better than the best known one, and the rest is solved by branch and bound.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.graph.graph import Graph
from circuits.results.circuit import Circuit

_FIRST = 2000
"""Edges of the first branch and bound: with a good circuit of these, more of the others can be excluded."""
_ROUNDING = 1e-6
"""Tolerance of the solver's numbers around 0 and 1, and relative tolerance of sums."""


@dataclass(frozen=True, eq=False)
class Optimum:
    """The best circuit found.

    Attributes:
        mask: its edges.
        total: the sum of their gains.
        bound: no connected circuit within the budget has a larger sum.
    """

    mask: Bool[Tensor, "writer reader"]
    total: float
    bound: float

    @property
    def gap(self) -> float:
        """Largest possible improvement, as a share of the sum; 0: proven best."""
        if self.bound - self.total <= _ROUNDING * max(1.0, abs(self.bound)):
            return 0.0
        return (self.bound - self.total) / self.total if self.total > 0 else float("inf")


def best_connected(
    graph: Graph,
    candidates: Bool[Tensor, "writer reader"],
    gains: Float[Tensor, "writer reader"],
    n: int,
    guesses: Sequence[Bool[Tensor, "writer reader"]],
    time_limit: float | None = None,
) -> Optimum:
    """The best connected circuit of at most n candidates.

    Args:
        graph: the graph of the edges.
        candidates: edges that may be kept.
        gains: the gain of each edge.
        n: the budget.
        guesses: connected circuits within the budget; the best is returned if nothing better is found.
        time_limit: in seconds; None: until the result is proven. With a limit it may depend on the machine.
    """
    from scipy.optimize import linprog

    stop = None if time_limit is None else time.monotonic() + time_limit
    known = [Circuit.empty(graph).mask, *guesses]
    best = max(known, key=lambda mask: float(gains[mask].sum()))
    total = float(gains[best].sum())
    index = candidates.nonzero()
    bound = float(gains[candidates].clamp(min=0).sort(descending=True).values[:n].sum())
    if n == 0 or bound <= total:
        return Optimum(best, total, max(bound, total))
    programme = _Programme(graph, index, gains, n)
    relaxed = linprog(
        programme.costs, A_ub=programme.matrix, b_ub=programme.limits, bounds=(0, 1), options=_time_left(stop)
    )
    if relaxed.x is None or relaxed.status != 0:
        return Optimum(best, total, bound)
    bound = min(bound, -float(relaxed.fun))
    mask = programme.circuit(relaxed.x)
    if mask is not None:
        return Optimum(mask, float(gains[mask].sum()), bound)
    # The sum of a circuit with an edge is at most that of the relaxation minus the edge's reduced cost.
    reduced_cost, order = torch.from_numpy(relaxed.lower.marginals[: len(index)]).sort(stable=True)
    for limit in (_FIRST, len(index)):
        useful = min(limit, _affordable(reduced_cost, bound, total))
        mask, limit_of_sum = _Programme(graph, index[order[:useful]], gains, n).branch_and_bound(stop)
        if mask is not None and float(gains[mask].sum()) > total:
            best, total = mask, float(gains[mask].sum())
        if _affordable(reduced_cost, bound, total) <= useful:
            return Optimum(best, total, min(bound, max(total, limit_of_sum)))
    return Optimum(best, total, bound)


def _affordable(reduced_cost: Float[Tensor, " edge"], bound: float, total: float) -> int:
    """How many edges, by ascending reduced cost, a circuit of more than `total` may have."""
    return int((reduced_cost <= bound - total + _ROUNDING * max(1.0, abs(bound))).sum())


def _time_left(stop: float | None) -> dict[str, float]:
    return {} if stop is None else {"time_limit": max(0.01, stop - time.monotonic())}


def _eye(n: int) -> Any:
    from scipy import sparse

    return sparse.csr_matrix(sparse.identity(n))


class _Programme:
    """The programme for some edges: minimise `costs · z` with `matrix z ≤ limits`, z = (x, y).

    Attributes:
        costs: minus the gains, and 0 for nodes.
        matrix, limits: the constraints.
    """

    def __init__(self, graph: Graph, index: Tensor, gains: Tensor, n: int) -> None:
        from scipy import sparse

        self.graph, self.index, self.n = graph, index, n
        # `input` is always there, so it has no variable, and neither has `logits`.
        number = {name: i for i, name in enumerate(graph.outputs[graph.n_inputs :])}
        writers, readers = index.numpy().T
        fed = sparse.lil_matrix((graph.n_readers, len(number)))
        for r, reader in enumerate(graph.reader_nodes):
            fed[r, [number[name] for name in graph.outputs_of(reader) if name != "logits"]] = 1
        has_writer = writers > 0
        has_node = np.array([reader.part != "logits" for reader in graph.reader_nodes])[readers]
        read = [number[graph.output_read(w, graph.reader_nodes[r])] for w, r in index[has_writer].tolist()]
        out_of = sparse.lil_matrix((len(index), len(number)))
        out_of[has_writer.nonzero()[0], read] = 1
        out_of, into = sparse.csr_matrix(out_of), sparse.csr_matrix(fed)[readers]
        edges, nodes = _eye(len(index)), _eye(len(number))
        rows = [
            [edges[has_writer], -out_of[has_writer]],
            [edges[has_node], -into[has_node]],
            [-into.T, nodes],
            [-out_of.T, nodes],
            [sparse.csr_matrix(np.ones((1, len(index)))), None],
        ]
        self.matrix = sparse.csr_matrix(sparse.bmat(rows))
        self.limits = np.zeros(int(has_writer.sum() + has_node.sum()) + 2 * len(number) + 1)
        self.limits[-1] = n
        self.costs = np.concatenate([-gains[index[:, 0], index[:, 1]].double().numpy(), np.zeros(len(number))])

    def branch_and_bound(self, stop: float | None) -> tuple[Bool[Tensor, "writer reader"] | None, float]:
        """The best circuit, within the time (None: none was found), and an upper bound of the sum of any circuit of these edges."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        limits: Any = self.limits
        result = milp(
            self.costs,
            integrality=np.ones(len(self.costs)),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(self.matrix, ub=limits),
            options={"mip_rel_gap": 0.0, **_time_left(stop)},
        )
        bound = float("inf") if result.mip_dual_bound is None else -float(result.mip_dual_bound)
        return None if result.x is None else self.circuit(result.x), bound

    def circuit(self, solution: np.ndarray) -> Bool[Tensor, "writer reader"] | None:
        """The circuit of a solution; None if it is fractional."""
        x = solution[: len(self.index)]
        if np.abs(x - x.round()).max(initial=0.0) > _ROUNDING:
            return None
        mask = self.graph.mask_at(self.index[torch.from_numpy(x.round() == 1)])
        circuit = Circuit(self.graph, mask)
        return mask if len(circuit) <= self.n and circuit.pruned() == circuit else None
