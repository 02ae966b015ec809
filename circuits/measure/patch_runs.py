"""The metric of runs in which sets of nodes take their values from the other run, for one batch.

*Denoising* patches clean values into the corrupted run, *noising* corrupted values into the clean run. A pass begins at
the first layer that it patches; interventions with the same first layer share passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.patch import Intervention, ValueRecorder, Values, changed_prompts, patched_logits, record_values
from circuits.engine.resume import BaseRun, base_run
from circuits.graph.nodes import Site
from circuits.question.ablations import RunAblation
from circuits.question.metric_values import checked_together
from circuits.question.question import Batch, Question

TOKENS_AT_ONCE = 1024
"""Tokens per pass, if several interventions share it."""


@dataclass(frozen=True, eq=False)
class PatchRuns:
    """A batch that can be patched.

    Attributes:
        question: model, pairs, metric and ablation.
        batch: some of its pairs.
        base: the run that is patched.
        own: its values.
        values: the values of the other run.
        clean, corrupted: the metric of both runs, without `Metric.sign`.
        direction: `denoising` or `noising`.
        other: the ablation that makes the other run.
    """

    question: Question
    batch: Batch
    base: BaseRun
    own: Values
    values: Values
    clean: Float[Tensor, " pair"]
    corrupted: Float[Tensor, " pair"]
    direction: str
    other: RunAblation

    @classmethod
    def prepare(
        cls, question: Question, other: RunAblation, batch: Batch, sites: Sequence[Site], direction: str = "noising"
    ) -> "PatchRuns":
        """Makes both runs.

        Args:
            question: model, pairs, metric and ablation.
            other: the source of corrupted values.
            batch: some of its pairs.
            sites: all nodes that will be patched.
            direction: see the module docstring.
        """
        model, architecture = question.model, question.model.architecture
        runs = {
            "clean": (batch.suffix.clean_tokens, question.seeing(batch)),
            "corrupted": other.run(model, batch.suffix),
        }
        base_name, source_name = ("corrupted", "clean") if direction == "denoising" else ("clean", "corrupted")
        tokens, hooks = runs[source_name]
        logits, values = record_values(architecture, tokens, sites, hooks, batch.tokens)
        values = (other.on_own if direction == "denoising" else other.on_clean)(batch.suffix, values)
        tokens, hooks = runs[base_name]
        own = ValueRecorder(architecture, sites)
        base = base_run(architecture, tokens, [*hooks, *own.hooks()], model.report.resume_exact, batch.tokens)
        ends_logits = {source_name: logits, base_name: base.logits}
        clean = question.clean_metric(batch, ends_logits["clean"])
        corrupted = question.metric_of(batch, ends_logits["corrupted"])
        return cls(question, batch, base, own.values, values, clean, corrupted, direction, other)

    def metrics(self, interventions: Sequence[Intervention]) -> Float[Tensor, "intervention batch"]:
        """The metric under each intervention; exactly that of the base run if an intervention changes nothing."""
        start = self.corrupted if self.direction == "denoising" else self.clean
        if self.direction == "denoising":
            interventions = [self.other.own_patches(self.batch.suffix, patches) for patches in interventions]
        metrics = start.repeat(len(interventions), 1)
        changes = {
            i: self.batch.any_row(changed_prompts(self.own, self.values, patches, start.device))
            for i, patches in enumerate(interventions)
            if patches
        }
        changing = torch.stack([changed.any() for changed in changes.values()]).tolist() if changes else []
        useful = [i for i, changed in zip(changes, changing, strict=True) if changed]
        architecture, tokens = self.question.model.architecture, self.batch.tokens
        for chunk in _chunks(useful, interventions, max(1, TOKENS_AT_ONCE // self.batch.n_tokens)):
            wanted = [interventions[i] for i in chunk]
            logits = patched_logits(architecture, self.base, self.values, wanted, tokens)
            with checked_together():
                for i, row in zip(chunk, logits, strict=True):
                    metrics[i] = torch.where(changes[i], self.question.metric_of(self.batch, row), metrics[i])
        return metrics


def _chunks(which: Sequence[int], interventions: Sequence[Intervention], tiles: int) -> list[list[int]]:
    """Indices of interventions, one chunk per pass, grouped by first layer so that passes begin as late as possible."""
    first = {i: min(patch.site.layer for patch in interventions[i]) for i in which}
    chunks: list[list[int]] = []
    for i in sorted(which, key=lambda i: first[i]):
        if not chunks or len(chunks[-1]) == tiles or first[chunks[-1][-1]] != first[i]:
            chunks.append([])
        chunks[-1].append(i)
    return chunks
