"""A circuit of mixed nodes: features, errors, heads and MLPs, with the edges between them.

The JSON file is networkx' node-link format of a MultiDiGraph: nodes `id, kind, layer, score`; edges `source, target, key` with key `q`, `k`, `v` or
`in`, and `score`, `stderr`; graph attributes `schema`, `format` and `provenance`. It is read back exactly.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx as nx

from circuits.errors import InputError, locating
from circuits.files.atomic import write_text
from circuits.files.untrusted import as_object, check_plain, check_schema, finite_number, read_json, shown
from circuits.plain_torch import plain_methods
from circuits.results.feature_edges import FeatureEdges
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import Provenance, finite, frozen, plain
from circuits.shown import Shown

SCHEMA, FORMAT = 1, "mech-circuits feature circuit"
_NODE = re.compile(r"(?:([fes]):(?:m|a|z|resid_pre|resid_mid|resid_post)|([am]))(\d{1,5})(?:\.(h|kv)?(\d{1,9}))?")
_KINDS = {"f": "feature", "e": "error", "s": "skip"}
KEYS = ("q", "k", "v", "in")


def kind_of(node: str) -> tuple[str, int | None]:
    """The kind and the layer of a node by its name.

    Raises:
        InputError: it is not the name of a node.

    >>> kind_of("f:m3.1201"), kind_of("e:resid_pre2"), kind_of("a5.h2"), kind_of("m5"), kind_of("logits")
    (('feature', 3), ('error', 2), ('head', 5), ('mlp', 5), ('logits', None))
    """
    if node in ("input", "logits"):
        return node, None
    match = _NODE.fullmatch(node) if isinstance(node, str) else None
    if match:
        part, letter, layer, head, number = match.groups()
        if part and (number is not None) == (part == "f") and head is None:
            return _KINDS[part], int(layer)
        if letter == "m" and number is None:
            return "mlp", int(layer)
        if letter == "a" and head is not None:
            return "head" if head == "h" else "kv", int(layer)
    raise InputError(f"{shown(node)} is not the name of a node, such as f:m3.1201, e:m3, a5.h2, m5, input or logits")


def split_target(target: str) -> tuple[str, str]:
    """The node and the key of what an edge ends in: `a5.h2<k>` -> (`a5.h2`, `k`)."""
    node, _, key = target.rstrip(">").partition("<")
    return node, key or "in"


@plain_methods
@dataclass(frozen=True, eq=True, repr=False)
class FeatureCircuit(Shown):
    """Nodes and edges with their scores.

    Attributes:
        nodes: names; `logits` is always the end, and is not listed.
        edges: (source, target) of each edge: `f:m3.1201` and `a5.h2<k>`, `f:m5.7`, `m5` or `logits`.
        node_scores: effects of the nodes; None where unknown.
        edge_scores, stderr: effects of the edges, and their standard errors; None where unknown.
        provenance: the origin.
    """

    nodes: tuple[str, ...]
    edges: tuple[tuple[str, str], ...] = ()
    node_scores: tuple[float | None, ...] = ()
    edge_scores: tuple[float | None, ...] = ()
    stderr: tuple[float | None, ...] = ()
    provenance: Provenance = field(default_factory=lambda: frozen(None), compare=False)

    @classmethod
    def from_scores(
        cls, scores: NodeScores, n_nodes: int, edges: FeatureEdges | None = None, n_edges: int | None = None
    ) -> "FeatureCircuit":
        """The nodes with the largest effects by absolute value, and the edges with the largest effects between them.

        Args:
            scores: of nodes, without positions.
            n_nodes: how many nodes to choose.
            edges: of edges between these nodes (`circuits.feature_edges`); None: a circuit without edges.
            n_edges: how many edges to choose; None: all between the chosen nodes.

        Raises:
            InputError: scores with positions.
        """
        if scores.positions is not None:
            raise InputError("a circuit of features needs scores without positions")
        chosen = {name: value for name, value, _ in scores.strongest(n_nodes)}
        nodes = tuple(name for name in scores.nodes if name in chosen)
        kept = (
            [] if edges is None else [row for row in edges.strongest(len(edges)) if _inside(row[0], chosen)][:n_edges]
        )
        ends = tuple((name.partition("->")[0], name.partition("->")[2]) for name, *_ in kept)
        origin = {"nodes": plain(scores.provenance)} | ({} if edges is None else {"edges": plain(edges.provenance)})
        return cls(
            nodes, ends, tuple(chosen[name] for name in nodes), tuple(value for _, value, _ in kept),
            tuple(finite(error) for *_, error in kept), frozen(origin),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        n_features = sum(kind_of(node)[0] == "feature" for node in self.nodes)
        return f"FeatureCircuit({len(self)} nodes, {n_features} of them features, {len(self.edges)} edges)"

    def rows(self) -> list[dict[str, Any]]:
        """One row per node: its kind, layer and effect."""
        return [
            {"node": node, "kind": kind_of(node)[0], "layer": kind_of(node)[1], "effect": score}
            for node, score in zip(self.nodes, _filled(self.node_scores, self.nodes), strict=True)
        ]

    def to_networkx(self) -> nx.MultiDiGraph:
        """The circuit as a MultiDiGraph, as in the file."""
        return nx.node_link_graph(self.to_dict(), edges="edges")

    def to_dict(self) -> dict[str, Any]:
        """The content of the file."""
        scores = dict(zip(self.nodes, _filled(self.node_scores, self.nodes), strict=True))
        nodes = [{"id": node, **_attributes(node), "score": score} for node, score in scores.items()]
        ends = dict.fromkeys(end for source, target in self.edges for end in (source, split_target(target)[0]))
        nodes += [{"id": end, **_attributes(end), "score": None, "only_end": True} for end in ends if end not in scores]
        columns = (self.edges, _filled(self.edge_scores, self.edges), _filled(self.stderr, self.edges))
        edges = [
            {
                "source": source,
                "target": split_target(target)[0],
                "key": split_target(target)[1],
                "score": score,
                "stderr": error,
            }
            for (source, target), score, error in zip(*columns, strict=True)
        ]
        graph = {"schema": SCHEMA, "format": FORMAT, "provenance": plain(self.provenance)}
        return {"directed": True, "multigraph": True, "graph": graph, "nodes": nodes, "edges": edges}

    def to_json(self, path: str | Path) -> None:
        """Writes the file atomically."""
        write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def from_json(cls, path: str | Path) -> "FeatureCircuit":
        """Reads what `to_json` wrote.

        Raises:
            InputError: the file cannot be read, or holds something else; with the reason.
        """
        data = read_json(path)
        with locating(f"{path}: "):
            return _from_dict(as_object(data, "the file"))


def _from_dict(data: Mapping[str, Any]) -> FeatureCircuit:
    graph = as_object(data.get("graph"), "graph")
    if graph.get("format") != FORMAT:
        raise InputError(f"this is not a circuit of features: its format is {shown(graph.get('format'))}")
    check_schema(graph.get("schema"), SCHEMA, "this circuit of features")
    nodes = [_entry(node, "a node") for node in _list(data, "nodes")]
    names = [str(node.get("id")) for node in nodes]
    for name in names:
        kind_of(name)
    edges, scores, errors = [], [], []
    for edge in (_entry(one, "an edge") for one in _list(data, "edges")):
        source, target, key = (edge.get(part) for part in ("source", "target", "key"))
        if source not in names or target not in names or key not in KEYS:
            raise InputError(
                f"an edge from {shown(source)} to {shown(target)} with the key {shown(key)} has an unknown end or key"
            )
        edges.append((str(source), str(target) if key == "in" else f"{target}<{key}>"))
        scores.append(_number(edge.get("score"), "the score of an edge"))
        errors.append(_number(edge.get("stderr"), "the standard error of an edge"))
    if len(set(names)) < len(names) or len(set(edges)) < len(edges):
        raise InputError("it has a node or an edge twice")
    own = [(name, node) for name, node in zip(names, nodes, strict=True) if node.get("only_end") is not True]
    values = tuple(_number(node.get("score"), "the score of a node") for _, node in own)
    origin = frozen(check_plain(as_object(graph.get("provenance"), "provenance"), "provenance"))
    return FeatureCircuit(tuple(name for name, _ in own), tuple(edges), values, tuple(scores), tuple(errors), origin)


def _attributes(node: str) -> dict[str, Any]:
    kind, layer = kind_of(node)
    return {"kind": kind, "layer": layer}


def _inside(edge: str, chosen: Mapping[str, float]) -> bool:
    """Whether both ends of an edge are chosen; `logits` and shared keys and values belong to every circuit."""
    source, _, target = edge.partition("->")
    node, _ = split_target(target)
    return source in chosen and (node in chosen or node == "logits" or ".kv" in node)


def _filled(values: tuple[float | None, ...], like: tuple[Any, ...]) -> tuple[float | None, ...]:
    return values or (None,) * len(like)


def _list(data: Mapping[str, Any], name: str) -> list[Any]:
    value = data.get(name)
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list, got {shown(value)}")
    return value


def _entry(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{what} must be an object, got {shown(value)}")
    return value


def _number(value: Any, what: str) -> float | None:
    number = None if value is None else finite_number(value, what)
    return None if number is None or math.isnan(number) else number
