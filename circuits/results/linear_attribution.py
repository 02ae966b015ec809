"""What COAR finds: a linear model of the metric under ablations of components."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.plain_torch import plain_methods
from circuits.results.node_scores import NodeScores
from circuits.stats.interactions import Interaction

WEAK = 0.5
"""A correlation on samples left out below which a fit is said to be weak."""


@plain_methods
@dataclass(frozen=True, eq=False)
class LinearAttribution(NodeScores):
    """A linear model of the metric under ablations; as `NodeScores`, the weights per prompt.

    Attributes:
        bias: per prompt.
        weight_stderr: of each weight from the residuals of its fit (NaN for ridge and lasso); `stderr` is over prompts.
        mean_weight_stderr: of each weight averaged over the prompts, these prompts taken as given.
        fit: what the fit is worth: `samples`, `components`, `rank`, `condition`, `held_out` (the correlation, averaged over
            the prompts, between the metric and its prediction by a fit that has not seen the sample; None where there is
            none), `strength`, and the strongest `interactions`: pairs that the sum does not describe.
    """

    bias: Float[Tensor, " prompt"] = field(default_factory=lambda: torch.zeros(0))
    weight_stderr: Float[Tensor, "node prompt"] = field(default_factory=lambda: torch.zeros(0, 0))
    mean_weight_stderr: Float[Tensor, " node"] = field(default_factory=lambda: torch.zeros(0))
    fit: dict[str, Any] = field(default_factory=dict)

    def predict(self, kept: Float[Tensor, "sample node"]) -> Float[Tensor, "sample prompt"]:
        """The metric where these components are kept."""
        return self.bias + kept.to(self.per_prompt.dtype) @ self.per_prompt

    @property
    def interactions(self) -> tuple[Interaction, ...]:
        """The strongest pairs that the sum does not describe; see `circuits.stats.interactions`."""
        return tuple(Interaction(*pair) for pair in self.fit.get("interactions", ()))

    @property
    def statement(self) -> str | None:
        """In plain words, what a reader should know before using the weights; None where there is nothing to say."""
        samples, components, rank = (self.fit[name] for name in ("samples", "components", "rank"))
        held_out = self.fit["held_out"]
        if rank < components:
            return (
                f"{samples} samples cannot tell {components} components apart (rank {rank}): the weights are one of many "
                f"solutions; draw more than {components + 1} samples, better several times as many"
            )
        if held_out is None or held_out < WEAK:
            told = (
                "cannot be tested" if held_out is None else f"has a correlation of {held_out:.2f} on samples left out"
            )
            return (
                f"{samples} samples are few for {components} components: the fit {told} (condition "
                f"{self.fit['condition']:.1f}); draw more samples, or take a smaller alpha if components interact"
            )
        return None
