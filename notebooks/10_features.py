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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mech-circuits/mech-circuits/blob/main/notebooks/10_features.ipynb)
#
# # Subject-verb agreement: features beside heads and MLPs
#
# "The keys to the cabinet" → " are". The same circuit twice: of heads and MLPs, and with three MLPs taken apart into the features of
# transcoders. Both are tested in the same way, at equal numbers of nodes.

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

model = circuits.load_model("smollm2-135m")
pairs = circuits.load_task("subject-verb-agreement").pairs(model, n=4 if SMOKE else 16)
pairs

# %% [markdown]
# ## Dictionaries
#
# Small transcoders, trained for some minutes on text that the model samples itself: an example, not good dictionaries. How good they are is
# below: the share of the MLP's variance that the features explain, and how much of the model's loss they recover in the MLP's place.
# The circuit is exact all the same, since what the features miss is a node of its own, the error.

# %%
sites = ["transcoder.10"] if SMOKE else ["transcoder.8", "transcoder.10", "transcoder.12"]
small = {"features": 64, "k": 4, "tokens": 400, "context": 12, "batch_size": 4, "buffer": 96, "step": 64, "held_out": 2}
size = small if SMOKE else {"features": 2048, "k": 32, "tokens": "100k", "context": 64}
trained = circuits.train_dictionary(model, sites, "dictionaries", resume=True, **size)
trained.to_pandas()

# %% [markdown]
# ## Scores of all parts
#
# Features, errors, heads, the other MLPs and the input: all that the model writes is a part. An MLP's features and its error sum to its effect.

# %%
given = {"dictionaries": trained.dictionaries}
features = circuits.attribution_patching(model, pairs, nodes="features+heads+mlps+input", **given)
heads = circuits.attribution_patching(model, pairs, nodes="heads+mlps+input")
place = trained.dictionaries[0].site.place
parts = [effect for node, effect in features.to_dict().items() if node.partition(":")[2].split(".")[0] == place]
print(f"{place}: {len(parts)} active parts sum to {sum(parts):.4f}; the MLP's effect is {heads[place]:.4f}")
features.strongest(10)

# %% [markdown]
# ## What the strongest features are about

# %%
names = [node for node, *_ in features.strongest(len(features.nodes)) if node.startswith("f:")][:6]
for name, facts in circuits.feature_facts(model, pairs, names, **given).items():
    example = facts.examples[0] if facts.examples else None
    where = (
        "" if example is None else example.tokens[max(range(len(example.tokens)), key=lambda i: example.activations[i])]
    )
    print(name, "promotes", facts.promotes[:5], "most active at", repr(where))

# %% [markdown]
# ## The circuit, with and without errors

# %%
strongest = [
    node for node, *_ in features.strongest(40) if node not in {one.site.place for one in trained.dictionaries}
]
edges = circuits.feature_edges(model, pairs, strongest, **given)
circuit = circuits.FeatureCircuit.from_scores(features, 40, edges, n_edges=80)
print(edges.strongest(5))
print(circuits.feature_faithfulness(model, pairs, strongest, among="features+heads+mlps+input", **given))

# %% [markdown]
# ## Beside the circuit of heads and MLPs
#
# Each keeps its own strongest nodes. For features the three numbers are: with the errors among them, with all errors, and without errors. A
# feature is a smaller part than an MLP, so a circuit of features needs more nodes. `circuits compare RUN RUN` prints this table for two runs.

# %%
comparison = circuits.compare_features(
    model,
    pairs,
    {"features": features, "heads and MLPs": heads},
    budgets=(1, 5, 20, 50) if SMOKE else (5, 10, 20, 50, 100, 200),
    **given,
)
comparison.to_pandas()
