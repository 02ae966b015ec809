"""Runs in which the values of some nodes come from another run.

Several interventions share one pass, each with its own tile of the batch. The pass begins at the first layer that any
of them changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.architecture import Architecture
from circuits.engine.hooks import Hook, TokenBatch, run
from circuits.engine.inserted import edits, records
from circuits.engine.resume import BaseRun, resume
from circuits.graph.nodes import Site

Values = dict[tuple[int, str], Tensor]
"""(layer, hook point) -> the activation there, [batch, pos, …]."""


@dataclass(frozen=True, eq=False)
class Patch:
    """Replaces one node's value.

    Attributes:
        site: the node.
        tokens: True at the tokens where it is replaced; None: all.
    """

    site: Site
    tokens: Bool[Tensor, "batch pos"] | None = None


Intervention = Sequence[Patch]


class ValueRecorder:
    """Hooks that record the activations at some sites.

    Attributes:
        values: the activations, after a pass with the hooks.
    """

    def __init__(self, architecture: Architecture, sites: Sequence[Site]) -> None:
        self.values: Values = {}
        self._hooks = records(architecture, {(site.layer, site.point) for site in sites}, self.values.__setitem__)

    def hooks(self) -> list[Hook]:
        return self._hooks


def record_values(
    architecture: Architecture,
    batch: TokenBatch,
    sites: Sequence[Site],
    hooks: Sequence[Hook] = (),
    tokens: Int[Tensor, " d_out"] | None = None,
) -> tuple[Float[Tensor, "read d_out"], Values]:
    """Logits, and the activations at the sites, of one run under `hooks`; `tokens`: see `run`."""
    recorder = ValueRecorder(architecture, sites)
    with torch.no_grad():
        logits = run(architecture, batch, [*hooks, *recorder.hooks()], tokens)
    return logits, recorder.values


def changed_prompts(own: Values, source: Values, patches: Intervention, device: torch.device) -> Bool[Tensor, " row"]:
    """Whether an intervention changes anything in each row; if not, its effect is exactly zero."""
    changed = []
    for patch in patches:
        key = (patch.site.layer, patch.site.point)
        differs = own[key] != source[key]
        differs = differs[patch.site.where]
        differs = differs.reshape(*differs.shape[:2], -1).any(2).to(device)
        if patch.tokens is not None:
            differs = differs & patch.tokens.to(device)
        changed.append(differs.any(1))
    return torch.stack(changed).any(0)


def patched_logits(
    architecture: Architecture,
    base: BaseRun,
    values: Values,
    interventions: Sequence[Intervention],
    tokens: Int[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "intervention read d_out"]:
    """Logits of the base run under each intervention.

    Args:
        architecture: the model.
        base: the run that is changed.
        values: the source of the replacement values, for every hook point that is patched.
        interventions: each a set of simultaneous patches.
        tokens: see `run`.
    """
    hooks = patch_hooks(architecture, values, interventions)
    layers = [patch.site.layer for patches in interventions for patch in patches]
    first = min(layers, default=len(architecture.blocks) - 1)
    logits = resume(architecture, base, first, hooks, len(interventions), tokens)
    return logits.reshape(len(interventions), len(base.logits), -1)


def patch_hooks(architecture: Architecture, values: Values, interventions: Sequence[Intervention]) -> list[Hook]:
    """Hooks that apply each intervention to its own tile of the rows."""
    tiles = len(interventions)
    touched: dict[tuple[int, str], list[tuple[int, Patch]]] = {}
    for tile, patches in enumerate(interventions):
        for patch in patches:
            touched.setdefault((patch.site.layer, patch.site.point), []).append((tile, patch))
    changed = {
        key: lambda x, source=values[key], patches=patches: _replace(x, source, patches, tiles)
        for key, patches in touched.items()
    }
    return edits(architecture, changed)


def _replace(x: Tensor, source: Tensor, patches: Sequence[tuple[int, Patch]], tiles: int) -> Tensor:
    batch = len(source)
    x = x.clone().reshape(tiles, batch, *x.shape[1:])
    for tile, patch in patches:
        into, out_of = x[tile][patch.site.where], source[patch.site.where]
        if patch.tokens is None:
            into.copy_(out_of)
        else:
            tokens = patch.tokens.to(x.device).reshape(*patch.tokens.shape, *[1] * (into.ndim - 2))
            into.copy_(torch.where(tokens, out_of, into))
    return x.flatten(0, 1)
