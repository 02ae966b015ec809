"""Does the circuit alone do what the model does?

    faithfulness = (m(C) - m(∅)) / (m(all) - m(∅))

on dataset means, where m(C) is the metric with every edge outside C ablated, m(∅) with every edge ablated (under
interchange: the corrupted prompts' metric) and m(all) the model's own. The number means something only beside the
ablation it was taken with, what was ablated (here edges, at all positions) and beside random circuits of equal size (Miller et
al. 2024, 2407.08734). The mean over prompts of each prompt's own ratio is another number, which prompts with m(all) ≈ m(∅)
can throw anywhere; both are told.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.ablations import Ablation
from circuits.circuit import Circuit
from circuits.engine.ablate import ablated_logits
from circuits.engine.hooks import inference_state
from circuits.errors import InputError
from circuits.metrics import Metric, MetricFunction
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.pairs import PromptPairs
from circuits.plain_torch import plain_methods
from circuits.question import Progress, Question
from circuits.random_circuits import random_circuits


@plain_methods
@dataclass(frozen=True, eq=False)
class Faithfulness:
    """How much of the behaviour a circuit keeps.

    Attributes:
        value: the ratio of dataset means; 1 = as the model, 0 = as with everything ablated.
        clean, ablated, circuit: the metric per prompt of the model, with all edges ablated, and of the circuit.
        random: metric of each random circuit of equal size, averaged over prompts.
        n_edges: size of the circuit.
        metric, ablation: what it was measured with.
        random_kind: how the random circuits were drawn; see `circuits.random_circuits`.
    """

    value: float
    clean: Float[Tensor, " prompt"]
    ablated: Float[Tensor, " prompt"]
    circuit: Float[Tensor, " prompt"]
    random: Float[Tensor, " circuit"]
    n_edges: int
    metric: str
    ablation: str
    random_kind: str = "connected"

    @property
    def mean_of_ratios(self) -> float:
        """The mean over prompts of each prompt's own ratio, prompts without a difference left out; NaN without any."""
        span = self.clean - self.ablated
        return float(((self.circuit - self.ablated) / span)[span != 0].mean())

    @property
    def p_value(self) -> float:
        """Of the circuit being one of the random ones: (1 + those at least as faithful) / (1 + all); NaN without any.

        At least as faithful: mean metric at least as near to the model's.
        """
        if not len(self.random):
            return float("nan")
        wanted = self.clean.mean()
        as_good = (self.random - wanted).abs() <= (self.circuit.mean() - wanted).abs()
        return (1 + int(as_good.sum())) / (1 + len(self.random))

    @property
    def name(self) -> str:
        """What the number is, in full."""
        return (
            f"faithfulness (ratio of means of {self.metric}, edges ablated at all positions, {self.ablation} ablation)"
        )

    @property
    def random_value(self) -> float:
        """Faithfulness of the random circuits, on average; NaN without any."""
        return _ratio(self.random, self.clean, self.ablated)

    def __str__(self) -> str:
        text = f"faithfulness {self.value:.3f} ({self.n_edges} edges, {self.metric}, {self.ablation} ablation"
        return text + (f"; random circuits {self.random_value:.3f})" if len(self.random) else ")")


def _ratio(part: Tensor, clean: Tensor, ablated: Tensor) -> float:
    span = float(clean.mean() - ablated.mean())
    return float(part.mean() - ablated.mean()) / span if span else float("nan")


@on_model
def circuit_metrics(
    model: Model,
    pairs: PromptPairs,
    circuits: Sequence[Circuit],
    *,
    metric: str | Metric | MetricFunction | None = None,
    ablation: str | Ablation = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Float[Tensor, "circuit prompt"]:
    """The metric per prompt of several circuits, with everything outside each ablated.

    Args:
        model, pairs: what is asked.
        circuits: circuits of this model's graph.
        metric: None: the one the task prefers.
        ablation: what replaces an ablated edge's value.
        batch_size: pairs at a time; results do not depend on it.
        progress: called with (evaluations done, in all).

    Raises:
        InputError: a circuit of another graph, an unknown metric or ablation.
    """
    return ask_circuits(Question.ask(model, pairs, metric, ablation, batch_size), circuits, progress)


def ask_circuits(
    question: Question, circuits: Sequence[Circuit], progress: Progress | None = None
) -> Float[Tensor, "circuit prompt"]:
    """`circuit_metrics` of a question that was asked already."""
    model, pairs = question.model, question.pairs
    for circuit in circuits:
        if circuit.graph != model.graph:
            raise InputError(
                f"the circuit belongs to another graph ({circuit.graph}) than {model.name} ({model.graph})"
            )
    values = torch.empty(len(circuits), len(pairs), dtype=torch.float64)
    done = 0
    with inference_state(model.bridge):
        for batch in question.batches():
            _, clean = question.clean_run(batch.suffix)
            replacement = question.replacement(batch.suffix, clean)
            for i, circuit in enumerate(circuits):
                logits = ablated_logits(model.bridge, model.architecture, batch.suffix, replacement, circuit.mask)
                values[i, batch.suffix.batch.index.cpu()] = question.metric(logits, batch.targets).to(
                    "cpu", torch.float64
                )
                done += len(batch)
                if progress is not None:
                    progress(done, len(circuits) * len(pairs))
    return values


@on_model
def circuit_metric(
    model: Model,
    pairs: PromptPairs,
    circuit: Circuit,
    metric: str | Metric | MetricFunction | None = None,
    ablation: str | Ablation = "interchange",
    batch_size: int | None = None,
) -> Float[Tensor, " prompt"]:
    """The metric per prompt with everything outside the circuit ablated; see `circuit_metrics`."""
    return circuit_metrics(model, pairs, [circuit], metric=metric, ablation=ablation, batch_size=batch_size)[0]


@on_model
def faithfulness(
    model: Model,
    pairs: PromptPairs,
    circuit: Circuit,
    *,
    metric: str | Metric | MetricFunction | None = None,
    ablation: str | Ablation = "interchange",
    n_random: int = 5,
    random_kind: str = "connected",
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Faithfulness:
    """Faithfulness of a circuit, beside random connected circuits of equal size.

    Args:
        model, pairs, circuit: what is asked.
        metric: None: the one the task prefers.
        ablation: what replaces an ablated edge's value.
        n_random: how many random circuits; 0: none.
        random_kind: how they are drawn: `connected`, or `same_layers`; see `circuits.random_circuits`.
        seed: of the random circuits.
        batch_size, progress: see `circuit_metrics`.
    """
    rivals = random_circuits(circuit, n_random, random_kind, seed)
    asked = [Circuit.full(model.graph), Circuit.empty(model.graph), circuit, *rivals]
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    values = circuit_metrics(
        model,
        pairs,
        asked,
        metric=question.metric,
        ablation=question.ablation,
        batch_size=batch_size,
        progress=progress,
    )
    clean, ablated, found, random = values[0], values[1], values[2], values[3:].mean(1)
    value = _ratio(found, clean, ablated)
    return Faithfulness(
        value, clean, ablated, found, random, len(circuit), question.metric.name, question.ablation.label, random_kind
    )
