"""Rotary embeddings: queries and keys are turned by their positions (Su et al. 2021, 2104.09864).

Each pair of dimensions (a, b) becomes (a cos - b sin, b cos + a sin). Llama and GPT-NeoX pair dimension i with i + half; GPT-J, Cohere
and TransformerLens' native models pair 2i with 2i + 1. Dimensions behind the tables' width stay as they are.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def rotated(
    y: Float[Tensor, "*axes d_head"],
    cos: Float[Tensor, "*table rotated"],
    sin: Float[Tensor, "*table rotated"],
    adjacent: bool = False,
) -> Float[Tensor, "*axes d_head"]:
    """The first dimensions rotated, the rest unchanged.

    Args:
        y: queries or keys.
        cos, sin: a value for each rotated dimension, broadcast over the axes of `y`.
        adjacent: pairs are adjacent dimensions; False: the two halves.
    """
    width = cos.shape[-1]
    front, rest = y[..., :width], y[..., width:]
    if adjacent:
        turned = torch.stack([-front[..., 1::2], front[..., ::2]], dim=-1).flatten(-2)
    else:
        a, b = front.chunk(2, dim=-1)
        turned = torch.cat([-b, a], dim=-1)
    front = front * cos.to(y.dtype) + turned * sin.to(y.dtype)
    return torch.cat([front, rest], dim=-1) if rest.shape[-1] else front


def stored_tables(attention: Any) -> tuple[Float[Tensor, "position rotated"], Float[Tensor, "position rotated"]] | None:
    """cos and sin of an attention module that stores them itself, for adjacent pairs; None if it does not."""
    rotary = getattr(attention, "rotary", None)
    if rotary is not None and hasattr(rotary, "cos_cached"):  # native models
        return rotary.cos_cached, rotary.sin_cached
    stored = getattr(attention, "embed_positions", None)  # GPT-J, CodeGen: sines, then cosines, one for each pair
    if not isinstance(stored, Tensor) or stored.ndim != 2:
        return None
    sin, cos = stored.chunk(2, dim=-1)
    return cos.repeat_interleave(2, dim=-1), sin.repeat_interleave(2, dim=-1)
