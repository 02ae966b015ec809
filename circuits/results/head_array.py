"""Scores of heads and MLPs as arrays, for figures of one's own."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

HEAD, MLP = re.compile(r"a(\d+)\.h(\d+)"), re.compile(r"m(\d+)")


class HeadArray(NamedTuple):
    """Scores of heads and MLPs, NaN where there is none.

    Attributes:
        heads: layers × heads.
        mlps: by layer.
    """

    heads: Float[Tensor, "layer head *position"]
    mlps: Float[Tensor, "layer *position"]


def head_array(nodes: Sequence[str], values: Float[Tensor, "node *position"]) -> HeadArray:
    """Scores of these nodes as arrays; nodes that are neither heads nor MLPs are left out.

    >>> heads, mlps = head_array(["input", "a0.h1", "m1"], torch.tensor([1.0, 2.0, 3.0]))
    >>> heads.tolist(), mlps.tolist()
    ([[nan, 2.0], [nan, nan]], [nan, 3.0])
    """
    heads = {i: tuple(map(int, match.groups())) for i, name in enumerate(nodes) if (match := HEAD.fullmatch(name))}
    mlps = {i: int(match[1]) for i, name in enumerate(nodes) if (match := MLP.fullmatch(name))}
    n_layers = 1 + max([layer for layer, _ in heads.values()] + list(mlps.values()), default=-1)
    n_heads = 1 + max((head for _, head in heads.values()), default=-1)
    by_head = values.new_full((n_layers, n_heads, *values.shape[1:]), torch.nan)
    by_mlp = values.new_full((n_layers, *values.shape[1:]), torch.nan)
    for i, place in heads.items():
        by_head[place] = values[i]
    for i, layer in mlps.items():
        by_mlp[layer] = values[i]
    return HeadArray(by_head, by_mlp)
