"""Learned induction: a two-layer attention-only model, trained by `python -m tasks.trained.train`.

It has 44 thousand parameters, no norm and no MLPs. Unlike in the compiled model, heads share the work, and the true edges are
unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

import torch
from torch import nn
from transformer_lens import TransformerBridge, TransformerBridgeConfig
from transformer_lens.model_bridge.sources import boot_native

from circuits.prompts.pair import Place
from tasks.base import Draw
from tasks.tokens import Ids, TokenTask

BOS = 0
WEIGHTS = "induction.safetensors"
CONFIG: dict[str, Any] = {
    "d_model": 64, "d_head": 16, "n_heads": 4, "n_layers": 2, "n_ctx": 40, "d_vocab": 64, "attn_only": True,
    "act_fn": "relu", "normalization_type": None,
}  # fmt: skip


@dataclass(frozen=True)
class TrainedInduction(TokenTask):
    """Twelve different tokens, then some of them again: the next one. Corrupted prompts are of other tokens."""

    name = "trained/induction"
    title = "Induction, trained"
    description = "A b c d … A b c: d is next (two trained layers of attention)"
    source = "trained by python -m tasks.trained.train"
    words = ("BOS", *(f"t{number}" for number in range(1, CONFIG["d_vocab"])))
    n_ctx = CONFIG["n_ctx"]
    length = 12

    @classmethod
    def bridge(cls) -> TransformerBridge:
        """The trained model, in float32."""
        from safetensors.torch import load_file

        bridge = untrained(seed=0)
        with as_file(files("tasks.trained") / WEIGHTS) as path:
            weights = load_file(path)
        with torch.no_grad():
            for name, parameter in parameters(bridge).items():
                parameter.copy_(weights[name])
        return bridge

    def solve(self, prompt: Sequence[int]) -> Ids:
        return (prompt[list(prompt).index(prompt[-1]) + 1],)

    def prompts(self, draw: Draw) -> tuple[Sequence[int], Sequence[int]]:
        tokens = draw.random.sample(range(1, len(self.words)), 2 * self.length)
        again = draw.random.randint(4, self.length - 1)
        halves = tokens[: self.length], tokens[self.length :]
        clean, corrupted = ([BOS, *half, *half[:again]] for half in halves)
        return clean, corrupted

    def spans(self, prompt: Sequence[int]) -> Mapping[str, Place]:
        """The token that the prompt ends with too, and the one behind it."""
        before = list(prompt).index(prompt[-1])
        return {"before": before, "answer": before + 1}


def untrained(seed: int) -> TransformerBridge:
    """The model before training."""
    return boot_native(TransformerBridgeConfig(**CONFIG, seed=seed))


def parameters(bridge: TransformerBridge) -> dict[str, nn.Parameter]:
    """All parameters, by their names in the file of weights."""
    layers: dict[str, Any] = {"embed": bridge.embed, "position": bridge.pos_embed, "unembed": bridge.unembed}
    for index, block in enumerate(bridge.blocks):
        layers |= {f"{index}.{part}": getattr(block.attn, part) for part in "qkvo"}
    inner = {name: layer.original_component.named_parameters() for name, layer in layers.items()}
    return {f"{name}.{part}": parameter for name, parts in inner.items() for part, parameter in parts}
