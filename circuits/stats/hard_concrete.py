"""Hard concrete random numbers: between 0 and 1, with a positive probability of exactly 0 and 1, and differentiable.

With u uniform on (0, 1) and a parameter log α (Louizos et al. 2018, 1712.01312, eq. 10 to 12):

    s = sigmoid((log u - log(1 - u) + log α) / β)
    z = min(1, max(0, s (ζ - γ) + γ))
    P(z ≠ 0) = sigmoid(log α - β log(-γ / ζ))

β = 2/3, γ = -0.1, ζ = 1.1 as there.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

BETA = 2 / 3
LOW, HIGH = -0.1, 1.1
OPEN = BETA * math.log(-LOW / HIGH)
"""log α at which z is 0 with probability 1/2."""


def draw(log_alpha: Float[Tensor, "*axes"], uniform: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """z for these u; differentiable in log α, with gradient 0 where z is 0 or 1."""
    s = torch.sigmoid((torch.logit(uniform, eps=1e-6) + log_alpha) / BETA)
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def chance_open(log_alpha: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """P(z ≠ 0)."""
    return torch.sigmoid(log_alpha - OPEN)
