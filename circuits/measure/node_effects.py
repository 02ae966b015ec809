"""From the effects on a batch to `NodeScores`: the part that all methods with node scores share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.hooks import inference_state
from circuits.errors import InputError
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import RunAblation
from circuits.question.metric_values import checked_together
from circuits.question.positions import tokens_at
from circuits.question.question import Batch, Question
from circuits.results.node_scores import NodeScores, node_scores
from circuits.results.provenance import provenance


class BatchEffects(NamedTuple):
    """A method's result on one batch, without `Metric.sign`.

    Attributes:
        effects: the effect of each node (and position) on each prompt.
        clean, corrupted: the metric of both runs; None if the method makes no corrupted run.
    """

    effects: Float[Tensor, "node *position pair"]
    clean: Float[Tensor, " pair"]
    corrupted: Float[Tensor, " pair"] | None = None


def node_effects(
    question: Question,
    method: str,
    options: Mapping[str, Any],
    nodes: Sequence[str],
    positions: tuple[str, ...] | None,
    measure: Callable[[Batch], BatchEffects],
    progress: Progress | None = None,
) -> NodeScores:
    """Measures all batches with the model in evaluation mode, and signs the effects: positive = the node helps.

    Args:
        question: model, pairs, metric and ablation.
        method, options: for the provenance.
        nodes, positions: labels of the scores' axes.
        measure: computes the effects on one batch.
        progress: called with (pairs done, total).
    """
    n = len(question.pairs)
    axes = (len(nodes),) if positions is None else (len(nodes), len(positions))
    effects = torch.zeros(*axes, n, dtype=torch.float64)
    clean, corrupted = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    known = True
    with inference_state(question.model.bridge):
        for batch in question.batches(progress=progress):
            index = batch.index
            with checked_together():
                measured = measure(batch)
            effects[..., index] = measured.effects.to("cpu", torch.float64)
            clean[index] = measured.clean.to("cpu", torch.float64)
            known = measured.corrupted is not None
            if measured.corrupted is not None:
                corrupted[index] = measured.corrupted.to("cpu", torch.float64)
    sign = question.metric.sign
    origin = provenance(question, method, options)
    other = corrupted * sign if known else None
    return node_scores(tuple(nodes), effects * sign, origin, positions, clean * sign, other)


def other_run(question: Question, method: str) -> RunAblation:
    """The question's ablation, for a method that needs values from another run of the model.

    Raises:
        InputError: the ablation is not a `RunAblation`.
    """
    if not isinstance(question.ablation, RunAblation):
        raise InputError(
            f"{method} needs values from another run of the model, which {question.ablation.name} ablation does not have; use "
            "interchange, gaussian or resample"
        )
    return question.ablation


def at_positions(
    by_position: Float[Tensor, "node row pos"],
    labels: tuple[str, ...] | None,
    batch: Batch,
    pairs: PromptPairs,
) -> Float[Tensor, "node *position pair"]:
    """Effects by position of the suffix, summed over all (`labels` None) or over the tokens of each label, and over each pair's rows;
    0 in the common prefix."""
    if labels is None:
        return batch.per_pair(by_position.sum(-1), dim=-1)
    tokens = torch.stack([tokens_at(label, batch, pairs) for label in labels]).to(by_position)
    return batch.per_pair(torch.einsum("nbp,lbp->nlb", by_position, tokens), dim=-1)
