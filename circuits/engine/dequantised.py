"""Opens quantised models: each quantised layer becomes an ordinary one with the weights that it stands for.

The engine reads weights and needs their gradients, so they must be plain floating-point numbers. A layer with quantised weights computes

    y = x Ŵᵀ + b          Ŵ = dequantise(stored numbers, scales)

and a `torch.nn.Linear` with Ŵ is the same function up to rounding. Ŵ comes from the library that quantised the layer, or, for one without
a public function, from the layer itself: row i of Ŵᵀ is y(eᵢ) - y(0). No library is imported here. Each new layer is compared with the old
one on random inputs, so that a wrong Ŵ is refused (not with bitsandbytes, which changes its weights in the first pass). Layers that
quantise their *inputs* compute another function and are refused, among them bitsandbytes' 8-bit layers (LLM.int8).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuits.engine.usable_weights import QUANTISED, comes_from
from circuits.errors import ModelError

PROBES, CLOSE = 4, 0.05
"""Random inputs on which layers are compared, and the largest difference relative to the output (8-bit inputs differ by 0.01)."""
_NAMED = ("ActivationQuantized", "Linear8bitLt", "Int8Params")
"""Words in the names of classes that quantise inputs: of torchao and of bitsandbytes."""
_ROWS = 512
TORCHS_OWN = ("torch.ao", "torch.nn.quantized", "torch.nn.intrinsic")
"""Packages whose quantised layers all quantise their inputs."""
_INPUTS = ("act_quant_kwargs", "activation_scheme", "activation_qtype", "input_activations", "input_quant_func")
"""Attributes of layers, of their weights and of their schemes that are set if inputs are quantised too."""


def dequantise(model: nn.Module, dtype: torch.dtype, name: str) -> str | None:
    """Replaces the quantised layers of a model by ordinary ones, in place.

    Args:
        model: a Hugging Face model.
        dtype: of the new weights.
        name: the model's name in errors.

    Returns:
        What was replaced, for provenance; None if nothing was quantised.

    Raises:
        ModelError: a layer also quantises its inputs, has no known weights, or does not compute what they do.
    """
    made: dict[int, nn.Module] = {}
    kinds: dict[str, int] = {}
    opened: list[str] = []
    for path, module in list(model.named_modules(remove_duplicate=False)):
        what = _quantised_by(module)
        if what is None or any(path.startswith(f"{outer}.") for outer in opened):
            continue
        if _quantises_inputs(module):
            raise ModelError(
                f"{name}: {path} is quantised with its inputs ({what}), so that no ordinary layer computes the same; load a model "
                "whose weights alone are quantised, or the one before quantisation"
            )
        if id(module) not in made:
            made[id(module)] = _ordinary(module, dtype, f"{name}: {path}")
            kinds[what] = kinds.get(what, 0) + 1
        opened.append(path)
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, made[id(module)])
    if not made:
        return None
    for owner in (model, getattr(model, "config", None)):
        for attribute in ("hf_quantizer", "quantization_config", "quantization_method", "is_quantized", "is_loaded_in_8bit",
                          "is_loaded_in_4bit"):  # fmt: skip
            if owner is not None and attribute in vars(owner):
                delattr(owner, attribute)
    found = ", ".join(f"{count} × {what}" for what, count in sorted(kinds.items()))
    model.dequantised_from = found  # type: ignore[assignment]
    return found


def _quantised_by(module: nn.Module) -> str | None:
    """The class that holds a layer's quantised weights; None for an ordinary layer."""
    if comes_from(type(module), QUANTISED):
        return _full(type(module))
    weight = module._parameters.get("weight")
    return _full(type(weight)) if weight is not None and comes_from(type(weight), QUANTISED) else None


def _full(kind: type) -> str:
    return f"{kind.__module__.partition('.')[0]} {kind.__name__}"


def _quantises_inputs(module: nn.Module) -> bool:
    places: list[Any] = [module, module._parameters.get("weight"), getattr(module, "quantization_scheme", None)]
    words = [word for place in places for word in _NAMED if word in type(place).__name__]
    named = bool(words) or comes_from(type(module), TORCHS_OWN)
    return named or any(getattr(place, name, None) is not None for place in places for name in _INPUTS)


def _ordinary(module: nn.Module, dtype: torch.dtype, where: str) -> nn.Module:
    """A Linear or an Embedding with the weights of a quantised one."""
    with torch.no_grad():
        weight, bias = _weights(module, where), getattr(module, "bias", None)
        if isinstance(module, nn.Embedding):
            made = nn.Embedding(weight.shape[0], weight.shape[1], module.padding_idx, device="meta")
            made.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
            return made
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        made.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        if bias is not None:
            made.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
        if not hasattr(module._parameters.get("weight"), "quant_state"):  # bitsandbytes packs weights in its first pass
            _check(module, made, where)
    return made.train(module.training)


def _weights(module: nn.Module, where: str) -> Float[Tensor, "d_out d_in"]:
    stored: Any = module._parameters.get("weight")
    state = getattr(stored, "quant_state", None)
    if state is not None:  # bitsandbytes, 4 bits
        if getattr(state, "packing_format_for_cpu", False):
            raise ModelError(
                f"{where}: bitsandbytes has packed its weights for CPUs, in its first pass; load the model again"
            )
        return _bitsandbytes(module).dequantize_4bit(stored.data, state).float()
    if stored is not None and comes_from(type(stored), QUANTISED) and hasattr(stored, "dequantize"):
        return stored.dequantize().float()
    return _probed(module, where)


def _bitsandbytes(module: nn.Module) -> Any:
    """Its functions, from the package that the layer belongs to and that is therefore imported."""
    import sys

    return sys.modules[f"{type(module).__module__.partition('.')[0]}.functional"]


def _probed(module: nn.Module, where: str) -> Float[Tensor, "d_out d_in"]:
    """The weights of any linear layer by its outputs for unit vectors."""
    width = getattr(module, "in_features", None)
    if not isinstance(width, int):
        raise ModelError(
            f"{where} is quantised in a form that cannot be opened (a {_full(type(module))} without in_features); load the model "
            "before quantisation, or dequantise it (model.dequantize())"
        )
    tensors = (*module.parameters(), *module.buffers())
    place = next((tensor.device for tensor in tensors), torch.device("cpu"))
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
    try:
        nothing = module(torch.zeros(1, width, dtype=dtype, device=place)).float()
        parts = [module(part).float() - nothing for part in torch.eye(width, dtype=dtype, device=place).split(_ROWS)]
    except Exception as problem:  # of a library that needs another device, for example
        why = str(problem).strip().partition("\n")[0]
        raise ModelError(f"{where}, a {_full(type(module))}, cannot be dequantised here: {why}") from problem
    return torch.cat(parts).T.contiguous()


def _check(module: nn.Module, made: nn.Module, where: str) -> None:
    """Refuses weights that do not give the outputs of the layer."""
    weight: Tensor = made.weight  # type: ignore[assignment]
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(PROBES, weight.shape[1], generator=draw).to(weight)
    try:
        wanted = module(x)
    except Exception:  # kernels may be missing on this device, or take other dtypes
        try:
            wanted = module(x.to(torch.bfloat16))
        except Exception:
            return
    error = float((made(x) - wanted).float().abs().max() / wanted.float().abs().max().clamp(min=1e-30))
    if not error <= CLOSE:
        raise ModelError(
            f"{where}, a {_full(type(module))}, does not compute what its dequantised weights do (they differ by {error:.0%}); load "
            "the model before quantisation"
        )
