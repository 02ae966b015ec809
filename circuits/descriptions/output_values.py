"""What a head's output matrices make of a token: the OV circuit, read at the logits of some candidate tokens.

    L[t, c] = x_t W_V W_O W_U[:, c]      x_t: what the head reads at token t, after its norm

(Elhage et al. 2021.) The norms behind it act by their weights, at scale 1, which moves no order of candidates. L is centred over the
source tokens: what the head writes for any input does not show what it does with a token.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.descriptions.rotated import Rotation
from circuits.engine.architecture import Architecture, Block
from circuits.engine.norms import Norm


def weighted(norm: Norm | None, v: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
    """`v` through a norm's linear map at scale 1."""
    if norm is None or norm.kind == "identity":
        return v
    v = v - v.mean(-1, keepdim=True) if norm.kind == "layer" else v
    return v if norm.weight is None else v * norm.weight


def output_maps(
    architecture: Architecture, candidates: Int[Tensor, " candidate"]
) -> list[Float[Tensor, "head d_head candidate"]]:
    """W_O W_U of every layer's heads at the candidates, through the norms between."""
    unembed = architecture.bridge.unembed.W_U[:, candidates].T
    norm = architecture.final_norm
    behind = unembed if norm.weight is None else unembed * norm.weight
    behind = behind - behind.mean(-1, keepdim=True) if norm.kind == "layer" else behind
    return [weighted(block.post_norm, block.output_projection) @ behind.T for block in architecture.blocks]


def ov_logits(
    block: Block,
    x: Float[Tensor, "source d_model"],
    output: Float[Tensor, "head d_head candidate"],
    centre: Float[Tensor, " d_model"] | None = None,
    rotation: Rotation | None = None,
) -> Float[Tensor, "head source candidate"]:
    """L of one layer's heads (rotated ones with a rotation), minus that of `centre`; None: of the mean over the source tokens."""
    centred = x - (x.mean(0) if centre is None else centre)
    weight = block.projection("v") if rotation is None else rotation.projection(block, "v")
    values = torch.einsum("sd,hde->she", centred, weight.to(x.dtype))  # biases cancel
    values = values.repeat_interleave(len(output) // values.shape[1], dim=1)
    return torch.einsum("she,hec->hsc", values, output)


def favours(
    logits: Float[Tensor, "head source candidate"], own: Int[Tensor, " source"], sign: int = 1
) -> Bool[Tensor, "head source"]:
    """Whether each source token's own candidate has the largest logit of all, and alone; with sign -1, the smallest."""
    signed = logits * sign
    index = own[None, :, None].expand(len(logits), -1, 1)
    value = signed.gather(2, index)
    others = signed.scatter(2, index, -torch.inf).amax(2)
    return value[:, :, 0] > others
