"""Which ablations of circuits hurt which tasks, from metrics per prompt and without a model.

With m_j the metric of task j and ~C everything but the edges of C:

    effect[i, j] = (m_j(all) - m_j(~C_i)) / (m_j(all) - m_j(∅))          on means over the prompts of task j

is the share of task j that is lost without circuit i: 0 if nothing is lost, 1 if as much as with everything ablated.

**Double dissociation of i and j.** On more than half of the prompts of task i, ablating C_i costs more than ablating C_j by more than
`margin` of the task's metric range, and on task j the reverse. Each half is a sign test over prompts: exact for any distribution of
effects, and both circuits are compared on the same task, so that scales of tasks do not matter. Both halves must hold, so p is the
larger of the two p values (intersection-union test). The p values of all pairs of tasks are corrected by Holm's method, so that any
pair is named wrongly with a probability of at most 1 - level. Random circuits take no part in the test: each circuit is the other's
control. They are beside the effects, since a random circuit between the same layers may cost a task as much as its own circuit does,
by the MLPs that both have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.evaluation.hypothesis_statistics import binomial, holm
from circuits.evaluation.intervals import share_interval
from circuits.question.metric_range import MetricRange


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured on one task.

    Attributes:
        clean, ablated: metric per prompt of the model, and with everything ablated.
        without: metric per prompt without each circuit.
        random: mean metric without each random circuit of each circuit.
        rounding: rounding error of each prompt's metric.
    """

    clean: Float[Tensor, " prompt"]
    ablated: Float[Tensor, " prompt"]
    without: Float[Tensor, "circuit prompt"]
    random: Sequence[Tensor]
    rounding: Float[Tensor, " prompt"]

    @property
    def metric_range(self) -> MetricRange:
        return MetricRange.from_prompts(self.clean, self.ablated, self.rounding)

    def lost(self, means: Float[Tensor, " *axes"]) -> Float[Tensor, " *axes"]:
        """Means of the metric as the share of the task that is lost; NaN where the range is within rounding."""
        return 1 - self.metric_range.share(means)


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects of ablating each circuit (row) on each task (column).

    Attributes:
        effect: the share of the task that is lost; NaN where the range is within rounding.
        low, high: interval over the task's prompts, see `circuits.stats.ratio`.
        chance: mean effect of random circuits of the size of the row's circuit; NaN without any.
        chance_p: (1 + number of random circuits that cost at least as much) / (1 + number of random circuits); NaN without any.
        worse_p: [i, j]: p value of "ablating circuit j costs task j no more than ablating circuit i does"; NaN where i = j.
        double_p: p value of no double dissociation, corrected for the number of pairs; NaN where i = j.
        double: pairs of tasks that are doubly dissociated, by index.
    """

    effect: Float[Tensor, "circuit task"]
    low: Float[Tensor, "circuit task"]
    high: Float[Tensor, "circuit task"]
    chance: Float[Tensor, "circuit task"]
    chance_p: Float[Tensor, "circuit task"]
    worse_p: Float[Tensor, "circuit task"]
    double_p: Float[Tensor, "circuit task"]
    double: tuple[tuple[int, int], ...]


def effects(tasks: Sequence[Measured], margin: float, level: float, resamples: int, seed: int) -> Effects:
    """All effects and tests; see the module docstring."""
    n = len(tasks)
    effect = torch.stack([task.lost(task.without.mean(1)) for task in tasks], 1)
    ends = [_interval(task, level, resamples, seed) for task in tasks]
    low, high = (torch.stack(end, 1) for end in zip(*ends, strict=True))
    chance, chance_p = torch.full((2, n, n), torch.nan, dtype=torch.float64)
    for j, task in enumerate(tasks):
        for i, random in enumerate(task.random):
            if len(random):
                lost = task.lost(random)
                chance[i, j] = lost.mean()
                at_least = lost >= effect[i, j] - _rounding(task)
                chance_p[i, j] = torch.nan if chance[i, j].isnan() else (1 + at_least.sum()) / (1 + len(random))
    worse = torch.stack([_worse(task, j, margin) for j, task in enumerate(tasks)], 1)
    double_p = _double(worse)
    named = tuple((i, j) for i, j in combinations(range(n), 2) if float(double_p[i, j]) < 1 - level)
    return Effects(effect, low, high, chance, chance_p, worse, double_p, named)


def _rounding(task: Measured) -> float:
    width = abs(task.metric_range.clean - task.metric_range.ablated)
    return task.metric_range.rounding / width if width > 0 else 0.0


def _interval(
    task: Measured, level: float, resamples: int, seed: int
) -> tuple[Float[Tensor, " circuit"], Float[Tensor, " circuit"]]:
    """Interval of what is lost; NaN with one prompt, or where the range is within rounding."""
    kept = share_interval(task.without, task.clean, task.ablated, task.rounding, level, resamples, seed)
    return 1 - kept[1], 1 - kept[0]


def _worse(task: Measured, own: int, margin: float) -> Float[Tensor, " circuit"]:
    """p values of the sign tests that the task's own circuit costs it no more than each circuit does."""
    p = torch.full((len(task.without),), torch.nan, dtype=torch.float64)
    if task.metric_range.undefined is not None:
        return p
    width = task.metric_range.clean - task.metric_range.ablated
    more = (task.without - task.without[own]).double() / width
    tie = task.rounding.double() / abs(width)
    shares = (more > margin + tie).double().mean(1)
    p = binomial(shares, len(task.clean), 0.5, "greater")
    p[own] = torch.nan
    return p


def _double(worse: Float[Tensor, "circuit task"]) -> Float[Tensor, "circuit task"]:
    """The larger p value of both directions, corrected for the number of pairs; pairs that could not be tested count as 1."""
    both = torch.full_like(worse, torch.nan)
    pairs = list(combinations(range(len(worse)), 2))
    if pairs:
        p = torch.stack([torch.maximum(worse[i, j], worse[j, i]) for i, j in pairs]).nan_to_num(1.0)
        for (i, j), corrected in zip(pairs, holm(p).tolist(), strict=True):
            both[i, j] = both[j, i] = corrected
    return both


def least_prompts(n_tasks: int, level: float) -> int:
    """The smallest number of prompts of each task with which any double dissociation can be shown."""
    pairs = n_tasks * (n_tasks - 1) // 2
    return next(n for n in range(1, 100) if 0.5**n * pairs < 1 - level)
