"""Draws the README's picture of the circuit from the run of `make demo`: needs the extra `viz`.

make demo && .venv/bin/pip install -c constraints.txt -e '.[viz]' && .venv/bin/python docs/pictures.py
"""

from pathlib import Path

from circuits import EdgeScores, export_circuit

ROOT = Path(__file__).parents[1]
EDGES = 60


def main() -> None:
    scores = EdgeScores.load(ROOT / "runs" / "ioi" / "scores.safetensors")
    circuit = scores.top(EDGES)
    export_circuit(circuit, ROOT / "docs" / "ioi-circuit.png", dpi=150, overwrite=True)


if __name__ == "__main__":
    main()
