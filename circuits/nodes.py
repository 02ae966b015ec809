"""Nodes by name: what can be patched or scored besides edges.

| name | what it is |
|---|---|
| `a5.h2` | a head's output |
| `a5.h2<q>`, `a5.h2<k>`, `a5.h2<v>` | its query, key and value (`a5.kv0<k>`, `a5.kv0<v>` where heads share them) |
| `m5` | an MLP's output |
| `m5.n17` | one of its neurons, behind the activation |
| `input` | the embedding: what enters the first block |
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from circuits.errors import InputError
from circuits.graph import Graph

Point = Literal["resid_pre", "q", "k", "v", "z", "mlp_out", "neurons"]
GROUPS = ("heads", "mlps", "input", "q", "k", "v", "neurons")
_NEURON = re.compile(r"m(\d{1,5})\.n(\d{1,7})")


@dataclass(frozen=True)
class Site:
    """Where a node's value appears in a forward pass.

    Attributes:
        name: the node's name.
        layer: its block.
        point: the hook point, as `engine.architecture.Block` calls it.
        index: the head's slot or the neuron; None: the whole activation.
    """

    name: str
    layer: int
    point: Point
    index: int | None

    @property
    def stage(self) -> int:
        """When it is computed within a block: 0 the block's input, 1 q, k and v, 2 heads, 3 neurons, 4 the MLP's output."""
        return {"resid_pre": 0, "q": 1, "k": 1, "v": 1, "z": 2, "neurons": 3, "mlp_out": 4}[self.point]


def find_site(graph: Graph, name: str, n_neurons: int = 0) -> Site:
    """The site of a node.

    Args:
        graph: the model's graph.
        name: see the module docstring.
        n_neurons: neurons per MLP.

    Raises:
        InputError: there is no such node; the nearest names are offered.
    """
    if name == "input":
        return Site(name, 0, "resid_pre", None)
    neuron = _NEURON.fullmatch(name)
    if neuron:
        layer, index = int(neuron[1]), int(neuron[2])
        if layer < graph.n_layers and graph.mlps[layer] and index < n_neurons:
            return Site(name, layer, "neurons", index)
        raise InputError(f"there is no neuron {name!r}: this model has {graph.n_layers} layers of {n_neurons} neurons")
    sites = _sites(graph)
    if name in sites:
        return sites[name]
    near = get_close_matches(name, sites, n=3, cutoff=0.3)
    raise InputError(f"there is no node {name!r} in this graph; the nearest: {', '.join(near) or 'none'}")


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


def select_sites(graph: Graph, nodes: str | Sequence[str], n_neurons: int = 0) -> tuple[Site, ...]:
    """The sites of some nodes, in the order of the forward pass.

    Args:
        graph: the model's graph.
        nodes: names of nodes, or groups of them joined by `+`: `heads`, `mlps`, `input`, `q`, `k`, `v`, `neurons`.
        n_neurons: neurons per MLP.

    Raises:
        InputError: an unknown node or group, or none at all.

    >>> graph = Graph(n_layers=1, n_heads=2, n_kv_heads=1, mlps=(True,))
    >>> [site.name for site in select_sites(graph, "heads+mlps+k")]
    ['a0.kv0<k>', 'a0.h0', 'a0.h1', 'm0']
    """
    if not isinstance(nodes, str):
        sites = [find_site(graph, name, n_neurons) for name in nodes]
    else:
        groups = nodes.split("+")
        for group in groups:
            if group not in GROUPS:
                near = get_close_matches(group, GROUPS, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise InputError(f"unknown group of nodes {group!r} in {nodes!r}{hint} (groups: {', '.join(GROUPS)})")
        points = {"heads": "z", "mlps": "mlp_out", "q": "q", "k": "k", "v": "v"}
        wanted = {points[group] for group in groups if group in points}
        sites = [site for site in _sites(graph).values() if site.point in wanted]
        if "input" in groups:
            sites.append(find_site(graph, "input"))
        if "neurons" in groups:
            layers = [layer for layer in range(graph.n_layers) if graph.mlps[layer]]
            sites += [Site(f"m{layer}.n{i}", layer, "neurons", i) for layer in layers for i in range(n_neurons)]
    if not sites:
        raise InputError(f"no nodes chosen by {nodes!r}")
    return tuple(sorted(sites, key=lambda site: (site.layer, site.stage, "qkv".find(site.point), site.index or 0)))
