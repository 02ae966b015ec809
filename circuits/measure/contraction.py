"""From gradients at readers to effects of edges: the part that all rules of edge attribution share."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from circuits.engine.architecture import Architecture
from circuits.engine.capture import Gradients, Queries, Writes, capture_gradients, only_writes, stack
from circuits.engine.gradient_places import PlacedGradientSum
from circuits.engine.gradient_sum import GradientSum
from circuits.engine.hooks import Hook
from circuits.graph.places import PlacedGraph
from circuits.measure.edge_statistics import EdgeStatistics
from circuits.measure.norm_check import sees_nothing
from circuits.question.places import PlaceAxis
from circuits.question.positions import tokens_at
from circuits.question.question import Batch, Question

STACK_BYTES = 48 * 2**20
"""Memory for the writers' differences that are stacked at a time."""
PASS_TOKENS = 256
"""Points on a path share a pass up to this many tokens: below, a pass takes about as long as reading the weights."""
FEWEST_POSITIONS = 8
"""Positions per tile at least, whatever their memory: every tile reads the weights of all layers once."""


PLACED_BYTES = 512 * 2**20
"""Memory for a batch's effects by place, on their way to the statistics."""


def batch_over_places(graph: PlacedGraph) -> int:
    """Pairs per batch for effects by place: each passes through float32 and twice through float64."""
    return max(1, PLACED_BYTES // (20 * graph.n_writers * graph.n_readers))


def tiles(n_prompts: int, n_positions: int, place_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Cuts a batch into tiles of prompts and positions, whose writers are stacked together.

    A tile has as many whole prompts as fit into `STACK_BYTES`; if not even one fits, some positions of one prompt. Sums
    over positions do not depend on the cut, and nothing is computed twice.

    Args:
        n_prompts, n_positions: the size of the batch.
        place_bytes: bytes of all writers at one position of one prompt.
    """
    prompts = max(1, STACK_BYTES // (n_positions * place_bytes))
    positions = n_positions if prompts > 1 else max(FEWEST_POSITIONS, STACK_BYTES // place_bytes)
    for row in range(0, n_prompts, prompts):
        for position in range(0, n_positions, positions):
            yield slice(row, row + prompts), slice(position, position + positions)


class Contraction:
    """Σ over positions and d_model of difference · gradient, for every edge and every prompt of a batch.

    A rule computes `gradients`, sums them (`sum`), and adds their products with the writers' differences (`add`).

    Attributes:
        question: model, pairs, metric and ablation.
        batch: some of its pairs.
        scores: the products so far, row by row.
        axis: see `circuits.question.places`; the products are then of edges at places.
        empty: True for rows with a gradient taken on an empty residual stream, at a position whose embedding is
            ablated; see `circuits.measure.norm_check`.
    """

    def __init__(
        self, question: Question, batch: Batch, labels: tuple[str, ...] | None = None, axis: PlaceAxis | None = None
    ) -> None:
        self.question, self.batch, self.graph = question, batch, question.model.graph
        self._axis = axis
        shape = (self.graph.n_writers, self.graph.n_readers if axis is None else axis.graph.n_readers)
        device, dtype = batch.suffix.clean.device, question.sum_dtype
        self.scores = torch.zeros(batch.n_rows, *shape, device=device, dtype=dtype)
        self.empty = torch.zeros(batch.n_rows, dtype=torch.bool, device=device)
        self._sees_nothing = torch.zeros_like(batch.suffix.clean, dtype=torch.bool)
        self._spans = None if axis is None else axis.table.of_tokens(batch)
        self._places = self._split = None
        if labels is not None:
            self._places = torch.stack([tokens_at(label, batch, question.pairs) for label in labels], dim=1).cpu()
            self._split = torch.zeros(batch.n_rows, len(labels), *shape, device=device, dtype=dtype)

    def gradients(self, embedding: Tensor | None = None, hooks: Sequence[Hook] = ()) -> Gradients:
        """One forward and one backward pass on the clean prompts, from `embedding` if it is given."""
        question, architecture = self.question, self.question.model.architecture
        clean = embedding is None and not hooks
        with question.within_memory(self.batch, not hooks and self._queries is None):
            gradients = capture_gradients(
                architecture,
                self.batch.suffix.clean_tokens,
                partial(question.clean_metric if clean else question.metric_of, self.batch),
                embedding,
                question.seeing(self.batch) if clean else hooks,
                self._queries,
                self.batch.tokens,
            )
        self._watch(gradients)
        return gradients

    def gradients_along(self, embeddings: Sequence[Tensor]) -> Iterator[Gradients]:
        """`gradients` from each of several embeddings, in order; small batches take several in one pass."""
        here = self.batch.suffix.clean_tokens
        n = 1 if self._queries is not None else max(1, PASS_TOKENS // here.tokens.numel())
        for start in range(0, len(embeddings), n):
            some = embeddings[start : start + n]
            if len(some) == 1:
                yield self.gradients(some[0])
                continue

            def metric(logits: Tensor, n: int) -> Tensor:
                size = len(logits) // n
                parts = [logits[i * size : (i + 1) * size] for i in range(n)]
                return torch.cat([self.question.metric_of(self.batch, part) for part in parts])

            whole = capture_gradients(
                self.question.model.architecture,
                here.tiled(len(some)),
                partial(metric, n=len(some)),
                torch.cat(list(some)),
                tokens=self.batch.tokens,
            )
            for gradients in whole.parts(len(some)):
                self._watch(gradients)
                yield gradients

    def _watch(self, gradients: Gradients) -> None:
        architecture = self.question.model.architecture
        self._sees_nothing |= sees_nothing(architecture, (*gradients.resid_pre, gradients.resid_final))

    @property
    def _queries(self) -> Queries | None:
        if self._axis is None or self._spans is None or not self._axis.graph.places.destinations:
            return None
        return Queries(self._spans, len(self._axis.graph.places.spans))

    def writes(self, embedding: Tensor) -> Writes:
        """Every writer's output if `embedding` enters the first block."""
        architecture = self.question.model.architecture
        start: Hook = (architecture.blocks[0].resid_pre, lambda x: embedding)
        return only_writes(architecture, self.batch.suffix.clean_tokens, [start])

    def clean_and_replacement(self) -> tuple[Writes, Writes]:
        """Every writer's output on the clean prompts, and its replacement."""
        clean = self.question.clean_writes(self.batch)
        return clean, self.question.replacement(self.batch.suffix, clean)

    def difference(self, clean: Writes, replacement: Writes) -> Writes:
        """clean - replacement of every writer, in the precision of sums."""
        wide = self.question.sum_dtype
        return clean.combine(replacement, lambda a, b: a.to(wide) - b.to(wide))

    def sum(self, architecture: Architecture | None = None) -> GradientSum:
        """An empty sum of gradients for `add`; `architecture`: one whose norms have other backward rules."""
        architecture = architecture or self.question.model.architecture
        if self._axis is None:
            return GradientSum(architecture, self.question.sum_dtype)
        return PlacedGradientSum(architecture, self.question.sum_dtype, self._axis.graph)

    def add(self, gradients: GradientSum, difference: Writes, writers: slice | None = None) -> None:
        """Adds the products of gradients and differences, tile by tile to bound memory; `writers`: only these."""
        self.empty |= (self._sees_nothing & difference.embedding.any(-1)).any(1)
        writers = writers or slice(0, self.graph.n_writers)
        batch, pos, d_model = difference.embedding.shape
        dtype = self.question.sum_dtype
        for tile in tiles(batch, pos, (writers.stop - writers.start) * d_model * dtype.itemsize):
            some = difference.map(lambda x, tile=tile: x[tile])
            stacked = stack(self.question.model.architecture, some, dtype, writers)
            here = gradients.tile(*tile)
            if self._spans is not None:
                assert isinstance(here, PlacedGradientSum)
                here.add_products(stacked, self._spans[tile], self.scores[tile[0], writers], writers.start)
                continue
            self.scores[tile[0], writers] += here.products(stacked, writers.start)
            if self._places is not None:
                self._add_places(gradients, stacked, tile, writers)

    def _add_places(self, gradients: GradientSum, stacked: Tensor, tile: tuple[slice, slice], writers: slice) -> None:
        """Adds the same products at the tokens of each label in the tile."""
        assert self._places is not None
        assert self._split is not None
        rows, positions = tile
        for prompt, tokens in enumerate(self._places[rows]):
            labels, at = (found.to(stacked.device) for found in tokens[:, positions].nonzero(as_tuple=True))
            row = torch.full_like(at, prompt)
            picked = gradients.places(row + rows.start, at + positions.start)
            products = picked.products(stacked[row, :, at][:, :, None], writers.start)
            self._split[prompt + rows.start, :, writers].index_add_(0, labels, products)

    def give_to(self, statistics: EdgeStatistics) -> None:
        """Adds the finished batch to `statistics`, signed: positive = helps."""
        sign, batch = self.question.metric.sign, self.batch
        scores, index = batch.per_pair(self.scores) * sign, batch.suffix.batch.index
        if self._axis is not None:
            statistics.add_places(scores, index)
            return
        statistics.add(scores, index)
        if self._split is not None:
            statistics.add_positions(batch.per_pair(self._split).permute(0, 2, 3, 1) * sign)
