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
# Activation patching measures the effect of each node, and AtP* estimates it. ACDC prunes edges. COAR fits a linear model of
# random ablations. We run all four on the same prompts and ask two questions. Do they find the same components? Which of them
# predict the effect of removing components?

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
# Activation patching is exact, and measures one node at a time. AtP* estimates the same effects from gradients, with the
# softmax of attention recomputed.

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
# ACDC visits the edges from the end of the model, and removes an edge if the metric loses less than the threshold. The result
# equals the reference implementation's, edge for edge; only the work is shared between tests.

# %%
pruned = circuits.acdc(model, pairs, threshold=0.5 if SMOKE else 0.1, start_layer=28 if SMOKE else 0)
pruned

# %% [markdown]
# COAR ablates random sets of components, and fits a linear function to the resulting metric. The weight of a component is what
# it adds on average, over random states of the others.

# %%
linear = circuits.coar(model, pairs, samples=48 if SMOKE else 800, fit="ridge", nodes=last, ablation="interchange")
print(linear.fit["held_out"], linear.statement)

# %% [markdown]
# **Do they agree?** We compute rank correlations over the nodes, by the size of the effect.

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
# **Who is right?** Agreement is not proof: methods can agree and be wrong together. The correlation above applies COAR's own
# test to all methods. New random ablations are predicted by the sum of the scores of the kept components. The test removes few
# components at random. A circuit removes nearly all of them; faithfulness measures that.
#
# AtP* gives sizes without signs, and ACDC gives only which edges stay, so neither can predict as well as signed effects do.
# Under interchange, the effects of this model's components add up well, and measuring each alone is as good as COAR. Under zero
# ablation they do not add up.

# %%
from circuits.pages.comparison import counterfactual_figure, rank_figure

rank_figure(found)

# %%
counterfactual_figure(found)

# %%
print(circuits.faithfulness(model, pairs, pruned, n_random=3))
