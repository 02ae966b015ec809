"""Single edges ablated in a run that is computed once, as exact effects, their refinements and checks need them.

Ablating an edge changes nothing upstream of its reader. So each pass begins at the reader's layer, the writer's
difference is a constant, and several writers of one reader share a pass.

At a place, only the tokens of its span see the difference. If the place has a destination, other queries keep the heads' outputs of
the run in which nothing is ablated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.ablate import Ablated
from circuits.engine.architecture import Architecture
from circuits.engine.capture import Writes, stack
from circuits.engine.hooks import Hook
from circuits.engine.readers import ShiftedReaders
from circuits.engine.resume import BaseRun, base_run, resume
from circuits.graph.places import Place
from circuits.model import Model
from circuits.question.metric_values import checked_together
from circuits.question.places import PlaceAxis
from circuits.question.question import Batch, Question
from circuits.results.circuit import Circuit

TOKENS_AT_ONCE = 1024
"""Tokens per pass, if several edges share it."""


@dataclass(frozen=True, eq=False)
class EdgeRuns:
    """Computed once per batch: the run of the context, and every writer's (replacement - current) in it.

    Attributes:
        axis: the places at which edges are ablated; None: everywhere.
        spans: the span of every token.
        z: the heads' outputs before `W_O`, by layer, if the places have destinations.
    """

    base: BaseRun
    metric: Tensor
    replacement: Writes
    difference: Float[Tensor, "batch writer pos d_model"]
    axis: PlaceAxis | None = None
    spans: Int[Tensor, "batch pos"] | None = None
    z: tuple[Float[Tensor, "batch pos head d_head"], ...] = ()

    @classmethod
    def prepare(
        cls, question: Question, batch: Batch, context: Circuit | None, axis: PlaceAxis | None = None
    ) -> "EdgeRuns":
        model = question.model
        clean = question.clean_writes(batch)
        replacement = question.replacement(batch.suffix, clean)
        hooks: list[Hook] = []
        if context is not None:
            # Compute every node as the context has it: an added edge may connect a node to `logits`.
            ablated = Ablated(model.architecture, replacement, context.mask, edit="lacking")
            hooks = ablated.hooks()
        z: list[Tensor] = []
        if axis is not None and axis.graph.places.destinations:
            hooks += [(block.z, z.append) for block in model.architecture.blocks]
        exact = model.report.resume_exact and model.architecture.blocks[0].linear_heads
        base = base_run(model.architecture, batch.suffix.clean_tokens, hooks, exact, batch.tokens)
        if context is not None:
            difference = ablated.difference
        else:
            difference = stack(model.architecture, replacement.minus(clean), model.dtype)
        spans = None if axis is None else axis.table.of_tokens(batch)
        metric = question.metric_of(batch, base.logits)
        return cls(base, metric, replacement, difference, axis, spans, tuple(z))

    def reader(self, column: int) -> tuple[int, Place | None]:
        """The reader of a column of the graph, and its place."""
        return (column, None) if self.axis is None else self.axis.graph.columns[column]

    def carried(self, w: int, column: int) -> Bool[Tensor, " row"]:
        """Whether an edge carries another value in the ablated run; if not, only rounding is left of its effect."""
        differs, (_, place) = self.difference[:, w].any(-1), self.reader(column)
        if place is not None:
            assert self.spans is not None
            differs = differs & (self.spans == place.source).to(differs.device)
        return differs.any(-1)

    def at(self, place: Place, shift: Float[Tensor, "rows pos d_model"]) -> Float[Tensor, "rows pos d_model"]:
        """A shift at the tokens of a place, zero elsewhere."""
        assert self.spans is not None
        here = (self.spans == place.source).repeat(len(shift) // len(self.spans), 1)
        return shift * here[..., None]

    def queries(self, columns: Sequence[int]) -> Bool[Tensor, "edge row pos"]:
        """The tokens whose heads see a change at each of these columns: all, or the queries of the destination."""
        seen = torch.ones(
            len(columns), *self.difference[:, 0, :, 0].shape, dtype=torch.bool, device=self.difference.device
        )
        for i, column in enumerate(columns):
            _, place = self.reader(column)
            if place is not None and place.destination is not None:
                seen[i] = self.spans == place.destination
        return seen

    def for_queries(self, architecture: Architecture, layer: int, place: Place, tiles: int) -> Hook:
        """The hook by which only queries of the place's destination see what is changed in a layer's keys and values."""
        assert self.spans is not None
        here = (self.spans == place.destination).repeat(tiles, 1)[..., None, None]
        own = self.z[layer].repeat(tiles, 1, 1, 1)
        return architecture.blocks[layer].z, lambda z: torch.where(here.to(z.device), z, own)


def edge_effects(
    question: Question, batch: Batch, runs: EdgeRuns, column: int, writers: Sequence[int], context: Circuit | None
) -> Float[Tensor, "writer prompt"]:
    """Effects of the edges from `writers` into a reader, or into a reader at a place."""
    model = question.model
    r, place = runs.reader(column)
    tiles = max(1, TOKENS_AT_ONCE // batch.n_tokens)
    layer = min(model.graph.reader_nodes[r].layer, model.graph.n_layers - 1)
    effects = []
    for start in range(0, len(writers), tiles):
        chunk = list(writers[start : start + tiles])
        kept = [context is None or bool(context.mask[w, r]) for w in chunk]
        signs = torch.tensor([1.0 if keep else -1.0 for keep in kept], dtype=model.dtype, device=model.device)
        shift = (runs.difference[:, chunk].transpose(0, 1) * signs[:, None, None, None]).flatten(0, 1)
        if context is None:
            shift = shift if place is None else runs.at(place, shift)
            hooks = ShiftedReaders(model.architecture, {r: shift}).hooks()
            if place is not None and place.destination is not None:
                hooks.append(runs.for_queries(model.architecture, layer, place, len(chunk)))
        else:
            hooks = _ShiftedContext(model, runs, context, r, shift, len(chunk), layer).hooks()
        logits = resume(model.architecture, runs.base, layer, hooks, len(chunk), batch.tokens)
        with checked_together():
            for sign, row in zip(signs, logits.reshape(len(chunk), len(runs.base.logits), -1), strict=True):
                effects.append((runs.metric - question.metric_of(batch, row)) * sign)
    return torch.stack(effects).to("cpu", torch.float64)


class _ShiftedContext(Ablated):
    """The context's ablation from one layer on, with the input of one reader shifted."""

    def __init__(
        self, model: Model, runs: EdgeRuns, context: Circuit, reader: int, shift: Tensor, tiles: int, layer: int
    ) -> None:
        super().__init__(
            model.architecture, runs.replacement.map(lambda x: x.repeat(tiles, *[1] * (x.ndim - 1))), context.mask
        )
        before = model.graph.n_writers_before_layer(layer)
        self.difference[:, :before] = runs.difference[:, :before].repeat(tiles, 1, 1, 1)
        self.shifted, self.shift = reader, shift
        self.edited[reader] = True

    def inputs(
        self, readers: Sequence[int], x: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch slot pos d_model"]:
        seen = super().inputs(readers, x)
        if self.shifted in readers:
            seen = seen.clone()
            seen[:, list(readers).index(self.shifted)] += self.shift
        return seen
