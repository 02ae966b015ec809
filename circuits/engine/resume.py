"""Forward passes that begin in the middle: everything before the first changed layer is computed once.

The blocks before a layer are skipped (each returns its input), and the stored residual stream replaces the layer's
input. Embedding, masks, positions, the final norm and the unembedding run as in the model, so this works for any
architecture; the check at loading tests whether it is exact.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.architecture import Architecture
from circuits.engine.hooks import Hook, TokenBatch, run


@dataclass(frozen=True, eq=False)
class BaseRun:
    """A run that later passes can start from.

    Attributes:
        batch: its prompts.
        resid_pre: the input of each block.
        logits: its logits.
        output_lengths: per block, the length of the tuple it returned; None: a bare tensor.
        exact: whether passes may begin in the middle; if not, they run from the first block.
    """

    batch: TokenBatch
    resid_pre: tuple[Float[Tensor, "batch pos d_model"], ...]
    logits: Float[Tensor, "read d_out"]
    output_lengths: tuple[int | None, ...]
    exact: bool = True

    def __len__(self) -> int:
        return len(self.batch)


def base_run(
    architecture: Architecture,
    batch: TokenBatch,
    hooks: Sequence[Hook] = (),
    exact: bool = True,
    tokens: Int[Tensor, " d_out"] | None = None,
) -> BaseRun:
    """Runs once, under `hooks`, which are part of the run, and records what later passes start from; `tokens`: see `run`."""
    resid: list[Tensor] = []
    lengths: list[int | None] = []

    def keep_shape(module: Any, args: Any, output: Any) -> None:
        lengths.append(len(output) if isinstance(output, tuple) else None)

    handles = [block.module.register_forward_hook(keep_shape) for block in architecture.blocks]
    try:
        record = [(block.resid_pre, resid.append) for block in architecture.blocks]
        with torch.no_grad():
            logits = run(architecture, batch, [*hooks, *record], tokens)
    finally:
        for handle in handles:
            handle.remove()
    return BaseRun(batch, tuple(resid), logits, tuple(lengths), exact)


def resume(
    architecture: Architecture,
    base: BaseRun,
    layer: int,
    hooks: Sequence[Hook],
    tiles: int = 1,
    tokens: Int[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "rows d_out"]:
    """Logits of the base run, from `layer` on under hooks.

    Args:
        architecture: the model.
        base: the run to start from.
        layer: the first layer that the hooks change.
        hooks: they see every prompt `tiles` times: rows = tiles · batch, tile by tile.
        tiles: copies of the batch in one pass.
        tokens: see `run`.
    """
    layer = layer if base.exact else 0
    blocks = architecture.blocks

    first = [(blocks[layer].resid_pre, lambda x: base.resid_pre[layer].repeat(tiles, 1, 1))]
    with torch.no_grad(), _skipping(architecture, base, layer):
        return run(architecture, base.batch.tiled(tiles), [*first, *hooks], tokens)


@contextmanager
def _skipping(architecture: Architecture, base: BaseRun, layer: int) -> Iterator[None]:
    """Blocks before `layer` return their input, in the form that the model expects."""
    skipped = architecture.blocks[:layer]
    try:
        for block in skipped:
            object.__setattr__(block.module, "forward", _identity(base.output_lengths[block.layer]))
        yield
    finally:
        for block in skipped:
            block.module.__dict__.pop("forward", None)


def _identity(length: int | None) -> Callable[..., Any]:
    if length is None:
        return lambda hidden_states, *args, **kwargs: hidden_states
    return lambda hidden_states, *args, **kwargs: (hidden_states, *[None] * (length - 1))
