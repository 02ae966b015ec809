"""Edge scores collected over prompts, batch by batch."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import ModelError
from circuits.graph.graph import Graph
from circuits.graph.places import PlacedGraph
from circuits.results.edge_scores import EdgeScores
from circuits.results.provenance import frozen
from circuits.stats.bootstrap import KEPT_BYTES, PromptRows


class EdgeStatistics:
    """Mean and standard error over prompts in float64, and the effects on single prompts in bounded memory.

    Args:
        graph: the graph of the edges.
        limit: bytes for effects on single prompts; see `circuits.stats.bootstrap.PromptRows`.
        placed: the graph over places, for effects at places.
    """

    def __init__(self, graph: Graph, limit: int = KEPT_BYTES, placed: PlacedGraph | None = None) -> None:
        self.graph = graph
        self.placed = None if placed is None else EdgeStatistics(placed, limit)
        self.n = 0
        self.sums = _Sums()
        self.sums_by_position: _Sums | None = None
        self.rows = PromptRows(graph.n_edges, limit)
        self.order: list[int] = []

    def add(self, scores: Float[Tensor, "batch writer reader"], index: Int[Tensor, " batch"] | None = None) -> None:
        """Adds the effects on more prompts.

        Args:
            scores: the effects.
            index: indices of the prompts; None: the next ones.
        """
        wide = scores.to("cpu", torch.float64)
        self.order += list(range(self.n, self.n + len(wide))) if index is None else index.tolist()
        self.n += len(wide)
        self.rows.add(wide[:, self.graph.edge_mask])
        self.sums.add(wide)

    def add_places(self, scores: Float[Tensor, "batch writer column"], index: Int[Tensor, " batch"]) -> None:
        """Adds effects at places; an edge's effect is their sum over its places."""
        assert self.placed is not None
        assert isinstance(self.placed.graph, PlacedGraph)
        self.placed.add(scores, index)
        readers = torch.tensor([r for r, _ in self.placed.graph.columns], device=scores.device)
        self.add(scores.new_zeros(*scores.shape[:2], self.graph.n_readers).index_add_(2, readers, scores), index)

    def add_positions(self, effects: Float[Tensor, "batch writer reader position"]) -> None:
        """Adds the same prompts' effects split by position."""
        self.sums_by_position = self.sums_by_position or _Sums()
        self.sums_by_position.add(effects.to("cpu", torch.float64))

    def scores(self, origin: Mapping[str, object], positions: tuple[str, ...] | None = None) -> EdgeScores:
        mean, stderr = self.sums.mean_and_stderr(self.n)
        if not bool(mean.isfinite().all()):
            raise ModelError("some scores are not finite: the gradients overflow in this dtype; use float32")
        split = None if self.sums_by_position is None else self.sums_by_position.mean_and_stderr(self.n)
        rows = self.rows.means()
        if self.rows.group == 1:
            rows = rows[torch.tensor(self.order).argsort()]
        stderr = stderr.masked_fill(~self.graph.edge_mask, 0.0)
        by_position = None if split is None else split[0]
        by_position_stderr = None if split is None else split[1].masked_fill(~self.graph.edge_mask[..., None], 0.0)
        return EdgeScores(
            self.graph,
            mean,
            stderr,
            self.n,
            frozen(origin),
            positions,
            by_position,
            by_position_stderr,
            rows,
            self.rows.group,
            placed=None if self.placed is None else self.placed.scores(origin),
        )


class _Sums:
    """Sums over prompts of values and of their squares."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, values: Float[Tensor, "batch *axes"]) -> None:
        self.total = self.total + values.sum(0)
        self.squares = self.squares + values.square().sum(0)

    def mean_and_stderr(self, n: int) -> tuple[Tensor, Tensor]:
        """Mean and standard error over n prompts; with n = 1 the standard error is NaN."""
        mean = torch.as_tensor(self.total) / n
        if n == 1:
            return mean, mean * torch.nan
        variance = (torch.as_tensor(self.squares) - n * mean.square()).clamp(min=0) / (n - 1)
        return mean, (variance / n).sqrt()
