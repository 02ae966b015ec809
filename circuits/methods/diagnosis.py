"""Bounds on the effects of unpatched nodes, from random subsets (Kramár et al. 2024, 2403.00745, "Diagnostics").

Each node of a set N is put into a random subset S with probability p, independently, and the subset is patched jointly. With
f(S) = metric(clean) - metric(clean, S <- corrupted), node n's *average effect* is

    Δ(n) = E[f(S) | n ∈ S] - E[f(S) | n ∉ S] = E over S without n of  f(S ∪ {n}) - f(S)

It is the effect of patching n when each other node of N is already patched with probability p. If effects are additive, it is n's
effect alone, f({n}), for every p. If they are not, it is that only in the limit p -> 0: a node that another one backs up has a
small effect alone and a larger one on average, and a node in series with others (a head and its own query) has a smaller one on
average. No number of samples distinguishes the two.

An upper limit of |Δ(n)| must also hold for combinations that were not sampled. With d the difference between the mean outcomes of
the m samples with n and of those without it, at confidence 1 - α:

    |Δ(n)| ≤ |d| + t·se + (1 - α^(1/m)) · spread + p² · largest

t·se is the larger margin of Welch's and of Student's comparison (`circuits.stats.welch`). *spread* and *largest* come from joint sets
(`circuits.measure.joint_sets`). The spread estimates how much the marginal effect of a node depends on which other nodes are
patched. A combination of other nodes that all m samples with n missed has probability at most 1 - α^(1/m), except with probability
α; the third term bounds n's effect there. The last term covers three or more nodes that act only together: each needs two others,
which are patched with probability p².

The remaining assumption: an effect that depends on other nodes also does so when half or a quarter of all nodes is patched at once.
Two nodes that back each other up only while nearly all others are intact, because the metric saturates otherwise, can be missed.
Also, t·se is approximate; `benchmarks/verification.py --bounds` counts how often bounds fail on adversarial functions.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.measure.joint_sets import Spread, leading_joint_sets, spread_of
from circuits.plain_torch import plain_methods
from circuits.results.provenance import Provenance, frozen
from circuits.shown import Shown
from circuits.stats.welch import Differences, differences

SIZES = ("mean", "contribution")
"""The size of an effect: the absolute value of its mean over prompts, or (as AtP* ranks) the mean over prompts of its absolute
value."""

ASSUMPTION = (
    "interactions among nodes that were not patched show when half or a quarter of these nodes is patched at once; nodes that "
    "back each other up only while nearly all others are intact can be missed"
)
"""The assumption of every bound and interval."""


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis(Shown):
    """Samples of random subsets, and the estimates and bounds from them.

    Attributes:
        nodes: the set from which subsets were drawn.
        included: the nodes in each subset; joint sets first, see `circuits.measure.subsets.draw_subsets`.
        outcomes: f(S), per subset and prompt, in the metric's unit; positive = the subset helps.
        confidence: confidence of intervals and bounds.
        size: definition of the size of an effect, see `SIZES`.
        provenance: origin of the numbers.
    """

    nodes: tuple[str, ...]
    included: Bool[Tensor, "sample node"]
    outcomes: Float[Tensor, "sample prompt"]
    confidence: float = 0.95
    size: str = "mean"
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        check_size(self.size)

    @cached_property
    def n_joint(self) -> int:
        """Number of joint sets."""
        return leading_joint_sets(self.included)

    @property
    def n_samples(self) -> int:
        """Number of random subsets."""
        return len(self.outcomes) - self.n_joint

    @property
    def counts(self) -> Int[Tensor, " node"]:
        """Number of random subsets that contain each node."""
        return self.included[self.n_joint :].sum(0)

    @property
    def estimates(self) -> Float[Tensor, " node"]:
        """Unbiased estimates of Δ, averaged over the prompts; NaN if all subsets contain the node, or none does."""
        return self._differences(self._mean).mean[:, 0]

    @property
    def interactions(self) -> Spread | None:
        """Spread of the joint sets, averaged over the prompts; None without joint sets."""
        return spread_of(self._mean[: self.n_joint]) if self.n_joint else None

    @property
    def reason(self) -> str | None:
        """Why there is no bound; None if there is one."""
        if not self.nodes:
            return None
        if not self.n_joint:
            return "no joint sets were measured, so nodes that act only together may have been missed"
        counts = self.counts
        few = (counts < 2) | (counts > self.n_samples - 2)
        if bool(few.any()):
            return f"too few samples: {int(few.sum())} of {len(self.nodes)} nodes are in fewer than two, or missing from fewer than two"
        return None if bool(self.outcomes.isfinite().all()) else "some outcomes are not finite"

    def interval(
        self, confidence: float | None = None, simultaneous: bool = False
    ) -> tuple[Float[Tensor, " node"], Float[Tensor, " node"]]:
        """Two-sided interval for each node's Δ, averaged over the prompts; infinite if fewer than two subsets contain the node, if
        fewer than two do not, or without joint sets.

        Args:
            confidence: for a node chosen beforehand; None: the diagnosis' own.
            simultaneous: hold for all nodes at once with that confidence (Bonferroni).
        """
        confidence = self.confidence if confidence is None else confidence
        check_confidence(confidence)
        missed = (1 - confidence) / (len(self.nodes) if simultaneous else 1)
        compared = self._differences(self._mean)
        middle = compared.mean[:, 0].nan_to_num(0)
        margin = self._margin(compared, self._mean, 1 - missed / 2)[:, 0]
        return middle - margin, middle + margin

    def upper(self, confidence: float | None = None) -> Float[Tensor, " node"]:
        """One-sided upper limit of the size of each node's Δ, for a node chosen beforehand (the equation above).

        For size `contribution`: the mean over prompts of each prompt's own limit, since the standard deviation of a mean is at most
        the mean of the standard deviations, for any correlations; t with the smallest degrees of freedom of the prompts.
        """
        confidence = self.confidence if confidence is None else confidence
        check_confidence(confidence)
        outcomes = self._mean if self.size == "mean" else self.outcomes.to("cpu", torch.float64)
        compared = self._differences(outcomes)
        compared = replace(compared, df=compared.df.amin(1, keepdim=True).expand_as(compared.df))
        return (compared.mean.nan_to_num(0).abs() + self._margin(compared, outcomes, confidence)).mean(1)

    @property
    def bound(self) -> float:
        """Upper limit of the largest size among all nodes' Δ: the largest of their upper limits; infinite if there is none
        (`reason` says why); zero if there are no nodes.

        It needs no correction for the number of nodes: it fails only if the upper limit of the node with the largest effect
        fails. It does not allow for optional stopping: do not use it to decide whether to draw more samples (`verify` may).
        """
        return float(self.upper().max()) if self.nodes else 0.0

    def first(self, samples: int) -> "Diagnosis":
        """The diagnosis from the first samples alone, with the joint sets.

        Raises:
            InputError: there are fewer samples.
        """
        if not 0 < samples <= self.n_samples:
            raise InputError(f"the first {samples} samples were requested, but there are only {self.n_samples}")
        end = self.n_joint + samples
        return replace(self, included=self.included[:end], outcomes=self.outcomes[:end])

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the bound (None: see `reason`), and for each node the estimate and its interval (None if unknown)."""
        ends = torch.stack([self.estimates, *self.interval(), self.upper()], dim=1).tolist()
        keys = ("estimate", "low", "high", "upper")
        seen = self.interactions
        return {
            "bound": _finite(self.bound),
            "reason": self.reason,
            "assumes": ASSUMPTION,
            "confidence": self.confidence,
            "size": self.size,
            "samples": self.n_samples,
            "joint_sets": self.n_joint,
            "interactions": None
            if seen is None
            else {key: _finite(float(value)) for key, value in seen._asdict().items()},
            "nodes": {
                node: {key: _finite(value) for key, value in zip(keys, values, strict=True)}
                for node, values in zip(self.nodes, ends, strict=True)
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per node: the estimate, its interval, and the upper limit of its size."""
        return [{"node": node} | values for node, values in self.to_dict()["nodes"].items()]

    def __repr__(self) -> str:
        start = f"Diagnosis({len(self.nodes)} nodes, {self.n_samples} samples and {self.n_joint} joint sets: "
        if self.reason is not None:
            return f"{start}no bound, {self.reason})"
        return (
            f"{start}no average effect above {self.bound:.3g} with confidence {self.confidence:g}, if interactions show when half "
            "or a quarter of the nodes is patched)"
        )

    @cached_property
    def _mean(self) -> Float[Tensor, "sample 1"]:
        return self.outcomes.to("cpu", torch.float64).mean(1, keepdim=True)

    def _differences(self, outcomes: Float[Tensor, "sample outcome"]) -> Differences:
        return differences(self.included[self.n_joint :], outcomes[self.n_joint :])

    def _margin(
        self, compared: Differences, outcomes: Float[Tensor, "sample outcome"], level: float
    ) -> Float[Tensor, "node outcome"]:
        """The right side of the equation above without |d|."""
        if not self.n_joint:
            return torch.full_like(compared.mean, torch.inf)
        seen = spread_of(outcomes[: self.n_joint])
        fewest = torch.minimum(compared.n_with, compared.n_without).clamp(min=1)
        company = 1 - (1 - level) ** (1 / fewest)
        share = float(self.included[self.n_joint :].double().mean()) if self.n_samples else 1.0
        return compared.larger_margin(level) + company * seen.spread + share**2 * seen.largest


def sizes(per_prompt: Float[Tensor, "node prompt"], size: str) -> Float[Tensor, " node"]:
    """The sizes of effects, see `SIZES`."""
    return per_prompt.mean(1).abs() if size == "mean" else per_prompt.abs().mean(1)


def check_confidence(confidence: float) -> None:
    """Refuses an invalid confidence."""
    if not 0.5 < confidence < 1:
        raise InputError(f"confidence must be between 0.5 and 1, got {confidence}")


def check_size(size: str) -> None:
    """Refuses an unknown size."""
    if size not in SIZES:
        raise InputError(f"size must be one of {', '.join(SIZES)}, got {size!r}")


def check_sampling(confidence: float, size: str, samples: int) -> None:
    """Refuses invalid options of the sampling."""
    check_confidence(confidence)
    check_size(size)
    if samples < 2:
        raise InputError(f"samples must be at least 2, got {samples}")


def _finite(value: float) -> float | None:
    return value if abs(value) < torch.inf else None
