"""Nodes by name, which can be patched or scored.

| name | what it is |
|---|---|
| `a5.h2` | a head's output |
| `a5.h2<q>`, `a5.h2<k>`, `a5.h2<v>` | its query, key and value (`a5.kv0<k>`, `a5.kv0<v>` where heads share them) |
| `m5` | an MLP's output |
| `m5.n17` | one of its neurons, after the activation |
| `input` | the embedding, the input of the first block |
| `a5.W_Q[17]`, `a5.W_K[…]`, `a5.W_V[…]`, `a5.W_O[…]`, `m5.W_out[…]` | an output row of a weight matrix: one entry of its output, with the bias |
| `f:m5.1201`, `e:m5`, `s:m5` | a feature of a dictionary of the MLP's write, what its features miss, and a transcoder's skip (`circuits.dictionaries`) |
| `a5.W_QKV.in[17]`, `a5.W_O.in[…]`, `m5.W_in.in[…]`, `m5.W_out.in[…]` | an input row: one entry of the matrix's input; biases stay |

The components of COAR's authors are rows of weight tensors, which they set to zero without changing biases. In their vision
transformer, of `nn.Linear` layers, a row is an output; in their GPT-2, of `Conv1D` layers, which are stored transposed, it is an
input. `input_rows` are exactly the latter: 64,512 in GPT-2 small, in each layer 768 of `c_attn` (`W_Q`, `W_K` and `W_V` together),
768 of `W_O`, 768 of `W_in` (and of a gate) and 3,072 of `W_out`. `rows` are outputs, 82,944 in GPT-2 small, which are replaced
with their biases; those of an MLP's input matrices are neurons, replaced after their activation. With a post-norm (Gemma 2,
OLMo 2) a row of `W_O` or `W_out` is an entry of the norm's output.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from circuits.errors import InputError
from circuits.graph.graph import Graph
from circuits.graph.groups import groups_in

Point = Literal["resid_pre", "attn_in", "q", "k", "v", "z", "attn_out", "mlp_in", "mlp_out", "neurons"]
_PART = re.compile(r"([fes]):((m|a|z|resid_pre|resid_mid|resid_post)\d{1,5})(?:\.(\d{1,9}))?")
_STAGES = (
    "resid_pre", "attn_in", "qkv", "z", "attn_out", "resid_mid", "mlp_in", "neurons", "mlp_out", "resid_post",
)  # fmt: skip
_NEURON = re.compile(r"m(\d{1,5})\.n(\d{1,7})")
_INPUT_ROW = re.compile(r"(?:a(\d{1,5})\.W_(QKV|O)|m(\d{1,5})\.W_(in|out))\.in\[(\d{1,7})\]")
_ROW = re.compile(r"(?:a(\d{1,5})\.W_([QKVO])|m(\d{1,5})\.W_(out))\[(\d{1,7})\]")


@dataclass(frozen=True)
class Place:
    """A place where a dictionary is inserted.

    Attributes:
        name: `m3`, in the names of its nodes.
        layer: its block.
        n_features: of the dictionary.
        skip: whether it has a skip.
        active: the features that the group `features` stands for; None: all.
    """

    name: str
    layer: int
    n_features: int
    skip: bool = False
    active: tuple[int, ...] | None = None

    @property
    def names(self) -> list[str]:
        """The names of its parts."""
        features = range(self.n_features) if self.active is None else self.active
        rest = [f"e:{self.name}", *([f"s:{self.name}"] if self.skip else [])]
        return [*rest, *(f"f:{self.name}.{i}" for i in features)]


@dataclass(frozen=True)
class Widths:
    """The widths of a model's activations.

    Attributes:
        d_head: of one head's query, key or value.
        d_model: of the residual stream.
        neurons: of an MLP; 0 if neurons have no hook.
        places: where dictionaries are inserted.
    """

    d_head: int = 0
    d_model: int = 0
    neurons: int = 0
    places: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Site:
    """The place of a node's value in a forward pass.

    Attributes:
        name: the node's name.
        layer: its block.
        point: the hook point, a field of `engine.architecture.Block`; of a part of a dictionary, `f:m3` (`engine.inserted`).
        index: of the head, the neuron, the feature or the entry; None: the whole activation.
        entry: of a head's vector; None: the whole vector.
        is_input_row: whether the node is the row of a weight matrix that reads this value.
    """

    name: str
    layer: int
    point: Point | str
    index: int | None
    entry: int | None = None
    is_input_row: bool = False

    @property
    def stage(self) -> int:
        """Its order within a block, from the block's input to its output."""
        kind, _, place = self.point.rpartition(":")
        if kind:
            place = place.rstrip("0123456789")
            return _STAGES.index({"m": "mlp_out", "a": "attn_out"}.get(place, place))
        return _STAGES.index("qkv" if self.point in ("q", "k", "v") else self.point)

    @property
    def where(self) -> tuple[slice | int, ...]:
        """The node's part of the activation [batch, pos, …], as an index."""
        part = [number for number in (self.index, self.entry) if number is not None]
        return (slice(None), slice(None), *part)


def find_site(graph: Graph, name: str, widths: Widths | None = None) -> Site:
    """The site of a node.

    Args:
        graph: the model's graph.
        name: see the module docstring.
        widths: of the model's activations, for neurons and rows.

    Raises:
        InputError: there is no such node; with the nearest names.
    """
    widths = widths or Widths()
    if name == "input":
        return Site(name, 0, "resid_pre", None)
    neuron = _NEURON.fullmatch(name)
    if neuron:
        layer, index = int(neuron[1]), int(neuron[2])
        if layer < graph.n_layers and graph.mlps[layer] and index < widths.neurons:
            return Site(name, layer, "neurons", index)
        raise InputError(
            f"there is no neuron {name!r}: this model has {graph.n_layers} layers of {widths.neurons} neurons"
        )
    part = _PART.fullmatch(name)
    if part:
        return _find_part(name, part, widths)
    read = _INPUT_ROW.fullmatch(name)
    if read:
        return _find_input_row(graph, name, read, widths)
    row = _ROW.fullmatch(name)
    if row:
        return _find_row(graph, name, row, widths)
    sites = _sites(graph)
    if name in sites:
        return sites[name]
    near = get_close_matches(name, sites, n=3, cutoff=0.3)
    raise InputError(f"there is no node {name!r} in this graph; the nearest: {', '.join(near) or 'none'}")


def _find_part(name: str, part: re.Match[str], widths: Widths) -> Site:
    kind, index = part[1], None if part[4] is None else int(part[4])
    place = next((place for place in widths.places if place.name == part[2]), None)
    if place is None:
        given = f"those of {', '.join(place.name for place in widths.places)}" if widths.places else "none"
        raise InputError(
            f"there is no node {name!r} without a dictionary at {part[2]}; dictionaries=[…] were given: {given}"
        )
    fits = (
        index is not None and index < place.n_features if kind == "f" else index is None and (kind == "e" or place.skip)
    )
    if not fits:
        parts = f"f:{place.name}.0 to f:{place.name}.{place.n_features - 1}, e:{place.name}"
        raise InputError(
            f"there is no node {name!r}: this dictionary has {parts}{f', s:{place.name}' if place.skip else ''}"
        )
    return Site(name, place.layer, f"{kind}:{place.name}", index)


def _find_row(graph: Graph, name: str, row: re.Match[str], widths: Widths) -> Site:
    layer, number, part = int(row[1] or row[3]), int(row[5]), (row[2] or row[4]).lower()
    there = layer < graph.n_layers and (part != "out" or graph.mlps[layer])
    heads = {"q": graph.n_heads, "k": graph.n_kv_heads, "v": graph.n_kv_heads}.get(part, 0)
    rows = (heads * widths.d_head if heads else widths.d_model) if there else 0
    if number >= rows:
        raise InputError(
            f"there is no row {name!r}: this model has {graph.n_layers} layers"
            + (f", this matrix {rows} rows" if rows else "")
        )
    if part == "o":
        return Site(name, layer, "attn_out", number)
    if part == "out":
        return Site(name, layer, "mlp_out", number)
    point: Point = "q" if part == "q" else "k" if part == "k" else "v"
    return Site(name, layer, point, number // widths.d_head, number % widths.d_head)


def _find_input_row(graph: Graph, name: str, row: re.Match[str], widths: Widths) -> Site:
    layer, number, part = int(row[1] or row[3]), int(row[5]), row[2] or row[4]
    of_mlp = layer < graph.n_layers and graph.mlps[layer] and widths.neurons > 0  # experts share what they read
    sizes = {"QKV": widths.d_model, "O": graph.n_heads * widths.d_head, "in": widths.d_model, "out": widths.neurons}
    rows = sizes[part]
    if layer >= graph.n_layers or (part in ("in", "out") and not of_mlp) or number >= rows:
        raise InputError(
            f"there is no input row {name!r}: this model has {graph.n_layers} layers, and {rows} input rows in such a matrix"
            + ("" if part in ("QKV", "O") or of_mlp else ", and no such matrix in this layer")
        )
    if part == "O":
        return Site(name, layer, "z", number // widths.d_head, number % widths.d_head, is_input_row=True)
    point: Point = "attn_in" if part == "QKV" else "mlp_in" if part == "in" else "neurons"
    return Site(name, layer, point, number, is_input_row=True)


def _input_rows(graph: Graph, widths: Widths) -> list[Site]:
    names = []
    for layer in range(graph.n_layers):
        names += [f"a{layer}.W_QKV.in[{i}]" for i in range(widths.d_model)]
        names += [f"a{layer}.W_O.in[{i}]" for i in range(graph.n_heads * widths.d_head)]
        if graph.mlps[layer] and widths.neurons:
            names += [f"m{layer}.W_in.in[{i}]" for i in range(widths.d_model)]
            names += [f"m{layer}.W_out.in[{i}]" for i in range(widths.neurons)]
    return [find_site(graph, name, widths) for name in names]


def in_layer(site: Site, layer: int, graph: Graph) -> Site | None:
    """The same node of another layer; None if the layer does not exist or has no MLP, or the node is `input`."""
    if layer == site.layer:
        return site
    in_mlp = site.point in ("mlp_in", "neurons", "mlp_out")
    if (
        site.point == "resid_pre"
        or ":" in site.point
        or not 0 <= layer < graph.n_layers
        or (in_mlp and not graph.mlps[layer])
    ):
        return None
    return replace(site, name=f"{site.name[0]}{layer}{site.name.lstrip('am0123456789')}", layer=layer)


def _rows(graph: Graph, widths: Widths) -> list[Site]:
    """The rows of all matrices but the input matrices of MLPs, whose rows are neurons."""
    names = []
    for layer in range(graph.n_layers):
        heads = {"Q": graph.n_heads, "K": graph.n_kv_heads, "V": graph.n_kv_heads}
        names += [f"a{layer}.W_{part}[{i}]" for part, n in heads.items() for i in range(n * widths.d_head)]
        names += [f"a{layer}.W_O[{i}]" for i in range(widths.d_model)]
        names += [f"m{layer}.W_out[{i}]" for i in range(widths.d_model) if graph.mlps[layer]]
    return [find_site(graph, name, widths) for name in names]


def _sites(graph: Graph) -> dict[str, Site]:
    sites = {}
    for writer in graph.writer_nodes:
        if writer.kind == "head":
            sites[writer.name] = Site(writer.name, writer.layer, "z", writer.head)
        elif writer.kind == "mlp":
            sites[writer.name] = Site(writer.name, writer.layer, "mlp_out", None)
    for reader in graph.reader_nodes:
        if reader.part in ("q", "k", "v"):
            sites[reader.name] = Site(reader.name, reader.layer, reader.part, reader.head)
    return sites


def select_sites(graph: Graph, nodes: str | Sequence[str], widths: Widths | None = None) -> tuple[Site, ...]:
    """The sites of some nodes, in the order of the forward pass.

    Args:
        graph: the model's graph.
        nodes: names of nodes, or groups of them joined by `+`: `heads`, `mlps`, `input`, `q`, `k`, `v`,
            `neurons`, `rows` (output rows of all weight matrices, neurons among them), `input_rows`, `features` (of inserted
            dictionaries, with their errors and skips).
        widths: of the model's activations, for neurons and rows.

    Raises:
        InputError: an unknown node or group, or none at all.

    >>> graph = Graph(n_layers=1, n_heads=2, n_kv_heads=1, mlps=(True,))
    >>> [site.name for site in select_sites(graph, "heads+mlps+k")]
    ['a0.kv0<k>', 'a0.h0', 'a0.h1', 'm0']
    """
    widths = widths or Widths()
    if not isinstance(nodes, str):
        sites = [find_site(graph, name, widths) for name in nodes]
    else:
        groups = groups_in(nodes)
        points = {"heads": "z", "mlps": "mlp_out", "q": "q", "k": "k", "v": "v"}
        chosen = {points[group] for group in groups if group in points}
        sites = [site for site in _sites(graph).values() if site.point in chosen]
        if "input" in groups:
            sites.append(find_site(graph, "input"))
        if "rows" in groups:
            sites += _rows(graph, widths)
        if "input_rows" in groups:
            sites += _input_rows(graph, widths)
        if "features" in groups and not widths.places:
            raise InputError(f"nodes {nodes!r} need a dictionary; give dictionaries=[…]")
        if "features" in groups:
            sites += [find_site(graph, name, widths) for place in widths.places for name in place.names]
        if "neurons" in groups or "rows" in groups:
            layers = [layer for layer in range(graph.n_layers) if graph.mlps[layer]]
            sites += [Site(f"m{layer}.n{i}", layer, "neurons", i) for layer in layers for i in range(widths.neurons)]
    if not sites:
        raise InputError(f"no nodes chosen by {nodes!r}")
    return tuple(sorted(sites, key=_order))


def _order(site: Site) -> tuple[int, ...]:
    whole = -1  # a whole activation comes before its parts
    index = whole if site.index is None else site.index
    return site.layer, site.stage, "qkv".find(site.point), index, whole if site.entry is None else site.entry
