"""A slow, obvious Llama with grouped-query attention whose readers each see their own sum of writers: an oracle."""

import math

import torch
from transformers.models.llama.modeling_llama import rotate_half


class NaiveLlama:
    """Forward passes of a Hugging Face Llama over a graph of named writers and readers, one prompt at a time."""

    def __init__(self, hf_model) -> None:
        self.model, self.config = hf_model.model, hf_model.config
        self.lm_head = hf_model.lm_head
        self.d_head = self.config.head_dim
        self.group = self.config.num_attention_heads // self.config.num_key_value_heads

    def rotate(self, x):
        cos, sin = self.model.rotary_emb(x, torch.arange(len(x))[None])
        return x * cos[0] + rotate_half(x) * sin[0]

    def rows(self, linear, head):
        return linear.weight[head * self.d_head : (head + 1) * self.d_head]

    def head(self, layer, h, q_in, k_in, v_in):
        attention, norm = layer.self_attn, layer.input_layernorm
        kv = h // self.group
        q = self.rotate(norm(q_in) @ self.rows(attention.q_proj, h).T)
        k = self.rotate(norm(k_in) @ self.rows(attention.k_proj, kv).T)
        v = norm(v_in) @ self.rows(attention.v_proj, kv).T
        scores = q @ k.T / math.sqrt(self.d_head)
        visible = torch.tril(torch.ones(len(q), len(q), dtype=torch.bool))
        pattern = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        return pattern @ v @ attention.o_proj.weight[:, h * self.d_head : (h + 1) * self.d_head].T

    def run(self, tokens, kept=None, replacement=None):
        """Logits of one prompt at every position, and all writers' outputs; see `NaiveGPT2.run`."""
        writers = {"input": self.model.embed_tokens(tokens)}

        def seen_by(reader):
            total = 0
            for writer, value in writers.items():
                keep = kept is None or f"{writer}->{reader}" in kept
                total = total + (value if keep else replacement[writer])
            return total

        for index, layer in enumerate(self.model.layers):
            heads = {}
            for h in range(self.config.num_attention_heads):
                kv = f"a{index}.kv{h // self.group}"
                seen = (seen_by(f"a{index}.h{h}<q>"), seen_by(f"{kv}<k>"), seen_by(f"{kv}<v>"))
                heads[f"a{index}.h{h}"] = self.head(layer, h, *seen)
            writers |= heads
            writers[f"m{index}"] = layer.mlp(layer.post_attention_layernorm(seen_by(f"m{index}")))
        return self.lm_head(self.model.norm(seen_by("logits"))), writers
