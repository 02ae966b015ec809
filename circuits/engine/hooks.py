"""Forward passes with hooks that are always removed, on a model that is left unchanged."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import TransformerBridge
from transformer_lens.hook_points import HookPoint

from circuits.engine.architecture import Architecture
from circuits.engine.held import held
from circuits.engine.unembedding import logits_of
from circuits.plain_torch import plain_state

Hook = tuple[HookPoint, Callable[[Tensor], Tensor | None]]
Cache = Any
NO_LOGITS = torch.empty(0, dtype=torch.long)


@contextmanager
def hooked(hooks: Sequence[Hook]) -> Iterator[None]:
    """Adds the hooks, and removes exactly these afterwards, even after an error.

    A hook gets the activation in TransformerLens' shape; its result, if not None, replaces the activation.
    """
    handles = []
    try:
        for point, function in hooks:
            handles.append((point, point.add_hook(_as_transformer_lens_hook(function))))
        yield
    finally:
        for point, handle in reversed(handles):
            handle.hook.remove()
            point.fwd_hooks.remove(handle)


def _as_transformer_lens_hook(function: Callable[[Tensor], Tensor | None]) -> Any:
    return lambda value, hook: function(value)


@contextmanager
def inference_state(bridge: TransformerBridge) -> Iterator[None]:
    """Evaluation mode and frozen weights, both restored afterwards; for this thread alone, in torch's default state.

    Frozen weights keep autograd from saving what only their gradients need.
    """
    with plain_state(), held(bridge) as here:
        training = [module for module in here.modules if module.training]
        trainable = [parameter for parameter in here.parameters if parameter.requires_grad]
        try:
            for module in training:
                module.training = False
            for parameter in trainable:
                parameter.requires_grad_(False)
            with torch.inference_mode(False):
                yield
        finally:
            for module in training:
                module.training = True
            for parameter in trainable:
                parameter.requires_grad_(True)


class Reached(Exception):  # noqa: N818 - control flow, not an error
    """Ends a forward pass at a hook, if nothing after it is needed.

    Attributes:
        value: the activation there.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


def stop(value: Tensor) -> None:
    """A hook that ends the pass by raising `Reached`."""
    raise Reached(value)


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Prompts for a forward pass.

    Attributes:
        tokens: token ids, all prompts of equal length; with a `cache`, those after the cached prefix.
        position: index into the positions of `tokens` for the logits: one per prompt, or as `row` says.
        cache: keys and values of a prefix, see `engine.prefix`; each pass extends a copy.
        row: the prompt of each position, if prompts are read at several.
    """

    tokens: Int[Tensor, "batch pos"]
    position: Int[Tensor, " read"]
    cache: Cache | None = None
    row: Int[Tensor, " read"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def read_from(self, values: Float[Tensor, "batch pos *axes"]) -> Float[Tensor, "read *axes"]:
        """Values at the read positions."""
        rows = torch.arange(len(self), device=self.tokens.device) if self.row is None else self.row
        return values[rows.to(values.device), self.position.to(values.device)]

    def tiled(self, tiles: int) -> "TokenBatch":
        """`tiles` copies, one after the other."""
        if tiles == 1:
            return self
        cache = _with_rows(self.cache, lambda x: x.repeat(tiles, 1, 1, 1))
        row = None
        if self.row is not None:
            row = torch.cat([self.row + tile * len(self) for tile in range(tiles)])
        return TokenBatch(self.tokens.repeat(tiles, 1), self.position.repeat(tiles), cache, row)

    def copied(self, copies: int) -> "TokenBatch":
        """`tiled`, where logits are read in the first copy only."""
        if copies == 1:
            return self
        row = torch.arange(len(self), device=self.tokens.device) if self.row is None else self.row
        return replace(self.tiled(copies), position=self.position, row=row)

    def first(self, n: int) -> "TokenBatch":
        """The first prompts only; all if prompts are read at several positions."""
        if self.row is not None:
            return self
        return TokenBatch(self.tokens[:n], self.position[:n], _with_rows(self.cache, lambda x: x[:n]))


def copy_cache(cache: Cache | None) -> Cache | None:
    """A cache that can be extended without changing the original; it shares the tensors."""
    if cache is None or not hasattr(cache, "layers"):
        return copy.deepcopy(cache)
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def _with_rows(cache: Cache | None, change: Callable[[Tensor], Tensor]) -> Cache | None:
    """A copy with `change` applied to all keys and values."""
    twin = copy_cache(cache)
    if twin is not None:
        for layer in twin.layers:
            layer.keys, layer.values = change(layer.keys), change(layer.values)
    return twin


def run(
    architecture: Architecture,
    batch: TokenBatch,
    hooks: Sequence[Hook] = (),
    tokens: Int[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "read d_out"]:
    """Logits at the read positions, under hooks.

    The unembedding, a fifth of a small model's work, runs at these positions only.

    Args:
        architecture: the model.
        batch: the prompts.
        hooks: (hook point, function) pairs.
        tokens: compute the logits of these tokens only, if the check at loading found that exact (`CheckReport.columns_exact`);
            None: all; `NO_LOGITS`: none, where a pass is made for what its hooks record.
    """
    bridge = architecture.bridge
    extra: dict[str, Any] = {}
    if batch.cache is not None:
        extra["past_key_values"] = copy_cache(batch.cache)
    elif hasattr(getattr(bridge.original_model, "config", None), "use_cache"):
        extra["use_cache"] = False  # else the model would copy all keys and values into an unused cache
    if tokens is None:
        with hooked([*hooks, (architecture.unembed, lambda normed: batch.read_from(normed)[:, None])]):
            return bridge(batch.tokens, return_type="logits", **extra)[:, 0]
    end: list[Tensor] = []

    def enough(normed: Tensor) -> None:
        end.append(batch.read_from(normed))
        stop(normed)

    try:
        with hooked([*hooks, (architecture.unembed, enough)]):
            bridge(batch.tokens, return_type="logits", **extra)
    except Reached:
        if not end:  # a caller's own hook ended the pass
            raise
    logits = logits_of(architecture, end[0], tokens) if len(tokens) else end[0][:, :0]
    return logits.to(batch.tokens.device)
