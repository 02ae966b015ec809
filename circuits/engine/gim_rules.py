"""Backward rules of GIM, gradient interaction modifications (Edin et al. 2025, 2505.17630): only the backward pass changes.

With sg(·) = stop gradient, c ⊙ x = "x, with c times its gradient", and the authors' defaults:

    norm           y = w · (x - mean) · sg(r) + b                    the scale is a constant
    softmax        a gradient g at the pattern s is s' · (g - Σ s' · g) at the scores, with s' = softmax(scores / 2)
    attention      z = pattern(¼ ⊙ q, ¼ ⊙ k) · (½ ⊙ v)
    gated MLP      act(½ ⊙ gate) · (½ ⊙ up)

If two keys carry the same information, the softmax moves its weight from one to the other when either is ablated, and neither has an
effect of its own (attention self-repair). The higher temperature spreads the gradient over the keys that would take over. The factors
divide the gradient of a product among its inputs: half for v and half for the pattern, and half of that for q and for k.

The backward softmax has no factor 1/temperature, as in the authors' code (github.com/corticph/gim at 7e31c65, after 0.1.4: releases up to
0.1.4 do not scale gated MLPs). Where its paths for Hugging Face and for TransformerLens models differ, these rules apply everything
that either applies to its attention and norms. MLPs without a gate are not scaled, as in its path for Hugging Face; its path for
TransformerLens halves their gradient too, because there `hook_pre` names both the gate and the hidden units of an MLP without one.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from circuits.engine.architecture import Architecture, Block
from circuits.engine.attention import SOFTMAX
from circuits.engine.capture import Gradients
from circuits.engine.constant_norms import constant_norms, valued
from circuits.engine.hooks import Hook
from circuits.errors import InputError, ModelError


@dataclass(frozen=True)
class GimRules:
    """The options of GIM, with the authors' defaults. A factor of 1 and a temperature of 1 switch a rule off.

    Attributes:
        freeze_norm: the scale of a norm has no gradient.
        softmax_temperature: temperature of the attention's softmax in the backward pass.
        q_scale, k_scale, v_scale: factors of the gradients at queries, keys and values.
        gate_scale, up_scale: factors of the gradients at the two inputs of a gated MLP's product: before the gate's
            activation, and at the other factor.

    Raises:
        InputError: a temperature that is not positive, or a negative factor.
    """

    freeze_norm: bool = True
    softmax_temperature: float = 2.0
    q_scale: float = 0.25
    k_scale: float = 0.25
    v_scale: float = 0.5
    gate_scale: float = 0.5
    up_scale: float = 0.5

    def __post_init__(self) -> None:
        for name in [one.name for one in fields(self) if one.name.endswith("_scale")]:
            value = getattr(self, name)
            if not (0 <= value < math.inf):
                raise InputError(f"{name} must be a finite number of at least 0, got {value}")
        if not 0 < self.softmax_temperature < math.inf:
            raise InputError(f"softmax_temperature must be a positive number, got {self.softmax_temperature}")


class _WarmSoftmax(TorchFunctionMode):
    """While active, the softmax of every attention has the derivative of a softmax at another temperature.

    Attributes:
        layers: the layers whose attention passed it, after a run with `hooks`.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.layers: set[int] = set()
        self._temperature = temperature
        self._passed = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        pattern = func(*args, **kwargs)
        if func not in SOFTMAX or pattern.ndim != 4:
            return pattern
        self._passed = True
        scores, *others = args if args else (kwargs.pop("input"),)
        return valued(pattern, self._temperature * func(scores / self._temperature, *others, **kwargs))

    def hooks(self, architecture: Architecture) -> list[Hook]:
        return [(block.z, partial(self._after, block.layer)) for block in architecture.blocks]

    def _after(self, layer: int, z: Tensor) -> None:
        if self._passed:
            self.layers.add(layer)
        self._passed = False


@dataclass(frozen=True, eq=False)
class GimRun:
    """A model under the rules; yielded by `interaction_modified`.

    Attributes:
        rules: the options.
        architecture: the model's, with norms whose `vjp` follows the rule.
        hooks: the other rules; they must run first.
        softmax: the changed softmax; None at temperature 1.
        scaled: (layer, part) of the gated MLPs through which a gradient came back scaled.
    """

    rules: GimRules
    architecture: Architecture
    hooks: tuple[Hook, ...]
    softmax: _WarmSoftmax | None
    scaled: set[tuple[int, str]] = field(default_factory=set)

    def at_readers(self, gradients: Gradients) -> Gradients:
        """Gradients with the factors of queries, keys and values.

        The hooks apply these on the way back to the residual stream, after the points at which gradients are recorded.

        Raises:
            ModelError: a rule was not on the path from the logits to the embedding.
        """
        for block, mlp in zip(self.architecture.blocks, gradients.mlp_in, strict=True):
            if self.softmax is not None and block.layer not in self.softmax.layers:
                raise ModelError(
                    f"layer {block.layer}: no softmax over attention scores was seen, so GIM has no rule for it"
                )
            wanted = {(block.layer, part) for part in _scaled_parts(self.rules, block)}
            if mlp is not None and mlp.any() and not wanted <= self.scaled:
                raise ModelError(f"layer {block.layer}: its MLP does not pass its hooks, so GIM's rules cannot apply")
        q, k, v = self.rules.q_scale, self.rules.k_scale, self.rules.v_scale
        return replace(
            gradients,
            q=_times(gradients.q, q),
            k=_times(gradients.k, k),
            v=_times(gradients.v, v),
            k_by_query=_times(gradients.k_by_query, k),
            v_by_query=_times(gradients.v_by_query, v),
        )


def _times(values: Any, factor: float) -> Any:
    return None if values is None else tuple(value * factor for value in values)


@contextmanager
def interaction_modified(architecture: Architecture, rules: GimRules) -> Iterator[GimRun]:
    """The model under GIM's rules, within the context.

    Raises:
        ModelError: a norm of an unknown kind, or an MLP that is not an activation between two linear maps (experts);
            the message names the layer.
    """
    scaled: set[tuple[int, str]] = set()
    hooks: list[Hook] = []
    for block in architecture.blocks:
        for part in "qkv":
            hooks.append((getattr(block, part), partial(_scaled, getattr(rules, f"{part}_scale"))))
        for part, factor in _scaled_parts(rules, block).items():
            point = getattr(block, part)
            hooks.append((point, partial(_scaled_and_noted, factor, scaled, (block.layer, part))))
    softmax = None if rules.softmax_temperature == 1 else _WarmSoftmax(rules.softmax_temperature)
    norms = constant_norms(architecture, "GIM") if rules.freeze_norm else nullcontext(architecture)
    with norms as under_rules, softmax or nullcontext():
        if softmax is not None:
            hooks += softmax.hooks(architecture)
        yield GimRun(rules, under_rules, tuple(hooks), softmax, scaled)


def _scaled_parts(rules: GimRules, block: Block) -> dict[str, float]:
    """The factors of a gated MLP's two inputs; empty without a gate."""
    factors = {"gate": rules.gate_scale, "inner": rules.up_scale}
    if block.mlp_in is None or factors == {"gate": 1, "inner": 1}:
        return {}
    if block.inner is None:
        raise ModelError(
            f"layer {block.layer}: its MLP is a {type(block.module.mlp).__name__}, not an activation between two linear maps, so "
            "GIM has no rule for it; use another gradient, or gate_scale=1 and up_scale=1"
        )
    return factors if block.gate is not None else {}


def _scaled(factor: float, x: Tensor) -> Tensor:
    return valued(x, factor * x)


def _scaled_and_noted(factor: float, scaled: set[tuple[int, str]], key: tuple[int, str], x: Tensor) -> Tensor:
    y = _scaled(factor, x)
    if y.requires_grad:
        y.register_hook(lambda gradient: scaled.add(key))
    return y
