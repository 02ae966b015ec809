"""Places of nodes in rows: near the nodes that they are connected to, in an order in which few lines cross."""

from collections.abc import Iterable, Mapping, Sequence

ASIDE = (0.9, -0.9, 0.3, -0.3)
"""Shifts of consecutive rows of one box, so that a chain of such boxes is not one column."""


def level(node: str, n_layers: int) -> int:
    """Height of a node: `input`, then per layer its heads and its MLP, then `logits`."""
    if node in ("input", "logits"):
        return 0 if node == "input" else 2 * n_layers + 1
    return 2 * int(node[1:].split(".")[0]) + (1 if node[0] == "a" else 2)


def kind_of(node: str) -> str:
    """`input`, `head`, `mlp` or `logits`."""
    return node if node in ("input", "logits") else "head" if node[0] == "a" else "mlp"


def placed_in_rows(
    rows: Sequence[Sequence[str]], lines: Iterable[tuple[str, str]], widths: Mapping[str, float], gap: float
) -> dict[str, float]:
    """The middle of each box, by barycentre sweeps; the whole is centred at 0.

    Args:
        rows: names, from below.
        lines: pairs of connected boxes.
        widths: of the boxes.
        gap: the smallest distance between two boxes of a row.
    """
    neighbours: dict[str, list[str]] = {node: [] for row in rows for node in row}
    for source, target in lines:
        neighbours[source].append(target)
        neighbours[target].append(source)
    x: dict[str, float] = {}
    for row in rows:
        x.update(_spread(row, dict.fromkeys(row, 0.0), widths, gap))
    for sweep in range(8):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wish = {n: sum(x[m] for m in neighbours[n]) / len(neighbours[n]) if neighbours[n] else x[n] for n in row}
            x.update(_spread(sorted(row, key=lambda node: (wish[node], node)), wish, widths, gap))
    for i, row in enumerate(rows[1:-1]):
        if len(row) == 1:
            x[row[0]] += ASIDE[i % 4] * (widths[row[0]] + gap)
    middle = (max(x.values()) + min(x.values())) / 2 if x else 0.0
    return {node: place - middle for node, place in x.items()}


def _spread(row: Sequence[str], wish: Mapping[str, float], widths: Mapping[str, float], gap: float) -> dict[str, float]:
    """Positions near the wished ones, in order, boxes at least `gap` apart, with the mean of the wishes."""
    placed: list[float] = []
    for i, node in enumerate(row):
        least = placed[-1] + (widths[row[i - 1]] + widths[node]) / 2 + gap if placed else wish[node]
        placed.append(max(wish[node], least))
    shift = sum(wish[node] for node in row) / len(row) - sum(placed) / len(row)
    return {node: position + shift for node, position in zip(row, placed, strict=True)}
