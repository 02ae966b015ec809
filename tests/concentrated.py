"""A model with few strong edges, for methods that train masks."""

from functools import cache

import torch

import circuits
from circuits import circuit_metrics
from tests.tiny_models import random_hf_model, random_pairs

PAIRS = random_pairs(n=8)


@cache
def concentrated():
    """GPT-2 in which two heads and one MLP write, and the others hardly."""
    hf_model = random_hf_model("gpt2")
    with torch.no_grad():
        for layer, block in enumerate(hf_model.transformer.h):
            for head in range(3):
                if (layer, head) not in ((0, 1), (2, 0)):
                    block.attn.c_proj.weight[head * 8 : (head + 1) * 8] *= 0.02
            if layer != 1:
                block.mlp.c_proj.weight *= 0.02
    return circuits.load_model(hf_model)


def divergence(*result, metric="kl_divergence"):
    return circuit_metrics(concentrated(), PAIRS, result, metric=metric).mean(1).tolist()
