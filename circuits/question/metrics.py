"""Metrics: from the logits at the answer position to one number per prompt.

Every method estimates `metric(clean) - metric(clean with a part ablated)` in the metric's own unit. Each metric
declares which direction is more of the behaviour, and whether it has a gradient at the clean run, so that no method has
to guess.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.prompts.rows import Forced
from circuits.question.metric_values import check_function, check_known, values_of_own


@dataclass(frozen=True, eq=False)
class Targets:
    """A metric's inputs besides the logits, for one batch of pairs.

    The logits have one row per pair. With answers of several tokens (`forced`) they have one per read position, and ids and
    masks have a last axis over the tokens of an answer.

    Attributes:
        answers, answers_mask: token ids of the right answers; False where a row is padded.
        distractors, distractors_mask: token ids of the wrong answers, likewise.
        clean_logits: the model's logits on the clean prompts, if the metric needs them.
        index: indices of the pairs, from 0.
        forced: the read positions of answers of several tokens, see `circuits.prompts.sequences`.
    """

    answers: Int[Tensor, "pair n_answers *n_tokens"]
    answers_mask: Bool[Tensor, "pair n_answers *n_tokens"]
    distractors: Int[Tensor, "pair n_distractors *n_tokens_2"]
    distractors_mask: Bool[Tensor, "pair n_distractors *n_tokens_2"]
    clean_logits: Float[Tensor, "read d_vocab"] | None = None
    index: Int[Tensor, " pair"] | None = None
    forced: Forced | None = None

    @cached_property
    def clean_distribution(self) -> tuple[Float[Tensor, "read d_vocab"], Float[Tensor, "read d_vocab"]]:
        """Log-probabilities and probabilities of the clean run, in float32 or wider; a search reads them at every test."""
        assert self.clean_logits is not None
        log = self.clean_logits.to(torch.promote_types(self.clean_logits.dtype, torch.float32)).log_softmax(-1)
        return log, log.exp()

    def log_probabilities(
        self, logits: Float[Tensor, "read d_vocab"]
    ) -> tuple[Float[Tensor, "pair n_answers"], Float[Tensor, "pair n_distractors"]]:
        """Log-probabilities of the answers and of the distractors, each the sum over its tokens; -inf at padding."""
        known = logits.log_softmax(-1)
        return self._log_probabilities(known, "answers"), self._log_probabilities(known, "distractors")

    def of_answers(self, logits: Float[Tensor, "read d_vocab"]) -> Float[Tensor, "pair n_answers"]:
        """The first of `log_probabilities`."""
        return self._log_probabilities(logits.log_softmax(-1), "answers")

    def _log_probabilities(self, known: Float[Tensor, "read d_vocab"], side: str) -> Float[Tensor, "pair n_answers"]:
        tokens, mask = getattr(self, side), getattr(self, f"{side}_mask")
        if self.forced is None:
            return known.gather(1, tokens).masked_fill(~mask, -torch.inf)
        each = known[getattr(self.forced, side), tokens].masked_fill(~mask, 0.0)
        return each.sum(-1).masked_fill(~mask.any(-1), -torch.inf)

    def tokens_above(self, logits: Float[Tensor, "read d_vocab"]) -> Int[Tensor, "pair n_answers"]:
        """The number of tokens above the answer's, each token read behind those before it: the most over the answer's tokens.

        The comparison is negated, so that NaN is never a first choice. At padding it is the size of the vocabulary.
        """
        assert self.forced is not None
        chosen = logits[self.forced.answers, self.answers]
        above = (~(logits[self.forced.answers] <= chosen[..., None])).sum(-1).masked_fill(~self.answers_mask, 0)
        return above.amax(-1).masked_fill(~self.answers_mask.any(-1), logits.shape[1])

    def answer_entries(self, logits: Float[Tensor, "read d_vocab"]) -> Bool[Tensor, "read d_vocab"]:
        """True at the logits of the answers' tokens."""
        entries = torch.zeros_like(logits)
        if self.forced is None:
            return entries.scatter_add_(1, self.answers, self.answers_mask.to(logits.dtype)) > 0
        return entries.index_put_((self.forced.answers, self.answers), self.answers_mask.to(logits.dtype), True) > 0

    def among(self, tokens: Int[Tensor, " d_out"]) -> "Targets":
        """The same targets, for logits of these tokens only: in increasing order, with all answers and distractors."""
        clean = self.clean_logits
        return replace(
            self,
            answers=torch.searchsorted(tokens, self.answers),
            distractors=torch.searchsorted(tokens, self.distractors),
            clean_logits=None if clean is None else clean[:, tokens.to(clean.device)],
        )

    def per_pair(self, values: Float[Tensor, " read"]) -> Float[Tensor, " pair"]:
        """Sums over the read positions of each pair."""
        if self.forced is None:
            return values
        return values.new_zeros(len(self.answers)).index_add(0, self.forced.read_pair.to(values.device), values)


MetricFunction = Callable[[Float[Tensor, "read d_vocab"], Targets], Float[Tensor, " pair"]]


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
        sequences: whether it takes answers of several tokens, see `Targets`.
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
    sequences: bool = False

    @property
    def sign(self) -> int:
        """+1 if higher is more of the behaviour, else -1."""
        return 1 if self.higher_is_more else -1

    def __call__(self, logits: Float[Tensor, "read d_vocab"], targets: Targets) -> Float[Tensor, " pair"]:
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

    def tokens_read(self, targets: Targets) -> Int[Tensor, " d_out"] | None:
        """The tokens whose logits the metric reads, in increasing order; None: all of the vocabulary."""
        if not self.answers_only or targets.forced is not None:
            return None
        return torch.unique(torch.cat([targets.answers.flatten(), targets.distractors.flatten()]))

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
    if targets.forced is not None:
        return targets.of_answers(logits).exp().sum(-1)
    return _masked_sum(logits.softmax(-1).gather(1, targets.answers), targets.answers_mask)


def _log_probability(logits: Tensor, targets: Targets) -> Tensor:
    return targets.of_answers(logits).logsumexp(-1)


def _log_probability_difference(logits: Tensor, targets: Targets) -> Tensor:
    right, wrong = targets.log_probabilities(logits)
    return right.logsumexp(-1) - wrong.logsumexp(-1)


def _probability_difference(logits: Tensor, targets: Targets) -> Tensor:
    if targets.forced is not None:
        right, wrong = targets.log_probabilities(logits)
        return right.exp().sum(-1) - wrong.exp().sum(-1)
    probabilities = logits.softmax(-1)
    right = _masked_sum(probabilities.gather(1, targets.answers), targets.answers_mask)
    return right - _masked_sum(probabilities.gather(1, targets.distractors), targets.distractors_mask)


def _kl_divergence(logits: Tensor, targets: Targets) -> Tensor:
    clean, probability = targets.clean_distribution
    return targets.per_pair((probability * (clean - logits.log_softmax(-1))).sum(-1))


def _cross_entropy(logits: Tensor, targets: Targets) -> Tensor:
    return -_log_probability(logits, targets)


def _rank(logits: Tensor, targets: Targets) -> Tensor:
    if targets.forced is not None:
        return targets.tokens_above(logits).amin(-1).to(logits.dtype)
    best = logits.gather(1, targets.answers).masked_fill(~targets.answers_mask, -torch.inf).amax(-1, keepdim=True)
    return (logits > best).sum(-1).to(logits.dtype)


def _accuracy(logits: Tensor, targets: Targets) -> Tensor:
    if targets.forced is not None:
        right, wrong = (side.amax(-1) for side in targets.log_probabilities(logits))
        return (right > wrong).to(logits.dtype)
    right = logits.gather(1, targets.answers).masked_fill(~targets.answers_mask, -torch.inf).amax(-1)
    wrong = logits.gather(1, targets.distractors).masked_fill(~targets.distractors_mask, -torch.inf).amax(-1)
    return (right > wrong).to(logits.dtype)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("logit_difference", _logit_difference, unit="logits", needs_distractors=True, answers_only=True),
        Metric("probability", _probability, unit="probability", sequences=True),
        Metric("log_probability", _log_probability, unit="nats", sequences=True),
        Metric(
            "probability_difference",
            _probability_difference,
            unit="probability",
            needs_distractors=True,
            sequences=True,
        ),
        Metric(
            "log_probability_difference",
            _log_probability_difference,
            unit="nats",
            needs_distractors=True,
            sequences=True,
        ),
        Metric(
            "kl_divergence",
            _kl_divergence,
            higher_is_more=False,
            unit="nats",
            gradient_at_clean=False,
            needs_clean_logits=True,
            sequences=True,
        ),
        Metric("cross_entropy", _cross_entropy, higher_is_more=False, unit="nats", sequences=True),
        Metric("rank", _rank, higher_is_more=False, unit="tokens above", differentiable=False, sequences=True),
        Metric("accuracy", _accuracy, differentiable=False, needs_distractors=True, answers_only=True, sequences=True),
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
        batch.answers,
        batch.answers_mask,
        batch.distractors,
        batch.distractors_mask,
        clean_logits,
        batch.index,
        batch.forced,
    )
