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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mech-circuits/mech-circuits/blob/main/notebooks/05_figures_for_a_paper.ipynb)
#
# # Figures for a paper
#
# You have found a circuit. This notebook prepares it for a paper: a vector drawing with names that readers understand, a table,
# and files that others can load.

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
from pathlib import Path

import circuits
import tasks
from circuits import Naming

model = circuits.load_model("smollm2-135m")
pairs = tasks.load("ioi").pairs(model, n=4 if SMOKE else 32, seed=0)
scores = circuits.edge_attribution(model, pairs)
circuit = scores.top(45)
out = Path("figures")
out.mkdir(exist_ok=True)

# %% [markdown]
# **Names.** Readers understand "first MLP" better than `m0`, and heads that do the same thing can be one box. You choose names
# and groups; they do not change the data.

# %%
late = tuple(node for node in circuit.nodes if node.startswith("a23."))
naming = Naming(labels={"m0": "first MLP"}, groups={"layer 23": late} if len(late) > 1 else {})

# %% [markdown]
# **A drawing**: TikZ for LaTeX, SVG and PDF by Graphviz. Colour and dashes show the sign, so it is visible in black and white.
# The arrow head shows where an edge enters a head (query, key, value).

# %%
circuits.export_circuit(circuit, out / "ioi.tikz.tex", "tikzpicture", naming=naming, overwrite=True)
circuits.export_circuit(circuit, out / "ioi.dot", "dot", naming=naming, overwrite=True)
print((out / "ioi.tikz.tex").read_text()[:400])

# %%
from circuits.export.layout import has_graphviz

if has_graphviz():  # pip install "mech-circuits[viz]"
    circuits.export_circuit(circuit, out / "ioi.svg", "svg", naming=naming, overwrite=True)
    circuits.export_circuit(circuit, out / "ioi.pdf", "pdf", naming=naming, overwrite=True)

# %% [markdown]
# **A table** of the strongest edges, with standard errors.

# %%
circuits.export_circuit(scores.top(20), out / "edges.tex", "latex-edges", overwrite=True)
print((out / "edges.tex").read_text()[:500])

# %% [markdown]
# **Data** that others can load: node-link JSON with everything, GraphML for graph tools, EAP-IG's own JSON.

# %%
circuit.to_json(out / "circuit.json")
assert circuits.Circuit.from_json(out / "circuit.json") == circuit
circuits.export_circuit(circuit, out / "circuit.graphml", "graphml", overwrite=True)
circuits.export_circuit(circuit, out / "eap-ig.json", "eap-ig", overwrite=True)

# %% [markdown]
# **Curves** with intervals.

# %%
from circuits.pages.evaluation import curves_figure

fresh = tasks.load("ioi").pairs(model, n=4 if SMOKE else 32, seed=1)
points = (0.001, 0.1) if SMOKE else (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
curves = circuits.faithfulness_curves(model, fresh, scores, fractions=points)
print(curves)
curves_figure(curves.to_dict())

# %% [markdown]
# What to report with the figure: the method and its options, the metric, the ablation, what was ablated, and on which prompts.
# The circuit's provenance contains all of this.

# %%
{name: circuit.provenance[name] for name in ("method", "options", "metric", "ablation", "model", "n_pairs", "seed")}
