"""Edge attribution written out: a zero leaf on every edge of a node-by-node model, differentiated by autograd.

The rules of relevance propagation and of GIM are written here by hand, for GPT-2 and for Llama.
"""

import math

import torch
from transformers.models.llama.modeling_llama import rotate_half

from tests.naive_gpt2 import NaiveGPT2
from tests.naive_llama import NaiveLlama


class LeafGPT2(NaiveGPT2):
    """GPT-2 with a leaf on every edge; writers can be held at given values."""

    def logits(self, tokens, leaves, held=None):
        """Logits at every position, and all writers' outputs."""
        return self.walk(tokens, lambda edge, writer, value: value + leaves.get(edge, 0), held)


class RelevanceGPT2(LeafGPT2):
    """The same under RelP's rules."""

    def norm(self, x, layer_norm):
        centred = x - x.mean(-1, keepdim=True)
        scale = (x.var(-1, unbiased=False, keepdim=True) + layer_norm.eps).sqrt().detach()
        return centred / scale * layer_norm.weight + layer_norm.bias

    def mlp(self, block, x):
        hidden = block.mlp.c_fc(self.norm(x, block.ln_2))
        return block.mlp.c_proj(hidden * (block.mlp.act(hidden) / hidden).detach())


class LeafLlama(NaiveLlama):
    """Llama with a leaf on every edge, under RelP's rules; `detached` cuts the attention pattern."""

    def __init__(self, hf_model, detached) -> None:
        super().__init__(hf_model)
        self.detached = detached

    def norm(self, x, module):
        return x / (x.square().mean(-1, keepdim=True) + module.variance_epsilon).sqrt().detach() * module.weight

    def head(self, layer, h, q_in, k_in, v_in):
        attention, kv = layer.self_attn, h // self.group
        rows = [self.rows(attention.q_proj, h), self.rows(attention.k_proj, kv), self.rows(attention.v_proj, kv)]
        q, k, v = (self.norm(x, layer.input_layernorm) @ w.T for x, w in zip((q_in, k_in, v_in), rows, strict=True))
        cos, sin = self.model.rotary_emb(q, torch.arange(len(q))[None])
        q, k = (x * cos[0] + rotate_half(x) * sin[0] for x in (q, k))
        visible = torch.tril(torch.ones(len(q), len(q), dtype=torch.bool))
        pattern = (q @ k.T / math.sqrt(self.d_head)).masked_fill(~visible, -torch.inf).softmax(-1)
        pattern = pattern.detach() if self.detached else pattern
        return pattern @ v @ attention.o_proj.weight[:, h * self.d_head : (h + 1) * self.d_head].T

    def mlp(self, layer, x):
        x = self.norm(x, layer.post_attention_layernorm)
        gate, up = layer.mlp.gate_proj(x), layer.mlp.up_proj(x)
        act = gate * (layer.mlp.act_fn(gate) / gate).detach()
        return layer.mlp.down_proj((act * up.detach() + act.detach() * up) / 2)

    def logits(self, tokens, leaves, held=None):
        writers = {"input": self.model.embed_tokens(tokens)}

        def seen_by(reader):
            return sum(value + leaves.get(f"{writer}->{reader}", 0) for writer, value in writers.items())

        for index, layer in enumerate(self.model.layers):
            heads = {}
            for h in range(self.config.num_attention_heads):
                kv = f"a{index}.kv{h // self.group}"
                heads[f"a{index}.h{h}"] = self.head(
                    layer, h, seen_by(f"a{index}.h{h}<q>"), seen_by(f"{kv}<k>"), seen_by(f"{kv}<v>")
                )
            writers |= heads
            writers[f"m{index}"] = self.mlp(layer, seen_by(f"m{index}"))
        return self.lm_head(self.norm(seen_by("logits"), self.model.norm)), writers


class _Weighed(torch.autograd.Function):
    """x, with `factor` times its gradient."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.factor * gradient, None


class _Softmax(torch.autograd.Function):
    """A softmax, with the Jacobian of another temperature and no factor for it."""

    @staticmethod
    def forward(ctx, scores, temperature):
        ctx.save_for_backward((scores / temperature).softmax(-1))
        return scores.softmax(-1)

    @staticmethod
    def backward(ctx, gradient):
        (warm,) = ctx.saved_tensors
        jacobian = torch.diag_embed(warm) - warm[..., :, None] * warm[..., None, :]
        return (jacobian @ gradient[..., None])[..., 0], None


class GimGPT2(RelevanceGPT2):
    """GPT-2 under GIM's rules; its norms have RelP's."""

    def __init__(self, hf_model, rules) -> None:
        super().__init__(hf_model)
        self.rules = rules

    def head(self, block, h, q_in, k_in, v_in):
        weight, bias, rules = block.attn.c_attn.weight, block.attn.c_attn.bias, self.rules
        n, lo = self.config.n_embd, h * self.d_head
        columns = [slice(part * n + lo, part * n + lo + self.d_head) for part in range(3)]
        q, k, v = (
            _Weighed.apply(self.norm(x, block.ln_1) @ weight[:, c] + bias[c], scale)
            for x, c, scale in zip(
                (q_in, k_in, v_in), columns, (rules.q_scale, rules.k_scale, rules.v_scale), strict=True
            )
        )
        visible = torch.tril(torch.ones(len(q), len(q), dtype=torch.bool))
        scores = (q @ k.T / math.sqrt(self.d_head)).masked_fill(~visible, -torch.inf)
        pattern = _Softmax.apply(scores, rules.softmax_temperature)
        return pattern @ v @ block.attn.c_proj.weight[lo : lo + self.d_head]

    def mlp(self, block, x):
        return block.mlp(self.norm(x, block.ln_2))


class GimLlama(LeafLlama):
    """Llama under GIM's rules; its norms have RelP's."""

    def __init__(self, hf_model, rules) -> None:
        super().__init__(hf_model, detached=False)
        self.rules = rules

    def head(self, layer, h, q_in, k_in, v_in):
        attention, kv, rules = layer.self_attn, h // self.group, self.rules
        rows = [self.rows(attention.q_proj, h), self.rows(attention.k_proj, kv), self.rows(attention.v_proj, kv)]
        q, k, v = (
            _Weighed.apply(self.norm(x, layer.input_layernorm) @ w.T, scale)
            for x, w, scale in zip((q_in, k_in, v_in), rows, (rules.q_scale, rules.k_scale, rules.v_scale), strict=True)
        )
        q, k = self.rotate(q), self.rotate(k)
        visible = torch.tril(torch.ones(len(q), len(q), dtype=torch.bool))
        scores = (q @ k.T / math.sqrt(self.d_head)).masked_fill(~visible, -torch.inf)
        pattern = _Softmax.apply(scores, rules.softmax_temperature)
        return pattern @ v @ attention.o_proj.weight[:, h * self.d_head : (h + 1) * self.d_head].T

    def mlp(self, layer, x):
        x = self.norm(x, layer.post_attention_layernorm)
        gate = _Weighed.apply(layer.mlp.gate_proj(x), self.rules.gate_scale)
        up = _Weighed.apply(layer.mlp.up_proj(x), self.rules.up_scale)
        return layer.mlp.down_proj(layer.mlp.act_fn(gate) * up)


def edge_gradients(naive, edges, pair, held=None):
    """{edge: gradient at its reader} of one pair's logit difference on the clean prompt."""
    width = naive.config.hidden_size
    leaves = {edge: torch.zeros(len(pair.clean), width, dtype=torch.float64).requires_grad_() for edge in edges}
    logits, _ = naive.logits(torch.tensor(pair.clean), leaves, held)
    metric = logits[-1, pair.answers[0]] - logits[-1, pair.distractors[0]]
    result = torch.autograd.grad(metric, list(leaves.values()), allow_unused=True)
    return {e: torch.zeros_like(leaf) if g is None else g for (e, leaf), g in zip(leaves.items(), result, strict=True)}


def mean_products(edges, pairs, terms):
    """{edge: mean over pairs of Σ difference · gradient}; `terms(pair)` gives (differences by writer, gradients by edge,
    which writers they count for) one after the other."""
    totals = dict.fromkeys(edges, 0.0)
    for pair in pairs:
        for differences, gradients, counts in terms(pair):
            for edge in edges:
                writer = edge.split("->")[0]
                if counts is None or writer in counts:
                    totals[edge] += float((differences[writer] * gradients[edge]).sum()) / len(pairs)
    return totals
