"""Scores of nodes, with or without positions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.plain_torch import plain_methods
from circuits.question.metric_range import MetricRange
from circuits.results import score_file
from circuits.results.head_array import HeadArray, head_array
from circuits.results.provenance import Provenance, frozen
from circuits.results.quantity import Quantity
from circuits.results.recorded import quantity_of
from circuits.shown import Shown, from_above
from circuits.stats.bootstrap import bootstrap_interval
from circuits.stats.interactions import Interaction
from circuits.workers.workers import Workers

WEAK = 0.5
"""A fit with a lower correlation on held-out samples is reported as weak."""


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class NodeScores(Shown):
    """An effect per node, or per node and position, in the metric's unit; positive = the node helps.

    Attributes:
        nodes: names, in the order of the forward pass.
        per_prompt: effects on each prompt.
        positions: labels of the position axis: names of roles or token numbers; None without positions.
        clean, corrupted: the metric per prompt of both runs, signed like the behaviour; None if the method has none.
        provenance: the origin of the scores.
    """

    nodes: tuple[str, ...]
    per_prompt: Float[Tensor, "node *position prompt"]
    positions: tuple[str, ...] | None = None
    clean: Float[Tensor, " prompt"] | None = None
    corrupted: Float[Tensor, " prompt"] | None = None
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    def __post_init__(self) -> None:
        axes = (len(self.nodes),) if self.positions is None else (len(self.nodes), len(self.positions))
        if self.per_prompt.shape[:-1] != axes:
            raise InputError(f"scores have shape {tuple(self.per_prompt.shape)}; expected {axes} and the prompts")

    @property
    def values(self) -> Float[Tensor, "node *position"]:
        """Mean effect over the prompts."""
        return self.per_prompt.mean(-1)

    @property
    def contributions(self) -> Float[Tensor, "node *position"]:
        """Mean over the prompts of the absolute effect, for ranking without cancellation of opposite signs."""
        return self.per_prompt.abs().mean(-1)

    @property
    def stderr(self) -> Float[Tensor, "node *position"]:
        """Standard error of the mean over the prompts (NaN with a single prompt)."""
        n = self.n_prompts
        return self.per_prompt.std(-1) / n**0.5 if n > 1 else torch.full_like(self.values, torch.nan)

    @property
    def signed(self) -> bool:
        """Whether the sign of a score has a meaning; the scores of AtP* are sizes."""
        return self.quantity.signed

    @property
    def quantity(self) -> Quantity:
        """What the scores measure, such as effects."""
        return quantity_of(self.provenance)

    @property
    def interactions(self) -> tuple[Interaction, ...] | None:
        """Pairs of nodes whose joint effect is not the sum of their effects; None if the method does not search for them."""
        return None

    @property
    def quality(self) -> dict[str, str | float | None]:
        """Measures of the scores' quality for a summary, by label, if the method has any."""
        return {}

    def details(self) -> dict[str, Any]:
        """Further entries of a summary, as JSON values."""
        return {}

    @property
    def n_prompts(self) -> int:
        return self.per_prompt.shape[-1]

    def normalised(self) -> Float[Tensor, "node *position"]:
        """Mean effect as a share of mean(clean) - mean(corrupted): a ratio of means, not a mean of ratios.

        Raises:
            InputError: the difference is unknown, or is rounding (see `circuits.question.metric_range`).
        """
        return self.values / self._metric_range

    def normalised_stderr(self) -> Float[Tensor, "node *position"]:
        """Standard error of `normalised`, without the error of the difference."""
        return self.stderr / abs(self._metric_range)

    @property
    def _metric_range(self) -> float:
        if self.clean is None or self.corrupted is None:
            raise InputError(
                "these scores have no metric of the clean and the corrupted run, so they cannot be normalised"
            )
        metric_range = MetricRange.from_prompts(self.clean, self.corrupted, origin=self.provenance)
        if metric_range.undefined is not None:
            raise InputError(f"these scores cannot be normalised: {metric_range.undefined}")
        return metric_range.clean - metric_range.ablated

    def interval(
        self, level: float = 0.95, resamples: int = 1000, seed: int = 0, workers: Workers | None = None
    ) -> tuple[Float[Tensor, "node *position"], Float[Tensor, "node *position"]]:
        """Percentile bootstrap interval of the mean over prompts; NaN with a single prompt. See `bootstrap_interval`."""
        return bootstrap_interval(self.per_prompt, level, resamples, seed, workers=workers)

    def to_dict(self) -> dict[str, Any]:
        """`{node: effect}`; with positions `{node: [effect per position]}`."""
        return dict(zip(self.nodes, self.values.tolist(), strict=True))

    def __getitem__(self, node: str) -> Any:
        """The effect of a node by name; a list if there are positions."""
        if node not in self.nodes:
            raise InputError(f"there is no score of {node!r}")
        return self.values[self.nodes.index(node)].tolist()

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        where = "" if self.positions is None else f" × {len(self.positions)} positions"
        return f"{type(self).__name__}({len(self)} nodes{where}, {self.n_prompts} prompts, {self.provenance.get('method')})"

    def rows(self) -> list[dict[str, Any]]:
        """One row per node (and position), in the order of the forward pass: its name, effect and standard error."""
        places = [(node, None) for node in self.nodes]
        if self.positions is not None:
            places = [(node, position) for node in self.nodes for position in self.positions]
        columns = zip(places, self.values.flatten().tolist(), self.stderr.flatten().tolist(), strict=True)
        return [
            {"node": node} | ({} if position is None else {"position": position}) | {"effect": value, "stderr": error}
            for (node, position), value, error in columns
        ]

    def _shown_rows(self) -> list[dict[str, Any]]:
        return sorted(self.rows(), key=lambda row: -abs(row["effect"]))

    def strongest(self, n: int = 10) -> list[tuple[str, float, float]]:
        """(node, effect, standard error) of the n largest effects by absolute value; `node@position` with positions."""
        values, errors = self.values.flatten(), self.stderr.flatten()
        order = torch.sort(values.abs(), descending=True, stable=True).indices[:n].tolist()
        names = list(self.nodes) if self.positions is None else [f"{a}@{b}" for a in self.nodes for b in self.positions]
        return [(names[i], float(values[i]), float(errors[i])) for i in order]

    def plot(self, **options: Any) -> Any:
        """A heat map, as a plotly figure; see `circuits.notebook.plot`."""
        return from_above("plot")(self, **options)

    def to_array(self) -> HeadArray:
        """Mean effects as arrays: heads as layers × heads, MLPs beside them; NaN where there is no score."""
        return head_array(self.nodes, self.values)

    def save(self, path: str | Path) -> None:
        """Writes everything to one safetensors file (JSON header, no pickle)."""
        score_file.write_node_scores(self, path)

    @classmethod
    def load(cls, path: str | Path) -> "NodeScores":
        """Reads what `save` wrote, also of a `LinearAttribution` or `DirectEffects`; InputError for any other file."""
        arguments = score_file.read_node_scores(path)
        kind = LinearAttribution if "fit" in arguments else DirectEffects if "constant" in arguments else NodeScores
        return kind(**arguments)


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class DirectEffects(NodeScores):
    """What writers add to the metric by their own writes, with the final norm's scale fixed (`circuits.direct_effects`).

    Attributes:
        constant: per prompt, what belongs to no writer: biases, and the part of the metric that is not linear in the logits.
    """

    constant: Float[Tensor, " prompt"] = field(default_factory=lambda: torch.zeros(0))

    @property
    def rest(self) -> Float[Tensor, " prompt"]:
        """The metric without the constant and these nodes: 0 up to rounding if the nodes are all writers, each once."""
        assert self.clean is not None
        return self.clean - self.constant - self.per_prompt.flatten(0, -2).sum(0)


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class LinearAttribution(NodeScores):
    """A linear model of the metric under ablations, whose weights are the scores.

    Attributes:
        bias: per prompt.
        weight_stderr: standard error of each weight from the residuals of its fit (NaN for ridge and lasso); `stderr` is over
            prompts.
        mean_weight_stderr: standard error of each weight averaged over these prompts.
        fit: the quality of the fit: `samples`, `components`, `rank`, `condition`, `held_out` (the correlation, averaged over
            the prompts, of the metric with predictions for held-out samples; None if undefined), `strength`, and the
            strongest `interactions`, pairs that the sum does not describe.
    """

    bias: Float[Tensor, " prompt"] = field(default_factory=lambda: torch.zeros(0))
    weight_stderr: Float[Tensor, "node *position prompt"] = field(default_factory=lambda: torch.zeros(0, 0))
    mean_weight_stderr: Float[Tensor, "node *position"] = field(default_factory=lambda: torch.zeros(0))
    fit: dict[str, Any] = field(default_factory=dict)

    def predict(self, kept: Float[Tensor, "sample component"]) -> Float[Tensor, "sample prompt"]:
        """The metric if these components are kept: the nodes, or node after node at each position."""
        return self.bias + kept.to(self.per_prompt.dtype) @ self.per_prompt.flatten(0, -2)

    @property
    def interactions(self) -> tuple[Interaction, ...]:
        """The strongest pairs that the sum does not describe; see `circuits.stats.interactions`."""
        return tuple(Interaction(*pair) for pair in self.fit.get("interactions", ()))

    @property
    def quality(self) -> dict[str, str | float | None]:
        condition = "–" if self.fit["condition"] is None else f"{self.fit['condition']:.4f}"
        return {
            "correlation on samples left out": self.fit["held_out"],
            "rank, condition": f"{self.fit['rank']}, {condition}",
        }

    def details(self) -> dict[str, Any]:
        return {"fit": self.fit}

    @property
    def statement(self) -> str | None:
        """A warning about the weights in words; None if there is nothing to warn about."""
        samples, components, rank = (self.fit[name] for name in ("samples", "components", "rank"))
        held_out = self.fit["held_out"]
        if rank < components:
            return (
                f"{samples} samples do not determine the weights of {components} components (rank {rank}): they are one of many "
                f"solutions; draw more than {components + 1} samples, better several times as many"
            )
        if held_out is None or held_out < WEAK:
            test = (
                "cannot be tested" if held_out is None else f"has a correlation of {held_out:.2f} on samples left out"
            )
            return (
                f"{samples} samples are few for {components} components: the fit {test} (condition "
                f"{self.fit['condition']:.1f}); draw more samples, or take a smaller alpha if components interact"
            )
        return None

    def save(self, path: str | Path) -> None:
        score_file.write_node_scores(self, path, self.fit)


@runtime_checkable
class Predicts(Protocol):
    """Scores that predict the metric under other ablations, as `LinearAttribution` does."""

    def predict(self, kept: Float[Tensor, "sample node"]) -> Float[Tensor, "sample prompt"]: ...


def node_scores(
    nodes: tuple[str, ...],
    per_prompt: Tensor,
    origin: Mapping[str, Any],
    positions: tuple[str, ...] | None = None,
    clean: Tensor | None = None,
    corrupted: Tensor | None = None,
) -> NodeScores:
    """`NodeScores` in float64 on the CPU."""
    wide = [None if t is None else t.to("cpu", torch.float64) for t in (per_prompt, clean, corrupted)]
    assert wide[0] is not None
    return NodeScores(nodes, wide[0], positions, wide[1], wide[2], frozen(origin))
