"""A circuit as GraphML, for Gephi, yEd, Cytoscape, igraph and others.

GraphML holds no None, list or mapping: absent values are left out, a group's heads are one string, provenance is JSON text.
Each edge carries `kind` (q, k, v, in) beside its key.
"""

import json
from pathlib import Path
from typing import Any

import networkx as nx

from circuits.circuit import Circuit
from circuits.export.atomic import replacing
from circuits.export.node_link import to_networkx


def write_graphml(circuit: Circuit, path: str | Path) -> None:
    """Writes the circuit as GraphML, whole or not at all."""
    source = to_networkx(circuit)
    result = nx.MultiDiGraph(**{name: _text(value) for name, value in source.graph.items()})
    for node, data in source.nodes(data=True):
        result.add_node(node, **{name: _text(value) for name, value in data.items() if value is not None})
    for start, end, key, data in source.edges(keys=True, data=True):
        result.add_edge(start, end, key=key, id=f"{start}->{end}<{key}>", kind=key, **data)
    with replacing(path) as temporary:
        nx.write_graphml(result, temporary, edge_id_from_attribute="id")


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else value
