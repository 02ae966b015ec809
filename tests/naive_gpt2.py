"""A slow, obvious GPT-2 whose readers each see their own sum of writers: the oracle of the engine.

Node by node, head by head, position by position where it matters: nothing here is shared with the package.
"""

import math

import torch
import torch.nn.functional as F


class NaiveGPT2:
    """Forward passes of a Hugging Face GPT-2 over a graph of named writers and readers."""

    parallel = False

    def __init__(self, hf_model) -> None:
        self.model = hf_model
        self.config = hf_model.config
        self.d_head = self.config.n_embd // self.config.n_head
        self.n_heads, self.layers = self.config.n_head, hf_model.transformer.h

    def norm(self, x, layer_norm):
        return F.layer_norm(x, x.shape[-1:], layer_norm.weight, layer_norm.bias, layer_norm.eps)

    def head(self, block, h, q_in, k_in, v_in):
        """One head's write from the residual streams that its q, k and v see (before the norm)."""
        weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
        n, lo = self.config.n_embd, h * self.d_head
        columns = [slice(part * n + lo, part * n + lo + self.d_head) for part in range(3)]
        q, k, v = (
            self.norm(x, block.ln_1) @ weight[:, c] + bias[c] for x, c in zip((q_in, k_in, v_in), columns, strict=True)
        )
        scores = q @ k.T / math.sqrt(self.d_head)
        visible = torch.tril(torch.ones(len(q), len(q), dtype=torch.bool))
        pattern = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        return pattern @ v @ block.attn.c_proj.weight[lo : lo + self.d_head]

    def mlp(self, block, x):
        return block.mlp(self.norm(x, block.ln_2))

    def kv_node(self, index, h):
        return f"a{index}.h{h}"

    def behind(self, block, heads):
        return heads

    def constant(self, block):
        return block.attn.c_proj.bias

    def unembed(self, x):
        return self.model.lm_head(self.norm(x, self.model.transformer.ln_f))

    def run(self, tokens, kept=None, replacement=None):
        """Logits of one prompt at every position, and all writers' outputs.

        Edges outside `kept` carry `replacement[writer]` instead of the writer's current output (None: everything kept).
        """

        def carried(edge, writer, value):
            return value if kept is None or edge in kept else replacement[writer]

        return self.walk(tokens, carried)

    def walk(self, tokens, carried, held=None):
        """Node by node; `carried(edge, writer, value)` is what an edge carries. Writers can be held at given values."""
        held = held or {}
        transformer = self.model.transformer
        embedding = transformer.wte(tokens) + transformer.wpe(torch.arange(len(tokens)))
        writers = {"input": held.get("input", embedding)}
        constant = torch.zeros_like(embedding)

        def seen_by(reader):
            total = constant.clone()
            for writer, value in writers.items():
                total = total + carried(f"{writer}->{reader}", writer, value)
            return total

        for layer, block in enumerate(transformer.h):
            heads = {
                f"a{layer}.h{h}": self.head(block, h, *(seen_by(f"a{layer}.h{h}<{part}>") for part in "qkv"))
                for h in range(self.config.n_head)
            }
            writers |= {name: held.get(name, value) for name, value in heads.items()}
            constant = constant + self.constant(block)
            writers[f"m{layer}"] = held.get(f"m{layer}", self.mlp(block, seen_by(f"m{layer}")))
        return self.unembed(seen_by("logits")), writers


def replacement_of(naive, pair, ablation):
    """Every writer's replacement value under interchange or zero ablation."""
    with torch.no_grad():
        _, writers = naive.run(torch.tensor(pair.corrupted))
    return {name: torch.zeros_like(value) for name, value in writers.items()} if ablation == "zero" else writers
