"""Completeness and minimality of a circuit (Wang et al. 2022, 2211.00593, section 4).

A circuit is complete if nothing outside it can do the task: the complement keeps none of the behaviour, and for every subset K of
its edges, the circuit without K behaves like the model without K. It is minimal if each of its edges matters while the others are
kept.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.evaluation.faithfulness import measure_circuits
from circuits.methods.exact_edges import exact_edge_effects_of
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metric_range import MetricRange
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.provenance import finite
from circuits.shown import Shown


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Completeness(Shown):
    """How much of the behaviour needs the circuit.

    Attributes:
        complement: share of the behaviour that the complement keeps, on dataset means; 0 in a complete circuit.
        circuit_without, model_without: faithfulness of the circuit and of the model without each random subset K of the
            circuit's edges; equal in a complete circuit.
        sizes: number of edges in each K.
        metric, ablation: names of the metric and of the ablation.
        undefined: why the shares are NaN (the model's metric does not differ from that with everything ablated, see
            `circuits.question.metric_range`); None if they are defined.
    """

    complement: float
    circuit_without: Float[Tensor, " subset"]
    model_without: Float[Tensor, " subset"]
    sizes: tuple[int, ...]
    metric: str
    ablation: str
    undefined: str | None = None

    @property
    def value(self) -> float:
        """1 - the complement's share."""
        return 1 - self.complement

    @property
    def incompleteness(self) -> float:
        """Mean over subsets K of |faithfulness of the circuit without K - of the model without K|; NaN without subsets."""
        return float((self.circuit_without - self.model_without).abs().mean())

    def rows(self) -> list[dict[str, Any]]:
        """One row per random subset: its size, and the faithfulness of the circuit and of the model without it."""
        columns = zip(self.sizes, self.circuit_without.tolist(), self.model_without.tolist(), strict=True)
        return [{"removed": n, "circuit_without": circuit, "model_without": model} for n, circuit, model in columns]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "value": finite(self.value), "complement": finite(self.complement),
            "incompleteness": finite(self.incompleteness),
            "circuit_without": [finite(x) for x in self.circuit_without.tolist()],
            "model_without": [finite(x) for x in self.model_without.tolist()], "undefined": self.undefined,
        }  # fmt: skip


@on_model
def completeness(
    model: Model,
    pairs: PromptPairs,
    circuit: Circuit,
    *,
    subsets: int = 10,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Completeness:
    """Measures the complement of a circuit, and circuit and model without random subsets of its edges.

    Args:
        model, pairs, metric, ablation, batch_size, progress: see `circuits.circuit_metrics`.
        circuit: the circuit to test.
        subsets: number of subsets; each contains every edge of the circuit with probability ½.
        seed: random seed of the subsets.
    """
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    return completeness_of(question, circuit, subsets=subsets, seed=seed, progress=progress)


def completeness_of(
    question: Question, circuit: Circuit, *, subsets: int = 10, seed: int = 0, progress: Progress | None = None
) -> Completeness:
    """`completeness` of a circuit for a question."""
    if subsets < 0:
        raise InputError(f"subsets must be at least 0, got {subsets}")
    generator = torch.Generator().manual_seed(seed)
    full, empty = Circuit.full(question.model.graph), Circuit.empty(question.model.graph)
    knocked = [
        Circuit(circuit.graph, circuit.mask & (torch.rand(circuit.mask.shape, generator=generator) < 0.5))
        for _ in range(subsets)
    ]
    asked = [full, empty, ~circuit, *(circuit - k for k in knocked), *(full - k for k in knocked)]
    measured = measure_circuits(question, asked, progress)
    metric_range = MetricRange.from_prompts(measured.values[0], measured.values[1], measured.rounding)
    shares = metric_range.share(measured.values.mean(1))
    sizes = tuple(len(k) for k in knocked)
    return Completeness(
        float(shares[2]), shares[3 : 3 + subsets], shares[3 + subsets :], sizes, question.metric.name,
        question.ablation.label, metric_range.undefined,
    )  # fmt: skip


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Minimality(Shown):
    """The effect of each edge of a circuit, while the other edges are kept.

    Attributes:
        edges: names of the edges.
        effects: m(C) - m(C without the edge) per prompt, signed like the behaviour.
        metric, ablation: names of the metric and of the ablation.
        rounding: largest size of an effect that may be rounding, see `circuits.question.metric_range`.
    """

    edges: tuple[str, ...]
    effects: Float[Tensor, "edge prompt"]
    metric: str
    ablation: str
    rounding: float = 0.0

    @property
    def values(self) -> Float[Tensor, " edge"]:
        """Mean effects over the prompts."""
        return self.effects.mean(1)

    def idle(self, share: float = 0.01) -> tuple[str, ...]:
        """Edges whose mean effect is below a share of the largest in size, or may be rounding."""
        sizes = self.values.abs()
        least = max(share * float(sizes.max()) if len(sizes) else 0.0, self.rounding)
        return tuple(edge for edge, size in zip(self.edges, sizes.tolist(), strict=True) if size <= least)

    def to_dict(self) -> dict[str, Any]:
        """JSON values: effects of the edges with their standard errors (None for a single prompt)."""
        rows = self.rows()
        return {
            "effects": {row["edge"]: row["effect"] for row in rows},
            "stderr": {row["edge"]: row["stderr"] for row in rows}, "idle": list(self.idle()),
        }  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """One row per edge: its effect and standard error (None for a single prompt)."""
        n = self.effects.shape[1]
        errors = (self.effects.std(1) / n**0.5).tolist() if n > 1 else [None] * len(self.edges)
        columns = zip(self.edges, self.values.tolist(), errors, strict=True)
        return [{"edge": edge, "effect": value, "stderr": error} for edge, value, error in columns]

    def __repr__(self) -> str:
        return f"Minimality({len(self.edges)} edges, {len(self.idle())} of them idle, {self.metric}, {self.ablation} ablation)"


@on_model
def minimality(
    model: Model,
    pairs: PromptPairs,
    circuit: Circuit,
    *,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Minimality:
    """Ablates each edge of a circuit while the other edges are kept.

    Args:
        model, pairs, metric, ablation, batch_size, progress: see `circuits.circuit_metrics`.
        circuit: the circuit to test.

    Raises:
        InputError: the circuit is empty.
    """
    return minimality_of(Question.ask(model, pairs, metric, ablation, batch_size), circuit, progress=progress)


def minimality_of(question: Question, circuit: Circuit, *, progress: Progress | None = None) -> Minimality:
    """`minimality` of a circuit for a question."""
    if not len(circuit):
        raise InputError("the circuit has no edges to remove")
    if circuit.places is not None:
        return _minimality_over_places(question, circuit, progress)
    exact = exact_edge_effects_of(question, circuit.edges, context=circuit, progress=progress)
    rounding = float(measure_circuits(question, [circuit]).rounding.mean())
    return Minimality(exact.edges, exact.per_prompt, question.metric.name, question.ablation.label, rounding)


def _minimality_over_places(question: Question, circuit: Circuit, progress: Progress | None) -> Minimality:
    """One whole pass for each edge at a place."""
    edges = circuit.edges
    without = [circuit - Circuit.from_edges(circuit.graph, [edge]) for edge in edges]
    measured = measure_circuits(question, [circuit, *without], progress)
    effects = (measured.values[:1] - measured.values[1:]) * question.metric.sign
    rounding = float(measured.rounding.mean())
    return Minimality(edges, effects, question.metric.name, question.ablation.label, rounding)
