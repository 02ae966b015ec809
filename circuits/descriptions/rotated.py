"""Heads that look and write in random directions: the null distribution of a head's score.

For a head with query, key and value matrices W_Q, W_K and W_V, a rotated head has O_q W_Q, O_k W_K and O_v W_V, with random orthogonal
matrices O of the residual stream (Haar measure). Its matrices have the same singular values, and it reads the same streams, in the
same context. Whatever the statistic,

    p = (1 + number of rotated heads with at least the head's score) / (1 + number of rotated heads)

is a valid p value for the hypothesis that the directions in which the head reads are random. It is exact for heads whose weights have
a rotation-invariant distribution, such as independent normal weights, because head and rotated heads are then exchangeable.

The model itself computes the rotated patterns: each layer gets its recorded stream and the rotated queries and keys, and MLPs are
skipped, as in `circuits.engine.attention`. So rotary embeddings, masks, query norms, soft caps and grouped keys are the model's own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.descriptions.attention import recorded_patterns
from circuits.engine.architecture import Architecture, Block
from circuits.engine.attention import without_mlps
from circuits.engine.hooks import Hook, TokenBatch

Patterns = Float[Tensor, "head sequence query key"]


@dataclass(frozen=True, eq=False)
class Rotation:
    """Random orthogonal matrices of the residual stream for queries, keys and values."""

    q: Float[Tensor, "d_model d_model"]
    k: Float[Tensor, "d_model d_model"]
    v: Float[Tensor, "d_model d_model"]


def rotations(d_model: int, n: int, seed: int) -> Iterator[Rotation]:
    """n independent draws."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        yield Rotation(*(_orthogonal(d_model, generator) for _ in range(3)))


def _orthogonal(d: int, generator: torch.Generator) -> Float[Tensor, "d d"]:
    q, r = torch.linalg.qr(torch.randn(d, d, generator=generator))
    return q * r.diagonal().sign()  # without the signs, the distribution would not be Haar's


@dataclass(frozen=True, eq=False)
class Streams:
    """One batch of prompts and what each layer's attention reads on it.

    Attributes:
        batch: the prompts.
        resid: the input of each block.
        attn_in: the input of its projections, after the norm.
    """

    batch: TokenBatch
    resid: tuple[Float[Tensor, "sequence pos d_model"], ...]
    attn_in: tuple[Float[Tensor, "sequence pos d_model"], ...]


def record(architecture: Architecture, batch: TokenBatch) -> tuple[Streams, Patterns]:
    """The streams and the patterns of all heads in one run."""
    resid: dict[int, Tensor] = {}
    attn_in: dict[int, Tensor] = {}
    hooks: list[Hook] = []
    for block in architecture.blocks:
        hooks.append((block.resid_pre, lambda x, layer=block.layer: resid.__setitem__(layer, x.detach())))
        hooks.append((block.attn_in, lambda x, layer=block.layer: attn_in.__setitem__(layer, x.detach())))
    layers = range(len(architecture.blocks))
    patterns = _stacked(recorded_patterns(architecture, batch, layers, hooks))
    return Streams(batch, tuple(resid[i] for i in layers), tuple(attn_in[i] for i in layers)), patterns


def rotated_patterns(architecture: Architecture, streams: Streams, rotation: Rotation) -> Patterns:
    """The patterns of all heads with rotated queries and keys, each layer on its own stream."""
    hooks: list[Hook] = []
    for block, resid, x in zip(architecture.blocks, streams.resid, streams.attn_in, strict=True):
        hooks.append((block.resid_pre, lambda _, resid=resid: resid))
        for part in ("q", "k"):
            rotated = projected(block, part, x @ getattr(rotation, part).to(x))
            hooks.append((getattr(block, part), lambda _, rotated=rotated: rotated))
    with without_mlps(architecture):
        return _stacked(recorded_patterns(architecture, streams.batch, range(len(architecture.blocks)), hooks))


def projected(block: Block, part: str, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes head d_head"]:
    """A projection of x, biases included."""
    weight, bias = block.projection(part), block.projection_bias(part)
    y = torch.einsum("...d,hde->...he", x, weight)
    return y if bias is None else y + bias.reshape(len(weight), -1)


def _stacked(patterns: dict[int, Tensor]) -> Patterns:
    """All layers' heads in graph order."""
    layers: Sequence[Tensor] = [patterns[layer].float().cpu() for layer in sorted(patterns)]
    return torch.cat([layer.transpose(0, 1) for layer in layers])
