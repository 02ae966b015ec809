"""From the normed end of the residual stream to logits, of all tokens or of a few:

    logits[t] = f(normed · W_U[:, t] + b_U[t])

f acts on each entry: a soft cap (Gemma 2) or a factor (Granite, Cohere); most models have none. A metric that names its tokens needs
few columns of W_U. With a vocabulary of 262,144 tokens, the whole product reads more memory than all other weights of a small model.
The check at loading compares some columns with the model's own logits; where they differ, all logits are computed.
"""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.architecture import Architecture


def logits_of(
    architecture: Architecture, normed: Float[Tensor, "*axes d_model"], tokens: Int[Tensor, " d_out"] | None = None
) -> Float[Tensor, "*axes d_out"]:
    """Logits behind the final norm.

    Args:
        architecture: the model.
        normed: the input of the unembedding.
        tokens: compute the logits of these tokens only; None: all.
    """
    return behind_unembedding(architecture)(F.linear(normed, *columns(architecture, normed, tokens)))


def columns(
    architecture: Architecture, like: Tensor, tokens: Int[Tensor, " d_out"] | None = None
) -> tuple[Float[Tensor, "d_out d_model"], Float[Tensor, " d_out"]]:
    """Weight and bias of the unembedding for some tokens, on the device of `like`."""
    unembed = architecture.bridge.unembed
    weight, bias = unembed.W_U.T, unembed.b_U
    if tokens is not None:
        weight, bias = weight[tokens.to(weight.device)], bias[tokens.to(bias.device)]
    return weight.to(like.device), bias.to(like.device)


def behind_unembedding(architecture: Architecture) -> Callable[[Tensor], Tensor]:
    """f of the module docstring."""
    adapter = getattr(architecture.bridge, "adapter", None)
    return getattr(adapter, "apply_output_logits_transform", None) or (lambda logits: logits)
