"""What rounding leaves: differences so small, next to the numbers they are differences of, that they are no evidence.

A number computed in a dtype with unit roundoff ε from numbers of size s is wrong by a few ε·s. Such errors are a fixed function
of the input, so that no number of samples averages them away, and a test would find them significant.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

UNITS = 16
"""How many ε of its size a computed number may be wrong by. (SmolLM2's logit differences, of size 10, differ by 5e-6 between
batch sizes in float32: 4 units.)"""
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""How far logits that should be equal may differ, as a share of the largest: at least twice what was measured when every edge is
computed anew, on models of eight architectures in float64 (4e-14), float32 (5e-6), and in bfloat16 (1.3e-2) once."""
LARGEST = 2.0**40
"""No metric is as large: differences of numbers that seem larger are round numbers themselves."""


def rounding(size: Float[Tensor, "*axes"], dtype: torch.dtype) -> Float[Tensor, "*axes"]:
    """What rounding may leave in numbers computed from numbers of this size in this dtype."""
    return UNITS * torch.finfo(dtype).eps * size.abs()


def computed_in(values: Tensor, origin: Mapping[str, Any] | None = None) -> torch.dtype:
    """The dtype in which numbers were computed: what their provenance says; else float32 if it holds them all exactly."""
    recorded = getattr(torch, str((origin or {}).get("dtype")), None)
    if isinstance(recorded, torch.dtype) and recorded.is_floating_point:
        return recorded
    return torch.float32 if bool((values.float().double() == values.double()).all()) else torch.float64


def size_before_cancellation(differences: Float[Tensor, "*axes"]) -> float:
    """The size of the float64 numbers that these are differences of, read from the last bits.

    Subtracting numbers of size s leaves multiples of ε·s: where they cancel, few bits are left. For differences that are round
    numbers by themselves, and where all are 0, it is 0: nothing can be read.
    """
    mantissa, exponent = torch.frexp(differences[differences != 0].double())
    if not len(mantissa):
        return 0.0
    whole = (mantissa.abs() * 2.0**53).long()
    last_bit = torch.ldexp((whole & -whole).double(), exponent - 53)
    size = float(last_bit.median()) / torch.finfo(torch.float64).eps
    return size if size < LARGEST else 0.0
