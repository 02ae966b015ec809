"""Checks for weights that the engine cannot compute with, before a library fails on them.

The engine reads weights directly (`W_O`, norms, the hash), so they must be plain floating-point tensors that autograd
supports: not quantised, without adapters, and not inference tensors.
"""

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from circuits.errors import ModelError

ADAPTERS = ("peft",)
QUANTISED = ("torch.ao", "torchao", "bitsandbytes", "auto_gptq", "gptqmodel", "awq", "hqq", "optimum.quanto", "eetq", "aqlm",
             "torch.nn.quantized", "torch.nn.intrinsic", "transformers.integrations", "compressed_tensors")  # fmt: skip
"""Packages whose modules and tensors store weights in another form."""


def check_no_adapter(path: str) -> None:
    """Refuses a directory with a LoRA or another adapter: its base model alone would be another model.

    Raises:
        ModelError: it has an `adapter_config.json`.
    """
    if Path(path, "adapter_config.json").is_file():
        raise ModelError(
            f"{path} holds an adapter (adapter_config.json, as LoRA leaves it), not a whole model; merge it into its base model "
            "with peft (merge_and_unload()), save_pretrained(…) the result, and load that directory"
        )


def check_weights_usable(modules: Iterable[nn.Module], name: str) -> None:
    """Refuses quantised models, adapters and inference tensors.

    Args:
        modules: all modules of the model.
        name: the model's name in errors.

    Raises:
        ModelError: names the weight, and what to do.
    """
    for module in modules:
        kind = type(module)
        if comes_from(kind, ADAPTERS):
            raise ModelError(
                f"{name} has an adapter on it (a {kind.__module__}.{kind.__name__}); merge it (merge_and_unload()) and load the result"
            )
        if comes_from(kind, QUANTISED):
            raise ModelError(_quantised(name, f"a {kind.__module__}.{kind.__name__}"))
        for what, parameter in module._parameters.items():
            if parameter is None:
                continue
            if not parameter.is_floating_point() or parameter.is_quantized or comes_from(type(parameter), QUANTISED):
                raise ModelError(_quantised(name, f"{what} of a {kind.__name__} is {parameter.dtype}"))
            if parameter.dtype.itemsize < 2:
                raise ModelError(_quantised(name, f"{what} of a {kind.__name__} is {parameter.dtype}"))
            if parameter.is_inference():
                raise ModelError(
                    f"{name} was created under torch.inference_mode(), so autograd cannot use its weights; create it outside of "
                    "inference_mode (load_model with a name or a directory may be called anywhere)"
                )


def comes_from(kind: type, packages: tuple[str, ...]) -> bool:
    return f"{kind.__module__}.".startswith(tuple(f"{package}." for package in packages))


def _quantised(name: str, what: str) -> str:
    return (
        f"{name} is quantised ({what}), and circuits are computed with floating-point weights; load it in float32 or bfloat16, or "
        "dequantise it (model.dequantize())"
    )
