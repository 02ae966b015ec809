"""Normalisation layers, applied to many edited inputs at once and differentiated in closed form.

A reader of head h sees `W_Q[h] norm(x)`. Its gradient must go back through the norm for every head of a layer
separately, at the same x; autograd would copy x once per head. For normalised x̂ = (x - mean) r, with
r = 1/sqrt(var + eps), and y = w x̂ + b, the closed form is

    J(x)ᵀ g = r (C(w g) - x̂ mean(x̂ · C(w g))),    C(v) = v - mean(v)    LayerNorm

and for RMSNorm, with x̂ = x r, the same without the centring C. `engine.gradient_sum` uses its two terms.

All other norms use autograd. A numerical check at loading decides which of the three a module is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NormKind = Literal["identity", "layer", "rms", "other"]


@dataclass(frozen=True, eq=False)
class Norm:
    """One normalisation layer of a loaded model.

    Attributes:
        module: the layer itself, without TransformerLens' hooks.
        kind: `identity`, `layer` (LayerNorm), `rms` (RMSNorm) or `other` (differentiated by autograd).
        weight: effective scale (Gemma's 1 + weight already added), or None.
        bias: shift, or None.
        eps: added to the variance.
    """

    module: nn.Module
    kind: NormKind
    weight: Float[Tensor, " d_model"] | None = None
    bias: Float[Tensor, " d_model"] | None = None
    eps: float = 0.0

    def __call__(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
        """The layer's output up to rounding; fused kernels for known kinds."""
        if self.kind == "identity":
            return x
        if self.kind == "layer":
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        if self.kind == "rms":
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        return self.module(x.reshape(1, -1, x.shape[-1])).reshape(x.shape)

    def _statistics(self, x: Float[Tensor, "*axes d_model"]) -> tuple[Tensor, Tensor]:
        """(x̂, r) of the module docstring, computed in float32 or wider."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.kind == "layer":
            wide = wide - wide.mean(-1, keepdim=True)
        r = (wide.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return (wide * r).to(x.dtype), r.to(x.dtype)

    def share_of_eps(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes"]:
        """The share of `eps` in the norm's scale: 0 for an input of ordinary size, 1 for an input of zeros.

        Near 1, the gradient depends on `eps` alone. If `eps` is unknown, only an input of zeros counts.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.kind == "identity":
            return torch.zeros_like(wide[..., 0])
        if self.kind == "other":
            return (wide == 0).all(-1).to(wide.dtype)
        if self.kind == "layer":
            wide = wide - wide.mean(-1, keepdim=True)
        return 1 / (1 + wide.square().mean(-1) / self.eps) if self.eps > 0 else (wide == 0).all(-1).to(wide.dtype)

    def frozen(
        self, x: Float[Tensor, "batch pos d_model"], v: Float[Tensor, "batch pos *slots d_model"]
    ) -> Float[Tensor, "batch pos *slots d_model"]:
        """`v` through the layer's linear map at the scale of `x`, without the bias: the contribution of a part v of x.

        The parts of x add up: `frozen(x, x) + bias` is the layer's output.
        """
        r = self._frozen_scale(x)
        return v if r is None else self._scaled(v, r.reshape(*r.shape[:2], *[1] * (v.ndim - 3), 1))

    def frozen_parts(
        self, x: Float[Tensor, "row token d_model"], parts: Sequence[Float[Tensor, "#row token d_model"]]
    ) -> list[Float[Tensor, "row token d_model"]]:
        """`frozen` of several parts of x, each for all rows or one for all."""
        r = self._frozen_scale(x)
        return [part if r is None else self._scaled(part, r) for part in parts]

    def _frozen_scale(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos 1"] | None:
        """r of the module docstring; None for no layer."""
        if self.kind == "other":
            raise NotImplementedError("the frozen scale of an unknown normalisation layer")
        return None if self.kind == "identity" else self._statistics(x)[1]

    def _scaled(self, v: Tensor, r: Tensor) -> Tensor:
        v = v - v.mean(-1, keepdim=True) if self.kind == "layer" else v
        return v * r if self.weight is None else v * r * self.weight

    def scale_and_direction(
        self, x: Float[Tensor, "*axes d_model"]
    ) -> tuple[Float[Tensor, "*axes 1"] | None, Float[Tensor, "*axes d_model"] | None]:
        """(r, x̂) of the module docstring: the factor of a gradient on its way back, and the direction that is removed
        from it. None: no factor, no direction."""
        if self.kind == "identity":
            return None, None
        x_hat, r = self._statistics(x)
        return r, x_hat

    def take_back_(self, g: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
        """C(w g) of the module docstring, in place."""
        if self.kind == "identity":
            return g
        if self.weight is not None:
            g.mul_(self.weight)
        return g.sub_(g.mean(-1, keepdim=True)) if self.kind == "layer" else g

    def vjp(
        self, x: Float[Tensor, "batch pos d_model"], g: Float[Tensor, "slot batch pos d_model"]
    ) -> Float[Tensor, "slot batch pos d_model"]:
        """Gradients at the layer's output, taken back to its input x, for many slots that share x. May overwrite g."""
        if self.kind == "other":
            return self._vjp_by_autograd(x, g)
        r, x_hat = self.scale_and_direction(x)
        g = self.take_back_(g if r is None else g.mul_(r))
        return g if x_hat is None else g - x_hat * (g * x_hat).mean(-1, keepdim=True)

    def _vjp_by_autograd(self, x: Tensor, g: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().expand_as(g).clone().requires_grad_()
            return torch.autograd.grad(self(x), x, g)[0]


def describe_norm(bridge_norm: Any) -> Norm:
    """The `Norm` of a TransformerLens normalisation component (None: no layer).

    A closed form is used only if it reproduces the module's output on random numbers.
    """
    if bridge_norm is None:
        return Norm(nn.Identity(), "identity")
    module = bridge_norm.original_component
    if isinstance(module, nn.Identity):
        return Norm(module, "identity")
    weight = getattr(module, "weight", None)
    bias = getattr(module, "bias", None)
    if weight is not None and getattr(bridge_norm, "uses_weight_offset", False):
        weight = (1.0 + weight).detach()
    config_eps = getattr(getattr(bridge_norm, "config", None), "eps", 1e-5)
    eps = getattr(module, "eps", getattr(module, "variance_epsilon", config_eps))
    width = weight.shape[-1] if weight is not None else bridge_norm.config.d_model
    for kind in ("rms", "layer"):
        norm = Norm(module, kind, weight, bias if kind == "layer" else None, float(eps))
        if _agrees(norm, width):
            return norm
    return Norm(module, "other")


def _agrees(norm: Norm, width: int) -> bool:
    reference = next(norm.module.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, width, generator=generator) * 3 + 1
    x = x.to(device=reference.device, dtype=reference.dtype)
    with torch.no_grad():
        try:
            wanted, got = norm.module(x), norm(x)
        except (RuntimeError, TypeError, ValueError):
            return False
    tolerance = max(1e-5, 4 * torch.finfo(x.dtype).eps)
    return wanted.shape == got.shape and bool(((wanted - got).abs() <= tolerance * wanted.abs().max()).all())
