"""Building blocks of programs: sparse matrices, and steps of rectified sums."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from tasks.compiled.compiler import DTYPE, Mlp

LOGIT = 10.0
"""Logit of the answer; other logits are 0."""


def one_hot(size: int, *indices: int) -> Tensor:
    """A row that is 1 at the indices."""
    row = torch.zeros(size, dtype=DTYPE)
    row[list(indices)] = 1
    return row


def pairing(rows: int, columns: int, entries: Mapping[tuple[int, int], int | float]) -> Tensor:
    """A matrix with these entries and 0 elsewhere."""
    matrix = torch.zeros(rows, columns, dtype=DTYPE)
    for place, value in entries.items():
        matrix[place] = value
    return matrix


def steps(
    reads: dict[str, Float[Tensor, "_ step"]], writes: dict[str, Float[Tensor, "step _"]], offset: Tensor | None = None
) -> Mlp:
    """An MLP of steps: each is 0 for an input below 1/4, 1 above 3/4, and linear between.

    At the whole numbers that programs compute, both neurons of a step are off or both are on: no rectifier is at its kink.

    Args:
        reads: space -> the weights of its entries in the input of each step.
        writes: space -> what each step writes.
        offset: added to the input of each step.
    """
    n = next(len(part) for part in writes.values())
    shift = 2 * (torch.zeros(n, dtype=DTYPE) if offset is None else offset)
    return Mlp(
        {space: torch.cat([2 * part, 2 * part], 1) for space, part in reads.items()},
        torch.cat([shift - 0.5, shift - 1.5]),
        {space: torch.cat([part, -part]) for space, part in writes.items()},
    )
