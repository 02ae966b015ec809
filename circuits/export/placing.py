"""Where the boxes of a row stand: near the boxes that they are wired to, in an order that lets few lines cross."""

from collections.abc import Mapping, Sequence

ASIDE = (0.9, -0.9, 0.3, -0.3)
"""How far rows of a single box step aside in turn, so that chains of them do not stand in one column."""


def placed_in_rows(
    rows: Sequence[Sequence[str]], neighbours: Mapping[str, Sequence[str]], widths: Mapping[str, float], gap: float
) -> dict[str, float]:
    """The middle of each box, so that the whole is centred (barycentre sweeps).

    Args:
        rows: names, from below.
        neighbours: what each is wired to.
        widths: of the boxes.
        gap: the least distance between two boxes of a row.
    """
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
    """Positions near the wished ones, in order, boxes at least `gap` apart, centred where the wishes are."""
    placed: list[float] = []
    for i, node in enumerate(row):
        least = placed[-1] + (widths[row[i - 1]] + widths[node]) / 2 + gap if placed else wish[node]
        placed.append(max(wish[node], least))
    shift = (sum(wish[node] for node in row) - sum(placed)) / max(1, len(row))
    return {node: position + shift for node, position in zip(row, placed, strict=True)}
