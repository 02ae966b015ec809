"""A metric over all pairs as one number to be kept low, kept up to date while edges are ablated."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.engine.incremental import Edge, Incremental, Trial
from circuits.engine.layers import incremental_state
from circuits.engine.node_functions import record_run
from circuits.errors import ModelError
from circuits.metrics import Targets
from circuits.question import Batch, Question


class Loss:
    """The mean over all pairs of the metric, with a minus where higher is more of the behaviour.

    All batches are held at once, each with its clean run and every writer's (replacement - clean). Call it within
    `inference_state`.

    Attributes:
        by_node: whether single nodes are computed again after a change, or whole layers.
        coupled: whether the heads of a layer depend on each other through one post-norm, so that all live together.
    """

    def __init__(self, question: Question) -> None:
        self.question = question
        self.batches = [_state(question, batch) for batch in question.batches()]
        self.by_node = all(state.by_node for state, _ in self.batches)
        self.coupled = any(not block.linear_heads for block in question.model.architecture.blocks)

    def rows_worth(self, reader: int) -> int:
        """How many switches of edges into this reader a trial should hold at most."""
        return min(state.rows_worth(reader) for state, _ in self.batches)

    def reset(self, keep: Bool[Tensor, "writer reader"]) -> None:
        """Ablates exactly the edges outside `keep`."""
        for state, _ in self.batches:
            state.reset(keep)

    def value(self) -> float:
        """The loss now."""
        return self.of([state.logits() for state, _ in self.batches])

    def range(self) -> float:
        """How far the loss moves from all edges kept to none."""
        ends = []
        for keep in (self.question.model.graph.edge_mask, torch.zeros_like(self.question.model.graph.edge_mask)):
            self.reset(keep)
            ends.append(self.value())
        return abs(ends[1] - ends[0])

    def trial(self, switches: Sequence[Sequence[Edge]]) -> "LossTrial":
        """See `Incremental.trial`."""
        return LossTrial(self, [state.trial(switches) for state, _ in self.batches])

    def of(self, logits: Sequence[Tensor]) -> float:
        """The loss of these logits, a tensor [batch, d_out] for each batch.

        Raises:
            ModelError: it is not finite.
        """
        metric, total = self.question.metric, 0.0
        for (_, targets), each in zip(self.batches, logits, strict=True):
            total += float(metric(each, targets).double().sum())
        value = -metric.sign * total / len(self.question.pairs)
        if value != value or abs(value) == float("inf"):
            raise ModelError(
                f"{metric.name} is {value} with some edges ablated; a search cannot go on (use float32 or wider)"
            )
        return value


class LossTrial:
    """`Trial` over all batches."""

    def __init__(self, loss: Loss, trials: Sequence[Trial]) -> None:
        self.loss, self.trials = loss, trials

    def value(self, row: int) -> float:
        """The loss with the switches 0 … row made."""
        return self.loss.of([trial.logits(row) for trial in self.trials])

    def accept(self, row: int) -> None:
        for trial in self.trials:
            trial.accept(row)


def _state(question: Question, batch: Batch) -> tuple[Incremental, Targets]:
    model = question.model
    run = record_run(model.bridge, model.architecture, batch.suffix)
    replacement = question.replacement(batch.suffix, run.writes)
    tokens, targets = None, batch.targets
    if question.metric.answers_only:
        tokens, targets = _compact(targets)
    state = incremental_state(
        model.bridge, model.architecture, batch.suffix, run, replacement, tokens, model.report.resume_exact
    )
    return state, targets


def _compact(targets: Targets) -> tuple[Tensor, Targets]:
    """The answers' and distractors' tokens, and targets that count among these alone."""
    tokens = torch.unique(torch.cat([targets.answers.flatten(), targets.distractors.flatten()]))
    answers, distractors = (torch.searchsorted(tokens, ids) for ids in (targets.answers, targets.distractors))
    return tokens, replace(targets, answers=answers, distractors=distractors)
