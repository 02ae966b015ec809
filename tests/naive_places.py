"""A slow, obvious forward pass in which edges are kept at some tokens only: the oracle of circuits over places.

Token by token and query by query, on top of the naive models; nothing here is shared with the package.
"""

import torch

from tests.naive_gpt2 import NaiveGPT2
from tests.naive_llama import NaiveGemma2, NaiveLlama, NaiveMistral, NaiveNeoX

NAIVE = {"gpt2": NaiveGPT2, "llama": NaiveLlama, "mistral": NaiveMistral, "neox": NaiveNeoX, "gemma2": NaiveGemma2}
"""MHA, grouped keys, a sliding window, parallel blocks, post-norms with soft caps and windows."""


def logits_at_places(naive, tokens, kept, replacement, spans, added=None):
    """Logits at the last position.

    `kept` holds names such as `input->a0.h0<q>@S` and `m0->a1.h0<k>@S=>end`; None: every edge. `spans` has the name of every token's
    span. An edge into a key or value may be named with or without the query's span. `added(reader, query)` is added to what a reader
    sees, for the query at a token if it is a key or value.
    """
    n = len(tokens)
    _, clean = naive.run(tokens)
    writers = {"input": clean["input"]}
    constant = torch.zeros_like(clean["input"])

    def seen_by(reader, query=None):
        """What a reader sees at every token; for keys and values, by the query at this token."""
        total = constant.clone() if added is None else constant + added(reader, query)
        for writer, value in writers.items():
            if kept is None:
                total = total + value
                continue
            for t in range(n):
                names = {f"{writer}->{reader}@{spans[t]}"}
                if query is not None:
                    names.add(f"{writer}->{reader}@{spans[t]}=>{spans[query]}")
                total[t] = total[t] + (value[t] if names & kept else replacement[writer][t])
        return total

    for index, layer in enumerate(naive.layers):
        heads = {}
        mlp = naive.mlp(layer, seen_by(f"m{index}")) if naive.parallel else None
        for h in range(naive.n_heads):
            node, q_in = naive.kv_node(index, h), seen_by(f"a{index}.h{h}<q>")
            rows = [naive.head(layer, h, q_in, seen_by(f"{node}<k>", i), seen_by(f"{node}<v>", i))[i] for i in range(n)]
            heads[f"a{index}.h{h}"] = torch.stack(rows)
        writers |= dict(zip(heads, naive.behind(layer, list(heads.values())), strict=True))
        constant = constant + naive.constant(layer)
        writers[f"m{index}"] = naive.mlp(layer, seen_by(f"m{index}")) if mlp is None else mlp
    return naive.unembed(seen_by("logits"))[-1]


def effects_at_places(naive, clean, corrupted, answer, distractor, spans):
    """EAP of the logit difference, edge by edge and place by place with destinations, by names as above: the gradient comes from
    autograd at a tensor of zeros that is added to what each reader sees."""
    (_, own), (_, other) = naive.run(clean), naive.run(corrupted)
    zeros = {}

    def added(reader, query):
        return zeros.setdefault((reader, query), torch.zeros_like(own["input"]).requires_grad_())

    logits = logits_at_places(naive, clean, None, None, spans, added)
    (logits[answer] - logits[distractor]).backward()
    effects = {}
    for reader, query in zeros:
        for writer in own:
            terms = ((own[writer] - other[writer]).detach() * zeros[reader, query].grad).sum(-1).tolist()
            for t, effect in enumerate(terms):
                to = "" if query is None else f"=>{spans[query]}"
                name = f"{writer}->{reader}@{spans[t]}{to}"
                effects[name] = effects.get(name, 0.0) + effect
    return effects
