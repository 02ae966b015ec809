"""Backward rules of relevance propagation (RelP): only the coefficients of the backward pass change.

(Rezaei Jafari et al. 2025, 2508.21258; the rules are from Ali et al. 2022 and Jafari et al. 2024.) With sg(·) = stop
gradient, each non-linear step is differentiated as if it were

    norm           y = w · (x - mean) · sg(r) + b          LN-rule: the scale is a constant
    activation     y = x · sg(act(x) / x)                  identity rule
    gated MLP      y = ½ (a · sg(b) + sg(a) · b)            half rule, a = act(gate), b = up: both factors share
    attention      pattern as it is, or sg(pattern)         live, or detached: the AH-rule (no query or key gets a gradient)

so a node's contribution is its value times a coefficient, without the saturation of gradients. Soft caps on attention
scores and logits, and rotary embeddings, are differentiated as usual.

Each rule has a switch in the authors' code (github.com/FarnoushRJ/RelP). The table of rules in its README includes the
AH-rule for attention, but its example and its defaults use only the other three, as `live` does here. The defaults of
its first version also used the AH-rule.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import TransformerBridge
from transformer_lens.hook_points import HookPoint

from circuits.engine.architecture import Architecture
from circuits.engine.capture import Gradients
from circuits.engine.constant_norms import constant_norms, valued
from circuits.engine.hooks import Hook
from circuits.errors import ModelError


def activation_with_constant_ratio(
    x: Float[Tensor, "*axes d"], y: Float[Tensor, "*axes d"]
) -> Float[Tensor, "*axes d"]:
    """`y = act(x)`, with the gradient of x · sg(y / x), or of y where x is 0."""
    zero = x == 0
    ratio = (y / x.masked_fill(zero, 1.0)).detach()
    return valued(y, torch.where(zero, y, x * ratio))


def product_with_halved_factors(
    gate: Float[Tensor, "*axes d"], up: Float[Tensor, "*axes d"], y: Float[Tensor, "*axes d"]
) -> Float[Tensor, "*axes d"]:
    """`y = act(gate) · up`; half of its gradient goes to each factor, and through act with a constant ratio.

    Where gate or up is 0, the ratios are unknown; there the gradient is half of the product's own.
    """
    zero = (gate == 0) | (up == 0)
    to_gate = (y / gate.masked_fill(zero, 1.0)).detach()
    to_up = (y / up.masked_fill(zero, 1.0)).detach()
    return valued(y, 0.5 * torch.where(zero, y, gate * to_gate + up * to_up))


@dataclass(frozen=True, eq=False)
class Rules:
    """A model under the rules; yielded by `relevance`.

    Attributes:
        architecture: the model's, with norms whose `vjp` follows the rule.
        hooks: the rules of the MLPs and, if detached, of attention; they must run first.
        applied: indices of the layers whose MLP rule has run.
        attention: `live` or `detached`.
    """

    architecture: Architecture
    hooks: tuple[Hook, ...]
    applied: set[int]
    attention: str

    def check(self, gradients: Gradients) -> None:
        """Checks that the rules were on the path from the logits to the embedding.

        Raises:
            ModelError: a layer whose MLP never passed the hooks, or whose detached pattern has a gradient.
        """
        for block, q, k in zip(self.architecture.blocks, gradients.q, gradients.k, strict=True):
            if block.mlp_in is not None and block.layer not in self.applied:
                raise ModelError(f"layer {block.layer}: its MLP does not pass its hooks, so RelP's rules cannot apply")
            if self.attention == "detached" and (q.any() or k.any()):
                raise ModelError(
                    f"layer {block.layer}: its attention pattern does not pass its hook, so it cannot be detached; "
                    "use attention='live'"
                )


@contextmanager
def relevance(architecture: Architecture, attention: str) -> Iterator[Rules]:
    """The model under RelP's rules, within the context.

    Args:
        architecture: the model.
        attention: `live` or `detached`.

    Raises:
        ModelError: a norm of an unknown kind, or an MLP that is not an activation between two linear maps (experts);
            the message names the layer.
    """
    applied: set[int] = set()
    hooks: list[Hook] = []
    for block in architecture.blocks:
        if block.mlp_in is not None:
            hooks += _mlp_rule(architecture.bridge, block.layer, applied)
        if attention == "detached":
            hooks.append((architecture.bridge.hook_dict[f"blocks.{block.layer}.attn.hook_pattern"], torch.detach))
    with constant_norms(architecture, "RelP") as constant:
        yield Rules(constant, tuple(hooks), applied, attention)


def _mlp_rule(bridge: TransformerBridge, layer: int, applied: set[int]) -> list[Hook]:
    mlp = bridge.blocks[layer].mlp
    points: dict[str, HookPoint] = {
        name: bridge.hook_dict[full]
        for name in ("gate.hook_out", "in.hook_out", "out.hook_in")
        if (full := f"blocks.{layer}.mlp.{name}") in bridge.hook_dict
    }
    if not {"in.hook_out", "out.hook_in"} <= set(points):
        raise ModelError(
            f"layer {layer}: its MLP is a {type(mlp).__name__} ({', '.join(mlp._modules)}), not an activation between two "
            "linear maps, so RelP has no rule for it; use another gradient"
        )
    seen: dict[str, Tensor] = {}

    def rule(y: Tensor) -> Tensor:
        if any(x.shape != y.shape for x in seen.values()) or len(seen) != len(points) - 1:
            raise ModelError(
                f"layer {layer}: its MLP is not elementwise between its linear maps; RelP has no rule for it"
            )
        applied.add(layer)
        if "gate.hook_out" in seen:
            return product_with_halved_factors(seen["gate.hook_out"], seen["in.hook_out"], y)
        return activation_with_constant_ratio(seen["in.hook_out"], y)

    before: list[Hook] = [
        (point, lambda x, name=name: seen.__setitem__(name, x))
        for name, point in points.items()
        if name != "out.hook_in"
    ]
    return [*before, (points["out.hook_in"], rule)]
