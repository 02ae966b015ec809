"""Does the gradient at the clean run give the edge `input->m0` the right sign?

The first MLP turns the token's embedding into what most later layers read, and it is far from linear. On SmolLM2-135M
and indirect object identification, ablating `input->m0` costs more than 10 logits, but EAP estimates a gain. An edge of
this size with the wrong sign spoils every circuit chosen by signed scores. So its exact effect is measured on a few
prompts. Rules that take gradients between ablated and clean, or coefficients instead of gradients, have not been seen
to fail in this way.
"""

import torch
from torch import Tensor

from circuits.engine.capture import Gradients, Writes
from circuits.engine.hooks import run
from circuits.engine.readers import ShiftedReaders
from circuits.question.question import Batch, Question
from circuits.results.edge_scores import EdgeScores

PROMPTS = 4
"""Prompts to measure, in one forward pass."""


class SignCheck:
    """Compares the exact effect of `input->m0` on the first prompts with its score.

    Attributes:
        effects: the measured effects, one tensor per batch.
    """

    def __init__(self, question: Question) -> None:
        self.question, self.graph = question, question.model.graph
        self.effects: list[Tensor] = []

    def measure(self, batch: Batch, clean: Gradients, replacement: Writes) -> None:
        """Ablates the edge on prompts of a batch, until `PROMPTS` are measured.

        Args:
            batch: the prompts.
            clean: their clean run.
            replacement: the replacements of its writers.
        """
        pairs = min(PROMPTS - sum(map(len, self.effects)), len(batch))
        if pairs <= 0 or not self.graph.mlps[0]:
            return
        model = self.question.model
        rows = pairs if batch.suffix.row is None else batch.n_rows
        shift = (replacement.embedding - clean.writes.embedding)[:rows]
        hooks = ShiftedReaders(model.architecture, {self.graph.readers_of(0, "mlp").start: shift}).hooks()
        logits = clean.logits.clone()
        with torch.no_grad():
            measured = run(model.architecture, batch.suffix.clean_tokens.first(rows), hooks, batch.tokens)
            logits[: len(measured)] = measured
        self.effects.append((clean.values - self.question.metric_of(batch, logits))[:pairs].cpu())

    def verdict(self, scores: EdgeScores) -> str | None:
        """A warning if the exact effect and the score have opposite signs.

        None if the exact effect is at most half of the largest absolute score or at most two of its own standard
        errors, or if only one prompt was measured.
        """
        measured = torch.cat([torch.zeros(0), *self.effects])
        if len(measured) < 2:
            return None
        exact, score = float(measured.mean()) * self.question.metric.sign, scores["input->m0"]
        error = float(measured.std()) / len(measured) ** 0.5
        if exact * score >= 0 or abs(exact) <= max(float(scores.values.abs().max()) / 2, 2 * error):
            return None
        return (
            f"the gradient at the clean run scores input->m0 {score:+.2f}, but ablating that edge has an effect of "
            f"{exact:+.2f} (exact, on {len(measured)} prompts): circuits chosen by these scores may fail. Use gradient='ig' "
            "or 'relp', or circuits.refine; check_sign=False silences this"
        )
