"""MIB's circuit files: importances of edges, nodes and neurons, and folders of several circuits.

A file is EAP-IG's JSON (`Graph.to_json`), or the tensors of its `.pt` as safetensors. A `.pt` is a pickle, which can run any code
when it is opened, and is never read or written here; docs/mib.md says how its owner converts it.

    {"cfg": {…}, "nodes": {"a0.h0": {"in_graph", "score"?, "neurons"?, "neurons_scores"?}, …}, "edges": {"input->m0": {"score", "in_graph"}, …}}

A node or neuron without a score was not scored, and belongs to every circuit. EAP-IG writes the neurons of a head as those of all heads
of its layer, [n_heads, d_model], once per head; a single row is read as that head's own.

A folder `TASK_MODEL` of a submission has one file of importances, or nine circuits (`…_k-0.001.json` to `…_k-0.5.json`), one for each
share of the edges below 1. MIB's backend takes a folder with one file as importances and any other as circuits, which it
sorts by their number of edges, whatever their names.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import InputError, locating
from circuits.export import eap_ig
from circuits.export.mib_names import FRACTIONS
from circuits.files.untrusted import as_object, check_plain, open_tensors, parse_json, read_text, shown
from circuits.graph.graph import Graph
from circuits.graph.ungrouped import ungrouped
from circuits.mib.checks import SUFFIXES, check_circuit_file, circuit_files
from circuits.plain_torch import plain_methods, plain_torch
from circuits.results.provenance import Provenance, frozen, plain
from circuits.shown import Shown

KNOWN = (*eap_ig.FIELDS, "neurons", "neurons_scores")
CIRCUITS = FRACTIONS[:-1]
"""The shares for which a submission of circuits has one."""


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Importances(Shown):
    """The content of a circuit file.

    Attributes:
        graph: the model's graph; with groups of key/value heads if the file records them.
        edges: score of each edge of `flat`; 0 if the file is about nodes or neurons.
        in_graph: whether each edge is in the circuit.
        nodes: score of each writer, NaN without one; None: the file has no scores of nodes.
        neurons: score of each coordinate of each writer's output, NaN without one; None: the file has none.
        neurons_in_graph: whether each of these is in the circuit; None: the file does not say.
        provenance: their origin, in JSON of this package.
    """

    graph: Graph
    edges: Float[Tensor, "writer reader"]
    in_graph: Bool[Tensor, "writer reader"]
    nodes: Float[Tensor, " writer"] | None = None
    neurons: Float[Tensor, "writer d_model"] | None = None
    neurons_in_graph: Bool[Tensor, "writer d_model"] | None = None
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    @property
    def flat(self) -> Graph:
        """The graph with a key/value head for each query head."""
        return ungrouped(self.graph)

    @property
    def level(self) -> str:
        """The finest parts that have scores, or in a circuit are chosen: `edge`, `node` or `neuron`."""
        by_neuron = self.neurons is not None or self.neurons_in_graph is not None
        return "neuron" if by_neuron else "node" if self.nodes is not None else "edge"

    def to_dict(self) -> dict[str, Any]:
        """Counts."""
        return {
            "level": self.level, "layers": self.graph.n_layers, "heads": self.graph.n_heads, "edges": self.flat.n_edges,
            "edges_in_graph": int(self.in_graph.sum()),
        }  # fmt: skip


@plain_torch
def read_importances(path: str | Path) -> Importances:
    """Reads a circuit file.

    Args:
        path: JSON (of EAP-IG, MIB or this package), or safetensors of this package.

    Raises:
        InputError: a pickle, or a file that cannot be read or used; the message says what is wrong with it.
    """
    path = Path(path)
    check_circuit_file(path)
    if path.suffix.lower() == ".safetensors":
        return _from_tensors(path)
    text = read_text(path)
    with locating(f"{path} "):
        data = parse_json(text, KNOWN, nan=True)
    with locating(f"{path}: "):
        edges = eap_ig.flat_from_plain(data)
        origin = check_plain(as_object(data.get("provenance"), "'provenance'"), "'provenance'")
        return replace(_with_nodes(edges, data["nodes"]), provenance=frozen(origin))


@plain_torch
def write_importances(importances: Importances, path: str | Path, d_model: int | None = None) -> None:
    """Writes a circuit file, JSON or (by its suffix) safetensors, which MIB's own scripts cannot read.

    Args:
        importances: what to write.
        path: the file.
        d_model: width of the residual stream; None: that of the neurons, or 0, which MIB's evaluation of edges and nodes takes.

    Raises:
        InputError: another suffix, or a model that EAP-IG cannot describe.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"a circuit file ends in {' or '.join(SUFFIXES)}, got {path.name!r}")
    neurons = importances.neurons if importances.neurons is not None else importances.neurons_in_graph
    described = eap_ig.config(importances.graph, d_model if neurons is None else neurons.shape[1])
    edges = eap_ig.FlatEdges(importances.graph, importances.flat, importances.in_graph, importances.edges)
    if path.suffix.lower() == ".json":
        origin = plain(importances.provenance)
        return eap_ig.write_flat(
            path, described, edges, _nodes(importances), {"provenance": origin} if origin else None
        )
    optional = {"nodes_scores": importances.nodes, "neurons_scores": importances.neurons}
    optional["neurons_in_graph"] = importances.neurons_in_graph
    eap_ig.write_flat_tensors(path, described, edges, {name: t for name, t in optional.items() if t is not None})


@plain_torch
def read_circuits(folder: str | Path) -> Importances | list[Importances]:
    """Reads a folder `TASK_MODEL`: importances if it has one file, else its circuits, those with the fewest edges first.

    Raises:
        InputError: a file cannot be read; the number of circuits is not nine; or they are of different models.
    """
    files = circuit_files(Path(folder))
    if len(files) == 1:
        return read_importances(files[0])
    if len(files) != len(CIRCUITS):
        raise InputError(
            f"{folder} has {len(files)} circuit files; expected 1 of importances, or {len(CIRCUITS)} circuits"
        )
    read = sorted(map(read_importances, files), key=_weight)
    for one in read:
        if one.flat != read[0].flat:
            raise InputError(f"the circuits in {folder} belong to different models ({one.graph} and {read[0].graph})")
    return read


def _weight(circuit: Importances) -> float:
    """The number of edges; with neurons, each counts by the share of its writer's neurons that is kept, as in MIB."""
    edges = circuit.in_graph.sum(1).double()
    kept = circuit.neurons_in_graph
    return float(edges.sum() if kept is None else (edges * kept.double().mean(1)).sum())


def circuit_name(cell: str, share: float) -> str:
    """The name of a circuit's file, such as `ioi_gpt2_k-0.001.json`."""
    return f"{cell}_k-{share:g}.json"


def _from_tensors(path: Path) -> Importances:
    edges = eap_ig.flat_from_tensors(path)
    with open_tensors(path, "EAP-IG's tensors") as (file, _):
        names, n = set(file.keys()), edges.flat.n_writers
        result = {
            name: file.get_tensor(name)
            for name in ("nodes_scores", "neurons_scores", "neurons_in_graph")
            if name in names
        }
    for name, tensor in result.items():
        number = tensor.dtype == torch.bool if name == "neurons_in_graph" else tensor.is_floating_point()
        axes = 1 if name == "nodes_scores" else 2
        if (
            not number
            or tensor.ndim != axes
            or len(tensor) != n
            or (not tensor.dtype == torch.bool and bool(tensor.isinf().any()))
        ):
            raise InputError(
                f"{path}: {name} has shape {tuple(tensor.shape)} and {tensor.dtype}; expected one row per writer ({n})"
            )
    scores = {name: result[name].double() for name in ("nodes_scores", "neurons_scores") if name in result}
    return Importances(
        edges.graph,
        edges.scores,
        edges.mask,
        scores.get("nodes_scores"),
        scores.get("neurons_scores"),
        result.get("neurons_in_graph"),
    )


def _with_nodes(edges: eap_ig.FlatEdges, nodes: Mapping[str, Any]) -> Importances:
    flat = edges.flat
    at = {name: i for i, name in enumerate(flat.writer_names)}
    scores = torch.full((flat.n_writers,), math.nan, dtype=torch.float64)
    result: dict[str, dict[int, Tensor]] = {"neurons": {}, "neurons_scores": {}}
    scored = False
    for name, node in nodes.items():
        if name not in at:
            continue  # logits
        if "score" in node:
            scores[at[name]], scored = _number(node["score"], f"the score of node {shown(name)}"), True
        for key, rows in result.items():
            if key in node:
                rows[at[name]] = _row(node[key], flat, at[name], f"{key} of node {shown(name)}")
    neurons = _stacked(result["neurons_scores"], flat.n_writers)
    kept = _stacked(result["neurons"], flat.n_writers)
    return Importances(
        edges.graph, edges.scores, edges.mask, scores if scored else None, neurons,
        None if kept is None else kept.nan_to_num(nan=0.0) > 0,
    )  # fmt: skip


def _stacked(rows: Mapping[int, Tensor], n: int) -> Tensor | None:
    if not rows:
        return None
    widths = {len(row) for row in rows.values()}
    if len(widths) > 1:
        raise InputError(f"nodes have different numbers of neurons: {sorted(widths)[:3]}")
    table = torch.full((n, widths.pop()), math.nan, dtype=torch.float64)
    for writer, row in rows.items():
        table[writer] = row
    return table


def _row(value: Any, flat: Graph, writer: int, what: str) -> Float[Tensor, " d_model"]:
    """One writer's neurons; of a head, perhaps within those of its layer."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        head = flat.writer_nodes[writer].head
        if head is None or len(value) != flat.n_heads:
            raise InputError(f"{what}: expected a list of numbers, or of a head one for each head of its layer")
        value = value[head]
    if not isinstance(value, list) or not value:
        raise InputError(f"{what}: expected a list of numbers, got {shown(value)}")
    return torch.tensor([_number(entry, what) for entry in value], dtype=torch.float64)


def _number(value: Any, what: str) -> float:
    """A score, or NaN for none; booleans are 0 and 1."""
    if value is None:
        return math.nan
    try:
        number = float(value) if isinstance(value, int | float) else math.inf
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise InputError(f"{what} must be a finite number, got {shown(value)}")
    return number


def _nodes(importances: Importances) -> dict[str, dict[str, Any]]:
    """The `nodes` of the JSON."""
    flat, made = importances.flat, {}
    kept = importances.in_graph.any(1)
    inside = importances.neurons_in_graph
    if inside is None and importances.neurons is not None:  # without `neurons`, EAP-IG's reader drops the scores' table
        inside = torch.zeros_like(importances.neurons, dtype=torch.bool)
    for writer, node in enumerate(flat.writer_nodes):
        entry: dict[str, Any] = {"in_graph": bool(kept[writer])}
        if importances.nodes is not None and not math.isnan(score := float(importances.nodes[writer])):
            entry["score"] = score
        rows = slice(writer, writer + 1) if node.head is None else flat.head_writers(node.layer)
        for key, table in (("neurons", inside), ("neurons_scores", importances.neurons)):
            if table is not None and not (table.dtype.is_floating_point and bool(table[rows].isnan().all())):
                listed = table[rows].tolist()
                entry[key] = listed[0] if node.head is None else listed
        made[node.name] = entry
    return made
