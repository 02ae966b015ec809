"""What random subsets say about nodes that were not patched one by one (Kramár et al. 2024, 2403.00745, "Diagnostics").

Every node of a set N is put into a random subset with probability p, independently, and the subset is patched as one.
With f(S) = metric(clean) - metric(clean, S <- corrupted), S the random subset, node n's *average effect* is

    Δ(n) = E[f(S) | n ∈ S] - E[f(S) | n ∉ S] = E over S without n of  f(S ∪ {n}) - f(S)

It is the effect of patching n where each other node of N is patched already with probability p. If effects add up, it is n's
effect alone, f({n}), for every p. If they do not, it is that only in the limit p -> 0: a node whose work another one
takes over has a small effect alone and a larger one on average, and a node in series with others (a head and its own
query) has a smaller one on average. No number of samples tells the two apart.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.plain_torch import plain_methods
from circuits.provenance import Provenance, frozen
from circuits.welch import Differences, differences

SIZES = ("mean", "contribution")
"""What counts as the size of an effect: of its mean over the prompts the absolute value, or (as AtP* ranks) the mean over
the prompts of its absolute value."""


@plain_methods
@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Samples of random subsets, and what follows from them.

    Attributes:
        nodes: the set from which subsets were drawn.
        included: which nodes each subset holds.
        outcomes: f(S), per subset and prompt, in the metric's unit; positive = the subset helps.
        confidence: of intervals and bounds.
        size: of an effect: see `SIZES`.
        provenance: where they come from.
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

    @property
    def n_samples(self) -> int:
        return len(self.outcomes)

    @property
    def counts(self) -> Int[Tensor, " node"]:
        """In how many subsets each node is."""
        return self.included.sum(0)

    @property
    def estimates(self) -> Float[Tensor, " node"]:
        """Unbiased estimates of Δ, averaged over the prompts; NaN where all subsets hold the node or none does."""
        return self._of_mean().mean[:, 0]

    def interval(
        self, confidence: float | None = None, simultaneous: bool = False
    ) -> tuple[Float[Tensor, " node"], Float[Tensor, " node"]]:
        """Welch's two-sided interval for each node's Δ, averaged over the prompts; infinite where a node is in fewer than
        two subsets, or missing from fewer than two.

        Args:
            confidence: with which it holds for a node chosen beforehand; None: the diagnosis' own.
            simultaneous: hold for all nodes at once with that confidence (Bonferroni).
        """
        confidence = self.confidence if confidence is None else confidence
        check_confidence(confidence)
        missed = (1 - confidence) / (len(self.nodes) if simultaneous else 1)
        compared = self._of_mean()
        middle = compared.mean[:, 0].nan_to_num(0)
        margin = compared.margin(1 - missed / 2)[:, 0]
        return middle - margin, middle + margin

    def upper(self, confidence: float | None = None) -> Float[Tensor, " node"]:
        """One-sided upper limit of the size of each node's Δ, for a node chosen beforehand.

        Size `mean`: |d| + t·se, the largest θ for which Welch's one-sided test does not refuse that |Δ| ≥ θ. Size
        `contribution`: the mean over prompts of |d| + t·se, since the standard deviation of a mean is at most the mean of
        the standard deviations, whatever the correlations; t with the smallest degrees of freedom of the prompts.
        """
        confidence = self.confidence if confidence is None else confidence
        check_confidence(confidence)
        if self.size == "mean":
            compared = self._of_mean()
        else:
            compared = differences(self.included, self.outcomes)
            fewest = compared.df.amin(1, keepdim=True).expand_as(compared.df)
            compared = Differences(compared.mean, compared.stderr, fewest)
        return (compared.mean.nan_to_num(0).abs() + compared.margin(confidence)).mean(1)

    @property
    def bound(self) -> float:
        """Upper limit of the largest size among all nodes' Δ: the largest of their upper limits.

        No correction for the number of nodes is needed: it is wrong only if the upper limit of the one node whose effect is
        largest is wrong. It speaks of the samples as they are: do not look at it to decide whether to draw more
        (`verify` may). Zero if there are no nodes.
        """
        return float(self.upper().max()) if self.nodes else 0.0

    def first(self, samples: int) -> "Diagnosis":
        """What the first samples say alone.

        Raises:
            InputError: there are not so many.
        """
        if not 0 < samples <= self.n_samples:
            raise InputError(f"there are {self.n_samples} samples, and the first {samples} were asked for")
        return Diagnosis(
            self.nodes, self.included[:samples], self.outcomes[:samples], self.confidence, self.size, self.provenance
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON: the bound, and per node the estimate and both ends of its interval (None where unknown)."""
        ends = torch.stack([self.estimates, *self.interval(), self.upper()], dim=1).tolist()
        keys = ("estimate", "low", "high", "upper")
        return {
            "bound": _finite(self.bound),
            "confidence": self.confidence,
            "size": self.size,
            "samples": self.n_samples,
            "nodes": {
                node: {key: _finite(value) for key, value in zip(keys, values, strict=True)}
                for node, values in zip(self.nodes, ends, strict=True)
            },
        }

    def __repr__(self) -> str:
        return (
            f"Diagnosis({len(self.nodes)} nodes, {self.n_samples} samples: no effect above {self.bound:.3g} with confidence "
            f"{self.confidence:g})"
        )

    def _of_mean(self) -> Differences:
        return differences(self.included, self.outcomes.mean(1, keepdim=True))


def sizes(per_prompt: Float[Tensor, "node prompt"], size: str) -> Float[Tensor, " node"]:
    """The sizes of effects: see `SIZES`."""
    return per_prompt.mean(1).abs() if size == "mean" else per_prompt.abs().mean(1)


def check_confidence(confidence: float) -> None:
    """Refuses a confidence at which nothing is bounded."""
    if not 0.5 < confidence < 1:
        raise InputError(f"confidence must be between 0.5 and 1, got {confidence}")


def check_size(size: str) -> None:
    """Refuses what is no size."""
    if size not in SIZES:
        raise InputError(f"size must be one of {', '.join(SIZES)}, got {size!r}")


def _finite(value: float) -> float | None:
    return value if abs(value) < torch.inf else None
