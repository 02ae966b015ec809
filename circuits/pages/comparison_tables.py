"""A comparison as rows of text, for the terminal and for pages."""

import math
from collections.abc import Sequence

from circuits.evaluation.comparison import Comparison

Rows = tuple[str, Sequence[str], list[list[str]]]
"""A title, the columns' headings and the rows."""
SIZES = (5, 10, 20, 50, 100)
SHOWN = 5
"""Interactions."""


def tables(found: Comparison) -> list[Rows]:
    """The methods' predictions and circuits, rank correlations, overlap of the strongest, and interactions."""
    made = [methods_table(found), circuits_table(found), _ranks(found), _overlap(found), *_interactions(found)]
    return [table for table in made if table[2]]


def methods_table(found: Comparison) -> Rows:
    """A row a method: how its scores predict ablations, and what its circuit keeps."""
    alphas = list(next(iter(found.counterfactual.values()), {}))
    rows = []
    for name in found.methods:
        judged = found.counterfactual.get(name, {})
        cells = [f"{_share(c.mean)} ({_share(c.low)} to {_share(c.high)})" for c in judged.values()]
        rows.append([name, *cells, _share(found.faithfulness.get(name, math.nan))])
    title = "correlation with fresh ablations, and faithfulness of circuits" if alphas else "faithfulness of circuits"
    return title, ("method", *(f"α = {alpha:g}" for alpha in alphas), "faithfulness"), rows


def circuits_table(found: Comparison) -> Rows:
    """What COAR's fit says of each circuit, and what was measured."""
    rows = []
    for of in found.circuits:
        means = (of.predicted, of.nodes_kept, of.edges_kept)
        rows.append([of.circuit, str(of.n_edges), str(of.n_nodes), *(f"{float(each.mean()):.2f}" for each in means)])
    headings = ("circuit", "edges", "components", "predicted", "nodes kept", "edges kept")
    return "circuits: metric predicted by COAR, and measured", headings, rows


def _ranks(found: Comparison) -> Rows:
    order = "size" if found.by == "abs" else "signed effect"
    rows = [
        [f"{i + 1} {name}", *(_share(value) for value in found.rank[i].tolist())]
        for i, name in enumerate(found.methods)
    ]
    title = f"rank correlation over {len(found.nodes)} nodes, by {order}"
    return title, ("", *map(str, range(1, len(found.methods) + 1))), rows


def _overlap(found: Comparison) -> Rows:
    sizes = [k for k in SIZES if k < len(found.nodes)]
    rows = []
    for i, name in enumerate(found.methods):
        for j in range(i):
            shares = [float(found.overlap[i, j, k - 1]) for k in sizes]
            if not all(map(math.isnan, shares)):
                rows.append([f"{found.methods[j]} and {name}", *map(_share, shares)])
    return "share of the k strongest nodes in common", ("", *(f"k = {k}" for k in sizes)), rows


def _interactions(found: Comparison) -> list[Rows]:
    return [
        (
            f"pairs that the sum of {name} does not describe",
            ("pair", "effect", "p"),
            [[f"{p.first}, {p.second}", f"{p.effect:+.3f} ± {p.stderr:.3f}", f"{p.p:.2g}"] for p in pairs[:SHOWN]],
        )
        for name, pairs in found.interactions.items()
    ]


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
