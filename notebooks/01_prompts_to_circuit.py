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
# Which heads and MLPs of a small language model know who gets the drink? We take SmolLM2-135M, two kinds of prompts and one
# method, look at the resulting circuit, and test it.

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
# Pairs of prompts define a behaviour. The clean prompt shows it. The corrupted prompt differs as little as possible and has
# the opposite answer. The metric is the logit of the right name minus the logit of the wrong name.

# %%
pairs = tasks.load("ioi").pairs(model, n=4 if SMOKE else 32, seed=0)
for pair in list(pairs)[:3]:
    print(pair.clean_text, "->", model.tokenizer.decode(pair.answers))
    print(pair.corrupted_text, "->", model.tokenizer.decode(pair.distractors), end="\n\n")

# %% [markdown]
# Every edge of the graph gets a score: an estimate of how much the metric loses without the edge. Positive = it helps. EAP-IG
# integrates gradients along the path from the corrupted to the clean embedding.

# %%
scores = circuits.edge_attribution(model, pairs, gradient="ig", steps=5)
scores.strongest(8)

# %% [markdown]
# The circuit consists of the strongest edges that are connected.

# %%
circuit = scores.top(200)
circuit

# %% [markdown]
# Does the circuit do what the model does? Faithfulness is 1 if the circuit alone gives the model's metric, and 0 if it gives
# the metric of the corrupted prompts. It is meaningful only in comparison with random circuits of equal size.

# %%
fresh = tasks.load("ioi").pairs(model, n=4 if SMOKE else 32, seed=1)
faith = circuits.faithfulness(model, fresh, circuit, n_random=3 if SMOKE else 20)
print(faith)
print("p against random circuits:", faith.p_value)

# %% [markdown]
# More edges are not always better: the model also has edges that hurt the metric.

# %%
curves = circuits.faithfulness_curves(
    model,
    fresh,
    scores,
    fractions=(0.001, 0.01, 0.1) if SMOKE else (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
)
print(curves)

# %% [markdown]
# A figure of the circuit. Blue edges help; dashed vermilion edges hurt. The width shows the size of the effect.

# %%
from IPython.display import HTML

from circuits.export.inline import inline_svg

HTML(inline_svg(scores.top(60)))

# %% [markdown]
# Finally, we export the circuit: as a networkx graph, as a file for a paper, and as an interactive page.

# %%
graph = circuit.to_networkx()
print(graph)
circuits.export_circuit(scores.top(60), "ioi.tex", "tikz", overwrite=True)

# %%
from circuits.viewer import shown_prompts, write_viewer

write_viewer({"IOI": circuit}, "ioi.html", prompts=shown_prompts(model, pairs, [circuit]))
