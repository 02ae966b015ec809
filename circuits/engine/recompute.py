"""Forward passes that keep only each block's input for the backward pass, which computes one block at a time again.

Autograd keeps what every block computed, with attention patterns of [batch, head, query, key]: at 2,048 tokens these are 4.5 GB of a
model of 30 layers and 9 heads. Within `recomputed`, at most two blocks keep theirs at a time, for one more forward pass of work:
the first block, where the caller's leaf of the graph is, and the one that is being computed again. Values and gradients are those
of the usual pass: the same operations run on the same inputs.

Hooks are no longer there when a block is computed again. So this is only for passes whose hooks look, and change nothing behind the
first block's input.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from circuits.engine.architecture import Architecture
from circuits.engine.hooks import copy_cache


@contextmanager
def recomputed(architecture: Architecture, wanted: bool = True) -> Iterator[None]:
    """Within, passes with gradients keep the inputs of blocks only; without effect unless `wanted`."""
    modules = [block.module for block in architecture.blocks[1:]] if wanted else []
    before = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            object.__setattr__(module, "forward", partial(_forward, module.forward))
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            module.__dict__.pop("forward", None)
            if own is not None:
                object.__setattr__(module, "forward", own)


def _forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not any(isinstance(x, Tensor) and x.requires_grad for x in (*args, *kwargs.values())):
        return original(*args, **kwargs)
    # The pass extends the prefix's keys and values, so a second one needs those from before.
    caches = {id(x): copy_cache(x) for x in (*args, *kwargs.values()) if hasattr(x, "layers") and hasattr(x, "update")}
    again = False

    def fresh(x: Any) -> Any:
        return copy_cache(caches[id(x)]) if again and id(x) in caches else x

    def block(*args: Any, **kwargs: Any) -> Any:
        nonlocal again
        args, kwargs = tuple(map(fresh, args)), {name: fresh(x) for name, x in kwargs.items()}
        again = True
        return original(*args, **kwargs)

    return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def saved_by(function: Callable[[], Any]) -> int:
    """Bytes that autograd saves in a call, every storage once."""
    saved: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        result = function()
    del result
    return sum(saved.values())
