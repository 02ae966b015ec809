"""A circuit as rows: what the tables, CSV and LaTeX, are made of."""

import math
from typing import NamedTuple

from circuits.circuit import Circuit
from circuits.export.naming import Naming


class EdgeRow(NamedTuple):
    """An edge; `target` is a node, `input` where it is entered (q, k, v, or `in`)."""

    source: str
    target: str
    input: str
    effect: float | None
    stderr: float | None
    source_label: str | None
    target_label: str | None


class NodeRow(NamedTuple):
    """A node; `effect_out` is the sum of its out-edges' effects in the circuit."""

    node: str
    kind: str
    layer: int | None
    head: int | None
    label: str | None
    edges_in: int
    edges_out: int
    effect_out: float | None


def edge_rows(circuit: Circuit, naming: Naming | None = None) -> list[EdgeRow]:
    """Its edges, largest effects first; in graph order where there are no effects."""
    naming = (naming or Naming()).checked(circuit.graph)
    graph, rows = circuit.graph, []
    for w, r in circuit.mask.nonzero().tolist():
        source, reader = graph.writer_names[w], graph.reader_nodes[r]
        effect, stderr = _known(circuit.scores, w, r), _known(circuit.stderr, w, r)
        roles = naming.role(source), naming.role(reader.node)
        rows.append(EdgeRow(source, reader.node, reader.kind, effect, stderr, *roles))
    return sorted(rows, key=lambda row: -abs(row.effect or 0.0))


def node_rows(circuit: Circuit, naming: Naming | None = None) -> list[NodeRow]:
    """Its nodes, in graph order; an edge into a shared key/value head counts for each head of its group."""
    naming = (naming or Naming()).checked(circuit.graph)
    graph = circuit.graph
    into, out = dict.fromkeys(circuit.nodes, 0), dict.fromkeys(circuit.nodes, 0)
    effects: dict[str, list[float]] = {node: [] for node in circuit.nodes}
    for w, r in circuit.mask.nonzero().tolist():
        source = graph.writer_names[w]
        out[source] += 1
        for node in graph.nodes_fed_by(graph.reader_nodes[r]) or ("logits",):
            if node in into:
                into[node] += 1
        effect = _known(circuit.scores, w, r)
        if effect is not None:
            effects[source].append(effect)
    writers = {writer.name: writer for writer in graph.writer_nodes}
    rows = []
    for node in circuit.nodes:
        writer = writers.get(node)
        kind, layer, head = ("logits", None, None) if writer is None else (writer.kind, writer.layer, writer.head)
        total = math.fsum(effects[node]) if effects[node] else None
        place = None if kind in ("input", "logits") else layer
        rows.append(NodeRow(node, kind, place, head, naming.role(node), into[node], out[node], total))
    return rows


def _known(tensor, w: int, r: int) -> float | None:
    value = math.nan if tensor is None else float(tensor[w, r])
    return None if math.isnan(value) else value
