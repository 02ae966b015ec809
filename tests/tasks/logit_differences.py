"""How well a real model does a task."""

from typing import Any

import torch

from circuits.prompts.pairs import PromptPairs


def logit_differences(model: Any, pairs: PromptPairs, which: str) -> torch.Tensor:
    """Logit of the answer minus that of the distractor, for each pair."""
    out = torch.zeros(len(pairs))
    for batch in pairs.batches(25):
        with torch.no_grad():
            logits = model.bridge(getattr(batch, which).to(model.device)).cpu()
        here = logits[torch.arange(len(batch)), batch.position]
        out[batch.index] = (here.gather(1, batch.answers) - here.gather(1, batch.distractors))[:, 0]
    return out
