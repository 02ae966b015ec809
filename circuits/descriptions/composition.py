"""Composition scores: how much the weights let one head read what another writes (Elhage et al. 2021).

    score(w -> r<q>) = |W_OV(w) W_QK(r)|_F / (|W_OV(w)|_F |W_QK(r)|_F)

with W_OV = W_V W_O [d_model × d_model] and W_QK = W_Q W_Kᵀ; for keys W_QKᵀ, for values W_OV(r) instead. Norms act by their weights. For a
key or value head that several queries share, the matrices of the group stand side by side. No prompt is run, so this is a baseline, and no
evidence that a model uses the path: random matrices have 1/√d_model on average (root mean square), and large scores can belong to
directions that no prompt uses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.descriptions.output_values import weighted
from circuits.engine.architecture import Architecture, Block
from circuits.errors import InputError
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.results.provenance import Provenance, frozen
from circuits.shown import Shown


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Composition(Shown):
    """Composition scores of edges between heads.

    Attributes:
        edges: names.
        score: in [0, 1].
        chance: 1/√d_model, the root mean square for random directions.
        provenance: the origin.
    """

    edges: tuple[str, ...]
    score: Float[Tensor, " edge"]
    chance: float
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    def rows(self) -> Sequence[dict[str, Any]]:
        """One row per edge."""
        return [
            {"edge": e, "score": s, "chance": self.chance} for e, s in zip(self.edges, self.score.tolist(), strict=True)
        ]

    def _shown_rows(self) -> Sequence[dict[str, Any]]:
        return sorted(self.rows(), key=lambda row: -row["score"])

    def __repr__(self) -> str:
        return f"Composition({len(self.edges)} edges, chance {self.chance:.3g})"


@on_model
def composition_scores(model: Model, edges: Sequence[str]) -> Composition:
    """Scores edges from heads into queries, keys and values, from weights alone.

    Args:
        model: a loaded model.
        edges: names such as `a0.h1->a1.h2<k>`.

    Raises:
        InputError: an edge that does not exist, or is not between heads.
    """
    if isinstance(edges, str) or not edges:
        raise InputError(f"edges must be a list of names such as ['a0.h1->a1.h2<k>'], got {edges!r}")
    graph, scores = model.graph, []
    with torch.no_grad():
        for name in edges:
            graph.edge_index(name)
            source, target = name.split("->")
            writer, reader = (
                graph.writer_nodes[graph.writer_index(source)],
                graph.reader_nodes[graph.reader_index(target)],
            )
            if writer.head is None or reader.head is None:
                raise InputError(
                    f"{name} is not between heads; composition is between a head and a query, key or value"
                )
            left = _written(model.architecture, model.architecture.blocks[writer.layer], writer.head)
            right = _read(model.architecture, model.architecture.blocks[reader.layer], reader.part, reader.head)
            scores.append(_share(left, right))
    origin = frozen({"method": "composition_scores", "model": model.name, "revision": model.revision})
    return Composition(
        tuple(edges), torch.tensor(scores, dtype=torch.float64), int(model.bridge.cfg.d_model) ** -0.5, origin
    )


Factors = tuple[Tensor, Tensor]
"""A matrix as a product: [d_model, rank] and [rank, d_model], or for a shared reader [rank, group × d_model]."""


def _written(architecture: Architecture, block: Block, head: int) -> Factors:
    """W_OV of a head."""
    value = block.projection("v")[head // (architecture.n_heads // architecture.n_kv_heads)]
    return _scaled(block, value), weighted(block.post_norm, block.output_projection[head])


def _read(architecture: Architecture, block: Block, part: str, head: int) -> Factors:
    """What a reader computes from its input: W_QK, its transpose, or W_OV."""
    group = architecture.n_heads // architecture.n_kv_heads
    if part == "q":
        return _scaled(block, block.projection("q")[head]), _scaled(block, block.projection("k")[head // group]).T
    shared = slice(head * group, (head + 1) * group)
    if part == "k":
        queries = [_scaled(block, query).T for query in block.projection("q")[shared]]
        return _scaled(block, block.projection("k")[head]), torch.cat(queries, 1)
    outputs = torch.cat(list(weighted(block.post_norm, block.output_projection[shared])), 1)
    return _scaled(block, block.projection("v")[head]), outputs


def _scaled(block: Block, weight: Float[Tensor, "d_model rank"]) -> Float[Tensor, "d_model rank"]:
    """A projection with the norm before it: its weights, and its centring."""
    scaled = weight if block.attn_norm.weight is None else block.attn_norm.weight[:, None] * weight
    return scaled - scaled.mean(0) if block.attn_norm.kind == "layer" else scaled


def _share(left: Factors, right: Factors) -> float:
    (a, b), (c, d) = ([factor.double() for factor in factors] for factors in (left, right))
    whole = _norm(a, b @ c, d)
    both = _norm(a, torch.eye(a.shape[1]).to(a), b) * _norm(c, torch.eye(c.shape[1]).to(c), d)
    return whole / both if both > 0 else 0.0


def _norm(a: Tensor, middle: Tensor, d: Tensor) -> float:
    """|a middle d|_F, from small matrices only."""
    return float(((a.T @ a @ middle) * (middle @ (d @ d.T))).sum().clamp(min=0).sqrt())
