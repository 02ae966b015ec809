"""The differences between architectures, described once.

The rest of the engine uses this description of a block: where the residual stream enters; where q, k, v and the heads'
outputs appear; the norm before each reader; whether attention and MLP run in parallel; and what happens to a write
before it enters the residual stream (a post-norm in Gemma-2 and OLMo-2, a factor in Granite).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import TransformerBridge
from transformer_lens.hook_points import HookPoint

from circuits.engine.insertion import Insertion
from circuits.engine.norms import Norm, describe_norm
from circuits.engine.rotary import stored_tables
from circuits.errors import ModelError
from circuits.graph.graph import Graph


@dataclass(frozen=True, eq=False)
class AttentionRule:
    """How a head computes z from the outputs of its q, k and v projections (biases included):

        z = softmax(cap(scale · r(q) r(k)ᵀ) - slope · distance + mask) v,     cap(s) = softcap · tanh(s / softcap)

    where r is the query or key norm followed by the rotation by cos and sin (`engine.rotary`). The mask lets a query see the last
    `window` tokens, including its own. A numerical check decides whether the rule holds for a layer, or another one
    (`engine.incremental.attention_rules`).

    Attributes:
        scale: factor of the scores.
        softcap: None: no cap.
        window: None: all previous tokens.
        q_norm, k_norm: per head, or over all heads together (OLMo 2), before the rotation; None: no norm.
        cos, sin: hook points of the rotation tables [batch or 1, pos, rotated dimensions]; None: no rotation, or one whose
            tables the module stores (`rotary.stored_tables`).
        adjacent: the rotation pairs dimension 2i with 2i + 1 (GPT-J, Cohere); False: i with i + half.
        slopes: per head, by which scores fall with the distance from the query (ALiBi); None: they do not.
    """

    scale: float
    softcap: float | None
    window: int | None
    q_norm: Any
    k_norm: Any
    cos: HookPoint | None
    sin: HookPoint | None
    adjacent: bool
    slopes: Float[Tensor, " head"] | None = None


@dataclass(frozen=True, eq=False)
class Block:
    """One transformer block.

    Attributes:
        layer: its index.
        resid_pre: where the residual stream enters.
        attn_in: the input of the q, k and v projections, after the norm.
        q, k, v: the projections' outputs, before rotary embeddings and query/key norms: [batch, pos, head, d_head].
        z: the heads' mixed values, before the output projection: [batch, pos, head, d_head].
        attn_out: attention's write into the residual stream.
        attn_projected, mlp_projected: outputs of `W_O` and the MLP's output matrix with biases, before any post-norm.
        mlp_in: the MLP's input, after its norm (None without an MLP).
        resid_mid: the MLP's input before its norm, if it has a hook of its own; else None (it is `mlp_in` itself, or
            `resid_pre` in parallel blocks with one shared norm).
        mlp_out: the MLP's write into the residual stream.
        neurons: the MLP's hidden units after the activation: [batch, pos, neuron]; None without such a hook.
        inner, gate: outputs of the MLP's input matrices, biases included; None without such a hook.
        attn_norm, mlp_norm: norms before the readers q, k, v and before the MLP.
        post_norm, mlp_post_norm: norms applied to attention's and to the MLP's write, or None.
        scale: factor applied to attention's write.
        parallel: attention and MLP read the same residual stream.
        attention: TransformerLens' attention component.
        rule: how the heads compute z from q, k and v.
        module: the whole block.
    """

    layer: int
    resid_pre: HookPoint
    attn_in: HookPoint
    q: HookPoint
    k: HookPoint
    v: HookPoint
    z: HookPoint
    attn_out: HookPoint
    attn_projected: HookPoint
    mlp_in: HookPoint | None
    resid_mid: HookPoint | None
    mlp_out: HookPoint | None
    mlp_projected: HookPoint | None
    neurons: HookPoint | None
    inner: HookPoint | None
    gate: HookPoint | None
    attn_norm: Norm
    mlp_norm: Norm
    post_norm: Norm | None
    mlp_post_norm: Norm | None
    scale: float
    parallel: bool
    attention: Any
    rule: AttentionRule
    module: Any

    def projection(self, part: str) -> Float[Tensor, "head d_model d_head"]:
        """`W_Q`, `W_K` or `W_V`, one matrix per (key/value) head."""
        return getattr(self.attention, f"W_{part.upper()}")

    def projection_bias(self, part: str) -> Float[Tensor, "head d_head"] | None:
        return getattr(self.attention, f"b_{part.upper()}", None)

    @property
    def output_projection(self) -> Float[Tensor, "head d_head d_model"]:
        """`W_O`, one matrix per query head."""
        return self.attention.W_O

    @property
    def output_bias(self) -> Float[Tensor, " d_model"] | None:
        return getattr(self.attention, "b_O", None)

    @property
    def constant(self) -> Float[Tensor, " d_model"] | None:
        """Attention's output bias: the part of its write that belongs to no head.

        None under a post-norm, where a bias would depend on the run; the check at loading refuses such a model.
        """
        bias = self.output_bias
        return None if bias is None or self.post_norm is not None else bias * self.scale

    @property
    def linear_heads(self) -> bool:
        """Whether a head's write is a fixed linear function of its z, so that z can represent it."""
        return self.post_norm is None

    def head_writes(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_model"]:
        """Each head's write into the residual stream."""
        writes = torch.einsum("bphe,hed->bphd", z, self.output_projection.to(z.dtype))
        if self.post_norm is not None:
            total = writes.sum(2) if self.output_bias is None else writes.sum(2) + self.output_bias
            writes = self.post_norm.frozen(total, writes)
        return writes if self.scale == 1.0 else writes * self.scale

    def summed_writes(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        """The sum of all heads' writes; only if `linear_heads`."""
        return z.flatten(2) @ (self.output_projection.flatten(0, 1) * self.scale)


@dataclass(frozen=True, eq=False)
class Architecture:
    """The blocks of a loaded model, and the end of its residual stream.

    Attributes:
        bridge: the model.
        blocks: one description per layer.
        final: where the residual stream enters the final norm: the reader `logits`.
        unembed: where the normed stream enters the unembedding.
        final_norm: the norm between these two.
        inserted: dictionaries by their place (`m3`); none, unless a call was given some.
    """

    bridge: TransformerBridge
    blocks: tuple[Block, ...]
    final: HookPoint
    unembed: HookPoint
    n_heads: int
    n_kv_heads: int
    final_norm: Norm
    inserted: Mapping[str, Insertion] = field(default_factory=dict)

    @cached_property
    def graph(self) -> Graph:
        """The graph of the blocks' writers and readers."""
        return Graph(
            n_layers=len(self.blocks),
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            mlps=tuple(block.mlp_in is not None for block in self.blocks),
            parallel=any(block.parallel for block in self.blocks),
        )


def describe(bridge: TransformerBridge) -> Architecture:
    """The `Architecture` of a TransformerBridge.

    Raises:
        ModelError: a part that the graph needs is missing or has an unexpected shape; the message names the layer.
    """
    config = bridge.cfg
    n_heads = config.n_heads
    n_kv_heads = getattr(config, "n_key_value_heads", None) or n_heads
    points = bridge.hook_dict
    name = getattr(config, "architecture", None) or "this model"
    if not hasattr(bridge, "blocks") or len(bridge.blocks) == 0:
        raise ModelError(
            f"{name}: no transformer blocks; only decoder-only transformers have a graph of heads and MLPs"
        )
    for point in ("ln_final.hook_in", "unembed.hook_in"):
        if point not in points:
            raise ModelError(f"{name}: no hook point {point}, so the reader 'logits' has no place")
    blocks = []
    for layer, block in enumerate(bridge.blocks):
        try:
            blocks.append(_describe_block(block, layer, points))
        except KeyError as missing:
            raise ModelError(f"{name}: layer {layer} has no {missing.args[0]}; such a block is not supported") from None
        _check_shapes(blocks[-1], n_heads, n_kv_heads, config.d_model, name)
    if len({block.parallel for block in blocks}) > 1:
        raise ModelError(f"{name}: parallel and sequential blocks in one model are not supported")
    final_norm = describe_norm(bridge.ln_final)
    return Architecture(
        bridge, tuple(blocks), points["ln_final.hook_in"], points["unembed.hook_in"], n_heads, n_kv_heads, final_norm
    )


def _describe_block(block: Any, layer: int, points: dict[str, HookPoint]) -> Block:
    def point(name: str) -> HookPoint:
        return points[f"blocks.{layer}.{name}"]

    parts = block._modules
    if "attn" not in parts:
        raise KeyError("attention (a state-space or convolution layer?)")
    parallel = type(block).__name__.startswith("Parallel")
    has_mlp, has_ln2 = "mlp" in parts, "ln2" in parts
    attn_out = "hook_attn_out" if f"blocks.{layer}.hook_attn_out" in points else "attn.hook_out"
    mlp_norm = parts["ln2"] if has_ln2 else parts.get("ln1") if parallel else None
    return Block(
        layer=layer,
        resid_pre=point("hook_in"),
        attn_in=point("attn.hook_in"),
        q=point("attn.hook_q"),
        k=point("attn.hook_k"),
        v=point("attn.hook_v"),
        z=point("attn.hook_z"),
        attn_out=point(attn_out),
        attn_projected=point("attn.hook_out" if "ln1_post" in parts else attn_out),
        mlp_in=point("mlp.hook_in") if has_mlp else None,
        resid_mid=point("ln2.hook_in") if has_mlp and has_ln2 else None,
        mlp_out=point("hook_mlp_out") if has_mlp else None,
        mlp_projected=point("mlp.hook_out" if "ln2_post" in parts else "hook_mlp_out") if has_mlp else None,
        neurons=points.get(f"blocks.{layer}.mlp.hook_post"),
        inner=points.get(f"blocks.{layer}.mlp.in.hook_out"),
        gate=points.get(f"blocks.{layer}.mlp.gate.hook_out"),
        attn_norm=describe_norm(parts.get("ln1")),
        mlp_norm=describe_norm(mlp_norm),
        post_norm=describe_norm(parts["ln1_post"]) if "ln1_post" in parts else None,
        mlp_post_norm=describe_norm(parts["ln2_post"]) if "ln2_post" in parts else None,
        scale=float(getattr(block, "residual_contribution_scale", 1.0)),
        parallel=parallel,
        attention=block.attn,
        rule=_attention_rule(block.attn),
        module=block,
    )


UNSCALED = ("GPTNeoSelfAttention",)
"""Attention modules that do not divide scores by the root of d_head."""


def _attention_rule(attention: Any) -> AttentionRule:
    """The rule, from attributes of the attention module; native models have other names for them."""
    module, parts = attention.original_component, attention._modules
    d_head = getattr(module, "head_dim", None) or getattr(attention.config, "d_head", None) or 1
    usual = 1.0 if type(module).__name__ in UNSCALED else d_head**-0.5
    scale = 1 / module.scale if hasattr(module, "scale") else getattr(module, "scaling", usual)
    cap = getattr(module, "attn_logit_softcapping", None) or getattr(module, "attn_scores_soft_cap", None)
    owner = module if hasattr(module, "sliding_window") else getattr(module, "config", None)
    window = getattr(owner, "sliding_window", None)
    if getattr(module, "attention_type", None) == "local":  # GPT-Neo
        window = getattr(getattr(module, "config", None), "window_size", None)
    stored = stored_tables(module) is not None
    if getattr(module, "attention_type", None) == "local":  # GPT-Neo
        window = getattr(getattr(module, "config", None), "window_size", None)
    return AttentionRule(
        scale=float(scale),
        softcap=float(cap) if cap and cap > 0 else None,
        window=None if window is None else int(window),
        q_norm=parts.get("q_norm"),
        k_norm=parts.get("k_norm"),
        cos=parts.get("hook_cos"),
        sin=parts.get("hook_sin"),
        adjacent=stored or bool(getattr(attention.config, "rotary_interleaved_cos_sin", False)),
    )


def _check_shapes(block: Block, n_heads: int, n_kv_heads: int, d_model: int, name: str) -> None:
    for part, heads, axis in (("Q", n_heads, 1), ("K", n_kv_heads, 1), ("V", n_kv_heads, 1), ("O", n_heads, 2)):
        try:
            weight = getattr(block.attention, f"W_{part}")
        except (AttributeError, ValueError, RuntimeError, NotImplementedError) as problem:
            raise ModelError(f"{name}: layer {block.layer} gives no W_{part} per head ({problem})") from None
        if weight.ndim != 3 or weight.shape[0] != heads or weight.shape[axis] != d_model:
            raise ModelError(
                f"{name}: layer {block.layer} has W_{part} of shape {tuple(weight.shape)}; "
                f"expected {heads} heads and d_model {d_model}"
            )
