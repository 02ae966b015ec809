"""Scores of edges between chosen nodes, features among them: a sparse table."""

from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.plain_torch import plain_methods
from circuits.results.provenance import Provenance, frozen
from circuits.shown import Shown


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class FeatureEdges(Shown):
    """An effect per edge, in the metric's unit; positive = the edge helps.

    Attributes:
        edges: (source, target) of each edge: `f:m3.1201` and `a5.h2<k>`, `f:m5.7`, `m5` or `logits`.
        per_prompt: effects on each prompt.
        provenance: the origin of the scores.
    """

    edges: tuple[tuple[str, str], ...]
    per_prompt: Float[Tensor, "edge prompt"]
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    @property
    def names(self) -> tuple[str, ...]:
        """`f:m3.1201->a5.h2<k>` of each edge."""
        return tuple(f"{source}->{target}" for source, target in self.edges)

    @property
    def values(self) -> Float[Tensor, " edge"]:
        """Mean effect over the prompts."""
        return self.per_prompt.mean(1)

    @property
    def stderr(self) -> Float[Tensor, " edge"]:
        """Standard error of the mean over the prompts (NaN with a single prompt)."""
        n = self.per_prompt.shape[1]
        return self.per_prompt.std(1) / n**0.5 if n > 1 else torch.full_like(self.values, torch.nan)

    def to_dict(self) -> dict[str, Any]:
        """`{edge: effect}`."""
        return dict(zip(self.names, self.values.tolist(), strict=True))

    def __getitem__(self, edge: str) -> float:
        """The effect of an edge by name."""
        if edge not in self.names:
            raise InputError(f"there is no score of {edge!r}")
        return float(self.values[self.names.index(edge)])

    def __len__(self) -> int:
        return len(self.edges)

    def __repr__(self) -> str:
        return f"FeatureEdges({len(self)} edges, {self.per_prompt.shape[1]} prompts, {self.provenance.get('method')})"

    def rows(self) -> list[dict[str, Any]]:
        """One row per edge: its source, target, effect and standard error."""
        columns = zip(self.edges, self.values.tolist(), self.stderr.tolist(), strict=True)
        return [{"source": s, "target": t, "effect": value, "stderr": error} for (s, t), value, error in columns]

    def _shown_rows(self) -> list[dict[str, Any]]:
        return sorted(self.rows(), key=lambda row: -abs(row["effect"]))

    def strongest(self, n: int = 10) -> list[tuple[str, float, float]]:
        """(edge, effect, standard error) of the n largest effects by absolute value."""
        order = torch.sort(self.values.abs(), descending=True, stable=True).indices[:n].tolist()
        return [(self.names[i], float(self.values[i]), float(self.stderr[i])) for i in order]

    def nonzero(self) -> "FeatureEdges":
        """The edges with an effect other than 0 on some prompt."""
        there = [i for i, row in enumerate(self.per_prompt) if bool((row != 0).any())]
        return replace(self, edges=tuple(self.edges[i] for i in there), per_prompt=self.per_prompt[there])

    def to_networkx(self, n: int | None = None) -> nx.MultiDiGraph:
        """The n strongest edges (None: all) as a graph. A reader of a head is the head's node; the edge's key is `q`, `k`, `v` or `in`."""
        graph = nx.MultiDiGraph()
        for name, value, error in self.strongest(len(self) if n is None else n):
            source, _, target = name.partition("->")
            node, _, key = target.rstrip(">").partition("<")
            graph.add_edge(source, node, key=key or "in", score=value, stderr=error)
        return graph
