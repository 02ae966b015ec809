"""The metric of runs with many components ablated at once, for one batch; each run has its own set.

`patch_runs` patches few nodes at chosen positions. Here a run ablates dozens of components at all positions, so each
hook point uses one masked copy for all of its components, and several sets share a pass as tiles. With positions, a component is a
node at the tokens of one position, and each node has as many components as there are positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.hooks import NO_LOGITS, Hook, TokenBatch, inference_state
from circuits.engine.inserted import edits
from circuits.engine.patch import ValueRecorder, Values, record_values
from circuits.engine.resume import BaseRun, resume
from circuits.errors import InputError
from circuits.graph.nodes import Site
from circuits.measure.patch_runs import TOKENS_AT_ONCE
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import Ablation, Mean, MeanPositional, RunAblation, Zero
from circuits.question.metric_values import checked_together
from circuits.question.positions import tokens_at
from circuits.question.question import Batch, Question


@dataclass(frozen=True, eq=False)
class Replacements:
    """Values that replace ablated components.

    Attributes:
        ablation: the question's ablation.
        sites: the components.
        means: mean values at their hook points, by prompt length (0: any length).
    """

    ablation: Ablation
    sites: tuple[Site, ...]
    means: dict[int, Values]

    @classmethod
    def prepare(cls, question: Question, sites: tuple[Site, ...]) -> "Replacements":
        """Computes what does not depend on the batch.

        Raises:
            InputError: a user-defined ablation, which is defined for writers only.
        """
        ablation, means = question.ablation, {}
        if isinstance(ablation, Mean | MeanPositional):
            reference = question.pairs if ablation.reference is None else ablation.reference
            means = _means(question.model, reference, question.batch_size, sites, isinstance(ablation, MeanPositional))
        elif not isinstance(ablation, RunAblation | Zero):
            raise InputError(f"components cannot be ablated by {ablation.name}, which defines values for writers only")
        return cls(ablation, sites, means)

    def values(self, question: Question, batch: Batch, own: Values) -> Values:
        """The values for one batch; `own`: the batch's clean values."""
        suffix = batch.suffix
        if isinstance(self.ablation, RunAblation):
            return self.ablation.values(question.model, suffix, self.sites, NO_LOGITS)[1]
        if isinstance(self.ablation, Zero):
            return {key: torch.zeros_like(value) for key, value in own.items()}
        length = suffix.start + suffix.clean.shape[1]
        means = self.means.get(length) or self.means[0]
        return {key: means[key].expand_as(value) for key, value in own.items()}


def _means(
    model: Model, reference: PromptPairs, batch_size: int, sites: tuple[Site, ...], by_length: bool
) -> dict[int, Values]:
    totals: dict[int, Values] = {}
    counts: dict[int, int] = {}
    with inference_state(model.bridge):
        for batch in reference.batches(batch_size, forced=False):
            batch = batch.to(model.device)
            tokens = TokenBatch(batch.clean, batch.position)
            _, values = record_values(model.architecture, tokens, sites, tokens=NO_LOGITS)
            group, axes = (batch.clean.shape[1], (0,)) if by_length else (0, (0, 1))
            total = totals.setdefault(group, {})
            for key, value in values.items():
                summed = value.to(torch.promote_types(value.dtype, torch.float32)).sum(axes, keepdim=True)
                total[key] = total[key] + summed if key in total else summed
            counts[group] = counts.get(group, 0) + (len(batch.clean) if by_length else batch.clean.numel())
    return {
        group: {key: (value / counts[group]).to(model.dtype) for key, value in total.items()}
        for group, total in totals.items()
    }


@dataclass(frozen=True, eq=False)
class ComponentRuns:
    """A batch whose components can be ablated.

    Attributes:
        question: model, pairs, metric and ablation.
        batch: some of its pairs.
        sites: the nodes of the components.
        base: the clean run.
        values: the replacement values, by hook point.
        clean: the metric of the clean run, without `Metric.sign`.
        tokens: the tokens of each position, where components are ablated; None: at all tokens.
    """

    question: Question
    batch: Batch
    sites: tuple[Site, ...]
    base: BaseRun
    values: Values
    clean: Float[Tensor, " pair"]
    tokens: Bool[Tensor, "position batch pos"] | None = None

    @classmethod
    def prepare(
        cls, question: Question, batch: Batch, replacements: Replacements, positions: tuple[str, ...] | None = None
    ) -> "ComponentRuns":
        """Makes the clean run and the replacement values."""
        sites = replacements.sites
        own = ValueRecorder(question.model.architecture, sites)
        base = question.base_run(batch, own.hooks())
        values = replacements.values(question, batch, own.values)
        tokens = None
        if positions is not None:
            tokens = torch.stack([tokens_at(label, batch, question.pairs) for label in positions])
        return cls(question, batch, sites, base, values, question.clean_metric(batch, base.logits), tokens)

    @property
    def n_positions(self) -> int:
        """Components of each node."""
        return 1 if self.tokens is None else len(self.tokens)

    def metrics(self, ablated: Bool[Tensor, "sample component"]) -> Float[Tensor, "sample pair"]:
        """The metric with components ablated; each row of `ablated` is one set. The positions of a node are neighbours."""
        metrics, ablated = self.clean.repeat(len(ablated), 1), ablated.cpu()
        layers = torch.tensor([site.layer for site in self.sites]).repeat_interleave(self.n_positions)
        first = torch.where(ablated, layers, len(self.base.resid_pre)).amin(1)
        order = first.argsort(stable=True)
        order = order[first[order] < len(self.base.resid_pre)]
        tiles = max(1, TOKENS_AT_ONCE // self.batch.n_tokens)
        architecture = self.question.model.architecture
        for chunk in order.split(tiles) if len(order) else ():
            hooks = self._hooks(ablated[chunk])
            logits = resume(architecture, self.base, int(first[chunk[0]]), hooks, len(chunk), self.batch.tokens)
            logits = logits.reshape(len(chunk), len(self.base.logits), -1)
            with checked_together():
                for i, row in zip(chunk.tolist(), logits, strict=True):
                    metrics[i] = self.question.metric_of(self.batch, row)
        return metrics

    def _hooks(self, ablated: Bool[Tensor, "tile component"]) -> list[Hook]:
        at_positions = ablated.unflatten(1, (-1, self.n_positions))
        by_point: dict[tuple[int, str], list[int]] = {}
        for i, site in enumerate(self.sites):
            by_point.setdefault((site.layer, site.point), []).append(i)
        changes: dict[tuple[int, str], Callable[[Tensor], Tensor]] = {}
        for key, nodes in by_point.items():
            some = at_positions[:, nodes]
            if some.any():
                value = self.values[key]
                mask = self._mask(some.to(value.device), [self.sites[i] for i in nodes], value.shape[2:])
                changes[key] = lambda x, mask=mask, value=value: _ablate(x, value, mask)
        return edits(self.question.model.architecture, changes)

    def _mask(
        self, ablated: Bool[Tensor, "tile some position"], sites: Sequence[Site], shape: torch.Size
    ) -> Bool[Tensor, "tile #batch #pos *entry"]:
        """Which entries of an activation [tile, batch, pos, …] are replaced."""
        masks = [_mask(some, sites, shape) for some in ablated.unbind(2)]
        if self.tokens is None:
            return masks[0]
        here = self.tokens.to(ablated.device).reshape(*self.tokens.shape, *[1] * len(shape))
        total = masks[0] & here[0]
        for mask, tokens in zip(masks[1:], here[1:], strict=True):
            total |= mask & tokens
        return total


def _mask(
    ablated: Bool[Tensor, "tile some"], sites: Sequence[Site], shape: torch.Size
) -> Bool[Tensor, "tile #batch #pos *entry"]:
    """Which entries of an activation [tile, batch, pos, …] are replaced."""
    heads, entries = (
        any(kind) for kind in zip(*((s.index is not None, s.entry is not None) for s in sites), strict=True)
    )
    sizes = shape if entries else ((shape[0] if heads else 1), *[1] * (len(shape) - 1))
    mask = ablated.new_zeros(len(ablated), 1, 1, *sizes)
    for depth, which in _by_depth(sites).items():
        some = ablated[:, which]
        if depth == 0:
            mask |= some.any(1).reshape(-1, *[1] * (mask.ndim - 1))
            continue
        index = [sites[i].index for i in which]
        at = (index,) if depth == 1 else (index, [sites[i].entry for i in which])
        mask[:, 0, 0, *at] |= some.reshape(*some.shape, *[1] * (mask.ndim - 3 - depth))
    return mask


def _by_depth(sites: Sequence[Site]) -> dict[int, list[int]]:
    """Indices of the sites that are a whole activation (0), a part of it (1), or an entry of a part (2)."""
    by_depth: dict[int, list[int]] = {}
    for i, site in enumerate(sites):
        by_depth.setdefault((site.index is not None) + (site.entry is not None), []).append(i)
    return by_depth


def _ablate(x: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    tiles = x.reshape(len(mask), len(value), *x.shape[1:])
    return torch.where(mask, value, tiles).reshape(x.shape)
