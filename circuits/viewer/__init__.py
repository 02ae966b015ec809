"""The viewer: one HTML file that works offline, with one circuit, or two side by side.

Layers upward; zoom and pan; a slider for the number of edges; colours by sign (where scores have one), by query, key and value,
or by what two circuits share; hovering tells an edge's score and interval; a click on a node lists its edges and, for a head, shows its attention on an
example. Nothing is fetched, and all names are written as text, so that none of them can do anything.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.files.atomic import write_text
from circuits.plots.circuit import drawn_edges, node_places, row_label
from circuits.results.circuit import Circuit
from circuits.results.quantity import EFFECT, quantity_of

START = 150
"""Edges that are shown at first."""
MOST = 20_000
"""Edges that a browser can be asked to draw."""


def write_viewer(
    circuits: Mapping[str, Circuit],
    path: str | Path,
    *,
    title: str | None = None,
    about: Sequence[str] = (),
    tokens: Sequence[str] = (),
    patterns: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> None:
    """Writes the page.

    Args:
        circuits: one or two, by name, of one graph.
        path: the HTML file.
        title: of the page; None: the circuits' names.
        about: lines that are shown when no node is chosen.
        tokens: of the example, for `patterns`.
        patterns: attention of heads on the example, [query, key] each; see `circuits.viewer.attention`.

    Raises:
        InputError: no circuit or more than two, of two graphs, without edges, or with too many.
    """
    if not 1 <= len(circuits) <= 2:
        raise InputError(f"the viewer shows one circuit, or two side by side, not {len(circuits)}")
    one, *others = circuits.values()
    if any(other.graph != one.graph for other in others):
        raise InputError("the circuits are of two graphs, so that they cannot be compared node by node")
    for name, circuit in circuits.items():
        if not 1 <= len(circuit) <= MOST:
            raise InputError(
                f"{name} has {len(circuit):,} edges; the viewer draws 1 to {MOST:,}: choose the strongest by their scores, "
                "with --edges N"
            )
    data = _data(circuits, about, tokens, patterns or {})
    written = title or " and ".join(circuits)
    write_text(path, _page(written, data, len(circuits)))


def _data(
    circuits: Mapping[str, Circuit],
    about: Sequence[str],
    tokens: Sequence[str],
    patterns: Mapping[str, Sequence[Sequence[float]]],
) -> dict[str, Any]:
    one, *others = circuits.values()
    union = Circuit(one.graph, one.mask | others[0].mask) if others else one
    where = node_places(union, drawn_edges(union))
    shared = one.mask & others[0].mask if others else one.mask
    both = set(one.graph.edge_names(shared))
    kinds = {node: node if node in ("input", "logits") else "head" if node[0] == "a" else "mlp" for node in where}
    rows = sorted({y for _, y in where.values()})
    labels = [next(row_label(node) for node, (_, row) in where.items() if row == y) for y in rows]
    return {
        "circuits": [
            {
                "name": name,
                "facts": _facts(circuit),
                "quantity": _quantity(circuit),
                "method": str(circuit.provenance.get("method") or "").replace("_", " "),
                "edges": [
                    [edge.source, edge.target, edge.kind, _short(edge.score), _short(edge.stderr), edge.name, edge.name in both]
                    for edge in drawn_edges(circuit)
                ],
            }
            for name, circuit in circuits.items()
        ],
        "nodes": [[node, kinds[node], round(x, 3), y] for node, (x, y) in where.items()],
        "rows": [[label, y] for label, y in zip(labels, rows, strict=True)],
        "about": list(about),
        "tokens": list(tokens),
        "patterns": {head: [[round(w, 3) for w in row] for row in rows] for head, rows in patterns.items() if head in where},
        "start": START,
    }  # fmt: skip


def _facts(circuit: Circuit) -> str:
    """A line on where a circuit comes from."""
    origin = circuit.provenance
    told = [f"{len(circuit)} edges, {len(circuit.nodes)} nodes"]
    quantity = quantity_of(origin)
    told += [f"by {str(origin['method']).replace('_', ' ')}"] if origin.get("method") else []
    if quantity != EFFECT or origin.get("metric"):
        told.append(quantity.over(str(origin.get("metric") or "the metric")))
    told += [f"{origin['ablation']} ablation"] if origin.get("ablation") else []
    return ", ".join(told)


def _quantity(circuit: Circuit) -> dict[str, Any]:
    """What the page says of the sign of a score."""
    quantity = quantity_of(circuit.provenance)
    return {"name": quantity.name, "signed": quantity.signed, "helps": quantity.positive, "hurts": quantity.negative}


def _short(value: float | None) -> float | None:
    return None if value is None or value != value else float(f"{value:.5g}")


def _page(title: str, data: dict[str, Any], n: int) -> str:
    from html import escape

    parts = {
        name: (files("circuits.viewer") / name).read_text(encoding="utf-8") for name in ("viewer.css", "viewer.js")
    }
    # In a script element only `<` can end it; as \u003c it is the same JSON.
    written = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    names = dict.fromkeys(circuit["quantity"]["name"] for circuit in data["circuits"] if circuit["quantity"]["signed"])
    sign = f"sign of the {' and '.join(names)}" if names else "nothing: scores without sign"
    shared = '<option value="shared">what both have</option>' if n > 1 else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{parts["viewer.css"]}</style></head>
<body><header><h1>{escape(title)}</h1>
<label>strongest <input id="slider" type="range" min="1" value="1"><span id="count"></span></label>
<label>colour by <select id="colour"><option value="sign">{escape(sign)}</option>
<option value="part">query, key, value</option>{shared}</select></label>
<button id="reset" type="button">fit</button><span id="legend"></span></header>
<main><aside></aside></main><div id="tip"></div>
<script type="application/json" id="data">{written}</script>
<script>{parts["viewer.js"]}</script></body></html>
"""
