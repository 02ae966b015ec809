"""A metric's direction at the end of the residual stream, and what each writer adds to the metric along it.

With the logits l = f ⊙ (norm(x) W_U + b_U) at the answer position, the scale of the final norm and the factors f fixed at the run
(f = 1 without a soft cap or a factor of the logits; a soft cap has f = l / (norm(x) W_U + b_U)), and c = ∂metric/∂l,

    metric = Σ_writers write · d + constant,      d = norm'(W_U (c ⊙ f))

where norm' is the norm's linear map at this scale, transposed. The constant has the biases of the unembedding, of the final norm and
of the attention layers; for a metric that is not linear in the logits, also metric - c · l. (Elhage et al. 2021; Wang et al. 2022,
2211.00593, section 3.1, for the logit difference.)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.architecture import Architecture, Block
from circuits.engine.check import tolerance
from circuits.engine.final_writes import FinalWrites, taken_back
from circuits.engine.unembedding import behind_unembedding
from circuits.errors import ModelError
from circuits.question.metrics import Metric, Targets

SMALLEST = 1e-3
"""Logits below this size are moved to it before a factor is measured on them."""


@dataclass(frozen=True, eq=False)
class Direction:
    """A linear function of the residual stream's end that is the metric of one run.

    Attributes:
        metric: the metric of the run.
        vector: d of the module docstring.
        constant: the constant, without the biases of attention layers.
    """

    metric: Float[Tensor, " batch"]
    vector: Float[Tensor, "batch d_model"]
    constant: Float[Tensor, " batch"]


def metric_direction(
    architecture: Architecture, end: FinalWrites, metric: Metric, targets: Targets, scale_of: Tensor | None = None
) -> Direction:
    """The direction of a metric in a run.

    Args:
        architecture: the model.
        end: the run.
        metric: a metric with a gradient.
        targets: of its prompts.
        scale_of: the end of another run's residual stream, whose scale the final norm keeps; None: of this run.

    Raises:
        ModelError: the final norm is unknown, or the logits are not a function of single entries of its output times W_U.
    """
    wide = torch.promote_types(end.logits.dtype, torch.float32)
    logits = end.logits.to(wide)
    with torch.enable_grad():
        leaf = logits.clone().requires_grad_()
        values = metric(leaf, targets)
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    columns = (gradient != 0).any(0).nonzero()[:, 0]
    coefficients, norm, unembed = gradient[:, columns], architecture.final_norm, architecture.bridge.unembed
    weight, bias = unembed.W_U[:, columns].to(wide), unembed.b_U[columns].to(wide)
    raw = norm(end.stream).to(wide) @ weight + bias
    factors = coefficients * logit_factors(architecture, raw, logits[:, columns])
    behind = factors @ weight.T
    vector = taken_back(norm, (end.stream if scale_of is None else scale_of).to(wide), behind)
    constant = values.detach() - (coefficients * logits[:, columns]).sum(1) + factors @ bias
    if norm.bias is not None:
        constant = constant + behind @ norm.bias.to(wide)
    return Direction(values.detach(), vector, constant)


def logit_factors(
    architecture: Architecture, raw: Float[Tensor, "batch column"], logits: Float[Tensor, "batch column"]
) -> Float[Tensor, "batch column"]:
    """f with logits = f ⊙ raw: 1, a constant, or that of the model's soft cap.

    Raises:
        ModelError: none of these gives the logits.
    """
    limit = tolerance(logits.dtype) * max(float(logits.abs().max()), 1e-30) if logits.numel() else 0.0
    ratio = float((raw * logits).sum() / raw.square().sum().clamp(min=1e-30))
    transform = behind_unembedding(architecture)
    sign = torch.where(raw < 0, -1.0, 1.0).to(raw.dtype)
    moved = torch.where(raw.abs() < SMALLEST, SMALLEST * sign, raw)
    for factors in (torch.ones_like(raw), transform(moved) / moved, torch.full_like(raw, ratio)):
        if bool(((factors * raw - logits).abs() <= limit).all()):
            return factors
    raise ModelError(
        "the logits of this model are not its unembedding times a factor, so direct effects are not defined"
    )


@dataclass(frozen=True, eq=False)
class DirectParts:
    """What each writer adds to a metric in one run; along a direction, in the metric's unit.

    Attributes:
        input: of the embedding.
        heads: per layer.
        mlps: per layer; None without an MLP.
        constant: the whole constant.
        before_heads: per layer the direction at the heads' z, behind which the heads' values lie.
    """

    input: Float[Tensor, " batch"]
    heads: tuple[Float[Tensor, "batch head"], ...]
    mlps: tuple[Float[Tensor, " batch"] | None, ...]
    constant: Float[Tensor, " batch"]
    before_heads: tuple[Float[Tensor, "batch head d_head"], ...]

    def of_writers(self, architecture: Architecture) -> Float[Tensor, "writer batch"]:
        """All of them in graph order."""
        columns = [self.input]
        for heads, mlp in zip(self.heads, self.mlps, strict=True):
            columns += [*heads.unbind(1), *([] if mlp is None else [mlp])]
        assert len(columns) == architecture.graph.n_writers
        return torch.stack([column.to(self.input.device) for column in columns])


def direct_parts(architecture: Architecture, end: FinalWrites, direction: Direction) -> DirectParts:
    """Every writer's part of a metric.

    Raises:
        ModelError: a norm behind attention is of an unknown kind.
    """
    vector = direction.vector
    heads, before, mlps, constant = [], [], [], direction.constant
    for block, z, mlp in zip(architecture.blocks, end.z, end.mlps, strict=True):
        d = vector.to(z.device)
        z = z.to(d.dtype)
        weight, bias = block.output_projection.to(d.dtype), block.output_bias
        if block.post_norm is not None:
            total = torch.einsum("bhe,hed->bd", z, weight)
            total = total if bias is None else total + bias.to(d.dtype)
            d = taken_back(block.post_norm, total, d)
        d = d * block.scale
        if bias is not None:
            constant = constant + (d @ bias.to(d.dtype)).to(constant.device)
        before.append(torch.einsum("hed,bd->bhe", weight, d))
        heads.append((z * before[-1]).sum(-1))
        mlps.append(None if mlp is None else (mlp.to(d.dtype) * vector.to(mlp.device)).sum(-1))
    return DirectParts(
        (end.embedding.to(vector.dtype) * vector.to(end.embedding.device)).sum(-1),
        tuple(heads),
        tuple(mlps),
        constant,
        tuple(before),
    )


def neuron_parts(block: Block, end: FinalWrites, direction: Direction) -> Float[Tensor, "batch neuron"]:
    """What each neuron of a layer adds to the metric; with the MLP's output bias they sum to the MLP's part.

    Raises:
        ModelError: the model does not give the MLP's output matrix (mixtures of experts).
    """
    d = direction.vector.to(end.neurons[block.layer].device)
    post = block.mlp_post_norm
    if post is not None:
        d = taken_back(post, end.mlps_projected[block.layer].to(d.dtype), d)
    weight = getattr(block.module.mlp, "W_out", None)
    if weight is None or weight.ndim != 2:
        raise ModelError(f"layer {block.layer} of this model gives no output matrix of its neurons")
    return end.neurons[block.layer].to(d.dtype) * (d * block.scale @ weight.to(d.dtype).T)


def source_parts(
    architecture: Architecture, layer: int, end: FinalWrites, parts: DirectParts
) -> Float[Tensor, "batch head key"]:
    """What each head of a layer adds from each source token: its attention there, times what its value there adds.

    Raises:
        ModelError: pattern times values do not give the head's output.
    """
    before = parts.before_heads[layer].unflatten(1, (architecture.n_kv_heads, -1))
    pattern, values = end.pattern[layer].to(before.dtype), end.values[layer].to(before.dtype)
    along = torch.einsum("bgre,bkge->bgrk", before, values).flatten(1, 2)
    made = pattern * along
    error = (made.sum(-1) - parts.heads[layer]).abs().max()
    if not error <= 10 * tolerance(end.z[layer].dtype) * along.abs().max():
        raise ModelError(
            f"layer {layer}: the attention pattern times the values is not the heads' output (off by {float(error):.2g} in the metric)"
        )
    return made
