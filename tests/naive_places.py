"""A slow, obvious forward pass in which edges are kept at some tokens only: the oracle of circuits over places.

Token by token and query by query, on top of the naive models; nothing here is shared with the package.
"""

import torch


def logits_at_places(naive, tokens, kept, replacement, spans):
    """Logits at the last position.

    `kept` holds names such as `input->a0.h0<q>@S` and `m0->a1.h0<k>@S=>end`; `spans` the name of every token's span. An edge into a
    key or value may be named with or without the query's span.
    """
    n = len(tokens)
    gpt2 = hasattr(naive.model, "transformer")
    _, clean = naive.run(tokens)
    writers = {"input": clean["input"]}
    constant = torch.zeros_like(clean["input"])

    def seen_by(reader, query=None):
        """What a reader sees at every token; for keys and values, by the query at this token."""
        total = constant.clone()
        for writer, value in writers.items():
            for t in range(n):
                names = {f"{writer}->{reader}@{spans[t]}"}
                if query is not None:
                    names.add(f"{writer}->{reader}@{spans[t]}=>{spans[query]}")
                total[t] = total[t] + (value[t] if names & kept else replacement[writer][t])
        return total

    layers = naive.model.transformer.h if gpt2 else naive.model.layers
    for index, layer in enumerate(layers):
        heads = {}
        for h in range(naive.config.num_attention_heads if not gpt2 else naive.config.n_head):
            node = f"a{index}.h{h}" if gpt2 else f"a{index}.kv{h // naive.group}"
            q_in = seen_by(f"a{index}.h{h}<q>")
            rows = [naive.head(layer, h, q_in, seen_by(f"{node}<k>", i), seen_by(f"{node}<v>", i))[i] for i in range(n)]
            heads[f"a{index}.h{h}"] = torch.stack(rows)
        writers |= heads
        if gpt2:
            constant = constant + layer.attn.c_proj.bias
            writers[f"m{index}"] = naive.mlp(layer, seen_by(f"m{index}"))
        else:
            writers[f"m{index}"] = layer.mlp(layer.post_attention_layernorm(seen_by(f"m{index}")))
    end = seen_by("logits")
    last = naive.norm(end, naive.model.transformer.ln_f) if gpt2 else naive.model.norm(end)
    head = naive.model.lm_head if gpt2 else naive.lm_head
    return head(last)[-1]
