"""JSON data of the viewer's page: circuits, prompts and names."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from circuits.graph.graph import Graph
from circuits.graph.places import PlacedGraph
from circuits.prompts.pair import bounds
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming
from circuits.results.quantity import EFFECT, Quantity
from circuits.results.recorded import method_name, quantity_of
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
    """All data of the page.

    Over tokens (`spans` and each circuit's `placed`) if all circuits have the same spans.
    """
    plain = {name: circuit.without_places() for name, circuit in circuits.items()}
    graph = next(iter(plain.values())).graph
    schemas = {circuit.places for circuit in circuits.values()}
    spans = schemas.pop() if len(schemas) == 1 else None
    edges = shared_lines(map(_lines, plain.values()))
    placed = [{} for _ in circuits]
    if spans is not None:
        placed = [{"placed": lines} for lines in shared_lines(map(placed_lines, circuits.values()))]
    nodes = list(dict.fromkeys(node for circuit in circuits.values() for node in circuit.nodes))
    return {
        "circuits": [
            {"name": name, "facts": _facts(circuit), "quantity": quantity_data(quantity_of(circuit.provenance)), "edges": lines, **over}
            for (name, circuit), lines, over in zip(circuits.items(), edges, placed, strict=True)
        ],
        "spans": None if spans is None else list(spans),
        "nodes": [[node, _row(node, graph)] for node in sorted(nodes, key=(*graph.writer_names, "logits").index)],
        "about": list(about),
        "prompts": [plain_prompt(prompt) for prompt in prompts],
        "naming": {"labels": dict(naming.labels), "groups": {name: list(nodes) for name, nodes in naming.groups.items()},
                   "pinned": list(naming.pinned)},
        "start": START,
    }  # fmt: skip


NAME = 5
"""Where a line has the name of its edge."""


def shared_lines(circuits: Iterable[list[list[Any]]]) -> list[list[list[Any]]]:
    """The lines, with after the name whether all circuits have an edge of that name."""
    listed = list(circuits)
    both = set.intersection(*({line[NAME] for line in lines} for lines in listed))
    return [[[*line[: NAME + 1], line[NAME] in both, *line[NAME + 1 :]] for line in lines] for lines in listed]


def placed_lines(circuit: Circuit) -> list[list[Any]]:
    """As `_lines`, over tokens: a line for each edge at a place, with the numbers of the spans of its source and its target.

    An edge into a key or value without a destination is a line to each span of the circuit whose queries can read it.
    """
    graph, outputs = circuit.graph, set(circuit.outputs)
    assert isinstance(graph, PlacedGraph)
    number = {span: i for i, span in enumerate(graph.places.spans)}
    lines = []
    for w, r, score, stderr in circuit.entries():
        reader = graph.reader_nodes[r]
        source, _, at = graph.output_read(w, reader).partition("@")
        ends = [f"logits@{at}"] if reader.part == "logits" else [o for o in graph.outputs_of(reader) if o in outputs]
        rest = [reader.kind, short(score), short(stderr), f"{source}->{reader.name}", number[at]]
        for end in ends:
            target, _, there = end.partition("@")
            lines.append([source, target, *rest, number[there]])
    return lines


def _lines(circuit: Circuit) -> list[list[Any]]:
    """Source, target, part, score, standard error and name; an edge into a shared key/value head becomes one line to each head."""
    graph, nodes = circuit.graph, set(circuit.nodes)
    targets = [[node for node in graph.nodes_fed_by(r) if node in nodes] or ["logits"] for r in graph.reader_nodes]
    lines = []
    for w, r, score, stderr in circuit.entries():
        reader, source = graph.reader_nodes[r], graph.writer_names[w]
        rest = [reader.kind, short(score), short(stderr), f"{source}->{reader.name}"]
        lines += [[source, target, *rest] for target in targets[r]]
    return lines


def _row(node: str, graph: Graph) -> int:
    """Row of a node before empty rows are removed: input, then heads and MLP of each layer, then logits."""
    if node in ("input", "logits"):
        return 0 if node == "input" else 2 * graph.n_layers + 1
    return 2 * int(node[1:].split(".")[0]) + (1 if node[0] == "a" else 2)


def plain_prompt(prompt: ShownPrompt) -> dict[str, Any]:
    """A prompt as JSON values."""
    lists = {name: list(getattr(prompt, name)) for name in ("clean", "corrupted", "answers", "distractors")}
    patterns = {head: _packed(pattern) for head, pattern in prompt.patterns.items()}
    places = {"roles": dict(prompt.roles), "spans": {name: list(bounds(at)) for name, at in prompt.spans.items()}}
    differs = {} if prompt.differs is None else {"differs": {name: list(at) for name, at in prompt.differs.items()}}
    return {"number": prompt.number, **lists, **places, "patterns": patterns, **differs}


def _packed(pattern: Sequence[Sequence[float]]) -> str:
    """Attention weights of each query on itself and earlier tokens, two characters each."""
    steps = [round(min(1.0, max(0.0, w)) * 4095) for i, row in enumerate(pattern) for w in row[: i + 1]]
    return "".join(DIGITS[step // 64] + DIGITS[step % 64] for step in steps)


def _facts(circuit: Circuit) -> str:
    """A line on the origin of a circuit."""
    origin, quantity = circuit.provenance, quantity_of(circuit.provenance)
    at = "" if circuit.places is None else f" at places ({len(circuit.without_places())} without their places)"
    facts = [f"{len(circuit)} edges{at}, {len(circuit.nodes)} nodes"]
    facts += [f"by {method_name(origin)}"] if origin.get("method") else []
    if quantity != EFFECT or origin.get("metric"):
        facts.append(quantity.over(str(origin.get("metric") or "the metric")))
    facts += [f"{origin['ablation']} ablation"] if origin.get("ablation") else []
    return ", ".join(facts)


def quantity_data(quantity: Quantity) -> dict[str, Any]:
    """Name, unit and sign of the scores."""
    return {
        "name": quantity.name, "unit": quantity.unit, "signed": quantity.signed, "helps": quantity.positive,
        "hurts": quantity.negative,
    }  # fmt: skip


def short(value: float | None) -> float | None:
    """A number with five digits; None for NaN."""
    return None if value is None or value != value else float(f"{value:.5g}")
