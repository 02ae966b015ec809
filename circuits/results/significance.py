"""Intervals of mean effects over prompts, and the edges whose interval excludes zero.

`EdgeScores.interval` and `EdgeScores.significant` explain the options.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import InputError
from circuits.results.selection import Scored
from circuits.stats.bootstrap import bootstrap_interval, check_level, row_sizes, t_interval, t_p_values
from circuits.stats.rounding import computed_in
from circuits.workers.workers import Workers


@runtime_checkable
class Effects(Scored, Protocol):
    """The parts of `circuits.EdgeScores` that intervals use."""

    @property
    def n_prompts(self) -> int: ...
    @property
    def per_prompt(self) -> Float[Tensor, "row edge"] | None: ...
    @property
    def group(self) -> int: ...


def interval(
    scores: Effects, level: float, kind: str, resamples: int, seed: int, workers: Workers | None = None
) -> tuple[Float[Tensor, "writer reader"], Float[Tensor, "writer reader"]]:
    """See `EdgeScores.interval`."""
    if kind not in ("bootstrap", "t"):
        raise InputError(f"kind must be 'bootstrap' or 't', got {kind!r}")
    if kind == "t":
        return t_interval(scores.values, scores.stderr, scores.n_prompts, level)
    if scores.per_prompt is None:
        raise InputError("these scores do not hold effects per prompt, so nothing can be resampled; use kind='t'")
    sizes = row_sizes(scores.n_prompts, scores.group)
    ends = bootstrap_interval(scores.per_prompt.T, level, resamples, seed, sizes, workers)
    low, high = torch.zeros(2, *scores.values.shape, dtype=torch.float64)
    low[scores.graph.edge_mask], high[scores.graph.edge_mask] = ends
    return low, high


def significant(
    scores: Effects, level: float, kind: str, correction: str, resamples: int, seed: int
) -> tuple[Bool[Tensor, "writer reader"], dict[str, Any]]:
    """The significant edges, and the options for provenance; see `EdgeScores.significant`."""
    if scores.n_prompts < 2:
        raise InputError("significance needs the variance of effects over prompts; score at least two prompts")
    if correction not in ("none", "bonferroni", "bh"):
        raise InputError(f"correction must be 'none', 'bonferroni' or 'bh', got {correction!r}")
    if correction != "none" and kind == "bootstrap":
        raise InputError("a bootstrap cannot resolve corrected levels; use kind='t' with a correction")
    options = {"level": level, "kind": kind, "correction": correction}
    if kind == "t":
        check_level(level)
        tested = scores.candidates
        p = t_p_values(scores.values[tested], scores.stderr[tested], scores.n_prompts, correction)
        kept = torch.zeros_like(tested).masked_scatter_(tested, p < 1 - level)
    else:
        low, high = interval(scores, level, kind, resamples, seed)
        kept = (low > 0) | (high < 0)
        options |= {"resamples": resamples, "seed": seed}
    return kept & scores.candidates & _above_rounding(scores), options


def _above_rounding(scores: Effects) -> Bool[Tensor, "writer reader"]:
    """Edges whose effect exceeds the last digit of the largest; smaller effects are rounding, however steady."""
    size = scores.values.abs()
    return size > torch.finfo(computed_in(scores.values, scores.provenance)).eps * size.max()
