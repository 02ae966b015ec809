"""Slow, obvious decoders whose readers each see their own sum of writers: oracles beside `NaiveGPT2`."""

import math

import torch
from transformers.models.llama.modeling_llama import rotate_half


class NaiveLlama:
    """Forward passes of a Hugging Face Llama over a graph of named writers and readers, one prompt at a time."""

    parallel = False

    def __init__(self, hf_model) -> None:
        self.model, self.config = hf_model.model, hf_model.config
        self.lm_head = hf_model.lm_head
        self.d_head = self.config.head_dim
        self.n_heads = self.config.num_attention_heads
        self.group = self.n_heads // self.config.num_key_value_heads
        self.layers = self.model.layers

    def kv_node(self, index, h):
        return f"a{index}.kv{h // self.group}" if self.group > 1 else f"a{index}.h{h}"

    def rotate(self, x):
        cos, sin = self.model.rotary_emb(x, torch.arange(len(x))[None])
        return x * cos[0] + rotate_half(x) * sin[0]

    def rows(self, linear, head):
        return linear.weight[head * self.d_head : (head + 1) * self.d_head]

    def pattern(self, layer, q, k):
        visible = torch.tril(torch.ones(len(q), len(q), dtype=torch.bool))
        return (q @ k.T / math.sqrt(self.d_head)).masked_fill(~visible, -torch.inf).softmax(-1)

    def head(self, layer, h, q_in, k_in, v_in):
        attention, norm = layer.self_attn, layer.input_layernorm
        kv = h // self.group
        q = self.rotate(norm(q_in) @ self.rows(attention.q_proj, h).T)
        k = self.rotate(norm(k_in) @ self.rows(attention.k_proj, kv).T)
        v = norm(v_in) @ self.rows(attention.v_proj, kv).T
        write = attention.o_proj.weight[:, h * self.d_head : (h + 1) * self.d_head].T
        return self.pattern(layer, q, k) @ v @ write

    def behind(self, layer, heads):
        """The heads' writes, behind a norm of their sum if there is one."""
        return heads

    def constant(self, layer):
        """What attention adds that belongs to no head."""
        return 0

    def embed(self, tokens):
        return self.model.embed_tokens(tokens)

    def mlp(self, layer, x):
        return layer.mlp(layer.post_attention_layernorm(x))

    def unembed(self, x):
        return self.lm_head(self.model.norm(x))

    def run(self, tokens, kept=None, replacement=None):
        """Logits of one prompt at every position, and all writers' outputs; see `NaiveGPT2.run`."""
        writers = {"input": self.embed(tokens)}
        constant = torch.zeros_like(writers["input"])

        def seen_by(reader):
            total = constant.clone()
            for writer, value in writers.items():
                keep = kept is None or f"{writer}->{reader}" in kept
                total = total + (value if keep or replacement is None else replacement[writer])
            return total

        for index, layer in enumerate(self.layers):
            heads = {}
            mlp = self.mlp(layer, seen_by(f"m{index}")) if self.parallel else None
            for h in range(self.n_heads):
                kv = self.kv_node(index, h)
                seen = (seen_by(f"a{index}.h{h}<q>"), seen_by(f"{kv}<k>"), seen_by(f"{kv}<v>"))
                heads[f"a{index}.h{h}"] = self.head(layer, h, *seen)
            writers |= dict(zip(heads, self.behind(layer, list(heads.values())), strict=True))
            constant = constant + self.constant(layer)
            writers[f"m{index}"] = self.mlp(layer, seen_by(f"m{index}")) if mlp is None else mlp
        return self.unembed(seen_by("logits")), writers


class NaiveMistral(NaiveLlama):
    """The same with a sliding window."""

    def scores(self, layer, q, k):
        return q @ k.T / math.sqrt(self.d_head)

    def window(self, layer):
        return self.config.sliding_window

    def pattern(self, layer, q, k):
        distance = torch.arange(len(q))[:, None] - torch.arange(len(q))
        window = self.window(layer) or len(q)
        visible = (distance >= 0) & (distance < window)
        return self.scores(layer, q, k).masked_fill(~visible, -torch.inf).softmax(-1)


class NaiveGemma2(NaiveMistral):
    """Every second layer has a window, scores and logits a soft cap, and what attention and MLPs write a norm of its own."""

    def scores(self, layer, q, k):
        cap = self.config.attn_logit_softcapping
        return cap * torch.tanh(q @ k.T * self.config.query_pre_attn_scalar**-0.5 / cap)

    def window(self, layer):
        return layer.self_attn.sliding_window

    def behind(self, layer, heads):
        """Each head at the scale of their sum: the norm is linear but for this scale."""
        norm, total = layer.post_attention_layernorm, torch.stack(heads).sum(0)
        scale = (total.double().pow(2).mean(-1, keepdim=True) + norm.eps).rsqrt()
        return [(1 + norm.weight) * scale * head for head in heads]

    def mlp(self, layer, x):
        return layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(x)))

    def unembed(self, x):
        cap = self.config.final_logit_softcapping
        return cap * torch.tanh(self.lm_head(self.model.norm(x)) / cap)


class NaiveNeoX(NaiveLlama):
    """Attention and MLP of a block read the same stream; a part of each head is rotated."""

    parallel = True

    def __init__(self, hf_model) -> None:
        self.model, self.config, self.lm_head = hf_model.gpt_neox, hf_model.config, hf_model.lm_head
        self.n_heads, self.group = self.config.num_attention_heads, 1
        self.d_head = self.config.hidden_size // self.n_heads
        self.layers = self.model.layers

    def rotate(self, x):
        cos, sin = (table[0] for table in self.model.rotary_emb(x, torch.arange(len(x))[None]))
        front, back = x[:, : cos.shape[-1]], x[:, cos.shape[-1] :]
        return torch.cat([front * cos + rotate_half(front) * sin, back], dim=-1)

    def head(self, layer, h, q_in, k_in, v_in):
        attention, d = layer.attention, self.d_head
        weight = attention.query_key_value.weight.reshape(self.n_heads, 3, d, -1)[h]
        bias = attention.query_key_value.bias.reshape(self.n_heads, 3, d)[h]
        q, k, v = (layer.input_layernorm(x) @ weight[part].T + bias[part] for part, x in enumerate((q_in, k_in, v_in)))
        pattern = self.pattern(layer, self.rotate(q), self.rotate(k))
        return pattern @ v @ attention.dense.weight[:, h * d : (h + 1) * d].T

    def constant(self, layer):
        return layer.attention.dense.bias

    def embed(self, tokens):
        return self.model.embed_in(tokens)

    def unembed(self, x):
        return self.lm_head(self.model.final_layer_norm(x))
