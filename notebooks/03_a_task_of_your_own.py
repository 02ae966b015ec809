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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mech-circuits/mech-circuits/blob/main/notebooks/03_a_task_of_your_own.ipynb)
#
# # A task of your own
#
# You want to find the circuit of a behaviour. You need a class of about twenty lines, or a file of prompts.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import circuits
from tasks.base import At, Draw, Example, Row, Task

model = circuits.load_model("smollm2-135m")

# %% [markdown]
# Animals and their young: "A young dog is called a" -> " puppy". A task only writes text. The base class finds out which words
# are single tokens for the model, and where they are among the tokens of a prompt.


# %%
@dataclass(frozen=True)
class Young(Task):
    """Pairs with the roles animal and end."""

    name: ClassVar[str] = "young"
    title: ClassVar[str] = "Young animals"
    description: ClassVar[str] = "Complete with the young of an animal: A young dog is called a puppy"
    source: ClassVar[str] = "this notebook"
    word_lists: ClassVar[Mapping[str, Sequence[str | Row]]] = {
        "animals": (
            ("dog", "puppy"),
            ("cat", "kitten"),
            ("sheep", "lamb"),
            ("cow", "calf"),
            ("bear", "cub"),
            ("hen", "chick"),
        )
    }

    def example(self, draw: Draw) -> Example:
        (animal, young), (other, wrong) = draw.rows("animals", 2)
        text = "A young {} is called a"
        return Example(
            clean=text.format(animal), corrupted=text.format(other), answers=(f" {young}",), distractors=(f" {wrong}",),
            roles={"animal": At(animal)},
        )  # fmt: skip


pairs = Young().pairs(model, n=4 if SMOKE else 12, seed=0)
for pair in list(pairs)[:3]:
    print(pair.clean_text, model.tokenizer.decode(pair.answers), "/", model.tokenizer.decode(pair.distractors))

# %% [markdown]
# **Can the model do it at all?** A circuit for something that the model cannot do explains nothing.

# %%
whole = circuits.Circuit.full(model.graph)
accuracy = circuits.circuit_metric(model, pairs, whole, metric="accuracy").mean()
difference = circuits.circuit_metric(model, pairs, whole).mean()
print(f"accuracy {accuracy:.2f}, logit difference {difference:.2f}")

# %% [markdown]
# With all twelve pairs the accuracy is three in four. This is below .8, where `circuits tasks check` warns. Hens and cows
# confuse the model; with a longer list of animals that it knows, the circuit would be more meaningful.

# %% [markdown]
# **Where does it happen?** We apply attribution patching to all heads and MLPs, at the animal and at the end of the prompt.

# %%
scores = circuits.attribution_patching(model, pairs, positions=["animal", "end"])
scores.strongest(8)

# %%
from circuits.plots import position_heatmap

position_heatmap(scores)

# %% [markdown]
# **How is it wired?** We score the edges and take the strongest.

# %%
edges = circuits.edge_attribution(model, pairs)
circuit = edges.top(100)
print(circuits.faithfulness(model, pairs, circuit, n_random=2 if SMOKE else 10))

# %% [markdown]
# You can do the same without a class, with a JSONL file of one pair per line. The command line accepts it too:
# `circuits discover young.jsonl --edges 100`.

# %%
pairs.to_jsonl("young.jsonl")
print(Path("young.jsonl").read_text().splitlines()[0])

# %% [markdown]
# To make a task available by name, put it in a package with the entry point group `circuits.tasks`. Then
# `circuits discover young` and `circuits tasks check young` work too.
