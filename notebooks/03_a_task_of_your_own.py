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
# What people do and what they are called: "A person who paints is called a" -> " painter". A task only writes text. The base
# class finds out which words are single tokens for the model, and where they are among the tokens of a prompt.


# %%
@dataclass(frozen=True)
class Profession(Task):
    """Pairs with the roles verb and end."""

    name: ClassVar[str] = "profession"
    title: ClassVar[str] = "Professions"
    description: ClassVar[str] = "Complete with who does it: A person who paints is called a painter"
    source: ClassVar[str] = "this notebook"
    word_lists: ClassVar[Mapping[str, Sequence[str | Row]]] = {
        "professions": (
            ("teaches", "teacher"),
            ("paints", "painter"),
            ("writes", "writer"),
            ("sings", "singer"),
            ("dances", "dancer"),
            ("farms", "farmer"),
            ("hunts", "hunter"),
            ("drives", "driver"),
            ("cooks", "cook"),
        )
    }

    def example(self, draw: Draw) -> Example:
        (verb, person), (other, wrong) = draw.rows("professions", 2)
        text = "A person who {} is called a"
        return Example(
            clean=text.format(verb), corrupted=text.format(other), answers=(f" {person}",), distractors=(f" {wrong}",),
            roles={"verb": At(verb)},
        )  # fmt: skip


task = Profession()
pairs = task.pairs(model, n=4 if SMOKE else 16, seed=0)
for pair in list(pairs)[:3]:
    print(pair.clean_text, model.tokenizer.decode(pair.answers), "/", model.tokenizer.decode(pair.distractors))

# %% [markdown]
# **Can the model do it at all?** A circuit for something that the model cannot do explains nothing. `accuracy` is the share of
# pairs with the answer above the distractor; below .8, `circuits tasks check` warns. `top_1_rate` is the share with the answer
# above all other tokens. The random choice of pairs has a seed, so we check the task on more pairs than we use.

# %%
circuits.check_task(model, task, n=8 if SMOKE else 50, seed=1)

# %% [markdown]
# **Where does it happen?** We apply attribution patching to all heads and MLPs, at the verb and at the end of the prompt.

# %%
scores = circuits.attribution_patching(model, pairs, positions=["verb", "end"])
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
# `circuits discover professions.jsonl --edges 100`.

# %%
pairs.to_jsonl("professions.jsonl")
print(Path("professions.jsonl").read_text().splitlines()[0])

# %% [markdown]
# To make a task available by name, put it in a package with the entry point group `circuits.tasks`. Then
# `circuits discover profession` and `circuits tasks check profession` work too.
