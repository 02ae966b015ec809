"""Devices and dtype of a model's weights: one device, or several (`device_map`).

accelerate distributes the layers over several devices. It moves a module's inputs inside TransformerLens' hook points,
so at a block's own input the residual stream would still be on the previous block's device. `move_streams` moves it
earlier, so that all activations in a block are on the device of its weights. Sums over layers are computed on the
embedding's device.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from accelerate.utils import check_device_map as accelerate_check
from torch import Tensor, nn
from transformer_lens import TransformerBridge
from transformer_lens.utilities.multi_gpu import find_misplaced_modules

from circuits.engine.dtypes import check_dtype
from circuits.errors import InputError, ModelError

DeviceMap = str | Mapping[str, str | int]
"""The placement of layers: `auto`, `balanced`, `balanced_low_0`, `sequential`, one device for all, or a device for each
module by name (`{"model.layers.0": 0, …}`)."""
PLANS = ("auto", "balanced", "balanced_low_0", "sequential")
MAP_THAT_WORKS = "place all layers on accelerators (more of them, or dtype 'bfloat16'), or all on 'cpu'"


def choose_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A dtype by name.

    Raises:
        InputError: an unknown dtype.
    """
    return dtype if isinstance(dtype, torch.dtype) else getattr(torch, check_dtype(dtype))


def check_device_name(device: str) -> str:
    """The kind of a known device, or `auto`.

    Raises:
        InputError: an unknown device.
    """
    if device == "auto":
        return device
    try:
        return torch.device(device).type
    except RuntimeError:
        raise InputError(f"unknown device {device!r}; 'auto', 'cpu', 'cuda' or 'cuda:0'") from None


def choose_device(device: str) -> torch.device:
    """A device by name; `auto`: CUDA if available, else CPU.

    Raises:
        InputError: an unknown device, or one that this machine lacks.
    """
    kind = check_device_name(device)
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} is not available: torch sees no CUDA device; use 'cpu' or 'auto'")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, NotImplementedError, AssertionError) as problem:
        raise InputError(f"device {device!r} cannot be used: {str(problem).splitlines()[0]}") from None
    return torch.device(device)


def rounds_to_tf32(device: torch.device) -> bool:
    """Whether matrix products in float32 are rounded to TF32 there; torch's default is no."""
    return device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"


def check_device_map(device_map: DeviceMap, here: bool = True) -> None:
    """Checks a map before any weights are read.

    Args:
        device_map: any.
        here: whether its devices must be on this machine.

    Raises:
        InputError: an unknown plan or device, or a map that offloads weights.
    """
    if isinstance(device_map, str) and device_map in PLANS:
        return
    places = [device_map] if isinstance(device_map, str) else list(device_map.values())
    if not places:
        raise InputError(f"device_map is empty; one of {', '.join(PLANS)}, a device, or a device for each module")
    kinds = {_kind(place, here) for place in places}
    if kinds & {"disk", "meta"} or (len(kinds) > 1 and "cpu" in kinds):
        raise InputError(
            f"device_map offloads weights (it names {' and '.join(sorted(kinds))}), so they could not be read between passes; "
            f"{MAP_THAT_WORKS}"
        )


def _kind(place: object, here: bool) -> str:
    """The kind of device that a map names; with `here`, only if this machine has one."""
    if place == "disk":
        return "disk"
    try:
        device = torch.device("cuda", place) if isinstance(place, int) else torch.device(str(place))
    except RuntimeError:
        raise InputError(
            f"device_map names {place!r}, which is not a device; one of {', '.join(PLANS)}, 'cpu', 'cuda:0' …, or a device for "
            "each module"
        ) from None
    if here and device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device_map names {str(device)!r}, but torch sees {torch.cuda.device_count()} CUDA devices")
    return device.type


def check_map_covers(model: nn.Module, device_map: DeviceMap, name: str) -> None:
    """Raises ModelError, naming the modules, if a map by module leaves some without a device."""
    if isinstance(device_map, Mapping):
        try:
            accelerate_check(model, dict(device_map))
        except ValueError as problem:
            raise ModelError(f"{name}: {' '.join(str(problem).split())}") from None


def check_weights_are_there(model: nn.Module, name: str) -> None:
    """Refuses offloaded weights (accelerate), because the engine reads them outside passes (`W_O`, norms).

    Raises:
        ModelError: names the weights, and a map that works.
    """
    absent = [key for key, tensor in model.named_parameters() if tensor.device.type == "meta"]
    if absent:
        raise ModelError(
            f"{name}: {len(absent)} of its weights are offloaded or were never loaded ({absent[0]} …), so they cannot be read "
            f"between passes; {MAP_THAT_WORKS}"
        )
    misplaced = find_misplaced_modules(model)
    if misplaced:
        raise ModelError(
            f"{name}: its device_map puts {misplaced[0][0]} on {misplaced[0][1]}, but the weights it shares with another module "
            f"are on {misplaced[0][2]}; place both on one device"
        )


def devices(model: nn.Module) -> tuple[torch.device, ...]:
    """The devices of the weights, in the order of the parameters."""
    return tuple(dict.fromkeys(parameter.device for parameter in model.parameters()))


def check_placed_here(bridge: TransformerBridge, name: str) -> None:
    """Refuses a user's own bridge with layers on several devices: moving its streams would change it."""
    check_weights_are_there(bridge, name)
    if len(devices(bridge)) > 1:
        raise ModelError(
            f"{name}: a TransformerBridge with layers on several devices; load its Hugging Face model instead, or its name "
            "with device_map"
        )


def move_streams(bridge: TransformerBridge) -> None:
    """Moves the stream before each block, the final norm and the unembedding, if weights are on several devices."""
    if len(devices(bridge)) > 1:
        for part in (*bridge.blocks, bridge.ln_final, bridge.unembed):
            where = next(iter(part.parameters()), None)
            if where is not None:
                part.register_forward_pre_hook(partial(_moved, where.device), with_kwargs=True)


def _moved(
    device: torch.device, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A module's inputs with the residual stream on its device; accelerate moves the rest."""
    moved = {k: v.to(device) if k in ("hidden_states", "input") else v for k, v in kwargs.items()}
    return tuple(x.to(device) if isinstance(x, Tensor) and x.is_floating_point() else x for x in args), moved
