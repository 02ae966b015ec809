"""Draws the README's picture of the circuit from the run of `make demo`: needs the extra `viz` and a Chrome or Chromium.

make demo && .venv/bin/pip install -c constraints.txt -e '.[viz]' && .venv/bin/python docs/pictures.py
"""

from pathlib import Path

from circuits import EdgeScores
from circuits.plots import circuit_figure

ROOT = Path(__file__).parents[1]
EDGES = 60


def main() -> None:
    scores = EdgeScores.load(ROOT / "runs" / "ioi" / "scores.safetensors")
    circuit = scores.top(EDGES)
    title = f"IOI in SmolLM2-135M: what is left of the {EDGES} strongest edges ({len(circuit)} edges)"
    circuit_figure(circuit, title).write_image(ROOT / "docs" / "ioi-circuit.png", scale=1.5)


if __name__ == "__main__":
    main()
