"""A circuit as a networkx MultiDiGraph and as node-link JSON; both can be read back exactly.

Nodes: `id, kind, layer, head`, with kind `input`, `head`, `kv` (a key/value head that several query heads share), `mlp` or
`logits`. Edges: `source, target, key` with key `q`, `k`, `v` or `in`, and `score`, `stderr` if known. Graph attributes:
`schema`, `graph` (the five numbers of the model) and `provenance`.

An edge into a shared key/value head ends at that node (`a5.kv0`), whose attribute `heads` names the query heads that use
it. With `expand_groups` there is such an edge for each query head, for work with paths through heads.

An edge of a circuit over places has the key `q@S2` (`v@S2=>end`) and the attribute `position`: `S2` (`S2=>end`). The spans are in
the graph's attribute `graph`, under `places`.

A model of eight billion parameters has 805,681 edges. So files are read and written without a networkx graph, and an edge is
checked with one look-up; only if that fails is the exact reason searched for.
"""

import json
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import networkx as nx
import torch

from circuits.errors import InputError, locating
from circuits.files.atomic import write_text
from circuits.files.untrusted import as_object, check_plain, check_schema, finite_number, shown
from circuits.files.untrusted import read_json as read_plain_json
from circuits.graph.graph import Graph, Reader
from circuits.graph.places import from_dict as graph_from_dict
from circuits.results.edge_list import TABLES, Table
from circuits.results.provenance import Provenance, frozen, plain

SCHEMA = 1
KEYS = ("q", "k", "v", "in")
FIELDS = ("source", "target", "key", "score", "stderr", "id", "kind", "layer", "head", "position")
"""Keys of the edges and nodes in a file."""
_VALUES = ("score", "stderr")


@runtime_checkable
class Edges(Protocol):
    """The parts of a `circuits.Circuit` that are written."""

    @property
    def graph(self) -> Graph: ...
    @property
    def provenance(self) -> Provenance: ...
    @property
    def nodes(self) -> tuple[str, ...]: ...
    def entries(self) -> list[tuple[int, int, float | None, float | None]]: ...
    def column(self, name: Table) -> torch.Tensor | None: ...


def to_networkx(circuit: Edges, expand_groups: bool = False) -> nx.MultiDiGraph:
    """The circuit as a MultiDiGraph.

    Args:
        circuit: any circuit.
        expand_groups: an edge for each query head instead of one for each shared key/value head. The graph then has more
            edges than the circuit; `from_networkx` still gives the circuit back.
    """
    graph = circuit.graph
    result = nx.MultiDiGraph(**header(circuit))
    result.add_nodes_from(nodes_of(circuit, expand_groups))
    writers = graph.writer_names
    targets = [_targets(graph, reader, expand_groups) for reader in graph.reader_nodes]
    keys = [reader.key for reader in graph.reader_nodes]
    at = [{} if reader.place is None else {"position": reader.place} for reader in graph.reader_nodes]
    edges: Iterable[Any] = (
        (writers[w], target, keys[r], _values(score, stderr) | at[r])
        for w, r, score, stderr in circuit.entries()
        for target in targets[r]
    )
    result.add_edges_from(edges)
    return result


def header(circuit: Edges) -> dict[str, Any]:
    """The graph attributes."""
    return {"schema": SCHEMA, "graph": circuit.graph.to_dict(), "provenance": plain(circuit.provenance)}


def nodes_of(circuit: Edges, expand_groups: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """Names and attributes of the nodes in the multigraph: the circuit's writers, then the other targets of its edges."""
    graph = circuit.graph
    touched = set(circuit.nodes)
    nodes: dict[str, dict[str, Any]] = {}
    for writer in graph.writer_nodes:
        if writer.name in touched:
            nodes[writer.name] = {"kind": writer.kind, "layer": writer.layer, "head": writer.head}
    for r in dict.fromkeys(r for _, r, *_ in circuit.entries()):
        reader = graph.reader_nodes[r]
        for target in _targets(graph, reader, expand_groups):
            nodes.setdefault(target, _reader_attributes(graph, reader))
    return list(nodes.items())


def _is_shared(graph: Graph, reader: Reader) -> bool:
    return graph.grouped and reader.part in ("k", "v")


def _targets(graph: Graph, reader: Reader, expand_groups: bool) -> tuple[str, ...]:
    return graph.nodes_fed_by(reader) if expand_groups and _is_shared(graph, reader) else (reader.node,)


def _reader_attributes(graph: Graph, reader: Reader) -> dict[str, Any]:
    heads = {"heads": list(graph.nodes_fed_by(reader))} if _is_shared(graph, reader) else {}
    kind = "kv" if heads else reader.part if reader.kind == "in" else "head"
    return {"kind": kind, "layer": reader.layer, "head": reader.head, **heads}


def _values(score: float | None, stderr: float | None) -> dict[str, float]:
    return {name: value for name, value in zip(_VALUES, (score, stderr), strict=True) if value is not None}


def from_networkx(graph: nx.MultiDiGraph) -> dict[str, Any]:
    """The arguments of `Circuit.from_indices` for a graph that `to_networkx` made.

    Raises:
        InputError: not a MultiDiGraph of this schema, or an edge that the model's graph does not have.
    """
    if not isinstance(graph, nx.MultiDiGraph):
        raise InputError(f"expected a networkx.MultiDiGraph, got {type(graph).__name__}")
    shape, origin = _read_head(graph.graph)
    edges = list(graph.edges(keys=True, data=True))
    _check_nodes(shape, graph.nodes)
    places = _Places(shape)
    try:
        indices = [(places.writers[source], places.ends[target, key]) for source, target, key, _ in edges]
    except (KeyError, TypeError):
        indices = [places.place(source, target, key) for source, target, key, _ in edges]
    return _arguments(places, indices, [data for *_, data in edges], origin)


def _read_head(attributes: dict[str, Any]) -> tuple[Graph, Provenance]:
    check_schema(attributes.get("schema"), SCHEMA, "circuit")
    origin = check_plain(as_object(attributes.get("provenance"), "provenance"), "provenance")
    return graph_from_dict(attributes.get("graph")), frozen(origin)


def _check_nodes(graph: Graph, names: Iterable[Hashable]) -> None:
    known = {*graph.writer_names, *(reader.node for reader in graph.reader_nodes)}
    for name in names:
        if name not in known:
            raise InputError(f"there is no node {shown(name)} in this graph")


class _Places:
    """Finds the indices of an edge from its source, target and key.

    Attributes:
        writers: index of a writer, by its name.
        ends: index into `readers`, by target and key; each head of a group has an entry as well as their key/value head.
        readers: the index of the reader of each end.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.writers = {name: w for w, name in enumerate(graph.writer_names)}
        self.ends: dict[tuple[str, str], int] = {}
        self.readers: list[int] = []
        for r, reader in enumerate(graph.reader_nodes):
            for target in dict.fromkeys(_targets(graph, reader, False) + _targets(graph, reader, True)):
                self.ends[target, reader.key] = len(self.readers)
                self.readers.append(r)

    def place(self, source: Hashable, target: Hashable, key: Hashable) -> tuple[int, int]:
        """(writer, end) of an edge; InputError if there is no such edge."""
        if not isinstance(target, str) or str(key).partition("@")[0] not in KEYS:
            raise InputError(f"edge into {shown(target)} has key {shown(key)}; expected one of {', '.join(KEYS)}")
        end = self.ends.get((target, str(key)))
        if end is None:
            kind, at, place = str(key).partition("@")
            self.graph.reader_index((target if kind == "in" else f"{target}<{kind}>") + at + place)  # raises
            raise InputError(f"edge into {shown(target)} has key {shown(key)}, which that node does not have")
        return self.graph.edge_index(f"{source}->{self.graph.reader_names[self.readers[end]]}")[0], end


def _arguments(
    places: _Places, indices: list[tuple[int, int]], edges: Sequence[dict[str, Any]], origin: Provenance
) -> dict[str, Any]:
    """The arguments of `Circuit.from_indices`, for edges with these (writer, end); `edges` hold their values."""
    writers, ends = torch.tensor(indices, dtype=torch.long).reshape(-1, 2).T
    scores, stderr = (_column(edges, name) for name in _VALUES)
    readers = torch.tensor(places.readers)[ends]
    return {
        "graph": places.graph, "writers": writers, "readers": readers, "scores": scores, "stderr": stderr, "provenance": origin
    }  # fmt: skip


def _column(edges: Sequence[dict[str, Any]], name: str) -> torch.Tensor | None:
    """A value of each edge, NaN for an edge without it; None if no edge has it."""
    there = sum(name in edge for edge in edges)
    values = [edge.get(name, math.nan) for edge in edges]
    try:
        if not {type(value) for value in values} <= {float, int}:
            raise ValueError
        column = torch.tensor([float(value) for value in values], dtype=torch.float64)
        if int(column.isfinite().sum()) < there:
            raise ValueError
    except (ValueError, OverflowError):
        for number, edge in enumerate(edges):
            if name in edge:
                finite_number(edge[name], f"{name} of edge {number}")
        raise
    return column if there else None


# --- files ----------------------------------------------------------------------------------------------------------------


def write_json(circuit: Edges, path: str | Path) -> None:
    """Writes the circuit atomically as node-link JSON: the data of `to_networkx`, with the edges in graph order.

    Raises:
        InputError: a score is infinite, which JSON does not allow, or the file cannot be written.
    """
    check_finite(circuit)
    nodes = [{**attributes, "id": name} for name, attributes in nodes_of(circuit)]
    data = {"directed": True, "multigraph": True, "graph": header(circuit), "nodes": nodes, "edges": []}
    head, tail = json.dumps(data, indent=1, allow_nan=False).rsplit("[]", 1)
    write_text(path, chain([head], _edge_lines(circuit), [f"{tail}\n"]))


def _edge_lines(circuit: Edges) -> Iterator[str]:
    """The list of edges, as `json.dumps(…, indent=1)` writes it, in a tenth of its time."""
    graph = circuit.graph
    sources = [f'   "source": "{name}",\n' for name in graph.writer_names]
    ends = [f'   "target": "{reader.node}",\n   "key": {json.dumps(reader.key)}\n  }}' for reader in graph.reader_nodes]
    places = [reader.place for reader in graph.reader_nodes]
    positions = ["" if place is None else f'   "position": {json.dumps(place)},\n' for place in places]
    before = "[\n  {\n"
    for w, r, score, stderr in circuit.entries():
        first = "" if score is None else f'   "score": {score!r},\n'
        second = "" if stderr is None else f'   "stderr": {stderr!r},\n'
        yield f"{before}{first}{second}{positions[r]}{sources[w]}{ends[r]}"
        before = ",\n  {\n"
    yield "[]" if before == "[\n  {\n" else "\n ]"


def check_finite(circuit: Edges) -> None:
    """Refuses infinite scores, which no format can hold."""
    for column in map(circuit.column, TABLES):
        if column is not None and bool(column.isinf().any()):
            raise InputError("the circuit has infinite scores, which cannot be written")


def read_json(path: str | Path) -> dict[str, Any]:
    """The arguments of `Circuit.from_indices` for what `write_json` wrote.

    Raises:
        InputError: the file cannot be read, is not JSON, or is not a circuit of this schema; with the reason.
    """
    return from_plain(read_plain_json(path, FIELDS), path)


def from_plain(data: Any, path: str | Path) -> dict[str, Any]:
    """The same for JSON that was read from this file; see `read_json`."""
    with locating(f"{path}: "):
        return _from_data(data)


def _from_data(data: Any) -> dict[str, Any]:
    """Node-link data, read without networkx, which checks nothing."""
    data = as_object(data, "a circuit file")
    if data.get("directed") is not True or data.get("multigraph") is not True:
        raise InputError("expected node-link data of a directed multigraph")
    nodes, edges = data.get("nodes", []), data.get("edges")
    if not isinstance(edges, list) or not isinstance(nodes, list):
        raise InputError("expected the lists 'nodes' and 'edges'")
    graph, origin = _read_head(as_object(data.get("graph"), "graph"))
    names = [as_object(node, f"node {number}").get("id") for number, node in enumerate(nodes)]
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise InputError(f"node {number} needs a string 'id', got {shown(nodes[number])}")
    _check_nodes(graph, names)
    places = _Places(graph)
    try:
        indices = [(places.writers[e["source"]], places.ends[e["target"], e["key"]]) for e in edges]
    except (KeyError, TypeError, AttributeError):
        indices = [_place(places, edge, number) for number, edge in enumerate(edges)]
    if len(set(indices)) < len(indices):
        twice = next(place for place, n in Counter(indices).items() if n > 1)
        number = len(indices) - 1 - indices[::-1].index(twice)
        raise InputError(f"edge {number} ({shown(edges[number])}) occurs twice")
    return _arguments(places, indices, edges, origin)


def _place(places: _Places, edge: Any, number: int) -> tuple[int, int]:
    edge = as_object(edge, f"edge {number}")
    source, target, key = (edge.get(name) for name in ("source", "target", "key"))
    if not all(isinstance(name, str) for name in (source, target, key)):
        raise InputError(f"edge {number} needs the strings 'source', 'target' and 'key', got {shown(edge)}")
    return places.place(source, target, key)
