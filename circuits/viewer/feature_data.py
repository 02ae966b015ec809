"""JSON data of the viewer's page for circuits of mixed nodes: features, errors, heads and MLPs.

As `circuits.viewer.data`, with `rows` (names of the rows, by number) and `features` (what each feature promotes, and the prompts on which it
is most active).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from circuits.errors import InputError
from circuits.results.feature_circuit import FeatureCircuit, kind_of, split_target
from circuits.results.naming import Naming
from circuits.results.quantity import EFFECT
from circuits.viewer.data import START, plain_prompt, quantity_data, shared_lines, short
from circuits.viewer.prompts import ShownPrompt

STAGES = {
    "resid_pre": (0, "stream before"), "a": (1, "attention"), "z": (1, "attention"), "resid_mid": (2, "stream in"), "m": (3, "MLP"),
    "resid_post": (4, "stream after"),
}  # fmt: skip
"""Of each place its row in a layer, and the row's name."""


def feature_page_data(
    circuits: Mapping[str, FeatureCircuit],
    about: Sequence[str],
    prompts: Sequence[ShownPrompt],
    naming: Naming,
    facts: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """All data of the page.

    Args:
        circuits: by name.
        about, prompts, naming: see `circuits.viewer.viewer_page`.
        facts: of features, by name, as `FeatureFacts.to_dict` gives them.

    Raises:
        InputError: labels of unknown nodes.
    """
    ends = {
        name: [*circuit.nodes, *(end for s, t in circuit.edges for end in (s, split_target(t)[0]))]
        for name, circuit in circuits.items()
    }
    nodes = list(dict.fromkeys(node for of in ends.values() for node in of))
    named = [*naming.labels, *(node for members in naming.groups.values() for node in members), *naming.pinned]
    if unknown := [node for node in named if node not in nodes]:
        raise InputError(f"labels name {unknown[0]!r}, which is not in the circuit")
    rows, names = _rows(nodes)
    lines = shared_lines([_lines(circuit) for circuit in circuits.values()])
    return {
        "circuits": [
            {"name": name, "facts": circuit_facts(circuit), "quantity": quantity_data(EFFECT), "edges": of}
            for (name, circuit), of in zip(circuits.items(), lines, strict=True)
        ],
        "spans": None, "nodes": sorted(([node, rows[node]] for node in nodes), key=lambda entry: entry[1]), "rows": names,
        "about": list(about), "prompts": [plain_prompt(prompt) for prompt in prompts],
        "naming": {"labels": dict(naming.labels), "groups": {name: list(members) for name, members in naming.groups.items()},
                   "pinned": list(naming.pinned)},
        "start": START, "features": {name: dict(one) for name, one in facts.items() if name in nodes},
    }  # fmt: skip


def circuit_facts(circuit: FeatureCircuit) -> str:
    """A line on a circuit: how many nodes of each kind."""
    kinds = [kind_of(node)[0] for node in circuit.nodes]
    counted = ", ".join(
        f"{kinds.count(kind)} {kind}{'s' if kinds.count(kind) > 1 else ''}" for kind in dict.fromkeys(kinds)
    )
    origin = circuit.provenance.get("nodes")
    metric = origin.get("metric") if isinstance(origin, Mapping) else None
    return f"{len(circuit)} nodes ({counted}), {len(circuit.edges)} edges{f', effects on {metric}' if metric else ''}"


def _rows(nodes: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
    """The row of each node, and the names of rows."""
    rows, names = {}, {}
    layers = [kind_of(node)[1] for node in nodes]
    top = max((layer for layer in layers if layer is not None), default=0) * len(STAGES) + len(STAGES) + 1
    for node, layer in zip(nodes, layers, strict=True):
        if layer is None:
            rows[node] = 0 if node == "input" else top
            names[str(rows[node])] = node
            continue
        place = node.partition(":")[2] or node
        stage, name = STAGES[place.split(".")[0].rstrip("0123456789")]
        rows[node] = 1 + layer * len(STAGES) + stage
        names[str(rows[node])] = f"{name} {layer}"
    return rows, names


def _lines(circuit: FeatureCircuit) -> list[list[Any]]:
    scores = circuit.edge_scores or (None,) * len(circuit.edges)
    errors = circuit.stderr or (None,) * len(circuit.edges)
    return [
        [source, *split_target(target), short(score), short(error), f"{source}->{target}"]
        for (source, target), score, error in zip(circuit.edges, scores, errors, strict=True)
    ]
