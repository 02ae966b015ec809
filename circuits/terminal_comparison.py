"""What `circuits compare` shows: one table of the methods, and how they agree."""

import math
from typing import TYPE_CHECKING, Any

from circuits.terminal import console, table

if TYPE_CHECKING:
    from circuits.evaluation.comparison import Comparison

SHOWN = 5
"""Interactions."""


def print_comparison(found: "Comparison") -> None:
    """The methods' predictions and circuits, rank correlations, overlap of the strongest, and interactions."""
    screen = console()
    screen.print(_methods(found))
    if found.circuits:
        screen.print(_circuits(found))
    order = "size" if found.by == "abs" else "signed effect"
    ranks = table(
        f"rank correlation over {len(found.nodes)} nodes, by {order}",
        {"": False, **dict.fromkeys(map(str, range(1, len(found.methods) + 1)), True)},
    )
    for i, name in enumerate(found.methods):
        ranks.add_row(f"{i + 1} {name}", *(_share(value) for value in found.rank[i].tolist()))
    screen.print(ranks)
    sizes = [k for k in (5, 10, 20, 50, 100) if k < len(found.nodes)]
    overlap = table("share of the k strongest nodes in common", {"": False, **{f"k = {k}": True for k in sizes}})
    for i, name in enumerate(found.methods):
        for j in range(i):
            shares = (_share(float(found.overlap[i, j, k - 1])) for k in sizes)
            overlap.add_row(f"{found.methods[j]} and {name}", *shares)
    screen.print(overlap)
    for name, pairs in found.interactions.items():
        if pairs:
            told = table(f"pairs that the sum of {name} does not describe", {"pair": False, "effect": True, "p": True})
            for pair in pairs[:SHOWN]:
                told.add_row(f"{pair.first}, {pair.second}", f"{pair.effect:+.3f} ± {pair.stderr:.3f}", f"{pair.p:.2g}")
            screen.print(told)
    screen.print(
        "Agreement between methods is not faithfulness: methods can agree and be wrong together.", soft_wrap=True
    )


def _methods(found: "Comparison") -> Any:
    """A row a method: how its scores predict ablations, and what its circuit keeps."""
    alphas = list(next(iter(found.counterfactual.values()), {}))
    columns = {f"α = {alpha:g}": True for alpha in alphas} | {"faithfulness": True}
    told = table("methods: correlation with fresh ablations, faithfulness of their circuits", {"": False} | columns)
    for name in found.methods:
        judged = found.counterfactual.get(name, {})
        cells = (f"{_share(c.mean)} ({_share(c.low)} to {_share(c.high)})" for c in judged.values())
        told.add_row(name, *cells, _share(found.faithfulness.get(name, math.nan)))
    return told


def _circuits(found: "Comparison") -> Any:
    """What COAR's fit says of each circuit, and what was measured."""
    columns = ("edges", "nodes", "predicted", "nodes kept", "edges kept")
    told = table("circuits: metric predicted by COAR, and measured", {"": False, **dict.fromkeys(columns, True)})
    for of in found.circuits:
        means = (of.predicted, of.nodes_kept, of.edges_kept)
        told.add_row(of.circuit, str(of.n_edges), str(of.n_nodes), *(f"{float(each.mean()):.2f}" for each in means))
    return told


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
