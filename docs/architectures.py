"""Writes docs/architectures.md: which architectures the tests check, from the tests' own list.

python docs/architectures.py
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

HEAD = """# Architectures

Each row is a tiny random model of that class, built from its Hugging Face configuration (or by TransformerLens itself).
On each of them the tests check that

- keeping all edges gives the model's own logits, and keeping none those of the corrupted prompt,
- each prompt of a batch can have a circuit of its own,
- a cached prefix does not change the results,
- ACDC recomputes single nodes, and finds the logits of whole passes,
- and the scores of a node's edges sum to its attribution patching.

On GPT-2 and Llama, arbitrary circuits are also compared with a slow forward pass, node by node. Any other model is checked
in the same way when it is loaded. If the check fails, the model is refused, and the message names the layer.
`docs/architectures.py` writes this page.

| model class | blocks | heads share keys | MLP nodes | prefix cached |
|---|---|---|---|---|
"""


def table() -> str:
    """The page's text."""
    from tests.tiny_models import ALL, CONFIGS, tiny

    rows = []
    for name in ALL:
        model = tiny(name)
        graph = model.graph
        kind = CONFIGS[name][0] if name in CONFIGS else f"TransformerLens {name}"
        post = "" if model.architecture.blocks[0].linear_heads else ", post-norm"
        rows.append(
            f"| {kind} | {'parallel' if graph.parallel else 'sequential'}{post} | {'yes' if graph.grouped else 'no'} "
            f"| {'yes' if any(graph.mlps) else 'no'} | {'yes' if model.report.prefix_exact else 'no'} |"
        )
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    (ROOT / "docs" / "architectures.md").write_text(table())
