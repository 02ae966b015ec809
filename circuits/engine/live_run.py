"""A forward pass that stays connected, so that gradients can be computed repeatedly.

A backward pass can also start in the middle of the residual stream, and then covers only the blocks below. GradDrop
needs this: how would the metric depend on early layers if a later layer wrote nothing?
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.architecture import Architecture
from circuits.engine.hooks import Hook, TokenBatch, run
from circuits.engine.inserted import leaves
from circuits.engine.insertion import Key
from circuits.engine.patch import Values


@dataclass(frozen=True, eq=False)
class LiveRun:
    """One forward pass with its autograd graph.

    Attributes:
        values: activations at the requested hook points, connected to the graph.
        stream: the residual stream before each block and at its end: number of layers + 1.
        metric: per prompt.
    """

    values: Values
    stream: tuple[Float[Tensor, "batch pos d_model"], ...]
    metric: Float[Tensor, " pair"]

    @property
    def detached(self) -> Values:
        """The values, detached."""
        return {key: value.detach() for key, value in self.values.items()}

    def gradients(self, keys: Sequence[Key], again: bool = False) -> tuple[Values, list[Tensor]]:
        """Gradients of the summed metric at the hook points, and along the residual stream.

        Args:
            keys: hook points.
            again: keep the graph for further calls.
        """
        gradients = _gradients(self.metric.sum(), None, [*(self.values[k] for k in keys), *self.stream], again)
        return dict(zip(keys, gradients[: len(keys)], strict=True)), gradients[len(keys) :]

    def gradients_below(self, layer: int, at_stream: Float[Tensor, "batch pos d_model"], keys: Sequence[Key]) -> Values:
        """Gradients at hook points before `layer`, for the gradient `at_stream` of its input stream. The pass covers
        the blocks below only, and keeps the graph."""
        embedding = [key for key in keys if key[1] == "resid_pre"]
        if layer == 0:
            return dict.fromkeys(embedding, at_stream)
        gradients = _gradients(self.stream[layer], at_stream, [self.values[key] for key in keys], again=True)
        return dict(zip(keys, gradients, strict=True))


def _gradients(output: Tensor, start: Tensor | None, at: Iterable[Tensor], again: bool) -> list[Tensor]:
    points = list(at)
    gradients = torch.autograd.grad(output, points, start, retain_graph=again, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(points, gradients, strict=True)]


def live_run(
    architecture: Architecture,
    batch: TokenBatch,
    metric: Callable[[Float[Tensor, "read d_out"]], Float[Tensor, " pair"]],
    keys: Collection[Key],
    hooks: Sequence[Hook] = (),
    embedding: Float[Tensor, "batch pos d_model"] | None = None,
    before: Sequence[Hook] = (),
    tokens: Int[Tensor, " d_out"] | None = None,
) -> LiveRun:
    """One forward pass with gradients from the embedding on.

    Args:
        architecture: the model.
        batch: the prompts.
        metric: logits -> one number per prompt.
        keys: hook points whose activations are kept.
        hooks: further hooks.
        embedding: the input of the first block, in place of the tokens' embedding.
        before: hooks that change activations before these are kept.
        tokens: see `run`.
    """
    values: Values = {}
    stream: list[Tensor] = []
    start: Hook = (architecture.blocks[0].resid_pre, partial(_start, embedding))
    along: list[Hook] = [(block.resid_pre, partial(_append, stream)) for block in architecture.blocks]
    along.append((architecture.final, partial(_append, stream)))
    points = leaves(architecture, keys, values)
    with torch.enable_grad():
        logits = run(architecture, batch, [start, *along, *before, *points, *hooks], tokens)
        return LiveRun(values, tuple(stream), metric(logits))


def _start(embedding: Tensor | None, x: Tensor) -> Tensor:
    return (x if embedding is None else embedding).detach().requires_grad_()


def _append(stream: list[Tensor], x: Tensor) -> Tensor:
    stream.append(x.view_as(x))
    return stream[-1]
