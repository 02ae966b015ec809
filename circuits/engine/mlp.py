"""An MLP as one formula of its weights, if that reproduces the module's output:

    act(x W_in + b_in) W_out + b_out                               plain
    (act(x W_gate + b_gate) · (x W_in + b_in)) W_out + b_out       gated

A search calls MLPs far more often than anything else, and the module takes as much time for its hooks and its Python
activations as for its matrix products.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CHUNK = 64
"""Tokens whose hidden units stay in a core's cache over several operations."""


def _gelu_tanh(x: Tensor) -> Tensor:
    """x σ(2u) with u = √(2/π) (x + 0.044715 x³), which is x (1 + tanh u) / 2 in two thirds of the time of torch's own."""
    a = 2 * (2 / torch.pi) ** 0.5
    return x.mul_(x.square().mul_(0.044715 * a).add_(a).mul_(x).sigmoid_())


ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    F.gelu, _gelu_tanh, partial(F.silu, inplace=True), partial(F.relu, inplace=True)
)  # fmt: skip
"""Each may overwrite its input."""


@dataclass(frozen=True, eq=False)
class MlpFormula:
    """The formula of the module docstring, with the model's weights.

    Attributes:
        activation: act.
        gated: whether there is a gate.
        w_in, b_in, w_gate, b_gate, w_out, b_out: None for a missing bias or gate.
    """

    activation: Callable[[Tensor], Tensor]
    w_in: Float[Tensor, "d_model neuron"]
    b_in: Float[Tensor, " neuron"] | None
    w_gate: Float[Tensor, "d_model neuron"] | None
    b_gate: Float[Tensor, " neuron"] | None
    w_out: Float[Tensor, "neuron d_model"]
    b_out: Float[Tensor, " d_model"] | None

    def __call__(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        # Add biases separately: a product that starts from them takes longer.
        hidden = x @ self.w_in
        gate = None if self.w_gate is None else x @ self.w_gate
        for start in range(0, len(x), CHUNK):
            part = _shifted(hidden[start : start + CHUNK], self.b_in)
            if gate is None:
                activated = self.activation(part)
                if activated is not part:
                    part.copy_(activated)
            else:
                part.mul_(self.activation(_shifted(gate[start : start + CHUNK], self.b_gate)))
        return _shifted(hidden @ self.w_out, self.b_out)


def _shifted(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x.add_(bias)


def mlp_formula(module: Any, known: tuple[Tensor, Tensor] | None = None) -> MlpFormula | None:
    """The formula that reproduces the output of this MLP up to rounding, or None.

    Args:
        module: TransformerLens' MLP component, with `W_in`, `W_out` and, if gated, `W_gate`.
        known: inputs [token, d_model] and outputs, for a module that cannot be called alone (OPT, Bloom, MPT).
    """
    w_in, w_out = getattr(module, "W_in", None), getattr(module, "W_out", None)
    if w_in is None or w_out is None:
        return None
    b_in, b_out = getattr(module, "b_in", None), getattr(module, "b_out", None)
    w_gate, b_gate = getattr(module, "W_gate", None), getattr(module, "b_gate", None)
    formulas = [MlpFormula(act, w_in, b_in, w_gate, b_gate, w_out, b_out) for act in ACTIVATIONS]
    try:
        with torch.no_grad():
            x, wanted, limit = _example(module, w_in, known)
            errors = [float((formula(x) - wanted).abs().max()) for formula in formulas]
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
        return None  # this formula does not fit the module
    best = min(range(len(errors)), key=errors.__getitem__)
    return formulas[best] if errors[best] <= limit * float(wanted.abs().max()) else None


def _example(module: Any, w_in: Tensor, known: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, float]:
    """Inputs, the module's outputs, and the largest error that is rounding."""
    x = 3 * torch.randn(4, len(w_in), generator=torch.Generator().manual_seed(0))
    x = x.to(device=w_in.device, dtype=w_in.dtype)
    limit = ROUNDING * torch.finfo(x.dtype).eps
    try:
        return x, module(x[None])[0], limit
    except (RuntimeError, TypeError):
        if known is None:
            raise
        return *known, max(limit, OF_FLOAT32)


ROUNDING = 256
"""Largest rounding error, in units in the last place of the largest output."""
OF_FLOAT32 = 1e-6
"""The same for constants that a model's own code gives to eight digits (Bloom's activation)."""
