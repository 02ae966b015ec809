"""Single edges ablated or restored at places, in a circuit over places.

Every edge takes a whole pass: what an edge changes at one place may reach any later node, and other edges are ablated there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.ablate_places import ablated_at_places
from circuits.engine.capture import Writes
from circuits.question.places import PlaceAxis
from circuits.question.question import Batch, Question
from circuits.results.circuit import Circuit


@dataclass(frozen=True, eq=False)
class PlacedEdgeRuns:
    """Computed once per batch: the replacement values, and the metric of the context.

    Attributes:
        keep: True at the edges of the context.
        spans: the span of every token.
    """

    question: Question
    batch: Batch
    axis: PlaceAxis
    keep: Bool[Tensor, "writer column"]
    replacement: Writes
    spans: Int[Tensor, "batch pos"]
    metric: Float[Tensor, " prompt"]

    @classmethod
    def prepare(cls, question: Question, batch: Batch, context: Circuit, axis: PlaceAxis) -> "PlacedEdgeRuns":
        clean = question.clean_writes(batch)
        replacement = question.replacement(batch.suffix, clean)
        keep = context.mask.to(batch.suffix.clean.device)
        runs = cls(question, batch, axis, keep, replacement, axis.table.of_tokens(batch), torch.empty(0))
        return cls(question, batch, axis, keep, replacement, runs.spans, runs._metric(keep))

    def _metric(self, keep: Bool[Tensor, "writer column"]) -> Float[Tensor, " prompt"]:
        architecture, suffix, graph = self.question.model.architecture, self.batch.suffix, self.axis.graph
        tokens = self.batch.tokens
        logits = ablated_at_places(architecture, suffix, self.replacement, graph, keep, self.spans, tokens)
        return self.question.metric_of(self.batch, logits)

    def effects(self, column: int, writers: Sequence[int]) -> Float[Tensor, "writer prompt"]:
        """Effects of the edges from `writers` into a reader at a place."""
        result = []
        for w in writers:
            switched = self.keep.clone()
            switched[w, column] ^= True
            change = self.metric - self._metric(switched)
            result.append(change if self.keep[w, column] else -change)
        return torch.stack(result).to("cpu", torch.float64)
