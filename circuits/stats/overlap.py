"""Overlap of sets."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def jaccard(members: Bool[Tensor, "set item"]) -> Float[Tensor, "set set"]:
    """Items in both sets / items in either, for every two sets; 1 for two empty sets."""
    wide = members.double()
    shared = wide @ wide.T
    either = wide.sum(1)[:, None] + wide.sum(1) - shared
    return torch.where(either > 0, shared / either, 1.0)
