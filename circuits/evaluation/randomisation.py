"""Do scores depend on the weights at all? Weights are randomised layer by layer, and the scores must change.

(Adebayo et al. 2018, 1810.03292: sanity checks for saliency maps.) A method whose scores stay as they were when the model knows
nothing any more reads something else than the model. Randomised weights are the layer's own entries, shuffled within each
matrix or vector, so that their distribution stays.
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

Found = EdgeScores | NodeScores | Circuit


@plain_methods
@dataclass(frozen=True, repr=False)
class Randomisation(Shown):
    """What became of the scores.

    Attributes:
        layers: how many of the last layers were randomised (`cascading`), or which layer alone.
        cascading: from the last layer downwards, each with all above it; else one at a time.
        rank: Spearman's correlation of absolute scores with those of the model as it is, for each step; NaN for circuits.
        jaccard: of the k strongest, or of circuits, with those of the model as it is; empty for scores without a k.
        k: how many of the strongest; None for circuits.
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
        """One row per step: the layer (or how many), and the agreement with the scores of the model as it is."""
        overlaps = self.jaccard or (None,) * len(self.layers)
        columns = zip(self.layers, self.rank, overlaps, strict=True)
        return [{"layers": layer, "rank": rank, "jaccard": overlap} for layer, rank, overlap in columns]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        rank, jaccard = ([finite(x) for x in values] for values in (self.rank, self.jaccard))
        return {"layers": list(self.layers), "k": self.k, "rank": rank, "jaccard": jaccard}


@contextmanager
def shuffled_layers(model: Model, layers: Sequence[int], seed: int = 0) -> Iterator[None]:
    """The model with the weights of some blocks shuffled, while the context lasts; the weights come back bit by bit."""
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
    attribute: Callable[[Model], Found],
    *,
    layers: Sequence[int] | None = None,
    cascading: bool = True,
    k: int | None = None,
    own: Found | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Randomisation:
    """Scores the model again with weights randomised.

    Args:
        model: the model; it is as before when this returns.
        attribute: the method, such as `lambda model: circuits.edge_attribution(model, pairs)`: scores, or a circuit.
        layers: with `cascading` numbers of last layers, else layers; None: each.
        cascading: see `Randomisation`.
        k: compare the k strongest, too; for scores only.
        own: the model's own scores or circuit, where they are known; None: the method is asked.
        seed: of the shuffling.
        progress: called with (steps done, in all).

    Raises:
        InputError: a layer that is not there.
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


def _alike(own: Found, other: Found, k: int | None) -> tuple[float, float]:
    """Rank correlation of absolute scores, and Jaccard overlap; NaN where there is none."""
    if isinstance(own, Circuit):
        return math.nan, stability({"own": own, "other": other}).mean_jaccard
    compared = stability({"own": _sizes(own), "other": _sizes(other)}, k or 1)
    return compared.mean_rank, compared.mean_jaccard if k is not None else math.nan


def _sizes(scores: Found) -> Found:
    """The same, without signs."""
    if isinstance(scores, NodeScores):
        return NodeScores(scores.nodes, scores.values.abs()[..., None], scores.positions)
    return replace(scores, values=scores.values.abs()) if isinstance(scores, EdgeScores) else scores
