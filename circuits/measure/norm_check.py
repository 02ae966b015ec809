"""Was a gradient taken where there is (almost) nothing in the residual stream?

A norm divides by sqrt(mean square + eps). At an input of zeros its gradient is 1/sqrt(eps), some hundred times what it is on
text; without biases the stream then stays zero through all layers, and every layer multiplies by that. Zero ablation gets
there at the ablated end of the embedding's path: scores say there what `eps` is, and come out too large by many orders of
magnitude. So edge attribution looks at the stream of every gradient, whatever brought it there.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.architecture import Architecture

MOST_OF_EPS = 0.5
"""A norm sees almost nothing where more of its scale than this is `eps`."""
LAYERS = 2
"""In how many layers, for a gradient to be useless: close to the ablated end of a finely cut path it is one, and the integral
is right."""


def sees_nothing(
    architecture: Architecture, stream: Sequence[Float[Tensor, "batch pos d_model"]]
) -> Bool[Tensor, "batch pos"]:
    """At which positions a norm sees nothing at all, or norms of several layers almost nothing.

    Args:
        architecture: the model.
        stream: what enters each block, and what enters the final norm.
    """
    norms = [*(block.attn_norm for block in architecture.blocks), architecture.final_norm]
    device = stream[0].device
    shares = torch.stack([norm.share_of_eps(x).to(device) for norm, x in zip(norms, stream, strict=True)])
    return (shares == 1).any(0) | ((shares > MOST_OF_EPS).sum(0) >= LAYERS)


def verdict(n_pairs: int, of: int, largest: float, ablation: str, gradient: str, quadrature: str) -> str | None:
    """What to tell the user, if anything.

    Args:
        n_pairs, of: how many pairs had such a gradient, and how many there are.
        largest: absolute score.
        ablation, gradient, quadrature: what was asked for.
    """
    if n_pairs == 0:
        return None
    if gradient in ("clean", "corrupted", "clean-corrupted", "relp"):
        instead = "gradient='ig' (with the midpoint rule)"
    elif quadrature == "midpoint":
        instead = "fewer steps"
    else:
        instead = "quadrature='midpoint'"
    return (
        f"on {n_pairs} of {of} pairs a gradient was taken where {ablation} ablation leaves (almost) nothing in the residual stream: "
        "how steep a norm is there is set by its eps alone, and scores come out too large, in models with RMSNorm by many orders of "
        f"magnitude (the largest here is {largest:.2g}). Use {instead}, or another ablation than {ablation}"
    )
