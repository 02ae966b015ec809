"""Does a gradient at the clean run see the edge `input->m0` with the right sign?

The first MLP turns the token's embedding into what most later layers read, and far from linearly: on SmolLM2-135M and
indirect object identification, ablating `input->m0` costs 10.9 logits, and EAP says that it gains 0.67. An edge so large
with the wrong sign spoils every circuit chosen by signed scores. So it is measured, exactly, on a few prompts. Rules that
take gradients between ablated and clean, or coefficients instead of gradients, have not been seen to fail so.
"""

from dataclasses import replace

import torch

from circuits.question import Question
from circuits.scores import EdgeScores
from circuits.single_edges import EdgeRuns, edge_effects

PROMPTS = 4
"""How many prompts are measured: three forward passes each."""


def contradicted_sign(question: Question, scores: EdgeScores) -> str | None:
    """What to tell the user if the exact effect of `input->m0` has the other sign than its score.

    Only where the exact effect is larger than half of the strongest score, and than two of its standard errors; else, and
    with a single prompt, None.
    """
    graph = question.model.graph
    if not graph.mlps[0] or len(question.pairs) < 2:
        return None
    reader = graph.readers_of(0, "mlp").start
    few = replace(question, pairs=question.pairs[:PROMPTS])
    measured = torch.cat(
        [edge_effects(few, batch, EdgeRuns.of(few, batch, None), reader, [0], None)[0] for batch in few.batches()]
    )
    exact, score = float(measured.mean()) * question.metric.sign, float(scores.values[0, reader])
    error = float(measured.std()) / len(measured) ** 0.5
    if exact * score >= 0 or abs(exact) <= max(float(scores.values.abs().max()) / 2, 2 * error):
        return None
    return (
        f"the gradient at the clean run scores input->m0 {score:+.2f}, but ablating that edge has an effect of {exact:+.2f} "
        f"(exact, on {len(measured)} prompts): circuits chosen by these scores may fail. Use gradient='ig' or 'relp', or "
        "circuits.refine; check_sign=False silences this"
    )
