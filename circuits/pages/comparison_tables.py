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


def tables(found: Comparison) -> list[Rows]:
    """Predictions and circuits of the methods, rank correlations, overlap of the strongest nodes, and interactions."""
    made = [
        methods_table(found),
        circuits_table(found),
        places_table(found),
        _ranks(found),
        _overlap(found),
        *_interactions(found),
    ]
    return [table for table in made if table[2]]


def comparison_findings(found: Comparison) -> tuple[str, str]:
    """The methods that agree most and least, and the most faithful circuit or the scores that best predict ablations."""
    leading = [(i, name) for i, name in enumerate(found.methods) if name in found.leading]
    pairs = [(float(found.rank[i, j]), a, b) for at, (i, a) in enumerate(leading) for j, b in leading[:at]]
    pairs = sorted((pair for pair in pairs if not math.isnan(pair[0])), reverse=True)
    first = f"No two of the {len(found.methods)} results can be ranked against each other."
    if pairs:
        rank, a, b = pairs[0]
        first = f"{b} and {a} rank the {len(found.nodes)} nodes most alike (ρ = {rank:.2f})"
        first += "." if len(pairs) == 1 else ", {1} and {2} least (ρ = {0:.2f}).".format(*pairs[-1])
    means = {
        name: [c.mean for c in each.values() if not math.isnan(c.mean)] for name, each in found.counterfactual.items()
    }
    judged = {name: sum(means[name]) / len(means[name]) for name in found.leading if means.get(name)}
    faithful = {name: value for name, value in found.faithfulness.items() if not math.isnan(value)}
    second = "Nothing was ablated, so it is not known which of them is right."
    if judged:
        best = max(judged, key=lambda name: judged[name])
        second = f"{best} predicts fresh ablations best (mean correlation {judged[best]:.2f})."
    elif faithful:
        best = max(faithful, key=lambda name: faithful[name])
        second = f"The {best.removesuffix(CIRCUIT)} circuit has the highest faithfulness ({faithful[best]:.2f})."
    return first, second


def methods_table(found: Comparison) -> Rows:
    """One row per method: how its scores predict ablations, and the faithfulness of its circuit."""
    alphas = list(next(iter(found.counterfactual.values()), {}))
    rows = []
    for name in found.methods:
        judged = found.counterfactual.get(name, {})
        cells = [
            "–" if math.isnan(c.mean) else f"{_share(c.mean)} ({_share(c.low)} to {_share(c.high)})"
            for c in judged.values()
        ]
        rows.append([name, *cells, _share(found.faithfulness.get(name, math.nan))])
    title = "correlation with fresh ablations, and faithfulness of circuits" if alphas else "faithfulness of circuits"
    return title, ("method", *(f"α = {alpha:g}" for alpha in alphas), "faithfulness"), rows


def circuits_table(found: Comparison) -> Rows:
    """Prediction of the COAR fit for each circuit, beside the measured metric."""
    rows = []
    for prediction in found.circuits:
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


def places_table(found: Comparison) -> Rows:
    """CPR and CMD at equal numbers of (edge, place) pairs, and faithfulness at each number."""
    curves = found.over_places
    sizes = [] if not curves else next(iter(curves.values())).absolute.fractions.tolist()
    rows = [
        [name, *map(_share, (each.cpr, each.cmd, *each.absolute.faithfulness.tolist()))]
        for name, each in curves.items()
    ]
    headings = ("method", "CPR", "CMD", *(f"{100 * size:g}%" for size in sizes))
    return "faithfulness at equal numbers of (edge, place) pairs, edges by absolute score", headings, rows


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
    return fixed(value, 2)
