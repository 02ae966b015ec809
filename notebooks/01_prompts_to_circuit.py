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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mech-circuits/mech-circuits/blob/main/notebooks/01_prompts_to_circuit.ipynb)
#
# # From prompts to a circuit, in ten cells
#
# Which heads and MLPs of a small language model know who gets the drink? We take SmolLM2-135M, two kinds of prompts, one
# method, and look at the circuit that comes out, and at what it is worth.

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
import circuits
import tasks

model = circuits.load_model("smollm2-135m")
model.graph.n_edges, len(model.graph.writers)

# %% [markdown]
# A behaviour is shown by pairs of prompts: the clean one asks for it, the corrupted one differs in as little as possible and
# asks for the opposite. The metric is the logit of the right name less that of the wrong one.

# %%
pairs = tasks.load("ioi").pairs(model, n=4 if SMOKE else 32, seed=0)
for pair in list(pairs)[:3]:
    print(pair.clean_text, "->", model.tokenizer.decode(pair.answers))
    print(pair.corrupted_text, "->", model.tokenizer.decode(pair.distractors), end="\n\n")

# %% [markdown]
# Every edge of the graph gets an estimate of what the metric loses without it: positive = it helps. EAP-IG integrates
# gradients along the way from the corrupted to the clean embedding.

# %%
scores = circuits.edge_attribution(model, pairs, gradient="ig", steps=5)
scores.strongest(8)

# %% [markdown]
# The circuit: the strongest edges that are connected.

# %%
circuit = scores.top(200)
circuit

# %% [markdown]
# Does it do what the model does? Faithfulness is 1 if the circuit alone gives the model's metric, 0 if it gives that of the
# corrupted prompts. It means something only beside random circuits of equal size.

# %%
fresh = tasks.load("ioi").pairs(model, n=4 if SMOKE else 32, seed=1)
faith = circuits.faithfulness(model, fresh, circuit, n_random=3 if SMOKE else 20)
print(faith)
print("p against random circuits:", faith.p_value)

# %% [markdown]
# More edges are not always better: edges that hurt the metric are part of the model, too.

# %%
curves = circuits.faithfulness_curves(
    model,
    fresh,
    scores,
    fractions=(0.001, 0.01, 0.1) if SMOKE else (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
)
print(curves)

# %% [markdown]
# The picture. Blue edges help, vermilion, dashed ones hurt; width is the size of the effect.

# %%
from circuits.plots import circuit_figure

circuit_figure(scores.top(60), title="IOI in SmolLM2-135M")

# %% [markdown]
# And what leaves the notebook: a networkx graph, a file for a paper, a page to look around in.

# %%
graph = circuit.to_networkx()
print(graph)
circuits.export_circuit(scores.top(60), "ioi.tex", "tikz", overwrite=True)

# %%
from circuits.viewer import write_viewer
from circuits.viewer.attention import attention_patterns

tokens, patterns = attention_patterns(model, pairs, circuit.nodes)
write_viewer({"IOI": circuit}, "ioi.html", tokens=tokens, patterns=patterns)
