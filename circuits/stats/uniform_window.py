"""Random numbers between 0 and 1 that are usually 0 or 1, with the gradient of uniform gradient sampling (Li & Janson 2024, 2409.09951).

With u uniform on (0, 1), a parameter θ, p = sigmoid(θ) and the width w = p (1 - p), held constant,

    z = min(1, max(0, 1/2 + (p - u) / w))

so z is 1 with probability p - w/2, 0 with probability 1 - p - w/2, and uniform between with probability w; its mean is p. Its gradient is
dz/dθ = 1 where z is between 0 and 1, and 0 elsewhere. For a function L of z the expected gradient is therefore

    E[dL/dθ] = p (1 - p) · ∫ dL/dz dz = dp/dθ · (L(1) - L(0)),

the gradient of the expected L under a mask that is 1 with probability p and 0 otherwise: exact for one mask, whatever L is.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def draw(theta: Float[Tensor, "*axes"], uniform: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """z for these u; differentiable in θ."""
    p = torch.sigmoid(theta)
    width = (p * (1 - p)).detach().clamp(min=torch.finfo(p.dtype).tiny)
    return (0.5 + (p - uniform) / width).clamp(0, 1)
