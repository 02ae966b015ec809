"""A forward pass that stays connected, so that gradients can be asked of it again and again.

Besides the metric's own gradient, a gradient can be started in the middle of the residual stream: then only the blocks
below are gone through. That is what it costs to ask how the metric would depend on early layers if a later layer wrote
nothing back (GradDrop).
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.architecture import Architecture
from circuits.engine.hooks import Hook, TokenBatch, run
from circuits.engine.patch import Values, hook_point

Key = tuple[int, str]
"""(layer, hook point)."""


@dataclass(frozen=True, eq=False)
class LiveRun:
    """One forward pass with its graph.

    Attributes:
        values: activations at the hook points asked for, connected to the graph.
        stream: the residual stream in front of each block, and at its end: one more than there are layers.
        metric: per prompt.
    """

    values: Values
    stream: tuple[Float[Tensor, "batch pos d_model"], ...]
    metric: Float[Tensor, " batch"]

    @property
    def detached(self) -> Values:
        """The values without the graph."""
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
        """Gradients at hook points in front of `layer`, if the stream there has the gradient `at_stream`. Only the blocks
        below are gone through, and the graph is kept."""
        embedding = [key for key in keys if key[1] == "resid_pre"]
        if layer == 0:
            return dict.fromkeys(embedding, at_stream)
        gradients = _gradients(self.stream[layer], at_stream, [self.values[key] for key in keys], again=True)
        return dict(zip(keys, gradients, strict=True))


def _gradients(of: Tensor, start: Tensor | None, at: Iterable[Tensor], again: bool) -> list[Tensor]:
    points = list(at)
    gradients = torch.autograd.grad(of, points, start, retain_graph=again, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(points, gradients, strict=True)]


def live_run(
    architecture: Architecture,
    batch: TokenBatch,
    metric: Callable[[Float[Tensor, "batch d_vocab"]], Float[Tensor, " batch"]],
    keys: Collection[Key],
    hooks: Sequence[Hook] = (),
    embedding: Float[Tensor, "batch pos d_model"] | None = None,
) -> LiveRun:
    """Runs once, with gradients from the embedding on.

    Args:
        architecture: the model.
        batch: the prompts.
        metric: logits -> one number per prompt.
        keys: hook points whose activations are kept.
        hooks: further hooks.
        embedding: what enters the first block, if not the tokens' own.
    """
    values: Values = {}
    stream: list[Tensor] = []
    start: Hook = (architecture.blocks[0].resid_pre, partial(_start, embedding))
    along: list[Hook] = [(block.resid_pre, partial(_append, stream)) for block in architecture.blocks]
    along.append((architecture.final, partial(_append, stream)))
    points: list[Hook] = [(hook_point(architecture, *key), partial(_keep, values, key)) for key in sorted(set(keys))]
    with torch.enable_grad():
        logits = run(architecture, batch, [start, *along, *points, *hooks])
        return LiveRun(values, tuple(stream), metric(logits))


def _start(embedding: Tensor | None, x: Tensor) -> Tensor:
    return (x if embedding is None else embedding).detach().requires_grad_()


def _keep(values: Values, key: Key, x: Tensor) -> Tensor:
    values[key] = x.view_as(x)  # a view of its own: see engine.capture
    return values[key]


def _append(stream: list[Tensor], x: Tensor) -> Tensor:
    stream.append(x.view_as(x))
    return stream[-1]
