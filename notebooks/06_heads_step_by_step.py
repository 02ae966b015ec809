# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mech-circuits/mech-circuits/blob/main/notebooks/06_heads_step_by_step.ipynb)
#
# # Heads, step by step
#
# Which heads write the answer, where do they look, and who tells them where to look? This notebook takes SmolLM2-135M on indirect
# object identification, "When Mary and John went to the store, John gave a drink to" -> " Mary", and goes backwards from the answer, as
# Wang et al. (2022, 2211.00593) did for GPT-2 small. Each step is one call; one is also done by hand, on the model's bridge.

# %%
# Installs the package where it is missing, as on Colab. SMOKE=1 in the environment makes everything small.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("circuits") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "mech-circuits[viz]"], check=True)
SMOKE = os.environ.get("SMOKE") == "1"

# %%
import torch

import circuits

model = circuits.load_model("smollm2-135m")
pairs = circuits.load_task("ioi").pairs(model, n=4 if SMOKE else 16, seed=0)
pair = pairs[0]
print(pair.clean_text, "->", model.tokenizer.decode(pair.answers), "and not", model.tokenizer.decode(pair.distractors))
print({role: model.tokenizer.decode(pair.clean[at]) for role, at in pair.roles.items()})

# %% [markdown]
# The roles name tokens: `IO` is the indirect object (the answer), `S1` and `S2` are the two mentions of the subject, and `end` is
# the last token, after which the model answers.
#
# ## 1. Which heads write the answer?
#
# The **direct effect** of a head is what its own output adds to the logit difference of the two names. The effects of all writers
# and a constant sum to the logit difference.

# %%
direct = circuits.direct_effects(model, pairs, nodes="heads")
direct.strongest(6)

# %%
total = float(direct.clean.mean())
print(f"logit difference {total:.2f}, all heads together {float(direct.values.sum()):.2f}")

# %% [markdown]
# ## 2. From which token do they take it?
#
# A head's direct effect is a sum over the tokens that it reads: attention times what the value at that token adds. So the same
# effects can be shown by head and source token.

# %%
by_source = circuits.direct_effects(model, pairs, nodes="heads", positions=["IO", "S1", "S2"])
by_source.strongest(8)

# %% [markdown]
# A **name mover** takes its effect from `IO`: it reads the name there and writes it. A **negative name mover** reads `IO` too, and
# writes against it. And a head can help without reading the answer at all: it reads `S2`, the repeated name, and writes against
# that name, which is the distractor. In this model the strongest head is of the last kind.

# %%
at = {role: by_source.values[:, i] for i, role in enumerate(by_source.positions)}
movers = [by_source.nodes[i] for i in at["IO"].argsort(descending=True)[:3].tolist()]
negative = by_source.nodes[int(at["IO"].argmin())]
subject = by_source.nodes[int(at["S2"].argmax())]
heads = [*movers, negative, subject]
print("name movers:", ", ".join(movers), "- negative name mover:", negative, "- reads S2:", subject)

# %% [markdown]
# ## 3. Where do they look?
#
# The attention of these heads from the last token, as a mean over the prompts. `other` is the rest, such as the first token.

# %%
seen = circuits.attention(model, pairs, heads)
frame = seen.by_span(["IO", "S1", "S2", "end"]).to_pandas()
frame[frame["query"] == "end"].pivot(index="head", columns="key", values="attention").round(2)

# %%
seen.plot(movers[0])

# %% [markdown]
# Does a head write the name because it looks at it? If so, it has a larger effect on prompts on which it attends more to `IO`
# (smaller for the negative name mover). With so few prompts a correlation is uncertain; Wang et al. plot many more.

# %%
for head in [*movers, negative]:
    to_io = torch.stack([seen.pattern[head][i, pairs[i].position, pairs[i].roles["IO"]] for i in range(len(pairs))])
    effect = direct.per_prompt[direct.nodes.index(head)].float()
    together = torch.corrcoef(torch.stack([to_io, effect]))[0, 1]
    print(head, f"effect {direct[head]:+.2f}, attention to IO {to_io.mean():.2f}, correlation {together:+.2f}")

# %% [markdown]
# ## 4. At which position do heads matter?
#
# Activation patching asks a causal question: how much of the behaviour returns if one head has its clean value in the corrupted
# run, at one role? These heads act at `end`, where the answer is read, and nowhere else. The effects differ from the direct ones:
# later heads react to what these heads write.

# %%
patched = circuits.activation_patching(model, pairs, nodes=heads, positions=["IO", "S1", "S2", "end"])
patched.to_pandas().pivot(index="node", columns="position", values="effect").round(2)

# %% [markdown]
# ## 5. Who tells them where to look?
#
# The edges into a head's *query* decide where it looks. Scores of all edges come from one call; here are the strongest into the
# query of each head. In GPT-2 small, heads that write at `end` which name to avoid (S-inhibition heads) come first.

# %%
edges = circuits.edge_attribution(model, pairs, steps=2 if SMOKE else 5)
scored = edges.to_dict()
for head in heads:
    into = {edge: score for edge, score in scored.items() if edge.endswith(f"->{head}<q>")}
    best = sorted(into, key=lambda edge: -abs(into[edge]))[:4]
    print(head, ", ".join(f"{edge.partition('->')[0]} {into[edge]:+.2f}" for edge in best))

# %% [markdown]
# ## 6. Are they needed?
#
# Ablate the name movers (all of their outgoing edges), with their mean over the prompts in place of their output. If the logit
# difference falls by less than their direct effects, other heads make up for them: *backup* heads, or negative name movers
# that now write less.

# %%
full = circuits.Circuit.full(model.graph)
out = [edge for edge in full.edges if edge.partition("->")[0] in movers]
without = full - circuits.Circuit.from_edges(model.graph, out)
left = float(circuits.circuit_metric(model, pairs, without, ablation="mean").mean())
print(
    f"{total:.2f} with them, {left:.2f} without: {total - left:.2f} less; direct effects {sum(direct[head] for head in movers):.2f}"
)

# %% [markdown]
# ## By hand, with the bridge
#
# `model.bridge` is TransformerLens' bridge, so every step can be checked with its hooks. Zero ablation of the first mover on one
# prompt:

# %%
head = movers[0]
layer, index = map(int, head.removeprefix("a").split(".h"))


def zeroed(value, hook):
    value = value.clone()
    value[:, :, index] = 0
    return value


tokens = torch.tensor([pair.clean])
with torch.no_grad():
    logits = model.bridge.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zeroed)])[0, pair.position]
by_hand = float(logits[pair.answers[0]] - logits[pair.distractors[0]])
no_head = full - circuits.Circuit.from_edges(model.graph, [e for e in full.edges if e.partition("->")[0] == head])
same = float(circuits.circuit_metric(model, pairs[:1], no_head, ablation="zero"))
print(f"{by_hand:.4f} by hand, {same:.4f} as a circuit")
assert abs(by_hand - same) < 1e-3

# %% [markdown]
# Next: [path patching](https://github.com/mech-circuits/mech-circuits/blob/main/docs/path_patching_ioi.md) repeats step 5 causally
# and goes on to the heads before; notebook 01 finds a circuit of all edges at once.
