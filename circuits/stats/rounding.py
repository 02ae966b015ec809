"""Rounding errors: differences that are no evidence, since they are too small for the numbers that were subtracted.

A number computed from numbers of size s in a dtype with unit roundoff ε has an error of a few ε·s. Such errors are a fixed
function of the input, so that more samples do not average them out, and a test would find them significant.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

UNITS = 16
"""The largest error of a computed number, in ε times its size. (SmolLM2's logit differences, of size 10, differ by 5e-6 between
batch sizes in float32: 4 units.)"""
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""The largest difference of logits that should be equal, as a share of the largest logit: at least twice the measured one when
every edge is computed again, for eight architectures in float64 (4e-14) and float32 (5e-6), and one in bfloat16 (1.3e-2)."""
LARGEST = 2.0**40
"""No metric is as large: if the numbers seem larger, their differences are round numbers."""


def rounding(size: Float[Tensor, "*axes"], dtype: torch.dtype) -> Float[Tensor, "*axes"]:
    """The possible error of numbers computed from numbers of this size in this dtype."""
    return UNITS * torch.finfo(dtype).eps * size.abs()


def computed_in(values: Tensor, origin: Mapping[str, Any] | None = None) -> torch.dtype:
    """The dtype in which numbers were computed: from their provenance, else float32 if it represents all of them exactly."""
    recorded = getattr(torch, str((origin or {}).get("dtype")), None)
    if isinstance(recorded, torch.dtype) and recorded.is_floating_point:
        return recorded
    return torch.float32 if bool((values.float().double() == values.double()).all()) else torch.float64


def size_before_cancellation(differences: Float[Tensor, "*axes"]) -> float:
    """The size of the float64 numbers whose differences these are, from the last bits.

    Differences of numbers of size s are multiples of ε·s: after cancellation, few bits are left. The result is 0 (unknown) if the
    differences are round numbers, or all 0.
    """
    mantissa, exponent = torch.frexp(differences[differences != 0].double())
    if not len(mantissa):
        return 0.0
    whole = (mantissa.abs() * 2.0**53).long()
    last_bit = torch.ldexp((whole & -whole).double(), exponent - 53)
    size = float(last_bit.median()) / torch.finfo(torch.float64).eps
    return size if size < LARGEST else 0.0
