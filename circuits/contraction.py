"""From gradients at readers to the effects of edges: what every rule of edge attribution does around its own gradients."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.architecture import Architecture
from circuits.engine.capture import (
    Gradients,
    Writes,
    capture_gradients,
    capture_writes,
    reader_gradients,
    stack,
)
from circuits.engine.hooks import Hook
from circuits.positions import place
from circuits.question import Batch, Question
from circuits.scores import EdgeStatistics

Difference = Float[Tensor, "batch writer pos d_model"]


class Contraction:
    """Σ over positions and d_model of difference times gradient, for every edge of every prompt of a batch.

    A rule asks for gradients (`gradients`) and differences of writers' outputs (`difference`) and adds their products.

    Attributes:
        question, batch: what is asked.
        scores: the sums so far.
    """

    def __init__(self, question: Question, batch: Batch, labels: tuple[str, ...] | None = None) -> None:
        self.question, self.batch, self.graph = question, batch, question.model.graph
        shape = (self.graph.n_writers, self.graph.n_readers)
        device, dtype = batch.suffix.clean.device, question.sum_dtype
        self.scores = torch.zeros(len(batch), *shape, device=device, dtype=dtype)
        self._places = None if labels is None else [place(label, batch, question.pairs) for label in labels]
        self._split = None if labels is None else torch.zeros(*shape, len(labels), device=device, dtype=dtype)

    def gradients(self, embedding: Tensor | None = None, hooks: Sequence[Hook] = ()) -> Gradients:
        """A forward and a backward pass on the clean prompts, from `embedding` if it is given."""
        model, suffix = self.question.model, self.batch.suffix
        return capture_gradients(
            model.bridge,
            model.architecture,
            suffix.clean,
            suffix.position,
            lambda logits: self.question.metric(logits, self.batch.targets),
            suffix.cache(),
            embedding,
            hooks,
        )

    def writes(self, embedding: Tensor) -> Writes:
        """Every writer's output where `embedding` enters the first block."""
        model, suffix = self.question.model, self.batch.suffix
        start: Hook = (model.architecture.blocks[0].resid_pre, lambda x: embedding)
        return capture_writes(model.bridge, model.architecture, suffix.clean, suffix.position, suffix.cache(), [start])[
            1
        ]

    def clean_and_replacement(self) -> tuple[Writes, Writes]:
        """Every writer's output on the clean prompts, and what replaces it."""
        _, clean = self.question.clean_run(self.batch.suffix)
        return clean, self.question.replacement(self.batch.suffix, clean)

    def difference(self, of: Writes, minus: Writes) -> Difference:
        """A difference of writers' outputs, to be given to `add`."""
        return stack(self.question.model.architecture, of.minus(minus), self.question.sum_dtype)

    def add(
        self,
        gradients: Gradients,
        difference: Difference,
        weight: float = 1.0,
        *,
        writers: slice | None = None,
        architecture: Architecture | None = None,
    ) -> None:
        """Takes in the products of one difference and one set of gradients.

        Args:
            gradients, difference: the factors.
            weight: of these products in the sum.
            writers: only edges from these.
            architecture: how readers' gradients go back through the norms, if not as the model's do.
        """
        first, last = (0, self.graph.n_writers) if writers is None else (writers.start, writers.stop)
        flat = difference.flatten(2)
        for readers, g in reader_gradients(architecture or self.question.model.architecture, gradients):
            rows = slice(first, min(last, self.graph.reader_nodes[readers.start].n_writers))
            if rows.stop <= first:
                continue
            g = g.to(flat.dtype)
            if weight != 1.0:
                g = g * weight
            self.scores[:, rows, readers] += torch.bmm(flat[:, rows], g.flatten(2).permute(1, 2, 0))
            for number, where in enumerate(self._places or ()):
                prompts = (where >= 0).nonzero()[:, 0]
                at = where[prompts]
                split = torch.einsum("bwd,bsd->ws", difference[prompts, rows, at], g[:, prompts, at].transpose(0, 1))
                assert self._split is not None
                self._split[rows, readers, number] += split

    def give_to(self, statistics: EdgeStatistics) -> None:
        """Hands the finished batch on, signed so that positive = helps."""
        statistics.add(self.scores * self.question.metric.sign, self.batch.suffix.batch.index)
        if self._split is not None:
            statistics.add_positions(self._split * self.question.metric.sign)
