"""Reads and writes the files of EAP-IG (Hanna, Pezzelle and Belinkov 2024; `Graph.to_json`, `Graph.to_pt`).

JSON: `{"cfg": {…}, "nodes": {name: {"in_graph"}}, "edges": {name: {"score", "in_graph"}}}` with every edge of the model.
Tensors: the content of EAP-IG's `.pt` (`edges_scores`, `edges_in_graph` [writer, reader], `nodes_in_graph` [writer]; readers
per layer all q, all k, all v, then the MLP) as safetensors, with `cfg`, `src_nodes` and `dst_nodes` as JSON in the header. A
`.pt` is a pickle, which is never read or written here.

EAP-IG has no shared key/value heads. An edge into one is written once per query head, each with an equal share of its effect.
It is read back as their sum, and belongs to the circuit if any of them does. `cfg["n_key_value_heads"]`, which EAP-IG ignores,
records the groups. It has no places either: a circuit over places is written without them. Signs agree (positive = helps) if EAP-IG was given a loss. Standard errors and provenance are lost, and
scores of 0 outside the circuit are read as missing.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import InputError, locating
from circuits.export.collapsed import collapsed
from circuits.files.atomic import write_tensors, write_text
from circuits.files.untrusted import finite_number, open_tensors, parse_json, read_json, shown
from circuits.graph.graph import Graph
from circuits.graph.ungrouped import shared_readers, summed_over_groups, ungrouped
from circuits.results.circuit import Circuit

FIELDS = ("score", "in_graph")
"""Keys of the edges and nodes in a file."""
LARGEST_IN_PART = 1_000_000
"""Writers times readers of a graph of which a file may leave out edges; for a larger graph a file must have them all."""
TENSORS = ("edges_scores", "edges_in_graph", "nodes_in_graph")


def write_eap_ig(circuit: Circuit, path: str | Path, d_model: int | None = None) -> None:
    """Writes EAP-IG's JSON.

    Args:
        circuit: its edges are `in_graph`. Edges without a score get 0.
        d_model: width of the residual stream, which EAP-IG uses only for circuits of neurons; None: 0.

    Raises:
        InputError: some layers of the model have no MLP, which EAP-IG cannot describe.
    """
    circuit = collapsed(circuit, "EAP-IG's format")
    flat, mask, scores = _ungrouped(circuit)
    inside = set(circuit.nodes)
    nodes = {name: {"in_graph": name in inside} for name in flat.writer_names}
    write_flat(path, config(circuit.graph, d_model), FlatEdges(circuit.graph, flat, mask, scores), nodes)


@dataclass(frozen=True, eq=False)
class FlatEdges:
    """The edges of a file.

    Attributes:
        graph: the model's graph, with the groups of key/value heads if the file records them.
        flat: the same with a key/value head per query head, as edges are written.
        mask, scores: whether each edge of `flat` is `in_graph`, and its score.
    """

    graph: Graph
    flat: Graph
    mask: Bool[Tensor, "writer reader"]
    scores: Float[Tensor, "writer reader"]


def write_flat(
    path: str | Path,
    described: Mapping[str, Any],
    edges: FlatEdges,
    nodes: Mapping[str, Mapping[str, Any]],
    more: Mapping[str, Any] | None = None,
) -> None:
    """Writes EAP-IG's JSON, edge by edge.

    Args:
        path: the file.
        described: its `cfg`.
        edges: all edges.
        nodes: its `nodes`, without `logits`.
        more: further entries, which EAP-IG ignores.
    """
    flat, mask, scores = edges.flat, edges.mask, edges.scores
    nodes = {**nodes, "logits": {"in_graph": True}}
    head = json.dumps({**(more or {}), "cfg": described, "nodes": nodes}).removesuffix("}")
    writers, readers = (places.tolist() for places in flat.edge_mask.nonzero(as_tuple=True))
    rows = zip(writers, readers, scores[flat.edge_mask].tolist(), mask[flat.edge_mask].tolist(), strict=True)
    sources, targets, boolean = flat.writer_names, flat.reader_names, {True: "true", False: "false"}
    # The names have no characters that JSON escapes.
    texts = (
        f'{", " if i else ""}"{sources[w]}->{targets[r]}": {{"score": {score!r}, "in_graph": {boolean[in_graph]}}}'
        for i, (w, r, score, in_graph) in enumerate(rows)
    )
    write_text(path, chain([f'{head}, "edges": {{'], texts, ["}}"]))


def write_eap_ig_tensors(circuit: Circuit, path: str | Path, d_model: int | None = None) -> None:
    """Writes the tensors of EAP-IG's `.pt` as safetensors; arguments as `write_eap_ig`."""
    circuit = collapsed(circuit, "EAP-IG's format")
    flat, mask, scores = _ungrouped(circuit)
    write_flat_tensors(
        path, config(circuit.graph, d_model), FlatEdges(circuit.graph, flat, mask, scores), nodes=circuit.nodes
    )


def write_flat_tensors(
    path: str | Path,
    described: Mapping[str, Any],
    edges: FlatEdges,
    more: Mapping[str, Tensor] | None = None,
    nodes: Iterable[str] | None = None,
) -> None:
    """Writes the tensors of EAP-IG's `.pt` as safetensors.

    Args:
        path, described, edges: as for `write_flat`.
        more: further tensors by EAP-IG's names.
        nodes: those in the circuit; None: those with an outgoing edge.
    """
    flat, inside = edges.flat, None if nodes is None else set(nodes)
    kept = edges.mask.any(1) if inside is None else torch.tensor([name in inside for name in flat.writer_names])
    tensors = {"edges_scores": edges.scores, "edges_in_graph": edges.mask, "nodes_in_graph": kept}
    header = {
        "cfg": json.dumps(described),
        "src_nodes": json.dumps(list(flat.writer_names)),
        "dst_nodes": json.dumps(list(flat.reader_names)),
    }
    write_tensors({**tensors, **(more or {})}, path, header)


def config(graph: Graph, d_model: int | None) -> dict[str, Any]:
    """The `cfg` of a file."""
    if d_model is not None and d_model < 1:
        raise InputError(f"d_model must be at least 1, got {d_model}")
    return {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": d_model or 0,
        "n_key_value_heads": graph.n_kv_heads,
    }


def _flat(graph: Graph) -> Graph:
    """The same model with a key/value head for each query head."""
    if not all(graph.mlps):
        raise InputError("EAP-IG cannot describe a model with layers that have no MLP")
    return ungrouped(graph)


def _ungrouped(circuit: Circuit) -> tuple[Graph, Bool[Tensor, "writer reader"], Float[Tensor, "writer reader"]]:
    """The graph with a reader per query head, and the circuit's mask and scores in it."""
    graph, flat = circuit.graph, _flat(circuit.graph)
    columns = shared_readers(graph, flat)
    scores = torch.zeros_like(circuit.mask, dtype=torch.float64) if circuit.scores is None else circuit.scores.double()
    if bool(scores.isinf().any()):
        raise InputError("the circuit has infinite scores, which cannot be written")
    shares = torch.bincount(columns, minlength=graph.n_readers).double()
    return flat, circuit.mask[:, columns].clone(), (scores.nan_to_num(nan=0.0) / shares)[:, columns] * flat.edge_mask


def read_eap_ig(path: str | Path) -> Circuit:
    """Reads EAP-IG's JSON, written by this package or by EAP-IG.

    Raises:
        InputError: the file cannot be read, has another format, or names nodes or edges that its model does not have.
    """
    return from_plain(read_json(path, FIELDS), path)


def from_plain(data: Any, path: str | Path) -> Circuit:
    """The circuit in the JSON of a file; see `read_eap_ig`."""
    with locating(f"{path}: "):
        return _from_dict(data)


def _from_dict(data: Any) -> Circuit:
    edges = flat_from_plain(data)
    return _grouped(edges.graph, edges.flat, edges.mask, edges.scores)


def flat_from_plain(data: Any) -> FlatEdges:
    """The edges in the JSON of a file; raises as `read_eap_ig`."""
    if not isinstance(data, dict) or not all(isinstance(data.get(key), dict) for key in ("cfg", "nodes", "edges")):
        raise InputError("expected EAP-IG's objects 'cfg', 'nodes' and 'edges'")
    graph = _graph(data["cfg"])
    flat = _flat(graph)
    if len(data["edges"]) < flat.n_edges and flat.n_writers * flat.n_readers > LARGEST_IN_PART:
        raise InputError(
            f"'edges' has {len(data['edges']):,} of the model's {flat.n_edges:,} edges; EAP-IG writes them all"
        )
    for name, node in data["nodes"].items():
        if name != "logits":
            flat.writer_index(name)
        if not isinstance(node, dict) or type(node.get("in_graph")) is not bool:
            raise InputError(f"node {shown(name)} needs 'in_graph', true or false, got {shown(node)}")
    mask = torch.zeros_like(flat.edge_mask)
    scores = torch.zeros(mask.shape, dtype=torch.float64)
    edges, n = data["edges"], len(data["edges"])
    places = torch.from_numpy(np.fromiter(_edge_places(flat, edges), np.int64, n))
    mask.view(-1)[places] = torch.from_numpy(np.fromiter((_in_graph(*edge) for edge in edges.items()), np.bool_, n))
    scores.view(-1)[places] = torch.from_numpy(np.fromiter((_score(*edge) for edge in edges.items()), np.float64, n))
    return FlatEdges(graph, flat, mask, scores)


def _edge_places(flat: Graph, names: Iterable[str]) -> Iterator[int]:
    """The index of each edge in a flattened table [writer, reader]; InputError for a name that is not an edge."""
    writers = {name: w for w, name in enumerate(flat.writer_names)}
    readers = {name: r for r, name in enumerate(flat.reader_names)}
    visible = [reader.n_writers for reader in flat.reader_nodes]
    for name in names:
        source, _, target = name.partition("->")
        w, r = writers.get(source, -1), readers.get(target, -1)
        if not (w >= 0 and r >= 0 and w < visible[r]):
            w, r = flat.edge_index(name)
        yield w * flat.n_readers + r


def _in_graph(name: str, edge: Any) -> bool:
    in_graph = edge.get("in_graph") if isinstance(edge, dict) else None
    if type(in_graph) is not bool:
        raise InputError(f"edge {shown(name)} needs 'in_graph', true or false, got {shown(edge)}")
    return in_graph


def _score(name: str, edge: dict[str, Any]) -> float:
    return finite_number(edge.get("score", 0.0), f"the score of edge {shown(name)}")


def _graph(config: Any) -> Graph:
    if not isinstance(config, dict):
        raise InputError(f"'cfg' must be an object, got {shown(config)}")
    n_layers, n_heads = config.get("n_layers"), config.get("n_heads")
    shape = {"n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": config.get("n_key_value_heads") or n_heads}
    if type(n_layers) is not int or not 1 <= n_layers <= 10_000:
        raise InputError(f"'cfg' needs n_layers between 1 and 10,000, got {shown(n_layers)}")
    return Graph.from_dict(shape | {"mlps": [True] * n_layers, "parallel": config.get("parallel_attn_mlp")})


def _grouped(graph: Graph, flat: Graph, mask: Tensor, scores: Tensor) -> Circuit:
    values = summed_over_groups(scores, graph, flat)
    kept = summed_over_groups(mask.double(), graph, flat) > 0
    values[~kept & (values == 0)] = math.nan
    known = bool((values.nan_to_num() != 0).any())
    return Circuit(graph, kept, values if known else None)


def is_eap_ig_tensors(path: str | Path) -> bool:
    """Whether a safetensors file has the tensors of EAP-IG."""
    try:
        with open_tensors(path, "EAP-IG's tensors") as (file, _):
            return set(TENSORS) <= set(file.keys())
    except InputError:
        return False


def read_eap_ig_tensors(path: str | Path) -> Circuit:
    """Reads what `write_eap_ig_tensors` wrote.

    Raises:
        InputError: the file cannot be read, or its tensors do not fit its model.
    """
    edges = flat_from_tensors(path)
    return _grouped(edges.graph, edges.flat, edges.mask, edges.scores)


def flat_from_tensors(path: str | Path) -> FlatEdges:
    """The edges in a file of tensors; raises as `read_eap_ig_tensors`."""
    with open_tensors(path, "EAP-IG's tensors") as (file, header):
        graph = _graph(parse_json(header["cfg"]))
        flat = _flat(graph)
        names = (parse_json(header["src_nodes"]), parse_json(header["dst_nodes"]))
        if names != (list(flat.writer_names), list(flat.reader_names)):
            raise InputError("its nodes are not those of its model, in their order")
        scores, mask = (file.get_tensor(name) for name in TENSORS[:2])
        shape = flat.edge_mask.shape
        if scores.shape != shape or mask.shape != shape or mask.dtype != torch.bool or not scores.is_floating_point():
            raise InputError(f"its tensors must be numbers and booleans of shape {tuple(shape)}")
        if not bool(scores.isfinite().all()) or bool((mask & ~flat.edge_mask).any()):
            raise InputError("its tensors hold scores that are not finite, or edges that its model does not have")
        return FlatEdges(graph, flat, mask, scores.double() * flat.edge_mask)
