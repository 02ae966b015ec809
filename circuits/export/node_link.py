"""A circuit as a networkx MultiDiGraph and as node-link JSON; both ways, exactly.

Nodes: `id, kind, layer, head`, with kind `input`, `head`, `kv` (a key/value head that several query heads share), `mlp` or
`logits`. Edges: `source, target, key` with key `q`, `k`, `v` or `in`, and `score`, `stderr` where known. Graph attributes:
`schema`, `graph` (the model's five numbers) and `provenance`.

An edge into a shared key/value head ends at that node (`a5.kv0`), whose attribute `heads` names the query heads that use
it. Where paths through heads matter more than the exact round trip, `expand_groups` writes such an edge once per query head.
"""

import json
import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import networkx as nx
import torch

from circuits.circuit import Circuit
from circuits.errors import InputError
from circuits.export.atomic import replacing
from circuits.graph import Graph, Reader
from circuits.provenance import frozen, plain

SCHEMA = 1
KEYS = ("q", "k", "v", "in")


def to_networkx(circuit: Circuit, expand_groups: bool = False) -> nx.MultiDiGraph:
    """The circuit as a MultiDiGraph.

    Args:
        circuit: any circuit.
        expand_groups: write edges into shared key/value heads once per query head instead of once per group. More edges
            than the circuit has; `from_networkx` still gives the circuit back.
    """
    graph = circuit.graph
    attributes = {"schema": SCHEMA, "graph": graph.to_dict(), "provenance": plain(circuit.provenance)}
    result = nx.MultiDiGraph(**attributes)
    touched = set(circuit.nodes)
    for writer in graph.writer_nodes:
        if writer.name in touched:
            result.add_node(writer.name, kind=writer.kind, layer=writer.layer, head=writer.head)
    for w, r in circuit.mask.nonzero().tolist():
        reader = graph.reader_nodes[r]
        values = _values(circuit, w, r)
        for target in _targets(graph, reader, expand_groups):
            if target not in result:
                result.add_node(target, **_reader_attributes(graph, reader))
            result.add_edge(graph.writer_names[w], target, key=reader.kind, **values)
    return result


def _targets(graph: Graph, reader: Reader, expand_groups: bool) -> tuple[str, ...]:
    shared = graph.grouped and reader.part in ("k", "v")
    return graph.nodes_fed_by(reader) if shared and expand_groups else (reader.node,)


def _reader_attributes(graph: Graph, reader: Reader) -> dict[str, Any]:
    if reader.part == "logits":
        return {"kind": "logits", "layer": reader.layer, "head": None}
    if reader.part == "mlp":
        return {"kind": "mlp", "layer": reader.layer, "head": None}
    if graph.grouped and reader.part in ("k", "v"):
        return {
            "kind": "kv", "layer": reader.layer, "head": reader.head, "heads": list(graph.nodes_fed_by(reader))
        }  # fmt: skip
    return {"kind": "head", "layer": reader.layer, "head": reader.head}


def _values(circuit: Circuit, w: int, r: int) -> dict[str, float]:
    values = {}
    for name, tensor in (("score", circuit.scores), ("stderr", circuit.stderr)):
        value = float("nan") if tensor is None else float(tensor[w, r])
        if not math.isnan(value):
            values[name] = value
    return values


def from_networkx(graph: nx.MultiDiGraph) -> Circuit:
    """The circuit that `to_networkx` made a graph of.

    Raises:
        InputError: not a MultiDiGraph of this schema, or an edge that the model's graph does not have.
    """
    if not isinstance(graph, nx.MultiDiGraph):
        raise InputError(f"expected a networkx.MultiDiGraph, got {type(graph).__name__}")
    schema = graph.graph.get("schema")
    if schema != SCHEMA:
        raise InputError(f"circuit has schema {schema!r}; this version reads schema {SCHEMA}")
    shape = Graph.from_dict(graph.graph.get("graph"))
    mask = torch.zeros_like(shape.edge_mask)
    scores = torch.full(mask.shape, torch.nan, dtype=torch.float64)
    stderr = scores.clone()
    for source, target, key, data in graph.edges(keys=True, data=True):
        index = shape.edge_index(f"{source}->{_reader_name(shape, target, key)}")
        mask[index] = True
        for name, tensor in (("score", scores), ("stderr", stderr)):
            if name in data:
                tensor[index] = _number(data[name], f"{name} of edge {source} -> {target}")
    known = {*shape.writer_names, *(reader.node for reader in shape.reader_nodes)}
    for node in graph.nodes:
        if node not in known:
            raise InputError(f"there is no node {reprs(node)} in this graph")
    return Circuit(
        shape,
        mask,
        scores if not bool(scores.isnan().all()) else None,
        stderr if not bool(stderr.isnan().all()) else None,
        frozen(_object(graph.graph.get("provenance"), "provenance")),
    )


def _reader_name(graph: Graph, target: Hashable, key: Hashable) -> str:
    if not isinstance(target, str) or key not in KEYS:
        raise InputError(f"edge into {target!r} has key {key!r}; expected one of {', '.join(KEYS)}")
    if key == "in":
        return target
    layer, dot, head = target.partition(".h")
    if graph.grouped and key in ("k", "v") and dot and head.isdecimal() and len(head) < 9:
        return f"{layer}.kv{int(head) // graph.group_size}<{key}>"
    return f"{target}<{key}>"


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{what} must be a finite number, got {value!r}")
    return float(value)


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{what} must be an object, got {type(value).__name__}")
    return value


def write_json(circuit: Circuit, path: str | Path) -> None:
    """Writes the circuit as node-link JSON, whole or not at all."""
    data = nx.node_link_data(to_networkx(circuit), edges="edges")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Circuit:
    """Reads what `write_json` wrote.

    Raises:
        InputError: the file cannot be read, is no JSON, or is no circuit of this schema; with the reason.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror or problem}") from None
    except (ValueError, RecursionError) as problem:
        raise InputError(f"{path} is not JSON: {problem}") from None
    try:
        return from_networkx(_to_graph(data))
    except InputError as problem:
        raise InputError(f"{path}: {problem}") from None


def _to_graph(data: Any) -> nx.MultiDiGraph:
    """Node-link data as a graph, read by hand: networkx takes anything, and we check every entry."""
    data = _object(data, "a circuit file")
    if data.get("directed") is not True or data.get("multigraph") is not True:
        raise InputError("expected node-link data of a directed multigraph")
    result = nx.MultiDiGraph(**{str(key): value for key, value in _object(data.get("graph"), "graph").items()})
    nodes, edges = data.get("nodes", []), data.get("edges")
    if not isinstance(edges, list) or not isinstance(nodes, list):
        raise InputError("expected the lists 'nodes' and 'edges'")
    for number, node in enumerate(nodes):
        name = _object(node, f"node {number}").get("id")
        if not isinstance(name, str):
            raise InputError(f"node {number} needs a string 'id', got {reprs(node)}")
        result.add_node(name)
    for number, edge in enumerate(edges):
        edge = _object(edge, f"edge {number}")
        source, target, key = (edge.get(name) for name in ("source", "target", "key"))
        if not all(isinstance(name, str) for name in (source, target, key)):
            raise InputError(f"edge {number} needs the strings 'source', 'target' and 'key', got {reprs(edge)}")
        if result.has_edge(source, target, key):
            raise InputError(f"edge {number} ({source} -> {target}, {key}) is there twice")
        result.add_edge(source, target, key=key, **{name: edge[name] for name in ("score", "stderr") if name in edge})
    return result


def reprs(value: Any, limit: int = 80) -> str:
    """A value as short text for an error message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
