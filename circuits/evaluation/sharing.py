"""What the circuits of many tasks share: edges, nodes, and heads that serve many tasks, beside what chance would give.

    Jaccard   |A ∩ B| / |A ∪ B|                              of edges, and of nodes
    weighted  Σ min(w_A, w_B) / Σ max(w_A, w_B)              w = |score| / Σ |score| over the edges of each circuit (Ruzicka)

*Chance* of the overlaps: each circuit with the heads of each layer exchanged at random, independently (`same_layers` of
`circuits.results.random_circuits`): what circuits share because they have the same size, layers and MLPs.

*Heads that serve many tasks.* If circuit t has k_t of the H heads of a layer, an exchanged circuit has a given one with probability
k_t/H. So if circuits were independent, the number of circuits that have a head would be a sum of independent Bernoulli draws
(Poisson-binomial), and p is the probability of at least the observed number. Holm's correction over all heads bounds the probability
of naming any head wrongly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.evaluation.dissociation import check_tasks, of_one_graph
from circuits.evaluation.hypothesis_statistics import holm
from circuits.graph.graph import Graph
from circuits.plain_torch import plain_methods, plain_torch
from circuits.results.circuit import Circuit
from circuits.results.random_circuits import exchanged_heads
from circuits.shown import Shown
from circuits.stats.overlap import jaccard


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Sharing(Shown):
    """Overlap of circuits.

    Attributes:
        names: the circuits.
        edges, nodes: Jaccard overlap of edges, and of heads and MLPs.
        weighted: overlap weighted by scores; NaN for circuits without scores.
        edges_chance, nodes_chance: mean overlap of the circuits with exchanged heads.
        edges_p: (1 + number of draws with at least this overlap of edges) / (1 + draws).
        order: the circuits in the order of a cluster map, neighbours next to each other (average linkage of 1 - `edges`).
        heads: names of all heads.
        tasks_of_head: number of circuits that have each head.
        heads_p: p value of at least that many, corrected for the number of heads.
        level: 1 - probability of naming any head of `shared_heads` wrongly.
    """

    names: tuple[str, ...]
    edges: Float[Tensor, "circuit circuit"]
    nodes: Float[Tensor, "circuit circuit"]
    weighted: Float[Tensor, "circuit circuit"]
    edges_chance: Float[Tensor, "circuit circuit"]
    nodes_chance: Float[Tensor, "circuit circuit"]
    edges_p: Float[Tensor, "circuit circuit"]
    order: tuple[int, ...]
    heads: tuple[str, ...]
    tasks_of_head: Int[Tensor, " head"]
    heads_p: Float[Tensor, " head"]
    level: float

    @property
    def shared_heads(self) -> tuple[tuple[str, int], ...]:
        """Heads in more circuits than chance explains, with the number of circuits, most first."""
        named = [i for i, p in enumerate(self.heads_p.tolist()) if p < 1 - self.level]
        named.sort(key=lambda i: (-int(self.tasks_of_head[i]), i))
        return tuple((self.heads[i], int(self.tasks_of_head[i])) for i in named)

    def rows(self) -> list[dict[str, Any]]:
        """One row per pair of circuits."""
        n = range(len(self.names))
        return [
            {
                "circuit": self.names[i], "other": self.names[j], "edges": float(self.edges[i, j]),
                "edges by chance": float(self.edges_chance[i, j]), "p": float(self.edges_p[i, j]),
                "nodes": float(self.nodes[i, j]), "nodes by chance": float(self.nodes_chance[i, j]),
                "weighted": None if self.weighted[i, j].isnan() else float(self.weighted[i, j]),
            }
            for i in n for j in n if i < j
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "names": list(self.names), "order": [self.names[i] for i in self.order], "pairs": self.rows(), "level": self.level,
            "shared_heads": [{"head": head, "circuits": n} for head, n in self.shared_heads],
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"Sharing({self})"

    def __str__(self) -> str:
        rows = self.rows()
        mean, chance = (sum(row[name] for row in rows) / len(rows) for name in ("edges", "edges by chance"))
        return (
            f"{len(self.names)} circuits: Jaccard of edges {mean:.3f}, by chance {chance:.3f} (means over pairs); "
            f"{len(self.shared_heads)} heads serve more circuits than chance explains"
        )


@plain_torch
def sharing(tasks: Mapping[str, Circuit], *, draws: int = 100, level: float = 0.95, seed: int = 0) -> Sharing:
    """Compares circuits of several tasks in one model.

    Args:
        tasks: name -> circuit. Circuits over places are compared by (edge, place) pairs if all have the same places, and by
            edges otherwise.
        draws: number of draws of exchanged circuits, for chance levels.
        level: see `Sharing`.
        seed: of the draws.

    Raises:
        InputError: fewer than two circuits, circuits of several graphs or without edges, or no draws.
    """
    check_tasks(tasks)
    if draws < 1:
        raise InputError(f"draws must be at least 1, got {draws}")
    circuits = of_one_graph(list(tasks.values()))
    graph = circuits[0].graph
    edges, nodes = _overlaps(circuits)
    generator = torch.Generator().manual_seed(seed)
    chance = torch.zeros(2, len(circuits), len(circuits), dtype=torch.float64)
    at_least = torch.zeros(len(circuits), len(circuits), dtype=torch.float64)
    for _ in range(draws):
        drawn = _overlaps([exchanged_heads(circuit, generator) for circuit in circuits])
        chance += torch.stack(drawn)
        at_least += drawn[0] >= edges - 1e-12
    heads, counts, p = shared_heads(graph, circuits)
    return Sharing(
        tuple(tasks), edges, nodes, _weighted(circuits), chance[0] / draws, chance[1] / draws, (1 + at_least) / (1 + draws),
        cluster_order(edges), heads, counts, p, level,
    )  # fmt: skip


def _overlaps(circuits: Sequence[Circuit]) -> tuple[Float[Tensor, "c c"], Float[Tensor, "c c"]]:
    """Jaccard overlap of edges, and of nodes that are heads or MLPs."""
    graph = circuits[0].graph
    edges = torch.stack([circuit.mask[graph.edge_mask] for circuit in circuits])
    names = graph.writer_names[1:]
    nodes = torch.stack([_members(circuit, names) for circuit in circuits])
    return jaccard(edges), jaccard(nodes)


def _members(circuit: Circuit, names: Sequence[str]) -> Tensor:
    own = set(circuit.nodes)
    return torch.tensor([name in own for name in names])


def _weighted(circuits: Sequence[Circuit]) -> Float[Tensor, "c c"]:
    graph, rows = circuits[0].graph, []
    for circuit in circuits:
        if circuit.scores is None:
            return torch.full((len(circuits), len(circuits)), torch.nan, dtype=torch.float64)
        size = (circuit.scores.abs().double().nan_to_num(0.0) * circuit.mask)[graph.edge_mask]
        rows.append(size / size.sum())
    weights = torch.stack(rows)
    return torch.stack([torch.minimum(row, weights).sum(1) / torch.maximum(row, weights).sum(1) for row in weights])


def shared_heads(
    graph: Graph, circuits: Sequence[Circuit]
) -> tuple[tuple[str, ...], Int[Tensor, " head"], Float[Tensor, " head"]]:
    """All heads, the number of circuits that have each, and its p value after Holm's correction."""
    names = tuple(writer.name for writer in graph.writer_nodes if writer.kind == "head")
    members = torch.stack([_members(circuit, names) for circuit in circuits]).reshape(len(circuits), graph.n_layers, -1)
    counts = members.sum(0)
    chances = members.double().mean(2)  # [circuit, layer]: k_t/H
    tails = torch.stack([poisson_binomial_tail(chances[:, layer]) for layer in range(graph.n_layers)])
    p = tails.gather(1, counts)
    return names, counts.flatten(), holm(p.flatten())


def poisson_binomial_tail(chances: Float[Tensor, " draw"]) -> Float[Tensor, " count"]:
    """P(at least k successes), k from 0 to the number of draws, for independent draws with these probabilities."""
    mass = torch.zeros(len(chances) + 1, dtype=torch.float64)
    mass[0] = 1
    for chance in chances.tolist():
        mass = mass * (1 - chance) + torch.cat([torch.zeros(1, dtype=torch.float64), mass[:-1]]) * chance
    return mass.flip(0).cumsum(0).flip(0).clamp(max=1.0)


def cluster_order(overlap: Float[Tensor, "c c"]) -> tuple[int, ...]:
    """The leaves of an average-linkage tree over 1 - overlap."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(overlap) < 3:
        return tuple(range(len(overlap)))
    distance = (1 - (overlap + overlap.T) / 2).clamp(min=0)
    distance.fill_diagonal_(0)
    tree = linkage(squareform(distance.numpy(), checks=False), "average", optimal_ordering=True)
    return tuple(int(leaf) for leaf in leaves_list(tree))
