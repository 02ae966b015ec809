"""What every writer adds to the residual stream at the answer positions, in its smallest form, from one forward pass.

Only these positions reach the logits directly. So a pass that records them costs little more than the pass itself.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.architecture import Architecture, Block
from circuits.engine.hooks import Hook, TokenBatch, run
from circuits.engine.norms import Norm
from circuits.errors import ModelError


@dataclass(frozen=True, eq=False)
class FinalWrites:
    """One run at its answer positions.

    Attributes:
        logits: the logits there.
        stream: the end of the residual stream, before the final norm.
        embedding: the input of the first block.
        z: per layer the heads' mixed values.
        mlps: per layer the MLP's write into the stream; None without an MLP.
        mlps_projected: per layer the MLP's output before a post-norm, for the layers of `neurons`.
        neurons: layer -> the MLP's hidden units, for the chosen layers.
        pattern: layer -> attention from the answer position, for the chosen layers.
        values: layer -> the values that this attention mixes, at all positions.
    """

    logits: Float[Tensor, "batch d_vocab"]
    stream: Float[Tensor, "batch d_model"]
    embedding: Float[Tensor, "batch d_model"]
    z: tuple[Float[Tensor, "batch head d_head"], ...]
    mlps: tuple[Float[Tensor, "batch d_model"] | None, ...]
    mlps_projected: dict[int, Float[Tensor, "batch d_model"]] = field(default_factory=dict)
    neurons: dict[int, Float[Tensor, "batch neuron"]] = field(default_factory=dict)
    pattern: dict[int, Float[Tensor, "batch head key"]] = field(default_factory=dict)
    values: dict[int, Float[Tensor, "batch key kv_head d_head"]] = field(default_factory=dict)


def final_writes(
    architecture: Architecture,
    batch: TokenBatch,
    hooks: Sequence[Hook] = (),
    neurons: Collection[int] = (),
    sources: Collection[int] = (),
) -> FinalWrites:
    """One forward pass without gradients.

    Args:
        architecture: the model.
        batch: the prompts.
        hooks: run first, so the recorded values include their changes.
        neurons: layers whose hidden units are recorded.
        sources: layers whose attention and values are recorded.

    Raises:
        ModelError: the model has no hook for what is to be recorded.
    """
    seen: dict[tuple[str, int], Tensor] = {}
    rows = torch.arange(len(batch), device=batch.tokens.device)

    def at(what: str, layer: int, x: Tensor) -> None:
        seen[what, layer] = x.detach()[rows.to(x.device), batch.position.to(x.device)]

    recording: list[Hook] = [
        (architecture.blocks[0].resid_pre, lambda x: at("embedding", 0, x)),
        (architecture.final, lambda x: at("stream", 0, x)),
    ]
    for block in architecture.blocks:
        layer = block.layer
        recording.append((block.z, lambda x, layer=layer: at("z", layer, x)))
        if block.mlp_out is not None:
            recording.append((block.mlp_out, lambda x, layer=layer: at("mlp", layer, x)))
        if layer in neurons and block.mlp_projected is not None:
            recording.append((neurons_point(block), lambda x, layer=layer: at("neurons", layer, x)))
            recording.append((block.mlp_projected, lambda x, layer=layer: at("projected", layer, x)))
        if layer in sources:
            recording.append(
                (
                    pattern_point(architecture, block),
                    lambda x, layer=layer: at("pattern", layer, x.transpose(1, 2)),
                )
            )
            recording.append((block.v, lambda x, layer=layer: seen.__setitem__(("v", layer), x.detach())))
    with torch.no_grad():
        logits = run(architecture, batch, [*hooks, *recording])
    layers = [block.layer for block in architecture.blocks]
    some = {what: {layer: seen[what, layer] for layer in layers if (what, layer) in seen} for what in _OPTIONAL}
    return FinalWrites(
        logits.detach(), seen["stream", 0], seen["embedding", 0], tuple(seen["z", layer] for layer in layers),
        tuple(seen.get(("mlp", layer)) for layer in layers), some["projected"], some["neurons"], some["pattern"], some["v"],
    )  # fmt: skip


_OPTIONAL = ("projected", "neurons", "pattern", "v")


def neurons_point(block: Block):
    """The hook point of an MLP's hidden units.

    Raises:
        ModelError: the model has none.
    """
    if block.neurons is None:
        raise ModelError(f"layer {block.layer} of this model has no hook for its neurons")
    return block.neurons


def pattern_point(architecture: Architecture, block: Block):
    """The hook point of a layer's attention pattern [batch, head, query, key].

    Raises:
        ModelError: the model has none.
    """
    point = architecture.bridge.hook_dict.get(f"blocks.{block.layer}.attn.hook_pattern")
    if point is None:
        raise ModelError(f"layer {block.layer} of this model does not show its attention pattern")
    return point


def taken_back(
    norm: Norm, x: Float[Tensor, "batch d_model"], g: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "batch d_model"]:
    """The direction d with `norm.frozen(x, v) · g = v · d` for every part v of x: a direction behind a norm, before it.

    Raises:
        ModelError: the norm is of an unknown kind, so its scale cannot be fixed.
    """
    if norm.kind == "other":
        raise ModelError("this model has a normalisation layer of an unknown kind, whose scale cannot be fixed")
    scale, _ = norm.scale_and_direction(x)
    return norm.take_back_(g.clone() if scale is None else g * scale)
