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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mech-circuits/mech-circuits/blob/main/notebooks/04_known_circuits.ipynb)
#
# # Models whose circuit is known: which method finds it?
#
# The true circuit of a language model is unknown. We therefore compile small transformers from a description of what each head
# does. Their true edges are known, and all other edges are decoys. Which method finds the true edges?

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
from tasks import compiled

model = circuits.load_model("compiled/induction")
pairs = tasks.load("compiled/induction").pairs(model, n=8 if SMOKE else 32, seed=0)
model.graph.n_edges, compiled.structural_edges(model)

# %% [markdown]
# Which edges are true depends on the ablation. An edge that always carries the same value is needed under zero ablation, and
# has no effect under interchange. The true edges are therefore found by brute force, for each ablation and set of prompts.

# %%
truth = compiled.active_edges(model, pairs, "interchange")
truth

# %% [markdown]
# Every method ranks the edges. AUROC is the probability that a true edge ranks above a false one.

# %%
methods = {
    "EAP": lambda: circuits.edge_attribution(model, pairs, gradient="clean", check_sign=False),
    "EAP-IG": lambda: circuits.edge_attribution(model, pairs, gradient="ig", steps=5),
    "IG over activations": lambda: circuits.edge_attribution(model, pairs, gradient="ig-activations", steps=5),
    "information flow": lambda: circuits.information_flow(model, pairs),
    "exact patching": lambda: circuits.exact_edge_effects(model, pairs).to_scores(),
}
for name, method in methods.items():
    print(f"{name:20} AUROC {circuits.recovery(method(), truth).auroc:.2f}")

# %% [markdown]
# ACDC gives a set of edges, not a ranking.

# %%
found = circuits.acdc(model, pairs, threshold=0.1, metric="kl_divergence")
print("missed:", sorted(set(truth) - set(found.edges)))
print("besides:", sorted(set(found.edges) - set(truth)))

# %% [markdown]
# **Backups.** In the OR gate, each of two heads can do the task alone. Ablating one of them changes nothing, so a method that
# tests one edge at a time cannot see them.

# %%
gate = circuits.load_model("compiled/or-gate")
prompts = tasks.load("compiled/or-gate").pairs(gate, n=8 if SMOKE else 32, seed=0)
print("alone:  ", compiled.active_edges(gate, prompts))
print("jointly:", compiled.jointly_active_edges(gate, prompts))

# %%
jointly = compiled.jointly_active_edges(gate, prompts)
exact = circuits.exact_edge_effects(gate, prompts).to_scores()
integrated = circuits.edge_attribution(gate, prompts, gradient="ig", steps=20)
print(
    f"exact patching {circuits.recovery(exact, jointly).auroc:.2f}, EAP-IG {circuits.recovery(integrated, jointly).auroc:.2f}"
)

# %% [markdown]
# COAR sees them too, because it removes components together. The residuals of its linear fit show which pairs back each other up.

# %%
linear = circuits.coar(gate, prompts, samples=200 if SMOKE else 1000, alpha=0.3, ablation="interchange")
for pair in linear.interactions[:3]:
    print(pair)
