"""Heads that look and write in random directions: the null distribution of a head's score.

A query, key or value matrix of a head is W = F R, with orthonormal columns F (the directions of the residual stream that it reads) and
R [rank, d_head]. A rotated head has random orthonormal columns in the place of F (Haar measure): W' = F' R. Its matrices have the same
singular values, and it reads the same streams, in the same context. Whatever the statistic,

    p = (1 + number of rotated heads with at least the head's score) / (1 + number of rotated heads)

is a valid p value for the hypothesis that the directions in which the head reads are random. It is exact for heads whose weights have
a rotation-invariant distribution, such as independent normal weights, because head and rotated heads are then exchangeable.

Each layer reads its recorded stream. Its patterns are computed from queries and keys as `AttentionRule` says, if that gives the model's
own patterns for the head's own weights. If not (ALiBi, norms over all heads together), the model itself computes them, with its MLPs
skipped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.descriptions.attention import recorded_patterns
from circuits.engine.architecture import Architecture, Block
from circuits.engine.attention import without_mlps
from circuits.engine.check import tolerance
from circuits.engine.hooks import Hook, TokenBatch
from circuits.engine.rotary import rotated, stored_tables

Patterns = Float[Tensor, "head sequence query key"]
Tables = tuple[Tensor, Tensor] | None
PARTS = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class Rotation:
    """One draw of rotated heads; heads of the same number in all layers have the same new directions.

    Attributes:
        frames: part -> each (key/value) head's directions.
        triangles: per layer, part -> R of the module docstring.
    """

    frames: Mapping[str, Float[Tensor, "head d_model rank"]]
    triangles: Sequence[Mapping[str, Float[Tensor, "head rank d_head"]]]

    def projection(self, block: Block, part: str) -> Float[Tensor, "head d_model d_head"]:
        """The rotated heads' `W_Q`, `W_K` or `W_V`."""
        triangle = self.triangles[block.layer][part]
        return self.frames[part].to(triangle) @ triangle


def rotations(architecture: Architecture, n: int, seed: int) -> Iterator[Rotation]:
    """n independent draws."""
    generator = torch.Generator().manual_seed(seed)
    triangles = [{part: _triangle(block.projection(part)) for part in PARTS} for block in architecture.blocks]
    for _ in range(n):
        frames = {
            part: orthonormal(*architecture.blocks[0].projection(part).shape, generator=generator) for part in PARTS
        }
        yield Rotation(frames, triangles)


def _triangle(weight: Float[Tensor, "head d_model d_head"]) -> Float[Tensor, "head rank d_head"]:
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    return torch.linalg.qr(wide, mode="r").R.to(weight.dtype)


def orthonormal(
    heads: int, d_model: int, d_head: int, generator: torch.Generator
) -> Float[Tensor, "head d_model rank"]:
    """Random orthonormal columns, as many as a head can have."""
    q, r = torch.linalg.qr(torch.randn(heads, d_model, min(d_model, d_head), generator=generator))
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # without the signs, the distribution would not be Haar's


@dataclass(frozen=True, eq=False)
class Streams:
    """One batch of prompts and what each layer's attention reads on it.

    Attributes:
        batch: the prompts.
        resid: the input of each block.
        attn_in: the input of its projections, after the norm.
        tables: per layer cos and sin of the rotary embedding, if it has one.
        ruled: whether the layers' rules give the model's own patterns.
    """

    batch: TokenBatch
    resid: tuple[Float[Tensor, "sequence pos d_model"], ...]
    attn_in: tuple[Float[Tensor, "sequence pos d_model"], ...]
    tables: tuple[Tables, ...]
    ruled: bool = False


def record(architecture: Architecture, batch: TokenBatch) -> tuple[Streams, Patterns]:
    """The streams and the patterns of all heads in one run."""
    seen: dict[tuple[str, int], Tensor] = {}
    hooks: list[Hook] = []
    for block in architecture.blocks:
        points = {"resid": block.resid_pre, "in": block.attn_in, "cos": block.rule.cos, "sin": block.rule.sin}
        for name, point in points.items():
            if point is not None:
                hooks.append((point, lambda x, key=(name, block.layer): seen.__setitem__(key, x.detach())))
    layers = range(len(architecture.blocks))
    patterns = _stacked(recorded_patterns(architecture, batch, layers, hooks))
    tables = tuple(
        (seen["cos", i], seen["sin", i]) if ("cos", i) in seen else _stored(architecture.blocks[i], batch)
        for i in layers
    )
    streams = Streams(batch, tuple(seen["resid", i] for i in layers), tuple(seen["in", i] for i in layers), tables)
    return replace(streams, ruled=_agrees(architecture, streams, patterns)), patterns


def _stored(block: Block, batch: TokenBatch) -> Tables:
    stored = stored_tables(block.attention.original_component)
    return (
        None if stored is None else (stored[0][None, : batch.tokens.shape[1]], stored[1][None, : batch.tokens.shape[1]])
    )


def _agrees(architecture: Architecture, streams: Streams, patterns: Patterns) -> bool:
    """Whether the rules give the model's own patterns."""
    try:
        made = _ruled(architecture, streams, None)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return False  # the rule does not fit the model
    limit = tolerance(streams.attn_in[0].dtype)
    return made.shape == patterns.shape and bool((made - patterns).abs().max() <= limit)


def rotated_patterns(architecture: Architecture, streams: Streams, rotation: Rotation) -> Patterns:
    """The patterns of all heads with rotated queries and keys, each layer on its own stream."""
    if streams.ruled:
        return _ruled(architecture, streams, rotation)
    hooks: list[Hook] = []
    for block, resid, x in zip(architecture.blocks, streams.resid, streams.attn_in, strict=True):
        hooks.append((block.resid_pre, lambda _, resid=resid: resid))
        for part in ("q", "k"):
            new = projected(block, part, x, rotation)
            hooks.append((getattr(block, part), lambda _, new=new: new))
    with without_mlps(architecture):
        return _stacked(recorded_patterns(architecture, streams.batch, range(len(architecture.blocks)), hooks))


def _ruled(architecture: Architecture, streams: Streams, rotation: Rotation | None) -> Patterns:
    """The patterns by the layers' rules."""
    patterns = {}
    for block, x, tables in zip(architecture.blocks, streams.attn_in, streams.tables, strict=True):
        rule, sides = block.rule, []
        for part, norm in (("q", rule.q_norm), ("k", rule.k_norm)):
            y = projected(block, part, x, rotation)
            y = y if norm is None else norm(y)
            if tables is not None:
                y = rotated(y, tables[0][:, :, None].to(y), tables[1][:, :, None].to(y), rule.adjacent)
            sides.append(y.transpose(1, 2))
        query, key = sides
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = (query * rule.scale) @ key.transpose(-1, -2)
        if rule.softcap is not None:
            scores = rule.softcap * torch.tanh(scores / rule.softcap)
        places = torch.arange(x.shape[1], device=x.device)
        back = places[:, None] - places
        hidden = (back < 0) if rule.window is None else (back < 0) | (back >= rule.window)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        patterns[block.layer] = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return _stacked(patterns)


def projected(
    block: Block, part: str, x: Float[Tensor, "*axes d_model"], rotation: Rotation | None = None
) -> Float[Tensor, "*axes head d_head"]:
    """A projection of x, biases included; of rotated heads with a rotation."""
    weight, bias = (
        block.projection(part) if rotation is None else rotation.projection(block, part),
        block.projection_bias(part),
    )
    y = torch.einsum("...d,hde->...he", x, weight.to(x.dtype))
    return y if bias is None else y + bias.reshape(len(weight), -1)


def _stacked(patterns: dict[int, Tensor]) -> Patterns:
    """All layers' heads in graph order."""
    layers: Sequence[Tensor] = [patterns[layer].float().cpu() for layer in sorted(patterns)]
    return torch.cat([layer.transpose(0, 1) for layer in layers])
