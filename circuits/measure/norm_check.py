"""Was a gradient taken where the residual stream is (almost) empty?

A norm divides by sqrt(mean square + eps). At an input of zeros its gradient is 1/sqrt(eps), several hundred times its
value on text. Without biases the stream then stays zero through all layers, and the gradient grows by this factor in
every layer. Zero ablation reaches this point at the ablated end of the embedding's path. Scores there depend on `eps`
alone, and are too large by many orders of magnitude. Edge attribution therefore checks the stream of every gradient,
whatever made the stream empty.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.architecture import Architecture

MOST_OF_EPS = 0.5
"""A norm sees almost nothing if more than this share of its scale is `eps`."""
LAYERS = 2
"""A gradient is useless if at least this many layers see almost nothing. Close to the ablated end of a finely cut path
it is one layer, and the integral is right."""


def sees_nothing(
    architecture: Architecture, stream: Sequence[Float[Tensor, "batch pos d_model"]]
) -> Bool[Tensor, "batch pos"]:
    """Positions where one norm sees nothing at all, or norms of several layers almost nothing.

    Args:
        architecture: the model.
        stream: the inputs of all blocks, then the input of the final norm.
    """
    norms = [*(block.attn_norm for block in architecture.blocks), architecture.final_norm]
    device = stream[0].device
    shares = torch.stack([norm.share_of_eps(x).to(device) for norm, x in zip(norms, stream, strict=True)])
    return (shares == 1).any(0) | ((shares > MOST_OF_EPS).sum(0) >= LAYERS)


def verdict(n_affected: int, n_pairs: int, largest: float, ablation: str, gradient: str, quadrature: str) -> str | None:
    """A warning for the user; None if no pair is affected.

    Args:
        n_affected, n_pairs: how many pairs had such a gradient, and the number of pairs.
        largest: the largest absolute score.
        ablation, gradient, quadrature: the options of the user.
    """
    if n_affected == 0:
        return None
    if gradient in ("clean", "corrupted", "clean-corrupted", "relp", "gim"):
        instead = "gradient='ig' (with the midpoint rule)"
    elif quadrature == "midpoint":
        instead = "fewer steps"
    else:
        instead = "quadrature='midpoint'"
    return (
        f"on {n_affected} of {n_pairs} pairs a gradient was taken where {ablation} ablation leaves (almost) nothing in the residual stream: "
        "how steep a norm is there is set by its eps alone, and scores come out too large, in models with RMSNorm by many orders of "
        f"magnitude (the largest here is {largest:.2g}). Use {instead}, or another ablation than {ablation}"
    )
