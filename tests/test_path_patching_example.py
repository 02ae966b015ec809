"""The example of the documentation, on a tiny model with shared keys; on SmolLM2 it takes minutes."""

import re
import runpy
from dataclasses import replace
from pathlib import Path

from circuits.prompts.pair import Roles
from tests.tiny_models import random_pairs, tiny

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLE = runpy.run_path(str(DOCS / "path_patching_ioi.py"))


def test_readers_of_heads_are_their_queries_and_their_groups_keys_and_values():
    model = tiny("llama")
    assert EXAMPLE["readers_of"](model, ["a1.h0", "a1.h3"], "q") == ["a1.h0<q>", "a1.h3<q>"]
    assert EXAMPLE["readers_of"](model, ["a1.h0", "a1.h1"], "v") == ["a1.kv0<v>"]
    assert EXAMPLE["heads_before"](model, 1) == ["a0.h0", "a0.h1", "a0.h2", "a0.h3"]


def test_the_example_runs_from_the_logits_to_the_third_step(capsys):
    pairs = replace(random_pairs(n=2), roles=(Roles((("S1", 1), ("S2", 4), ("end", 6))),) * 2)
    EXAMPLE["story"](tiny("llama"), pairs)
    printed = capsys.readouterr().out
    assert [line[3] for line in printed.splitlines() if line.startswith("## ")] == ["1", "2", "3"]
    assert re.search(r"everything into `a\d\.kv\d<v>`", printed)
    assert printed.count("it looks at |") == 3
