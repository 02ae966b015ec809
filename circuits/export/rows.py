"""The rows of a circuit's tables, for CSV and LaTeX."""

import math
from typing import NamedTuple

from circuits.results.circuit import Circuit
from circuits.results.naming import Naming


class EdgeRow(NamedTuple):
    """An edge; `target` is a node, and `input` is q, k, v or `in`."""

    source: str
    target: str
    input: str
    effect: float | None
    stderr: float | None
    source_label: str | None
    target_label: str | None


class NodeRow(NamedTuple):
    """A node; `effect_out` is the sum of the effects of its out-edges in the circuit."""

    node: str
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
    targets = [(reader.node, reader.kind, naming.role(reader.node)) for reader in graph.reader_nodes]
    for w, r, effect, stderr in circuit.entries():
        (source, role), (target, kind, other) = sources[w], targets[r]
        rows.append(EdgeRow(source, target, kind, effect, stderr, role, other))
    return sorted(rows, key=lambda row: -abs(row.effect or 0.0))


def node_rows(circuit: Circuit, naming: Naming | None = None) -> list[NodeRow]:
    """The nodes, in graph order; an edge into a shared key/value head counts for each head of its group."""
    naming = (naming or Naming()).checked(circuit.graph)
    graph, nodes = circuit.graph, circuit.nodes
    into, out = dict.fromkeys(nodes, 0), dict.fromkeys(nodes, 0)
    effects: dict[str, list[float]] = {node: [] for node in nodes}
    for name, n in zip(graph.writer_names, circuit.mask.sum(1).tolist(), strict=True):
        if name in out:
            out[name] = n
    for reader, n in zip(graph.reader_nodes, circuit.mask.sum(0).tolist(), strict=True):
        for node in graph.nodes_fed_by(reader) or ("logits",):
            if node in into:
                into[node] += n
    for w, _, effect, _ in circuit.entries():
        if effect is not None:
            effects[graph.writer_names[w]].append(effect)
    writers = {writer.name: writer for writer in graph.writer_nodes}
    rows = []
    for node in nodes:
        writer = writers.get(node)
        kind, layer, head = ("logits", None, None) if writer is None else (writer.kind, writer.layer, writer.head)
        total = math.fsum(effects[node]) if effects[node] else None
        place = None if kind in ("input", "logits") else layer
        rows.append(NodeRow(node, kind, place, head, naming.role(node), into[node], out[node], total))
    return rows
