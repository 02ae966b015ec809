"""Single edges ablated in a run that is computed once, as exact effects, their refinements and checks need them.

Ablating an edge changes nothing upstream of its reader. So each pass begins at the reader's layer, the writer's
difference is a constant, and several writers of one reader share a pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.ablate import Ablated
from circuits.engine.capture import Writes, stack
from circuits.engine.readers import ShiftedReaders
from circuits.engine.resume import BaseRun, base_run, resume
from circuits.model import Model
from circuits.question.question import Batch, Question
from circuits.results.circuit import Circuit

TOKENS_AT_ONCE = 1024
"""Tokens per pass, if several edges share it."""


@dataclass(frozen=True, eq=False)
class EdgeRuns:
    """Computed once per batch: the run of the context, and every writer's (replacement - current) in it."""

    base: BaseRun
    metric: Tensor
    replacement: Writes
    difference: Float[Tensor, "batch writer pos d_model"]

    @classmethod
    def of(cls, question: Question, batch: Batch, context: Circuit | None) -> "EdgeRuns":
        model = question.model
        _, clean = question.clean_run(batch.suffix)
        replacement = question.replacement(batch.suffix, clean)
        hooks = []
        if context is not None:
            # Compute every node as the context has it: an added edge may connect a node to `logits`.
            ablated = Ablated(model.architecture, replacement, context.mask, edit="lacking")
            hooks = ablated.hooks()
        exact = model.report.resume_exact and model.architecture.blocks[0].linear_heads
        base = base_run(model.architecture, batch.suffix.clean_tokens, hooks, exact)
        if context is not None:
            difference = ablated.difference
        else:
            difference = stack(model.architecture, replacement.minus(clean), model.dtype)
        return cls(base, question.metric(base.logits, batch.targets), replacement, difference)


def edge_effects(
    question: Question, batch: Batch, runs: EdgeRuns, r: int, writers: Sequence[int], context: Circuit | None
) -> Float[Tensor, "writer prompt"]:
    """Effects of the edges from `writers` into reader r."""
    model = question.model
    tiles = max(1, TOKENS_AT_ONCE // batch.n_tokens)
    layer = min(model.graph.reader_nodes[r].layer, model.graph.n_layers - 1)
    effects = []
    for start in range(0, len(writers), tiles):
        chunk = list(writers[start : start + tiles])
        kept = [context is None or bool(context.mask[w, r]) for w in chunk]
        signs = torch.tensor([1.0 if keep else -1.0 for keep in kept], dtype=model.dtype, device=model.device)
        shift = (runs.difference[:, chunk].transpose(0, 1) * signs[:, None, None, None]).flatten(0, 1)
        if context is None:
            hooks = ShiftedReaders(model.architecture, {r: shift}).hooks()
        else:
            hooks = _ShiftedContext(model, runs, context, r, shift, len(chunk), layer).hooks()
        logits = resume(model.architecture, runs.base, layer, hooks, len(chunk))
        for sign, row in zip(signs, logits.reshape(len(chunk), len(batch), -1), strict=True):
            effects.append((runs.metric - question.metric(row, batch.targets)) * sign)
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
