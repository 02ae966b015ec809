"""Specificity of one circuit: what ablating it costs its own task and other tasks, beside random circuits.

`circuits.dissociate` compares the circuits of several tasks; this needs one circuit only. The circuit is *specific* if the lower end of
the interval of its own task is above the upper ends of all others. The intervals are those of `circuits.evaluation.intervals` at the
level 1 - (1 - level)/number of tasks (Bonferroni).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from circuits.evaluation.dissociation import Plan
from circuits.evaluation.dissociation_statistics import Measured
from circuits.evaluation.intervals import share_interval
from circuits.progress import Progress
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.provenance import finite

RESAMPLES = 4000
"""More than elsewhere, since the levels of the intervals are corrected for the number of tasks."""


@dataclass(frozen=True)
class Cost:
    """What ablating the circuit costs one task.

    Attributes:
        task: its name.
        effect: the share of the task that is lost.
        low, high: its interval.
        chance: mean effect of random circuits of equal size and layers; NaN without any.
    """

    task: str
    effect: float
    low: float
    high: float
    chance: float

    def to_dict(self) -> dict[str, Any]:
        return {name: value if isinstance(value, str) else finite(value) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Specificity:
    """The costs of one circuit.

    Attributes:
        own: for its own task.
        others: for other tasks.
        level: of all intervals together.
        left_out: tasks that were not measured, and why.
    """

    own: Cost
    others: tuple[Cost, ...]
    level: float
    left_out: dict[str, str]

    @property
    def specific(self) -> bool | None:
        """Whether more is lost of its own task than of any other, by intervals; None if an interval is missing or unbounded."""
        ends = [self.own.low, *(other.high for other in self.others)]
        if not all(math.isfinite(end) for end in ends) or not self.others:
            return None
        return all(self.own.low > other.high for other in self.others)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "own": self.own.to_dict(), "others": [other.to_dict() for other in self.others], "specific": self.specific,
            "level": self.level, "left_out": dict(self.left_out),
        }  # fmt: skip


def specificity_of(
    own: tuple[str, Question], others: Mapping[str, Question], circuit: Circuit, *, n_random: int = 5, level: float = 0.95,
    seed: int = 0, left_out: Mapping[str, str] | None = None, progress: Progress | None = None,
) -> Specificity:  # fmt: skip
    """Measures the costs of a circuit; other tasks whose metric has no range to divide by are left out."""
    plan = Plan.draw([circuit, Circuit.empty(circuit.graph)], 1.0, n_random, "same_layers", seed)
    missing, costs = dict(left_out or {}), []
    questions = {own[0]: own[1], **others}
    done, total = 0, sum(len(question.pairs) for question in questions.values())
    for name, question in questions.items():
        measured, _ = plan.parts(plan.measure(question))
        if measured.metric_range.undefined is not None and name != own[0]:
            missing[name] = measured.metric_range.undefined
        else:
            costs.append(cost(name, measured, 1 - (1 - level) / len(questions), seed))
        done += len(question.pairs)
        if progress is not None:
            progress(done, total)
    return Specificity(costs[0], tuple(costs[1:]), level, missing)


def cost(name: str, measured: Measured, level: float, seed: int) -> Cost:
    """The cost of the first circuit of a measurement."""
    kept = share_interval(
        measured.without[:1], measured.clean, measured.ablated, measured.rounding, level, resamples=RESAMPLES, seed=seed
    )
    effect = float(measured.lost(measured.without[:1].mean(1)))
    random = measured.random[0]
    chance = float(measured.lost(random).mean()) if len(random) else float(torch.nan)
    return Cost(name, effect, 1 - float(kept[1]), 1 - float(kept[0]), chance)
