"""A metric over all pairs as a loss, updated incrementally while edges are ablated."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.incremental import Edge, Incremental, Trial
from circuits.engine.incremental.layers import Prepared, incremental_states
from circuits.engine.recorded_run import record_run
from circuits.errors import ModelError
from circuits.graph.graph import Graph
from circuits.prompts.rows import Forced
from circuits.question.metrics import Targets
from circuits.question.places import PlaceAxis
from circuits.question.question import Batch, Question

STATE_TOKENS = 1024
"""Batches are joined to one state of at most about this many tokens."""
LOGIT_ROWS = 64
"""Logits of the whole vocabulary are computed for about this many pairs at once: fewer would read the unembedding too often, and more
would often compute rows that are not used."""


class Loss:
    """The mean of the metric over all pairs, negated if higher is more of the behaviour.

    Holds all pairs in memory, with their clean run and every writer's (replacement - clean). Call it within `inference_state`.

    Attributes:
        axis: the places at which edges are ablated; None: everywhere.
        by_node: whether a change recomputes single nodes, or whole layers.
        all_logits: whether the metric reads the logits of the whole vocabulary.
        coupled: whether one post-norm couples the heads of a layer, so that all of them are live together.
    """

    def __init__(self, question: Question, axis: PlaceAxis | None = None) -> None:
        self.question, self.axis = question, axis
        self.graph: Graph = question.model.graph if axis is None else axis.graph
        self.states: list[Incremental] = []
        self.targets: list[Targets] = []
        self.all_logits = False
        for batches in _groups(question, axis):
            states, targets = _states(question, batches, axis)
            self.states += states
            self.targets += targets
            self.all_logits |= any(batch.tokens is None for batch, _ in batches)
        self.by_node = all(state.by_node for state in self.states)
        self.coupled = any(not block.linear_heads for block in question.model.architecture.blocks)

    def rows_worth(self, reader: int) -> int:
        """The largest useful number of switches of edges into this reader in one trial."""
        return min(state.rows_worth(reader) for state in self.states)

    def reset(self, keep: Bool[Tensor, "writer reader"]) -> None:
        """Ablates exactly the edges outside `keep`."""
        for state in self.states:
            state.reset(keep)

    def value(self) -> float:
        """The current loss."""
        return self.from_logits([state.logits() for state in self.states])

    def range(self) -> float:
        """The change of the loss from all edges kept to none."""
        ends = []
        for keep in (self.graph.edge_mask, torch.zeros_like(self.graph.edge_mask)):
            self.reset(keep)
            ends.append(self.value())
        return abs(ends[1] - ends[0])

    def trial(self, switches: Sequence[Sequence[Edge]]) -> "LossTrial":
        """See `Incremental.trial`."""
        return LossTrial(self, [state.trial(switches) for state in self.states])

    def from_logits(self, logits: Sequence[Float[Tensor, "_ d_out"]]) -> float:
        """The loss of these logits, one tensor for each state.

        Raises:
            ModelError: the loss is not finite.
        """
        metric, total = self.question.metric, 0.0
        for each, targets in zip(logits, self.targets, strict=True):
            total += float(metric(each, targets).double().sum())
        value = -metric.sign * total / len(self.question.pairs)
        if value != value or abs(value) == float("inf"):
            raise ModelError(
                f"{metric.name} is {value} with some edges ablated; the search cannot continue (use float32 or wider)"
            )
        return value


class LossTrial:
    """`Trial` over all states; computes losses when they are read, several rows at once."""

    def __init__(self, loss: Loss, trials: Sequence[Trial]) -> None:
        self.loss, self.trials = loss, trials
        self._rows = max(1, LOGIT_ROWS // len(loss.question.pairs)) if loss.all_logits else 2**31
        self._first = 0
        self._logits: list[Tensor] = []

    def value(self, row: int) -> float:
        """The loss with switches 0 … row made."""
        at = row - self._first
        if not self._logits or not 0 <= at < len(self._logits[0]):
            self._first, at = row, 0
            self._logits = [trial.logits(slice(row, row + self._rows)) for trial in self.trials]
        return self.loss.from_logits([logits[at] for logits in self._logits])

    def accept(self, row: int) -> None:
        for trial in self.trials:
            trial.accept(row)


def _groups(question: Question, axis: PlaceAxis | None) -> Iterator[list[tuple[Batch, Prepared]]]:
    """The prepared batches in groups of about `STATE_TOKENS` tokens."""
    model, group = question.model, []
    for batch in question.batches():
        run = record_run(model.architecture, batch.suffix)
        spans = None if axis is None else axis.table.of_tokens(batch)
        group.append((batch, Prepared(batch.suffix, run, question.replacement(batch.suffix, run.writes), spans)))
        if sum(prepared.n_tokens for _, prepared in group) >= STATE_TOKENS:
            yield group
            group = []
    if group:
        yield group


def _states(
    question: Question, batches: Sequence[tuple[Batch, Prepared]], axis: PlaceAxis | None
) -> tuple[list[Incremental], list[Targets]]:
    model, targets, tokens = question.model, [batch.targets for batch, _ in batches], None
    read = [batch.tokens for batch, _ in batches if batch.tokens is not None]
    if len(read) == len(batches):
        tokens = torch.cat(read).unique()
        targets = [each.among(tokens) for each in targets]
    prepared = [each for _, each in batches]
    placed = None if axis is None else axis.graph
    states = incremental_states(model.architecture, prepared, tokens, model.report.resume_exact, placed)
    return states, targets if len(states) == len(batches) else [_joined(targets)]


def _joined(batches: Sequence[Targets]) -> Targets:
    """Concatenates targets, padded to the widest."""
    joined: dict[str, Any] = {
        field.name: _concatenated([value for batch in batches if (value := getattr(batch, field.name)) is not None])
        for field in fields(Targets)
        if field.name != "forced"
    }
    forced = [batch.forced for batch in batches if batch.forced is not None]
    return Targets(**joined, forced=_joined_places(forced) if forced else None)


def _joined_places(batches: Sequence[Forced]) -> Forced:
    """The places of all batches, with rows, read positions and pairs numbered on."""
    sizes = torch.tensor([[0, 0, 0], *([len(b.answers), len(b.pair), len(b.row)] for b in batches)]).cumsum(0)[:-1]
    columns = {"pair": 0, "row": 1, "read_pair": 0, "answers": 2, "distractors": 2}
    joined: dict[str, Any] = {
        name: _concatenated([getattr(b, name) + int(n) for b, n in zip(batches, sizes[:, kind], strict=True)])
        for name, kind in columns.items()
    }
    return Forced(**joined)


def _concatenated(values: Sequence[Tensor]) -> Tensor | None:
    """Along the first axis, the others padded with 0 to the widest; None without values."""
    if not values:
        return None
    widest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    pads = [[(0, most - n) for most, n in zip(widest, value.shape[1:], strict=True)] for value in values]
    return torch.cat(
        [F.pad(v, [side for pad in reversed(p) for side in pad]) if p else v for v, p in zip(values, pads, strict=True)]
    )
