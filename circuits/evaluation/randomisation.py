"""Randomisation test: scores must change when the model's weights are randomised layer by layer.

From the sanity checks for saliency maps (Adebayo et al. 2018, 1810.03292). Scores that stay the same when the weights are random do
not depend on what the model learned. A layer is randomised by shuffling the entries within each of its matrices and vectors,
which preserves their distribution.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from circuits.errors import InputError
from circuits.evaluation.stability import stability
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import finite
from circuits.shown import Shown

MethodResult = EdgeScores | NodeScores | Circuit


@plain_methods
@dataclass(frozen=True, repr=False)
class Randomisation(Shown):
    """Agreement of the scores with those of the original model, as layers are randomised.

    Attributes:
        layers: with `cascading`, the number of last layers that were randomised at each step; otherwise the layer.
        cascading: whether each step randomises a layer and all later ones, from the last layer downwards, or one layer alone.
        rank: Spearman's correlation of absolute scores with the original ones, for each step; NaN for circuits.
        jaccard: overlap of the k strongest, or of circuits, with the original ones; empty for scores without k.
        k: number of strongest edges or nodes compared; None for circuits.
    """

    layers: tuple[int, ...]
    cascading: bool
    rank: tuple[float, ...]
    jaccard: tuple[float, ...] = ()
    k: int | None = None

    def __repr__(self) -> str:
        return f"Randomisation({self})"

    def __str__(self) -> str:
        how = "the last layers randomised" if self.cascading else "one layer randomised"
        of_circuits = bool(self.jaccard) and self.k is None
        what = (
            "Jaccard overlap with the model's own circuit"
            if of_circuits
            else "rank correlation with the model's own scores"
        )
        values = self.jaccard if of_circuits else self.rank
        steps = ", ".join(f"{layer}: {value:.2f}" for layer, value in zip(self.layers, values, strict=True))
        return f"{what}, {how}: {steps}"

    def rows(self) -> list[dict[str, Any]]:
        """One row per step: the layer (or number of layers), and the agreement with the original scores."""
        overlaps = self.jaccard or (None,) * len(self.layers)
        columns = zip(self.layers, self.rank, overlaps, strict=True)
        return [{"layers": layer, "rank": rank, "jaccard": overlap} for layer, rank, overlap in columns]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        rank, jaccard = ([finite(x) for x in values] for values in (self.rank, self.jaccard))
        return {"layers": list(self.layers), "k": self.k, "rank": rank, "jaccard": jaccard}


@contextmanager
def shuffled_layers(model: Model, layers: Sequence[int], seed: int = 0) -> Iterator[None]:
    """Shuffles the weights of some blocks within the context; restores them bit by bit."""
    for layer in layers:
        if not 0 <= layer < model.graph.n_layers:
            raise InputError(f"there is no layer {layer}: the model has {model.graph.n_layers}")
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for layer in layers for p in model.bridge.blocks[layer].parameters()]
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter in parameters:
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


@on_model
def randomisation(
    model: Model,
    attribute: Callable[[Model], MethodResult],
    *,
    layers: Sequence[int] | None = None,
    cascading: bool = True,
    k: int | None = None,
    own: MethodResult | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Randomisation:
    """Repeats an attribution with randomised weights.

    Args:
        model: a loaded model; its weights are restored.
        attribute: the method, such as `lambda model: circuits.edge_attribution(model, pairs)`; returns scores or a circuit.
        layers: with `cascading`, numbers of last layers; otherwise layers; None: all.
        cascading: see `Randomisation`.
        k: also compare the k strongest; for scores only.
        own: scores or circuit of the original model, if known; None: compute them with `attribute`.
        seed: random seed of the shuffling.
        progress: called with (steps done, steps in total).

    Raises:
        InputError: a layer does not exist.
    """
    n = model.graph.n_layers
    steps = tuple(layers) if layers is not None else tuple(range(1, n + 1) if cascading else range(n))
    if cascading and any(not 0 <= step <= n for step in steps):
        raise InputError(f"numbers of last layers must be between 0 and {n}, got {list(steps)}")
    own = attribute(model) if own is None else own
    alike: list[tuple[float, float]] = []
    for done, step in enumerate(steps):
        with shuffled_layers(model, range(n - step, n) if cascading else [step], seed):
            alike.append(_alike(own, attribute(model), k))
        if progress is not None:
            progress(done + 1, len(steps))
    overlap = k is not None or isinstance(own, Circuit)
    return Randomisation(steps, cascading, tuple(a for a, _ in alike), tuple(b for _, b in alike) if overlap else (), k)


def _alike(own: MethodResult, other: MethodResult, k: int | None) -> tuple[float, float]:
    """Rank correlation of absolute scores, and Jaccard overlap; NaN if undefined."""
    if isinstance(own, Circuit):
        return math.nan, stability({"own": own, "other": other}).mean_jaccard
    compared = stability({"own": _sizes(own), "other": _sizes(other)}, k or 1)
    return compared.mean_rank, compared.mean_jaccard if k is not None else math.nan


def _sizes(scores: MethodResult) -> MethodResult:
    """The absolute scores; circuits are unchanged."""
    if isinstance(scores, NodeScores):
        return NodeScores(scores.nodes, scores.values.abs()[..., None], scores.positions)
    return replace(scores, values=scores.values.abs()) if isinstance(scores, EdgeScores) else scores
