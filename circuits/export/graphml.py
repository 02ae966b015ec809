"""A circuit as GraphML or GEXF, for Gephi, yEd, Cytoscape, igraph and others.

Neither holds None, lists or mappings: absent values are left out, a group's heads are one string, provenance is JSON text
(GEXF has no place for it). Each edge carries `kind` (q, k, v, in) beside its id, each node what it is called as `label` and
`role`, where the user named nodes.
"""

import json
from pathlib import Path
from typing import Any

import networkx as nx

from circuits.circuit import Circuit
from circuits.export.atomic import replacing
from circuits.export.naming import Naming
from circuits.export.node_link import to_networkx


def write_graphml(circuit: Circuit, path: str | Path, naming: Naming | None = None) -> None:
    """Writes the circuit as GraphML, whole or not at all."""
    with replacing(path) as temporary:
        nx.write_graphml(_plain(circuit, naming), temporary, edge_id_from_attribute="id")


def write_gexf(circuit: Circuit, path: str | Path, naming: Naming | None = None) -> None:
    """Writes the circuit as GEXF 1.2, whole or not at all."""
    graph = _plain(circuit, naming)
    graph.graph.clear()
    with replacing(path) as temporary:
        nx.write_gexf(graph, temporary)


def _plain(circuit: Circuit, naming: Naming | None) -> nx.MultiDiGraph:
    naming = (naming or Naming()).checked(circuit.graph)
    source = to_networkx(circuit)
    result = nx.MultiDiGraph(**{name: _text(value) for name, value in source.graph.items()})
    for node, data in source.nodes(data=True):
        role = naming.role(node)
        named = {"label": node if role is None else role} | ({} if role is None else {"role": role})
        result.add_node(node, **{name: _text(value) for name, value in data.items() if value is not None}, **named)
    for start, end, key, data in source.edges(keys=True, data=True):
        result.add_edge(start, end, key=key, id=f"{start}->{end}<{key}>", kind=key, **data)
    return result


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else value
