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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mech-circuits/mech-circuits/blob/main/notebooks/09_name_movers.ipynb)
#
# # Name movers in ten minutes
#
# "When Mary and John went to the store, John gave a drink to" → " Mary". Which heads write " Mary", why do they look at that
# token, and what happens without them?

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
pairs = circuits.load_task("ioi").pairs(model, n=4 if SMOKE else 16)
pairs

# %% [markdown]
# ## Who writes the answer?
#
# The direct effect of a head is what its own write adds to the logit difference. The effects of all writers sum to it.

# %%
effects = circuits.direct_effects(model, pairs)
print(effects.strongest(8))
print("sum:", float(effects.values.sum() + effects.constant.mean()), "metric:", float(effects.clean.mean()))

# %%
circuits.logit_lens(model, pairs).plot()

# %% [markdown]
# ## From which token?
#
# A head's effect is a sum over the tokens it looks at.

# %%
heads = [node for node, _, _ in effects.strongest(12) if node.startswith("a")][:4]
by_source = circuits.direct_effects(model, pairs, nodes=heads, positions="roles")
by_source.plot()

# %%
seen = circuits.attention(model, pairs, heads)
seen.plot(heads[0])

# %% [markdown]
# ## What kind of head is it?
#
# A kind is a score with a null: the same score of heads that look in random directions.

# %%
kinds = circuits.head_kinds(model, pairs, draws=19)
for head in heads:
    print(head, kinds.significant(head))
movers = sorted(kinds["name mover"].items(), key=lambda entry: -entry[1])[:3]
movers

# %% [markdown]
# ## Why does it look there?
#
# Its attention score is a sum over what earlier heads and MLPs wrote into its query and into the key.

# %%
mover = movers[0][0]
to_answer = circuits.query_key_terms(model, pairs, mover, key="IO")
to_wrong = circuits.query_key_terms(model, pairs, mover, key="S1")
to_answer.minus(to_wrong).strongest(6)

# %% [markdown]
# ## What happens without it?
#
# Other writers may make up for an ablated head.

# %%
repair = circuits.self_repair(model, pairs, [name for name, _ in movers])
repair.to_pandas()

# %% [markdown]
# ## The whole circuit
#
# `describe` puts all of this into one line per node, and tests what it says by interventions.

# %%
circuit = circuits.edge_attribution(model, pairs, gradient="ig", steps=2 if SMOKE else 5).top(60)
description = circuits.describe(model, pairs, circuit)
print(description)
