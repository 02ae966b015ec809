"""Is the first MLP an extended embedding: does its output depend on the token alone?

    share = 1 - Σ |m0(token in its prompt) - m0(token after BOS)|² / Σ |m0(token in its prompt) - mean|²

over all tokens of the clean prompts but the first. 1: the token determines the output; 0 or less: no better than the mean.
"""

import torch

from circuits.descriptions.probe_prompts import first_token
from circuits.engine.final_writes import final_writes
from circuits.engine.hooks import TokenBatch, inference_state, run
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs


def determined_by_token(model: Model, pairs: PromptPairs) -> float | None:
    """The share of the module docstring; None without an MLP in the first layer.

    With learned positions the token after BOS stands at another place than in its prompt, so the share is a lower bound.
    """
    point = model.architecture.blocks[0].mlp_out
    if point is None:
        return None
    writes, ids = [], []
    with inference_state(model.bridge), torch.no_grad():
        for batch in pairs.batches(64, forced=False):
            seen: list[torch.Tensor] = []
            tokens = batch.clean.to(model.device)
            run(
                model.architecture,
                TokenBatch(tokens, batch.position.to(model.device)),
                [(point, lambda x, seen=seen: seen.append(x))],
            )
            writes.append(seen[0][:, 1:].flatten(0, 1).double().cpu())
            ids.append(batch.clean[:, 1:].flatten())
        together, tokens = torch.cat(writes), torch.cat(ids)
        unique, back = tokens.unique(return_inverse=True)
        bos = torch.full_like(unique, first_token(model, pairs))
        prompts = torch.stack([bos, unique], 1).to(model.device)
        alone = final_writes(model.architecture, TokenBatch(prompts, torch.ones_like(unique).to(model.device))).mlps[0]
    assert alone is not None
    missed = (together - alone.double().cpu()[back]).square().sum()
    spread = (together - together.mean(0)).square().sum()
    return 1 - float(missed / spread) if float(spread) > 0 else None
