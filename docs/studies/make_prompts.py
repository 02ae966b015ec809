"""Makes the prompts of the study beside it: token ids that the compiled and the trained induction model both read.

python docs/studies/make_prompts.py     # writes repeat.jsonl, changed.jsonl and short.jsonl into docs/studies
"""

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
BOS, LETTERS = 0, range(1, 17)
PAIRS = 16
FILES = {"repeat": (6, 5, False), "changed": (6, 5, True), "short": (4, 2, False)}
"""Letters, how many of them come again, and whether the corrupted prompt has another answer only (or other letters throughout)."""


def pair(draw: random.Random, length: int, again: int, one_changed: bool) -> dict[str, object]:
    """Some letters, then the first of them again; the next one is the answer."""
    letters = draw.sample(LETTERS, 2 * length)
    clean, other = letters[:length], letters[length:]
    if one_changed:
        other = [*clean[:again], other[0]]
    prompts = [[BOS, *half, *half[:again]] for half in (clean, other)]
    return {"clean": prompts[0], "corrupted": prompts[1], "answers": [clean[again]], "distractors": [other[again]]}


def main() -> None:
    draw = random.Random(0)
    for name, shape in FILES.items():
        lines = [json.dumps(pair(draw, *shape)) for _ in range(PAIRS)]
        (HERE / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
