"""JSON data of the viewer's page: circuits, prompts and names."""

from collections.abc import Mapping, Sequence
from typing import Any

from circuits.graph.graph import Graph
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming
from circuits.results.quantity import EFFECT, quantity_of
from circuits.results.wording import method_name
from circuits.viewer.prompts import ShownPrompt

START = 40
"""Number of edges shown initially."""
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
"""Two digits encode an attention weight: AA is 0, __ is 1."""


def page_data(
    circuits: Mapping[str, Circuit],
    about: Sequence[str],
    prompts: Sequence[ShownPrompt],
    naming: Naming,
) -> dict[str, Any]:
    """All data of the page."""
    circuits = {name: circuit.without_places() for name, circuit in circuits.items()}
    one, *others = circuits.values()
    shared = one.mask & others[0].mask if others else one.mask
    both = set(one.graph.edge_names(shared))
    nodes = list(dict.fromkeys(node for circuit in circuits.values() for node in circuit.nodes))
    return {
        "circuits": [
            {
                "name": name,
                "facts": _facts(circuit),
                "quantity": _quantity(circuit),
                "edges": [[*edge, edge[-1] in both] for edge in _lines(circuit)],
            }
            for name, circuit in circuits.items()
        ],
        "nodes": [[node, _row(node, one.graph)] for node in nodes],
        "about": list(about),
        "prompts": [_prompt(prompt) for prompt in prompts],
        "naming": {"labels": dict(naming.labels), "groups": {name: list(of) for name, of in naming.groups.items()},
                   "pinned": list(naming.pinned)},
        "start": START,
    }  # fmt: skip


def _lines(circuit: Circuit) -> list[list[Any]]:
    """Source, target, part, score, standard error and name; an edge into a shared key/value head becomes one line to each head."""
    graph, nodes = circuit.graph, set(circuit.nodes)
    targets = [[node for node in graph.nodes_fed_by(r) if node in nodes] or ["logits"] for r in graph.reader_nodes]
    lines = []
    for w, r, score, stderr in circuit.entries():
        reader, source = graph.reader_nodes[r], graph.writer_names[w]
        rest = [reader.kind, _short(score), _short(stderr), f"{source}->{reader.name}"]
        lines += [[source, target, *rest] for target in targets[r]]
    return lines


def _row(node: str, graph: Graph) -> int:
    """Row of a node before empty rows are removed: input, then heads and MLP of each layer, then logits."""
    if node in ("input", "logits"):
        return 0 if node == "input" else 2 * graph.n_layers + 1
    return 2 * int(node[1:].split(".")[0]) + (1 if node[0] == "a" else 2)


def _prompt(prompt: ShownPrompt) -> dict[str, Any]:
    lists = {name: list(getattr(prompt, name)) for name in ("clean", "corrupted", "answers", "distractors")}
    patterns = {head: _packed(pattern) for head, pattern in prompt.patterns.items()}
    differs = {} if prompt.differs is None else {"differs": {name: list(at) for name, at in prompt.differs.items()}}
    return {"number": prompt.number, **lists, "roles": dict(prompt.roles), "patterns": patterns, **differs}


def _packed(pattern: Sequence[Sequence[float]]) -> str:
    """Attention weights of each query on itself and earlier tokens, two characters each."""
    steps = [round(min(1.0, max(0.0, w)) * 4095) for i, row in enumerate(pattern) for w in row[: i + 1]]
    return "".join(DIGITS[step // 64] + DIGITS[step % 64] for step in steps)


def _facts(circuit: Circuit) -> str:
    """A line on the origin of a circuit."""
    origin, quantity = circuit.provenance, quantity_of(circuit.provenance)
    facts = [f"{len(circuit)} edges, {len(circuit.nodes)} nodes"]
    facts += [f"by {method_name(origin)}"] if origin.get("method") else []
    if quantity != EFFECT or origin.get("metric"):
        facts.append(quantity.over(str(origin.get("metric") or "the metric")))
    facts += [f"{origin['ablation']} ablation"] if origin.get("ablation") else []
    return ", ".join(facts)


def _quantity(circuit: Circuit) -> dict[str, Any]:
    """Name, unit and sign of the scores."""
    quantity = quantity_of(circuit.provenance)
    return {
        "name": quantity.name, "unit": quantity.unit, "signed": quantity.signed, "helps": quantity.positive,
        "hurts": quantity.negative,
    }  # fmt: skip


def _short(value: float | None) -> float | None:
    return None if value is None or value != value else float(f"{value:.5g}")
