"""Norms that are differentiated at a constant scale: the backward rule that RelP and GIM share.

With sg(·) = stop gradient and r = 1/sqrt(var + eps),

    y = w · (x - mean) · sg(r) + b

so that the norm is a linear map of its input, and its value is unchanged.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import TransformerBridge

from circuits.engine.architecture import Architecture
from circuits.engine.norms import Norm, describe_norm
from circuits.errors import ModelError

BLOCK_NORMS = ("ln1", "ln2", "ln1_post", "ln2_post")
ATTENTION_NORMS = ("q_norm", "k_norm")


def valued(value: Tensor, slope: Tensor) -> Tensor:
    """Exactly `value`, with the gradient of `slope`."""
    return value.detach() + (slope - slope.detach())


class ConstantScale(Norm):
    """A norm that is differentiated as its linear map at the scale of the input."""

    def __call__(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
        if self.kind == "identity":
            return x
        with torch.no_grad():
            value, (_, r) = super().__call__(x), self._statistics(x)
        slope = x - x.mean(-1, keepdim=True) if self.kind == "layer" else x
        return valued(value, slope * r if self.weight is None else slope * r * self.weight)

    def scale_and_direction(
        self, x: Float[Tensor, "batch pos d_model"]
    ) -> tuple[Float[Tensor, "batch pos 1"] | None, Float[Tensor, "batch pos d_model"] | None]:
        return super().scale_and_direction(x)[0], None


@contextmanager
def constant_norms(architecture: Architecture, method: str) -> Iterator[Architecture]:
    """The model with every norm at a constant scale, within the context.

    Args:
        architecture: the model.
        method: name of the method, for the error message.

    Yields:
        The architecture with norms whose `vjp` follows the rule.

    Raises:
        ModelError: a norm of an unknown kind; the message names the layer.
    """
    norms = _norms(architecture.bridge, method)
    blocks = tuple(
        replace(block, attn_norm=_constant(block.attn_norm), mlp_norm=_constant(block.mlp_norm))
        for block in architecture.blocks
    )
    patched = []
    try:
        for component, norm in norms:
            object.__setattr__(component, "forward", _norm_forward(component, norm))
            patched.append(component)
        yield replace(architecture, blocks=blocks)
    finally:
        for component in patched:
            component.__dict__.pop("forward", None)


def _constant(norm: Norm) -> ConstantScale:
    return ConstantScale(norm.module, norm.kind, norm.weight, norm.bias, norm.eps)


def _norms(bridge: TransformerBridge, method: str) -> Sequence[tuple[Any, ConstantScale]]:
    """Every normalisation layer of the forward pass, with its `ConstantScale`."""
    norms: list[tuple[str, Any]] = []
    for layer, block in enumerate(bridge.blocks):
        parts, inner = block._modules, block._modules["attn"]._modules
        norms += [(f"layer {layer}: {name}", parts[name]) for name in BLOCK_NORMS if name in parts]
        norms += [(f"layer {layer}: {name}", inner[name]) for name in ATTENTION_NORMS if name in inner]
    norms.append(("the final norm", bridge.ln_final))
    described = []
    for where, component in norms:
        norm = describe_norm(component)
        if norm.kind == "other":
            raise ModelError(f"{where} is neither LayerNorm nor RMSNorm, so {method} has no rule for it")
        described.append((component, _constant(norm)))
    return described


def _norm_forward(component: Any, norm: ConstantScale) -> Callable[..., Tensor]:
    return lambda x, *args, **kwargs: component.hook_out(norm(component.hook_in(x)))
