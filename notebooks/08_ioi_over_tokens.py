# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mech-circuits/mech-circuits/blob/main/notebooks/08_ioi_over_tokens.ipynb)
#
# # IOI over tokens
#
# "Then, Robert and Chris had a long argument. Afterwards Chris said to" continues with " Robert". The indirect object (IO) is the
# name that is not repeated. Which heads of SmolLM2-135M do this, and *at which tokens*? This notebook answers with four figures.

# %%
# Installs the package where it is missing, as on Colab. SMOKE=1 in the environment makes everything small.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("circuits") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "mech-circuits[viz]"], check=True)
SMOKE = os.environ.get("SMOKE") == "1"

# %% [markdown]
# **Spans.** The prompts have different lengths, but the same spans in the same order. The task names `IO`, `S1` (the subject),
# `S2` (the subject again) and `end`; `S1+` are the tokens after S1, and so on. With `order="ABBA"`, the indirect object comes first.

# %%
import circuits
from circuits.export.layout import has_graphviz

model = circuits.load_model("smollm2-135m")
pairs = circuits.load_task("ioi", order="ABBA").pairs(model, n=2 if SMOKE else 16, seed=0)
print(pairs.spans)
starts = (*pairs.span_starts(0), len(pairs.clean[0]))
words = {
    span: model.tokenizer.decode(list(pairs.clean[0][starts[i] : starts[i + 1]])).strip()
    for i, span in enumerate(pairs.spans)
}
words

# %% [markdown]
# **One attribution with places.** Effects are divided by the span at which an edge acts. Those of keys and values are divided by
# the span of the query too: `m0->a23.kv1<v>@S2=>end` is what the heads with this key/value head read at S2 for their queries at
# the end.

# %%
gradient = "clean" if SMOKE else "ig"
scores = circuits.edge_attribution(model, pairs, gradient=gradient, positions="spans", destinations=True)
circuit = scores.top(150, places=True)
print(circuit)
scores.over_places().strongest(5)

# %% [markdown]
# **Figure 1: where.** The number of the circuit's edges at each span, and the sum of their sizes. Only S2 differs between a clean
# and a corrupted prompt. So nothing before S2 has an effect, whatever the model does there: the corruption asks only about S2.

# %%
import plotly.graph_objects as go

sizes = {}
for span in pairs.spans:
    here = [name for name in circuit.edges if name.partition("@")[2].split("=>")[0] == span]
    sizes[span] = sum(abs(circuit.score(name)) for name in here)
    print(f"{span:6} {len(here):4} edges")
figure = go.Figure(go.Bar(x=list(sizes), y=list(sizes.values()), marker_color="#0072B2"))
figure.update_layout(
    template="simple_white", width=640, height=320, xaxis_title="span", yaxis_title="sum of |effect| (logits)"
)
figure

# %% [markdown]
# **Figure 2: the circuit over tokens.** A column for each span, layers upward. The early layers work at S2. What they write is
# carried to the end by values that are read at S2 for the query at the end.

# %%
figure = None
if has_graphviz():  # pip install "mech-circuits[viz]"
    figure = circuit.plot(max_edges=60, words=words)
figure

# %% [markdown]
# **Figure 3: attention from a place.** What do the heads at S2 look at? A duplicate-token head looks from S2 to S1. An induction
# head looks at the token after S1, which is the first of `S1+`. Which of the circuit's heads are these? We measure the mean
# attention from the last token of S2 to every span.

# %%
heads = sorted({output.split("@")[0] for output in circuit.outputs if output[0] == "a"}) or ["a14.h3"]
seen = circuits.attention(model, pairs, heads)


def looks(head, span):
    """Mean attention of a head from the last token of a span to every span."""
    total = dict.fromkeys(pairs.spans, 0.0)
    for i in range(len(pairs)):
        starts = (*pairs.span_starts(i), len(pairs.clean[i]))
        row = seen.pattern[head][i, starts[pairs.spans.index(span) + 1] - 1]
        for j, other in enumerate(pairs.spans):
            total[other] += float(row[starts[j] : starts[j + 1]].sum()) / len(pairs)
    return total


at = {
    span: [o.split("@")[0] for o in circuit.outputs if o[0] == "a" and o.endswith(f"@{span}")] for span in pairs.spans
}
for span in ("S2", "end"):
    for head in at[span]:
        weights = looks(head, span)
        print(f"{head:7} from {span:4}", "  ".join(f"{other} {w:.2f}" for other, w in weights.items() if w > 0.1))

# %%
first = max(at["S2"] or heads, key=lambda head: looks(head, "S2")["S1"])
print(f"{first} has the most attention from S2 to S1:")
seen.plot(first)

# %% [markdown]
# **Figure 4: with roles.** The names say what we measured, not more: a head that looks from S2 to S1, or from S2 to what follows
# S1, or from the end to S2 or IO, with at least a third of its attention.

# %%
roles = (
    ("S2", "S1", "looks S2 → S1"),
    ("S2", "S1+", "looks S2 → S1+"),
    ("end", "S2", "looks end → S2"),
    ("end", "IO", "looks end → IO"),
)
labels = {}
for span, other, role in roles:
    labels |= {head: role for head in at[span] if looks(head, span)[other] > 1 / 3 and head not in labels}
print(labels)
figure = None
if has_graphviz():
    figure = circuit.plot(max_edges=30, words=words, naming=circuits.Naming(labels=labels))
figure

# %% [markdown]
# **Does it suffice?** Faithfulness with everything else at its corrupted value. Circuits with and without places are compared at
# equal numbers of (edge, place) pairs: `spread` gives an edge of a circuit without places all its places.

# %%
blind = scores.spread(circuit.graph.places).top(150)
for name, one in (("with places", circuit), ("without", blind)):
    value = circuits.faithfulness(model, pairs, one, n_random=0).value
    print(f"{name:12} {len(one):4} pairs, faithfulness {value:.2f}")

# %% [markdown]
# **The page**: the same picture, where a click on a head shows its attention from that place, on every prompt.

# %%
circuit.view(model, pairs)
