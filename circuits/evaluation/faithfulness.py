"""Faithfulness: how much of the model's behaviour a circuit keeps.

    faithfulness = (m(C) - m(∅)) / (m(all) - m(∅))

on dataset means, where m(C) is the metric with every edge outside C ablated, m(∅) with every edge ablated (under interchange: the
corrupted prompts' metric) and m(all) the model's own. The number must be reported with its ablation, with what was ablated (here
edges, at all positions), and beside random circuits of equal size (Miller et al. 2024, 2407.08734). The mean over prompts of each
prompt's own ratio is a different number, which prompts with m(all) ≈ m(∅) can make arbitrarily large; both are reported. If m(all)
and m(∅) are equal up to rounding (`circuits.question.metric_range`), neither is defined, and `Faithfulness.undefined` says so.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import Writes
from circuits.engine.hooks import inference_state
from circuits.errors import InputError
from circuits.measure.circuit_logits import Resolved, circuit_logits, each_circuits_logits, resolved
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.answers import Answers, watched
from circuits.question.doubts import about_answers, doubt
from circuits.question.metric_range import (
    MetricRange,
    assumed_rounding,
    metric_rounding,
    rounding_share,
    share_of_range,
)
from circuits.question.metric_values import checked_together
from circuits.question.metrics import MetricLike
from circuits.question.question import Batch, Question
from circuits.results.circuit import Circuit
from circuits.results.provenance import finite
from circuits.results.random_circuits import distinct_rivals, too_few
from circuits.results.wording import fixed
from circuits.shown import Shown


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Faithfulness(Shown):
    """How much of the behaviour a circuit keeps.

    Attributes:
        value: the ratio of dataset means; 1 = as the model, 0 = as with everything ablated; NaN if undefined.
        clean, ablated, circuit: the metric per prompt of the model, with all edges ablated, and of the circuit.
        random: metric of each random circuit of equal size, averaged over prompts; all differ from the circuit and from each
            other, so there may be fewer than requested.
        n_edges: size of the circuit.
        metric, ablation: names of the metric and of the ablation.
        random_kind: how the random circuits were drawn, see `circuits.results.random_circuits`.
        rounding: rounding error of each prompt's metric; None: estimated from the metric alone, see `circuits.question.metric_range`.
        random_asked: number of random circuits requested; None: as many as there are.
        answers: the model's ranks of the answers on the clean prompts; None if not measured.
        unit: what `n_edges` counts: `edges`, ablated at all positions, or `(edge, place) pairs`.
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
    rounding: Float[Tensor, " prompt"] | None = None
    random_asked: int | None = None
    answers: Answers | None = None
    unit: str = "edges"

    @property
    def metric_range(self) -> MetricRange:
        """The metric's range, of which the value is a share."""
        return MetricRange.from_prompts(self.clean, self.ablated, self.rounding)

    @property
    def undefined(self) -> str | None:
        """Why the value is undefined; None if it is defined, or if nothing was measured."""
        return self.metric_range.undefined

    @property
    def too_few_random(self) -> str | None:
        """Why there are fewer random circuits than requested; None if there are as many."""
        asked = self.random_asked
        if asked is None or len(self.random) >= asked:
            return None
        return too_few(len(self.random), asked, self.n_edges, self.random_kind)

    @property
    def top_1_rate(self) -> float:
        """Share of clean prompts on which an answer has the highest logit; NaN if not measured."""
        return float("nan") if self.answers is None else self.answers.top_1_rate

    @property
    def median_rank(self) -> float:
        """Median rank of the best answer on the clean prompts, 1 = the highest logit; NaN if not measured."""
        return float("nan") if self.answers is None else self.answers.median_rank

    @property
    def mean_of_ratios(self) -> float:
        """Mean over prompts of each prompt's own ratio, without prompts where the metric's range is within rounding; NaN if no prompt is left."""
        ratios = share_of_range(self.circuit, self.clean, self.ablated, self._rounding)
        return float(ratios[~ratios.isnan()].mean())

    @property
    def _rounding(self) -> Float[Tensor, " prompt"]:
        return assumed_rounding(self.clean, self.ablated) if self.rounding is None else self.rounding

    @property
    def p_value(self) -> float:
        """p value against random circuits: (1 + number at least as faithful) / (1 + number of random circuits); NaN without any.

        A random circuit is at least as faithful if its mean metric is at least as near to the model's, up to rounding. All
        random circuits differ from the circuit and from each other.
        """
        if not len(self.random):
            return float("nan")
        wanted = self.clean.mean()
        as_good = (self.random - wanted).abs() <= (self.circuit.mean() - wanted).abs() + self._rounding.mean()
        return (1 + int(as_good.sum())) / (1 + len(self.random))

    @property
    def name(self) -> str:
        """The full name of the number."""
        everywhere = " at all positions" if self.unit == "edges" else ""
        return (
            f"faithfulness (ratio of means of {self.metric}, {self.unit} ablated{everywhere}, {self.ablation} ablation)"
        )

    @property
    def random_value(self) -> float:
        """Mean faithfulness of the random circuits; NaN without any."""
        return float(self.metric_range.share(self.random.mean()))

    def __repr__(self) -> str:
        return f"Faithfulness({self.value:.3f}, {self.n_edges} {self.unit}, {self.metric}, {self.ablation} ablation)"

    def __str__(self) -> str:
        measured = f"{self.n_edges} {self.unit}, {self.metric}, {self.ablation} ablation"
        answers = "" if self.answers is None else f"; {self.answers}"
        if self.undefined is not None:
            return f"faithfulness undefined ({measured}{answers}): {self.undefined}"
        random = f"; random circuits {fixed(self.random_value)}" if len(self.random) else ""
        few = f"; {self.too_few_random}" if self.too_few_random else ""
        return f"faithfulness {fixed(self.value)} ({measured}{random}{few}{answers})"

    def to_dict(self) -> dict[str, Any]:
        """JSON values: means over the prompts."""
        return {
            "name": self.name, "ratio_of_means": finite(self.value), "mean_of_ratios": finite(self.mean_of_ratios),
            "clean": float(self.clean.mean()), "ablated": float(self.ablated.mean()), "circuit": float(self.circuit.mean()),
            "random_circuits": self.random_kind, "random": [float(x) for x in self.random],
            "random_faithfulness": finite(self.random_value), "p": finite(self.p_value),
            "undefined": self.undefined, "too_few_random": self.too_few_random, "unit": self.unit,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class CircuitMetrics:
    """Metrics of circuits of one question.

    Attributes:
        values: metric per prompt of each circuit.
        rounding: rounding error of each prompt's metric, see `circuits.question.metric_range`: the larger of those of the model's logits
            and of the logits with everything ablated.
    """

    values: Float[Tensor, "circuit prompt"]
    rounding: Float[Tensor, " prompt"]


@on_model
def circuit_metrics(
    model: Model,
    pairs: PromptPairs,
    circuits: Sequence[Circuit],
    *,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Float[Tensor, "circuit prompt"]:
    """The metric per prompt of several circuits, with everything outside each ablated.

    Args:
        model: a loaded model.
        pairs: the prompts to explain.
        circuits: circuits of this model's graph.
        metric: None: the task's preferred metric.
        ablation: what replaces an ablated edge's value.
        batch_size: pairs at a time; results do not depend on it.
        progress: called with (evaluations done, in total).

    Raises:
        InputError: a circuit of another graph, or an unknown metric or ablation.
    """
    return measure_circuits(Question.ask(model, pairs, metric, ablation, batch_size), circuits, progress).values


def measure_circuits(
    question: Question, circuits: Sequence[Circuit], progress: Progress | None = None
) -> CircuitMetrics:
    """`circuit_metrics` of a question, with the rounding error."""
    asked = [_belonging(circuit, question) for circuit in circuits]

    partial = [0 < len(circuit) < circuit.graph.n_edges for circuit, _ in asked]

    def logits(batch: Batch, clean: Writes) -> Iterator[Float[Tensor, "read _"] | None]:
        replacement = question.replacement(batch.suffix, clean)
        passes = each_circuits_logits(question, batch, replacement, list(compress(asked, partial)))
        for (circuit, spans), some in zip(asked, partial, strict=True):
            if some:
                yield next(passes)
            else:
                yield None if len(circuit) else circuit_logits(question, batch, replacement, circuit, spans)

    return measure_logits(question, [not len(circuit) for circuit in circuits], logits, progress)


def measure_logits(
    question: Question,
    empty: Sequence[bool],
    logits: Callable[[Batch, Writes], Iterable[Float[Tensor, "read _"] | None]],
    progress: Progress | None = None,
) -> CircuitMetrics:
    """The metric of several runs of every batch, with the rounding error.

    Args:
        question: model, pairs and metric.
        empty: for each run, whether everything is ablated in it.
        logits: the logits of the runs, in order, from a batch and every writer's output on the clean prompts; of `Batch.tokens` only,
            or of all tokens, as rounding needs where everything is ablated; None: those of the model itself.
        progress: called with (evaluations done, in total).
    """
    values = torch.empty(len(empty), len(question.pairs), dtype=torch.float64)
    rounding = torch.zeros(len(question.pairs), dtype=torch.float64)
    share, done = rounding_share(question.model), 0
    with inference_state(question.model.bridge):
        for batch in question.batches():
            index = batch.index
            own, clean = question.clean_run(batch.suffix)
            measured: list[Tensor] = []
            with checked_together():
                moved = metric_rounding(question.metric, own, batch.targets, share)
                for result, is_empty in zip(logits(batch, clean), empty, strict=True):
                    of_run = own if result is None else result
                    whole = of_run.shape == own.shape
                    measured.append(question.metric(of_run, batch.targets if whole else batch.targets_read))
                    if is_empty:
                        moved = torch.maximum(moved, metric_rounding(question.metric, of_run, batch.targets, share))
                    done += len(batch)
                    if progress is not None:
                        progress(done, values.numel())
            if measured:
                values[:, index] = torch.stack(measured).to("cpu", torch.float64)
            rounding[index] = moved.to("cpu", torch.float64)
    return CircuitMetrics(values, rounding)


def _belonging(circuit: Circuit, question: Question) -> Resolved:
    """The circuit over the places of the question's pairs, and their spans; InputError if it is of another graph."""
    model = question.model
    if circuit.graph.base != model.graph:
        raise InputError(f"the circuit belongs to another graph ({circuit.graph}) than {model.name} ({model.graph})")
    return resolved(circuit, question.pairs)


@on_model
def circuit_metric(
    model: Model,
    pairs: PromptPairs,
    circuit: Circuit,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
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
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    n_random: int = 5,
    random_kind: str = "connected",
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Faithfulness:
    """Faithfulness of a circuit, beside random circuits of equal size.

    Args:
        model, pairs, metric, ablation, batch_size, progress: see `circuit_metrics`.
        circuit: the circuit to test.
        n_random: number of random circuits; 0: none. There may be fewer if too few differ from the circuit.
        random_kind: how they are drawn: `connected`, or `same_layers`, see `circuits.results.random_circuits`.
        seed: random seed of the random circuits.

    Warns:
        PairsWarning: the model does not do the task, or the pairs are uninformative, see `circuits.question.doubts`.
    """
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    return faithfulness_of(question, circuit, n_random=n_random, random_kind=random_kind, seed=seed, progress=progress)


def faithfulness_of(
    question: Question, circuit: Circuit, *, n_random: int = 5, random_kind: str = "connected", seed: int = 0,
    progress: Progress | None = None,
) -> Faithfulness:  # fmt: skip
    """`faithfulness` of a circuit for a question."""
    model, pairs = question.model, question.pairs
    rivals = distinct_rivals(circuit, n_random, random_kind, seed)
    asked = [Circuit.full(model.graph), Circuit.empty(model.graph), circuit, *rivals]
    with watched(len(pairs), model.d_vocab) as answers:
        measured = measure_circuits(question, asked, progress)
    doubt(about_answers(model, pairs, answers))
    clean, ablated, kept, random = *measured.values[:3], measured.values[3:].mean(1)
    value = float(MetricRange.from_prompts(clean, ablated, measured.rounding).share(kept.mean()))
    return Faithfulness(
        value, clean, ablated, kept, random, len(circuit), question.metric.name, question.ablation.label, random_kind,
        measured.rounding, n_random, answers, circuit.unit,
    )  # fmt: skip
