"""The metric's range m(all) - m(∅), and whether it is large enough to divide by: the only definition of that.

Faithfulness and similar shares divide by this range. If clean and corrupted prompts give the same metric,
this difference is rounding error and the quotient is arbitrary. The size of the rounding error follows from the
computation:

    rounding = how far the metric moves when the logits move by ROUNDING[dtype] × the largest logit

on each prompt; for means over prompts, its mean. It is thus relative to the scale of the metric, for every metric (also
for a divergence, which is 0 at the clean logits), and depends on the dtype of the computation: float64 models that
compute norms and softmax in float32 count as float32. A share of a range within rounding is undefined.

Without logits (scores read from a file), the rounding is ROUNDING[dtype] × the larger of the two metrics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.stats.rounding import ROUNDING

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.question.metrics import Metric, Targets

CLEARLY = 2
"""A range of fewer standard errors than this is reported as close to 0."""
_WIDE_ERROR = 1e-10
"""A float64 model with a larger error in its check computes some parts in float32."""


def computed_dtype(model: "Model") -> torch.dtype:
    """The dtype of a model's computation; some models with float64 weights compute norms and softmax in float32."""
    report = model.report
    coarse = max(report.residual, report.all_kept, report.none_kept) > _WIDE_ERROR
    return torch.float32 if model.dtype == torch.float64 and coarse else model.dtype


def rounding_share(model: "Model") -> float:
    """`ROUNDING` of a model's computation."""
    return ROUNDING[computed_dtype(model)]


def metric_rounding(
    metric: "Metric", logits: Float[Tensor, "read d_vocab"], targets: "Targets", share: float
) -> Float[Tensor, " pair"]:
    """How far rounding may move the metric on each prompt; see the module docstring.

    Args:
        metric, logits, targets: the measurement.
        share: from `rounding_share`.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    largest = wide.masked_fill(~wide.isfinite(), 0).abs().amax(1, keepdim=True)
    own = metric(wide, targets)
    answers = targets.answer_entries(wide)
    odd = (torch.arange(wide.shape[1], device=wide.device) % 2).bool().expand_as(wide)
    moved = [
        (metric(wide + torch.where(up, 1.0, -1.0) * share * largest, targets) - own).abs()
        for up in (answers, ~answers, odd)
    ]
    worst = torch.stack(moved).amax(0)
    if metric.needs_clean_logits:
        # Near the clean logits a divergence moves with the square of the step; cancellation in its logarithms remains.
        sizes = largest[:, 0] + math.log(wide.shape[1])
        worst = worst.clamp(min=8 * torch.finfo(wide.dtype).eps * targets.per_pair(sizes))
    return worst.nan_to_num(0.0).detach()


def assumed_rounding(
    clean: Float[Tensor, " prompt"], ablated: Float[Tensor, " prompt"], origin: Mapping[str, Any] | None = None
) -> Float[Tensor, " prompt"]:
    """Rounding on each prompt if only the metric is known.

    Args:
        clean, ablated: the metric in both runs.
        origin: their provenance, which names dtype and metric; None: float64.
    """
    from circuits.question.metrics import METRICS

    share, metric = share_known(origin), METRICS.get(str((origin or {}).get("metric")))
    largest = torch.maximum(clean.abs(), ablated.abs())
    divergence = metric is not None and metric.needs_clean_logits
    return share * (
        largest.clamp(min=1.0) if divergence else largest
    )  # it is 0 at the clean logits, whatever their size


def share_known(origin: Mapping[str, Any] | None) -> float:
    """`ROUNDING` of the computation that a provenance describes; without a provenance, of float64."""
    name = "float64" if origin is None else str(origin.get("computed_in") or origin.get("dtype") or "float64")
    return ROUNDING.get(getattr(torch, name, torch.float32), ROUNDING[torch.float32])


def share_of_range(part: Tensor, clean: Tensor, ablated: Tensor, rounding: Tensor | float) -> Tensor:
    """(part - ablated) / (clean - ablated); NaN if the denominator is within rounding."""
    full = clean - ablated
    return torch.where(full.abs() > rounding, (part - ablated) / full, torch.nan)


@dataclass(frozen=True)
class MetricRange:
    """The range of the metric between the whole model and the ablated one, on means over prompts, to divide by.

    Attributes:
        clean, ablated: the means.
        rounding: the part of their difference that may be rounding error.
        stderr: the standard error of their difference over prompts; NaN with a single prompt.
    """

    clean: float
    ablated: float
    rounding: float
    stderr: float = math.nan

    @classmethod
    def from_prompts(
        cls,
        clean: Float[Tensor, " prompt"],
        ablated: Float[Tensor, " prompt"],
        rounding: Float[Tensor, " prompt"] | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> "MetricRange":
        """From the metric per prompt; `rounding` None: `assumed_rounding`."""
        known = assumed_rounding(clean, ablated, origin) if rounding is None else rounding
        change = clean - ablated
        stderr = float(change.std() / len(change) ** 0.5) if len(change) > 1 else math.nan
        return cls(float(clean.mean()), float(ablated.mean()), float(known.mean()), stderr)

    @property
    def near_zero(self) -> str | None:
        """Why shares of the range mean little although they are defined; None if the range is clearly not 0."""
        difference = self.clean - self.ablated
        if self.undefined is not None or not abs(difference) < CLEARLY * self.stderr:
            return None
        return (
            f"the metric is {self.clean:.4g} on the clean prompts and {self.ablated:.4g} with everything ablated: the difference of "
            f"{difference:.2g} is less than {CLEARLY} of its standard errors ({self.stderr:.2g}) from 0, so that shares of it, such as "
            "faithfulness, can have any size and sign (take a task that the model does, or more pairs)"
        )

    @property
    def undefined(self) -> str | None:
        """Why the range cannot be divided by; None if it can, or if nothing was measured (NaN)."""
        difference = abs(self.clean - self.ablated)
        if not difference <= self.rounding:
            return None
        return (
            f"the metric is {self.clean:.4g} on the clean prompts and {self.ablated:.4g} with everything ablated; they differ by "
            f"{difference:.1g}, and up to {self.rounding:.1g} is rounding, so that faithfulness and other shares of it are not defined "
            "(are the clean and corrupted prompts the same?)"
        )

    def share(self, part: Float[Tensor, " *axes"]) -> Float[Tensor, " *axes"]:
        """Each mean as a share of the range; NaN if that is within rounding."""
        ends = torch.tensor([self.clean, self.ablated], dtype=torch.float64)
        return share_of_range(part.double(), ends[0], ends[1], self.rounding)
