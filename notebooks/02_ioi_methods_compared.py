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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mech-circuits/mech-circuits/blob/main/notebooks/02_ioi_methods_compared.ipynb)
#
# # One task, four methods: do they agree, and who is right?
#
# Activation patching measures each node, AtP* estimates it, ACDC prunes edges, COAR fits a linear model of random ablations. We
# run all four on the same prompts and ask two questions: do they name the same components, and which of them predict what
# happens when components are removed?

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
pairs = tasks.load("ioi").pairs(model, n=3 if SMOKE else 8, seed=0)

# %% [markdown]
# Activation patching is exact, and asks about one node at a time. AtP* does the same from gradients, with the softmax of
# attention recomputed.

# %%
layers = 6 if SMOKE else model.graph.n_layers
last = [node for node in model.graph.writers if node != "input" and int(node[1:].split(".")[0]) >= 30 - layers]
patched = circuits.activation_patching(model, pairs, nodes=last, direction="noising")
estimated = circuits.atp_star(model, pairs, nodes=last, positions=None)
patched.strongest(5), estimated.strongest(5)

# %%
from circuits.plots import node_heatmap

node_heatmap(patched)

# %% [markdown]
# ACDC goes through the edges from the end and removes each that the metric does not miss by more than the threshold. It is
# edge for edge the reference's answer; only the work is shared between tests.

# %%
pruned = circuits.acdc(model, pairs, threshold=0.5 if SMOKE else 0.1, start_layer=28 if SMOKE else 0)
pruned

# %% [markdown]
# COAR ablates random sets of components, and fits a linear function to what becomes of the metric. Its weights say what each
# component adds on average over what becomes of the others.

# %%
linear = circuits.coar(model, pairs, samples=48 if SMOKE else 800, fit="ridge", nodes=last, ablation="interchange")
print(linear.fit["held_out"], linear.statement)

# %% [markdown]
# **Do they agree?** Rank correlations over the nodes, by the size of the effect.

# %%
judge = circuits.counterfactuals(
    model,
    pairs,
    nodes=last,
    alphas=(0.1,) if SMOKE else (0.05, 0.1, 0.2),
    samples=16 if SMOKE else 100,
    ablation="interchange",
)
methods = {"activation patching": patched, "AtP*": estimated, "ACDC": pruned, "COAR": linear}
found = circuits.compare(methods, judge=judge)
print(found)

# %% [markdown]
# **Who is right?** Agreement is not proof: methods can agree and be wrong together. The correlation above is COAR's own test,
# asked of all: fresh random ablations that no method has seen, predicted by the sum of the scores of what was kept. It asks
# about few components removed at random; a circuit removes nearly all, and what it does is measured by faithfulness.
#
# AtP* tells sizes without signs, and ACDC only what stays, so neither can predict as well as signed effects do. Under interchange the
# components of this model add up well, and measuring each alone is as good as COAR; under zero ablation they do not.

# %%
from circuits.pages.comparison import counterfactual_figure, rank_figure

rank_figure(found)

# %%
counterfactual_figure(found)

# %%
print(circuits.faithfulness(model, pairs, pruned, n_random=3))
