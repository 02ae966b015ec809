"""Models whose layers lie on several devices, as accelerate puts them there (`device_map`).

accelerate moves what a module is given to that module's device, inside TransformerLens' hook points: at a block's own input
the residual stream would still be where the block before left it. Here it is moved before it gets there, so that whatever is
seen in a block lies where its weights are. Sums over layers are made where the embedding is.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens import TransformerBridge

from circuits.errors import ModelError


def check_weights_are_there(model: nn.Module, name: str) -> None:
    """Refuses weights that are elsewhere between the passes that use them (accelerate's offload).

    The engine reads them outside passes (`W_O`, norms).

    Raises:
        ModelError: naming them, and a map that works.
    """
    absent = [key for key, tensor in model.named_parameters() if tensor.device.type == "meta"]
    if absent:
        raise ModelError(
            f"{name}: {len(absent)} of its weights are offloaded ({absent[0]} …), so they cannot be read between passes. Use a "
            "device_map with all layers on accelerators (more of them, or dtype 'bfloat16') or all on 'cpu', and none on "
            "'disk' or, beside accelerators, on 'cpu'"
        )


def devices(model: nn.Module) -> tuple[torch.device, ...]:
    """On which its weights are, in the order of its parameters."""
    return tuple(dict.fromkeys(parameter.device for parameter in model.parameters()))


def move_streams(bridge: TransformerBridge) -> None:
    """Lets the residual stream be moved in front of each block, the final norm and the unembedding, where weights are on
    several devices."""
    if len(devices(bridge)) > 1:
        for part in (*bridge.blocks, bridge.ln_final, bridge.unembed):
            where = next(iter(part.parameters()), None)
            if where is not None:
                part.register_forward_pre_hook(partial(_moved, where.device), with_kwargs=True)


def _moved(
    device: torch.device, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a module is given, with the residual stream on its device; the rest is accelerate's affair."""
    moved = {k: v.to(device) if k in ("hidden_states", "input") else v for k, v in kwargs.items()}
    return tuple(x.to(device) if isinstance(x, Tensor) and x.is_floating_point() else x for x in args), moved
