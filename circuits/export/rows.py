"""The rows of a circuit's tables, for CSV and LaTeX."""

import math
from typing import NamedTuple

from circuits.results.circuit import Circuit
from circuits.results.naming import Naming


class EdgeRow(NamedTuple):
    """An edge; `target` is a node, `input` is q, k, v or `in`, and `position` is its place (None without places)."""

    source: str
    target: str
    input: str
    position: str | None
    effect: float | None
    stderr: float | None
    source_label: str | None
    target_label: str | None


class NodeRow(NamedTuple):
    """A node, over places at one span; `effect_out` is the sum of the effects of its out-edges in the circuit."""

    node: str
    position: str | None
    kind: str
    layer: int | None
    head: int | None
    label: str | None
    edges_in: int
    edges_out: int
    effect_out: float | None


def edge_rows(circuit: Circuit, naming: Naming | None = None) -> list[EdgeRow]:
    """The edges, largest effects first; in graph order if there are no effects."""
    naming = (naming or Naming()).checked(circuit.graph)
    graph, rows = circuit.graph, []
    sources = [(name, naming.role(name)) for name in graph.writer_names]
    targets = [(reader.node, reader.kind, reader.place, naming.role(reader.node)) for reader in graph.reader_nodes]
    for w, r, effect, stderr in circuit.entries():
        (source, role), (target, kind, place, other) = sources[w], targets[r]
        rows.append(EdgeRow(source, target, kind, place, effect, stderr, role, other))
    return sorted(rows, key=lambda row: -abs(row.effect or 0.0))


def node_rows(circuit: Circuit, naming: Naming | None = None) -> list[NodeRow]:
    """The nodes, in graph order, over places each span at which a node is in the circuit.

    An edge into a shared key/value head counts for each head of its group, and one whose key or value is read at several spans
    for each of them.
    """
    naming = (naming or Naming()).checked(circuit.graph)
    graph, outputs = circuit.graph, circuit.outputs
    into, out = dict.fromkeys(outputs, 0), dict.fromkeys(outputs, 0)
    effects: dict[str, list[float]] = {output: [] for output in outputs}
    fed = [graph.outputs_of(reader) for reader in graph.reader_nodes]
    for w, r, effect, _ in circuit.entries():
        source = graph.output_read(w, graph.reader_nodes[r])
        out[source] += 1
        for output in fed[r]:
            if output in into:
                into[output] += 1
        if effect is not None:
            effects[source].append(effect)
    writers = {writer.name: writer for writer in graph.writer_nodes}
    rows = []
    for output in outputs:
        node, _, position = output.partition("@")
        writer = writers.get(node)
        kind, layer, head = ("logits", None, None) if writer is None else (writer.kind, writer.layer, writer.head)
        total = math.fsum(effects[output]) if effects[output] else None
        layer = None if kind in ("input", "logits") else layer
        counts = into[output], out[output]
        rows.append(NodeRow(node, position or None, kind, layer, head, naming.role(node), *counts, total))
    return rows
