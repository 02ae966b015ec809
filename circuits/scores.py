"""Scores of edges: what a method says each one does, how sure it is, and the circuits that can be chosen by them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.errors import InputError, ModelError
from circuits.graph import Graph
from circuits.provenance import Provenance, frozen


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """An effect per edge, in the metric's unit; positive = the edge helps.

    Attributes:
        graph: the graph whose edges are scored.
        values: mean effect over the prompts; 0 where there is no edge.
        stderr: standard error of that mean over the prompts (NaN with a single prompt).
        n_prompts: how many prompts.
        provenance: where they come from.
        positions: labels of the positions that effects were split by, or None.
        by_position: mean effect at each of them. For an edge into k or v the position is that of the token attended to.
    """

    graph: Graph
    values: Float[Tensor, "writer reader"]
    stderr: Float[Tensor, "writer reader"]
    n_prompts: int
    provenance: Provenance = field(default_factory=lambda: frozen(None))
    positions: tuple[str, ...] | None = None
    by_position: Float[Tensor, "writer reader position"] | None = None

    def to_dict(self) -> dict[str, Any]:
        """`{edge name: effect}` in graph order; lists of effects where they were split by position."""
        split = self.values if self.by_position is None else self.by_position
        values = split[self.graph.edge_mask].tolist()
        return dict(zip(self.graph.edges, values, strict=True))

    def __getitem__(self, edge: str) -> float:
        """The effect of one edge, by name."""
        return float(self.values[self.graph.edge_index(edge)])

    def __len__(self) -> int:
        return self.graph.n_edges

    def __repr__(self) -> str:
        return f"EdgeScores({len(self)} edges, {self.n_prompts} prompts, {self.provenance.get('method', 'unknown method')})"

    def strongest(self, n: int = 10) -> list[tuple[str, float, float]]:
        """(edge, effect, standard error) of the n largest effects by absolute value, strongest first."""
        order = self._ranking("abs")[:n]
        writers, readers = self.graph.writer_names, self.graph.reader_names
        return [
            (f"{writers[w]}->{readers[r]}", float(self.values[w, r]), float(self.stderr[w, r]))
            for w, r in order.tolist()
        ]

    def top(self, n: int, by: str = "abs") -> Circuit:
        """The circuit of the n strongest edges, dead ends pruned.

        Ties are broken by graph order, so the choice is the same everywhere.

        Args:
            n: how many edges are chosen before pruning; the circuit may be smaller (its length, and
                `provenance["selection"]`, say by how much).
            by: `abs`: the largest effects of either sign; `signed`: the most positive.

        Raises:
            InputError: n is negative or more than the graph has, or `by` is unknown.
        """
        if not 0 <= n <= self.graph.n_edges:
            raise InputError(f"cannot choose {n} edges: this graph has {self.graph.n_edges}")
        order = self._ranking(by)[:n]
        mask = torch.zeros_like(self.graph.edge_mask)
        mask[order[:, 0], order[:, 1]] = True
        circuit = Circuit(self.graph, mask, self.values, self.stderr, self.provenance).pruned()
        return circuit.with_provenance(selection={"rule": "top", "by": by, "n": n, "kept": len(circuit)})

    def _ranking(self, by: str) -> Tensor:
        check_ranking(by)
        index = self.graph.edge_mask.nonzero()
        values = self.values[self.graph.edge_mask]
        return index[torch.sort(values.abs() if by == "abs" else values, descending=True, stable=True).indices]

    def save(self, path: str | Path) -> None:
        """Writes values, standard errors and provenance to one safetensors file (JSON header, no pickle)."""
        from circuits.export.score_file import write_scores

        write_scores(self, path)

    @classmethod
    def load(cls, path: str | Path) -> "EdgeScores":
        """Reads what `save` wrote; InputError says what is wrong with any other file."""
        from circuits.export.score_file import read_scores

        return read_scores(path)


def check_ranking(by: str) -> None:
    """Refuses an unknown way to rank edges."""
    if by not in ("abs", "signed"):
        raise InputError(f"edges are ranked by 'abs' or 'signed', not {by!r}")


class EdgeStatistics:
    """Mean and standard error over prompts, batch by batch, in float64."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.n = 0
        self.total = torch.zeros(graph.n_writers, graph.n_readers, dtype=torch.float64)
        self.squares = torch.zeros_like(self.total)
        self.by_position: Tensor | None = None

    def add(self, scores: Float[Tensor, "batch writer reader"]) -> None:
        """Takes in the scores of more prompts."""
        wide = scores.to("cpu", torch.float64)
        self.n += len(wide)
        self.total += wide.sum(0)
        self.squares += wide.square().sum(0)

    def add_positions(self, totals: Float[Tensor, "writer reader position"]) -> None:
        """Takes in effects split by position, summed over prompts."""
        wide = totals.to("cpu", torch.float64)
        self.by_position = wide if self.by_position is None else self.by_position + wide

    def scores(self, origin: Mapping[str, object], positions: tuple[str, ...] | None = None) -> EdgeScores:
        mean = self.total / self.n
        if not bool(mean.isfinite().all()):
            raise ModelError("some scores are not finite: the gradients overflow in this dtype; use float32")
        variance = (
            (self.squares - self.n * mean.square()).clamp(min=0) / (self.n - 1) if self.n > 1 else mean * torch.nan
        )
        stderr = (variance / self.n).sqrt().masked_fill(~self.graph.edge_mask, 0.0)
        split = None if self.by_position is None else self.by_position / self.n
        return EdgeScores(self.graph, mean, stderr, self.n, frozen(origin), positions, split)
