"""A study of small models that costs seconds."""

import json
import random
from pathlib import Path

from circuits.study import Study, read_study

TEXT = """
models = ["compiled/induction", "trained/induction"]
tasks = ["repeat.jsonl", "changed.jsonl", "short.jsonl"]
n = 4
seeds = [0, 1]

[methods.eap]
edges = 20

[methods.eap-ig]
edges = 20
steps = 3

[methods.acdc]
threshold = 0.05

[methods.coar]
samples = 48
fit = "ridge"

[evaluation]
parts = ["faithfulness"]
ablations = ["interchange"]
random_circuits = 2
"""


def write_small_study(directory: Path, text: str = TEXT) -> Study:
    """Two models that read the same token ids, three files of prompts that both can take, four methods, two seeds."""
    draw = random.Random(0)
    files = {"repeat": (6, 5, False), "changed": (6, 5, True), "short": (4, 2, False)}
    for name, (length, again, one_changed) in files.items():
        lines = []
        for _ in range(4):
            tokens = draw.sample(range(1, 17), 2 * length)
            clean, other = tokens[:length], tokens[length:]
            if one_changed:
                other = [*clean[:again], other[0]]
            prompts = [[0, *half, *half[:again]] for half in (clean, other)]
            lines.append(
                {"clean": prompts[0], "corrupted": prompts[1], "answers": [clean[again]], "distractors": [other[again]]}
            )
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = directory / "study.toml"
    path.write_text(text)
    return read_study(path)
