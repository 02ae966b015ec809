"""Does a gradient at the clean run see the edge `input->m0` with the right sign?

The first MLP turns the token's embedding into what most later layers read, and far from linearly: on SmolLM2-135M and
indirect object identification, ablating `input->m0` costs more than 10 logits, and EAP says that it gains some. An edge so
large with the wrong sign spoils every circuit chosen by signed scores. So it is measured, exactly, on a few prompts. Rules
that take gradients between ablated and clean, or coefficients instead of gradients, have not been seen to fail so.
"""

import torch
from torch import Tensor

from circuits.engine.capture import Gradients, Writes
from circuits.engine.hooks import run
from circuits.engine.readers import ShiftedReaders
from circuits.question.question import Batch, Question
from circuits.results.edge_scores import EdgeScores

PROMPTS = 4
"""How many prompts are measured: one forward pass."""


class SignCheck:
    """The exact effect of `input->m0` on the first prompts, set against its score.

    Attributes:
        effects: what was measured so far, one tensor a batch.
    """

    def __init__(self, question: Question) -> None:
        self.question, self.graph = question, question.model.graph
        self.effects: list[Tensor] = []

    def measure(self, batch: Batch, clean: Gradients, replacement: Writes) -> None:
        """Ablates the edge on prompts of a batch, as long as there are too few.

        Args:
            batch: the prompts.
            clean: their clean run.
            replacement: what replaces its writers.
        """
        rows = min(PROMPTS - sum(map(len, self.effects)), len(batch))
        if rows <= 0 or not self.graph.mlps[0]:
            return
        model = self.question.model
        shift = (replacement.embedding - clean.writes.embedding)[:rows]
        hooks = ShiftedReaders(model.architecture, {self.graph.readers_of(0, "mlp").start: shift}).hooks()
        logits = clean.logits.clone()
        with torch.no_grad():
            logits[:rows] = run(model.architecture, batch.suffix.clean_tokens.first(rows), hooks)
        self.effects.append((clean.values - self.question.metric(logits, batch.targets))[:rows].cpu())

    def verdict(self, scores: EdgeScores) -> str | None:
        """What to tell the user if the exact effect has the other sign than the score.

        Only where the exact effect is larger than half of the strongest score, and than two of its standard errors; else,
        and with a single prompt, None.
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
