"""Tables of a comparison as rows of text, for the terminal and for pages."""

import math
from collections.abc import Sequence

from circuits.evaluation.comparison import CIRCUIT, Comparison
from circuits.results.wording import fixed

Rows = tuple[str, Sequence[str], list[list[str]]]
"""Title, column headings and rows."""
SIZES = (5, 10, 20, 50, 100)
SHOWN = 5
"""Number of interactions shown."""


def tables(comparison: Comparison) -> list[Rows]:
    """Predictions and circuits of the methods, rank correlations, overlap of the strongest nodes, and interactions."""
    made = [
        methods_table(comparison),
        circuits_table(comparison),
        places_table(comparison),
        _ranks(comparison),
        _overlap(comparison),
        *_interactions(comparison),
    ]
    return [table for table in made if table[2]]


def comparison_findings(comparison: Comparison) -> tuple[str, str]:
    """The methods that agree most and least, and the most faithful circuit or the scores that best predict ablations."""
    leading = [(i, name) for i, name in enumerate(comparison.methods) if name in comparison.leading]
    pairs = [(float(comparison.rank[i, j]), a, b) for at, (i, a) in enumerate(leading) for j, b in leading[:at]]
    pairs = sorted((pair for pair in pairs if not math.isnan(pair[0])), reverse=True)
    first = f"No two of the {len(comparison.methods)} results can be ranked against each other."
    if pairs:
        rank, a, b = pairs[0]
        first = f"{b} and {a} rank the {len(comparison.nodes)} nodes most alike (ρ = {rank:.2f})"
        first += "." if len(pairs) == 1 else ", {1} and {2} least (ρ = {0:.2f}).".format(*pairs[-1])
    means = {
        name: [c.mean for c in each.values() if not math.isnan(c.mean)]
        for name, each in comparison.counterfactual.items()
    }
    judged = {name: sum(means[name]) / len(means[name]) for name in comparison.leading if means.get(name)}
    faithful = {name: value for name, value in comparison.faithfulness.items() if not math.isnan(value)}
    second = "Nothing was ablated, so it is not known which of them is right."
    if judged:
        best = max(judged, key=lambda name: judged[name])
        second = f"{best} predicts fresh ablations best (mean correlation {judged[best]:.2f})."
    elif faithful:
        best = max(faithful, key=lambda name: faithful[name])
        second = f"The {best.removesuffix(CIRCUIT)} circuit has the highest faithfulness ({faithful[best]:.2f})."
    return first, second


def methods_table(comparison: Comparison) -> Rows:
    """One row per method: how its scores predict ablations, and the faithfulness of its circuit."""
    alphas = list(next(iter(comparison.counterfactual.values()), {}))
    rows = []
    for name in comparison.methods:
        judged = comparison.counterfactual.get(name, {})
        cells = [
            "–" if math.isnan(c.mean) else f"{_share(c.mean)} ({_share(c.low)} to {_share(c.high)})"
            for c in judged.values()
        ]
        rows.append([name, *cells, _share(comparison.faithfulness.get(name, math.nan))])
    title = "correlation with fresh ablations, and faithfulness of circuits" if alphas else "faithfulness of circuits"
    return title, ("method", *(f"α = {alpha:g}" for alpha in alphas), "faithfulness"), rows


def circuits_table(comparison: Comparison) -> Rows:
    """Prediction of the COAR fit for each circuit, beside the measured metric."""
    rows = []
    for prediction in comparison.circuits:
        means = (prediction.predicted, prediction.nodes_kept, prediction.edges_kept)
        rows.append(
            [
                prediction.circuit,
                str(prediction.n_edges),
                str(prediction.n_nodes),
                *(_share(float(each.mean())) for each in means),
            ]
        )
    headings = ("circuit", "edges", "components", "predicted", "nodes kept", "edges kept")
    return "circuits: metric predicted by COAR, and measured", headings, rows


def places_table(comparison: Comparison) -> Rows:
    """CPR and CMD at equal numbers of (edge, place) pairs, and faithfulness at each number."""
    curves = comparison.over_places
    sizes = [] if not curves else next(iter(curves.values())).absolute.fractions.tolist()
    rows = [
        [name, *map(_share, (each.cpr, each.cmd, *each.absolute.faithfulness.tolist()))]
        for name, each in curves.items()
    ]
    headings = ("method", "CPR", "CMD", *(f"{100 * size:g}%" for size in sizes))
    return "faithfulness at equal numbers of (edge, place) pairs, edges by absolute score", headings, rows


def _ranks(comparison: Comparison) -> Rows:
    order = "size" if comparison.by == "abs" else "signed effect"
    rows = [
        [f"{i + 1} {name}", *(_share(value) for value in comparison.rank[i].tolist())]
        for i, name in enumerate(comparison.methods)
    ]
    title = f"rank correlation over {len(comparison.nodes)} nodes, by {order}"
    return title, ("", *map(str, range(1, len(comparison.methods) + 1))), rows


def _overlap(comparison: Comparison) -> Rows:
    sizes = [k for k in SIZES if k < len(comparison.nodes)]
    rows = []
    for i, name in enumerate(comparison.methods):
        for j in range(i):
            shares = [float(comparison.overlap[i, j, k - 1]) for k in sizes]
            if not all(map(math.isnan, shares)):
                rows.append([f"{comparison.methods[j]} and {name}", *map(_share, shares)])
    return "share of the k strongest nodes in common", ("", *(f"k = {k}" for k in sizes)), rows


def _interactions(comparison: Comparison) -> list[Rows]:
    return [
        (
            f"pairs that the sum of {name} does not describe",
            ("pair", "effect", "p"),
            [[f"{p.first}, {p.second}", f"{p.effect:+.3f} ± {p.stderr:.3f}", f"{p.p:.2g}"] for p in pairs[:SHOWN]],
        )
        for name, pairs in comparison.interactions.items()
    ]


def _share(value: float) -> str:
    return fixed(value, 2)
