"""Circuits in the files of EAP-IG (Hanna, Pezzelle and Belinkov 2024; `Graph.to_json`, `Graph.to_pt`), both ways.

JSON: `{"cfg": {…}, "nodes": {name: {"in_graph"}}, "edges": {name: {"score", "in_graph"}}}` with every edge of the model.
Tensors: what EAP-IG's `.pt` holds (`edges_scores`, `edges_in_graph` [writer, reader], `nodes_in_graph` [writer]; readers per
layer all q, all k, all v, then the MLP) as safetensors, with `cfg`, `src_nodes` and `dst_nodes` as JSON in its header, since
a `.pt` is a pickle and none is read or written here.

EAP-IG knows no shared key/value heads: an edge into one is written once per query head with an equal share of its effect,
and read back as the sum over its heads, in the circuit if any of them is. `cfg["n_key_value_heads"]`, which EAP-IG passes
over, tells that. Signs are alike (positive = helps) where EAP-IG was given a loss. Standard errors and provenance are not
carried; scores of 0 outside the circuit count as none.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuits.errors import InputError
from circuits.files.atomic import replacing, write_tensors
from circuits.files.untrusted import check_tensors, parse_json, read_json, shown
from circuits.graph.graph import Graph
from circuits.results.circuit import Circuit

FIELDS = ("score", "in_graph")
"""Keys of the edges and nodes in a file."""
LARGEST_IN_PART = 1_000_000
"""Writers times readers of a graph some of whose edges a file may leave out; the tables of a larger one need a file to match."""
TENSORS = ("edges_scores", "edges_in_graph", "nodes_in_graph")


def write_eap_ig(circuit: Circuit, path: str | Path, d_model: int | None = None) -> None:
    """Writes EAP-IG's JSON.

    Args:
        circuit: its edges are `in_graph`; its scores are written for all edges that have one, 0 for the others.
        d_model: width of the residual stream. EAP-IG asks for it and uses it for circuits of neurons alone; None: 0.

    Raises:
        InputError: a model without MLPs in some layers, which EAP-IG cannot describe.
    """
    flat, mask, scores = _ungrouped(circuit)
    inside = set(circuit.nodes)
    nodes = {name: {"in_graph": name in inside} for name in flat.writer_names} | {"logits": {"in_graph": True}}
    head = json.dumps({"cfg": _config(circuit.graph, d_model), "nodes": nodes}).removesuffix("}")
    writers, readers = (places.tolist() for places in flat.edge_mask.nonzero(as_tuple=True))
    rows = zip(writers, readers, scores[flat.edge_mask].tolist(), mask[flat.edge_mask].tolist(), strict=True)
    sources, targets, said = flat.writer_names, flat.reader_names, {True: "true", False: "false"}
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{head}, "edges": {{')
        # The names hold no character that JSON would have escaped.
        file.writelines(
            f'{", " if i else ""}"{sources[w]}->{targets[r]}": {{"score": {score!r}, "in_graph": {said[there]}}}'
            for i, (w, r, score, there) in enumerate(rows)
        )
        file.write("}}")


def write_eap_ig_tensors(circuit: Circuit, path: str | Path, d_model: int | None = None) -> None:
    """Writes the tensors of EAP-IG's `.pt` as safetensors; arguments as `write_eap_ig`."""
    flat, mask, scores = _ungrouped(circuit)
    inside = set(circuit.nodes)
    tensors = {
        "edges_scores": scores,
        "edges_in_graph": mask,
        "nodes_in_graph": torch.tensor([name in inside for name in flat.writer_names]),
    }
    header = {
        "cfg": json.dumps(_config(circuit.graph, d_model)),
        "src_nodes": json.dumps(list(flat.writer_names)),
        "dst_nodes": json.dumps(list(flat.reader_names)),
    }
    write_tensors(tensors, path, header)


def _config(graph: Graph, d_model: int | None) -> dict[str, Any]:
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
    return Graph.from_dict(graph.to_dict() | {"n_kv_heads": graph.n_heads})


def _columns(graph: Graph, flat: Graph) -> Tensor:
    """For each reader of `flat` the reader of `graph` that it belongs to."""
    found = []
    for reader in flat.reader_nodes:
        shared = graph.grouped and reader.part in ("k", "v") and reader.head is not None
        kv = f"a{reader.layer}.kv{(reader.head or 0) // graph.group_size}<{reader.part}>"
        found.append(graph.reader_index(kv if shared else reader.name))
    return torch.tensor(found)


def _ungrouped(circuit: Circuit) -> tuple[Graph, Bool[Tensor, "writer reader"], Float[Tensor, "writer reader"]]:
    """The graph with a reader per query head, the circuit's mask and its scores in it."""
    graph, flat = circuit.graph, _flat(circuit.graph)
    columns = _columns(graph, flat)
    scores = torch.zeros_like(circuit.mask, dtype=torch.float64) if circuit.scores is None else circuit.scores.double()
    if bool(scores.isinf().any()):
        raise InputError("the circuit holds infinite scores, which no file can carry")
    shares = torch.bincount(columns, minlength=graph.n_readers).double()
    return flat, circuit.mask[:, columns].clone(), (scores.nan_to_num(nan=0.0) / shares)[:, columns] * flat.edge_mask


def read_eap_ig(path: str | Path) -> Circuit:
    """Reads EAP-IG's JSON: a file of ours, or one that EAP-IG wrote for the edges of a model.

    Raises:
        InputError: the file cannot be read, is of another kind, or names nodes or edges that its model does not have.
    """
    return from_plain(read_json(path, FIELDS), path)


def from_plain(data: Any, path: str | Path) -> Circuit:
    """The circuit that the JSON of a file says; see `read_eap_ig`."""
    try:
        return _from_dict(data)
    except InputError as problem:
        raise InputError(f"{path}: {problem}") from None


def _from_dict(data: Any) -> Circuit:
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
    return _grouped(graph, flat, mask, scores)


def _edge_places(flat: Graph, names: Iterable[str]) -> Iterator[int]:
    """Where each edge is in a flattened table [writer, reader].

    Raises:
        InputError: a name that is no edge, with the nearest ones.
    """
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
    there = edge.get("in_graph") if isinstance(edge, dict) else None
    if type(there) is not bool:
        raise InputError(f"edge {shown(name)} needs 'in_graph', true or false, got {shown(edge)}")
    return there


def _score(name: str, edge: dict[str, Any]) -> float:
    score = edge.get("score", 0.0)
    try:
        number = math.nan if isinstance(score, bool) or not isinstance(score, int | float) else float(score)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"edge {shown(name)} needs a finite number as its score, got {shown(score)}")
    return number


def _graph(config: Any) -> Graph:
    if not isinstance(config, dict):
        raise InputError(f"'cfg' must be an object, got {shown(config)}")
    n_layers, n_heads = config.get("n_layers"), config.get("n_heads")
    shape = {"n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": config.get("n_key_value_heads") or n_heads}
    if type(n_layers) is not int or not 1 <= n_layers <= 10_000:
        raise InputError(f"'cfg' needs n_layers between 1 and 10,000, got {shown(n_layers)}")
    return Graph.from_dict(shape | {"mlps": [True] * n_layers, "parallel": config.get("parallel_attn_mlp")})


def _grouped(graph: Graph, flat: Graph, mask: Tensor, scores: Tensor) -> Circuit:
    columns = _columns(graph, flat)
    counts = torch.zeros(graph.edge_mask.shape, dtype=torch.float64).index_add_(1, columns, mask.double())
    values = torch.zeros_like(counts).index_add_(1, columns, scores)
    kept = counts > 0
    values[~kept & (values == 0)] = math.nan
    known = bool((values.nan_to_num() != 0).any())
    return Circuit(graph, kept, values if known else None)


def is_eap_ig_tensors(path: str | Path) -> bool:
    """Whether a safetensors file has the tensors of EAP-IG."""
    try:
        check_tensors(path)
        with safe_open(path, framework="pt") as file:
            return set(TENSORS) <= set(file.keys())
    except (OSError, SafetensorError, InputError):
        return False


def read_eap_ig_tensors(path: str | Path) -> Circuit:
    """Reads what `write_eap_ig_tensors` wrote.

    Raises:
        InputError: the file cannot be read, or its tensors do not fit its model.
    """
    try:
        check_tensors(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
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
        return _grouped(graph, flat, mask, scores.double() * flat.edge_mask)
    except InputError as problem:
        raise InputError(f"{path}: {problem}") from None
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror or problem}") from None
    except (SafetensorError, KeyError, ValueError, RecursionError) as problem:
        raise InputError(f"{path} does not hold EAP-IG's tensors: {problem}") from None
