"""Metrics: from the logits at the answer position to one number per prompt.

Every method estimates `metric(clean) - metric(clean with a part ablated)` in the metric's own unit. Each metric
declares which direction is more of the behaviour, and whether it has a gradient at the clean run, so that no method has
to guess.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.question.metric_values import check_function, check_known, values_of_own


@dataclass(frozen=True, eq=False)
class Targets:
    """A metric's inputs besides the logits, for one batch of pairs.

    Attributes:
        answers, answers_mask: token ids of the right answers; False where a row is padded.
        distractors, distractors_mask: token ids of the wrong answers, likewise.
        clean_logits: the model's logits on the clean prompts, if the metric needs them.
        index: indices of the pairs, from 0.
    """

    answers: Int[Tensor, "batch n_answers"]
    answers_mask: Bool[Tensor, "batch n_answers"]
    distractors: Int[Tensor, "batch n_distractors"]
    distractors_mask: Bool[Tensor, "batch n_distractors"]
    clean_logits: Float[Tensor, "batch d_vocab"] | None = None
    index: Int[Tensor, " batch"] | None = None


MetricFunction = Callable[[Float[Tensor, "batch d_vocab"], Targets], Float[Tensor, " batch"]]


@dataclass(frozen=True)
class Metric:
    """A named metric.

    Attributes:
        name: the name in files and on the command line.
        function: logits and targets -> one number per prompt.
        higher_is_more: whether a higher value is more of the behaviour; effects are signed: positive = helps.
        unit: the unit of its values.
        gradient_at_clean: whether its gradient at the clean run is informative. A divergence from the clean logits has
            its minimum there, so its gradient is zero.
        differentiable: whether it has a gradient at all.
        needs_clean_logits: whether `Targets.clean_logits` must be given.
        needs_distractors: whether every pair must have distractors.
        answers_only: whether it uses only the logits of answers and distractors, so that no others need be computed.
    """

    name: str
    function: MetricFunction
    higher_is_more: bool = True
    unit: str = ""
    gradient_at_clean: bool = True
    differentiable: bool = True
    needs_clean_logits: bool = False
    needs_distractors: bool = False
    answers_only: bool = False

    @property
    def sign(self) -> int:
        """+1 if higher is more of the behaviour, else -1."""
        return 1 if self.higher_is_more else -1

    def __call__(self, logits: Float[Tensor, "batch d_vocab"], targets: Targets) -> Float[Tensor, " batch"]:
        """One number per prompt, in float32 or wider.

        Raises:
            InputError: the function fails or returns unusable values; see `circuits.question.metric_values`.
        """
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if METRICS.get(self.name) is not self:
            return values_of_own(self.name, self.function, wide, targets)
        values = self.function(wide, targets)
        check_known(self.name, values, targets)
        return values

    def require_gradient(self, method: str, at_clean: bool = True) -> None:
        """Raises InputError, with the reason, if a gradient method cannot use the metric."""
        if not self.differentiable:
            raise InputError(f"{method} needs a gradient, and {self.name} has none; use for example logit_difference")
        if at_clean and not self.gradient_at_clean:
            raise InputError(
                f"{method} takes the gradient at the clean run, where {self.name} has its minimum: the gradient and so "
                f"every score is zero. Use another metric (logit_difference), or integrate (eap-ig)"
            )


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def _masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(-1)


def _logit_difference(logits: Tensor, targets: Targets) -> Tensor:
    right = _masked_mean(logits.gather(1, targets.answers), targets.answers_mask)
    return right - _masked_mean(logits.gather(1, targets.distractors), targets.distractors_mask)


def _probability(logits: Tensor, targets: Targets) -> Tensor:
    return _masked_sum(logits.softmax(-1).gather(1, targets.answers), targets.answers_mask)


def _log_probability(logits: Tensor, targets: Targets) -> Tensor:
    log_probabilities = logits.log_softmax(-1).gather(1, targets.answers)
    return log_probabilities.masked_fill(~targets.answers_mask, -torch.inf).logsumexp(-1)


def _probability_difference(logits: Tensor, targets: Targets) -> Tensor:
    probabilities = logits.softmax(-1)
    right = _masked_sum(probabilities.gather(1, targets.answers), targets.answers_mask)
    return right - _masked_sum(probabilities.gather(1, targets.distractors), targets.distractors_mask)


def _kl_divergence(logits: Tensor, targets: Targets) -> Tensor:
    assert targets.clean_logits is not None
    clean = targets.clean_logits.to(logits.dtype).log_softmax(-1)
    return (clean.exp() * (clean - logits.log_softmax(-1))).sum(-1)


def _cross_entropy(logits: Tensor, targets: Targets) -> Tensor:
    return -_log_probability(logits, targets)


def _rank(logits: Tensor, targets: Targets) -> Tensor:
    best = logits.gather(1, targets.answers).masked_fill(~targets.answers_mask, -torch.inf).amax(-1, keepdim=True)
    return (logits > best).sum(-1).to(logits.dtype)


def _accuracy(logits: Tensor, targets: Targets) -> Tensor:
    right = logits.gather(1, targets.answers).masked_fill(~targets.answers_mask, -torch.inf).amax(-1)
    wrong = logits.gather(1, targets.distractors).masked_fill(~targets.distractors_mask, -torch.inf).amax(-1)
    return (right > wrong).to(logits.dtype)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("logit_difference", _logit_difference, unit="logits", needs_distractors=True, answers_only=True),
        Metric("probability", _probability, unit="probability"),
        Metric("log_probability", _log_probability, unit="nats"),
        Metric("probability_difference", _probability_difference, unit="probability", needs_distractors=True),
        Metric(
            "kl_divergence",
            _kl_divergence,
            higher_is_more=False,
            unit="nats",
            gradient_at_clean=False,
            needs_clean_logits=True,
        ),
        Metric("cross_entropy", _cross_entropy, higher_is_more=False, unit="nats"),
        Metric("rank", _rank, higher_is_more=False, unit="tokens above", differentiable=False),
        Metric("accuracy", _accuracy, differentiable=False, needs_distractors=True, answers_only=True),
    )
}


MetricLike = str | Metric | MetricFunction
"""The name of a metric, a `Metric`, or a function."""


def get_metric(metric: MetricLike) -> Metric:
    """Returns a metric given by name, as a `Metric`, or as a function of (logits, targets) -> one number per prompt.

    For a function, higher values count as more of the behaviour; wrap it in a `Metric` to change that.

    Raises:
        InputError: an unknown name (similar ones are suggested), or a function that does not take these arguments.

    >>> get_metric("logit_difference").unit
    'logits'
    """
    if isinstance(metric, Metric):
        check_function(metric.name, metric.function)
        return metric
    if callable(metric):
        name = _name_of(metric)
        check_function(name, metric)
        return Metric(name, metric)
    if isinstance(metric, str) and metric in METRICS:
        return METRICS[metric]
    near = get_close_matches(str(metric), METRICS, n=2)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise InputError(f"there is no metric {metric!r}{hint} (one of {', '.join(METRICS)})")


def _name_of(function: Callable[..., Any]) -> str:
    """A user's metric's name in errors and provenance: a partial's function, an object's class."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def targets_of(batch: Any, clean_logits: Tensor | None = None) -> Targets:
    """The targets of a `PairBatch`."""
    return Targets(
        batch.answers, batch.answers_mask, batch.distractors, batch.distractors_mask, clean_logits, batch.index
    )
