"""A circuit as GraphML or GEXF, for Gephi, yEd, Cytoscape, igraph and others.

Neither format has None, lists or mappings: missing values are left out, the heads of a group are one string, and provenance is
JSON text (GEXF has no place for it). Each edge has its `kind` (q, k, v, in) and an id. Nodes that the user named have the
name as `label` and `role`.

The lines are written one by one: networkx would first build the document, which takes three gigabytes for the whole graph of a
model with eight billion parameters.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from circuits.files.atomic import write_text
from circuits.results.circuit_file import Edges, check_finite, header, nodes_of
from circuits.results.naming import Naming

GRAPH = {"schema": "long", "graph": "string", "provenance": "string"}
NODE = {"kind": "string", "layer": "long", "head": "long", "heads": "string", "role": "string"}
EDGE = {"kind": "string", "score": "double", "stderr": "double"}
"""Attributes and their types."""

_GRAPHML = """<?xml version='1.0' encoding='utf-8'?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://graphml.graphdrawing.org/xmlns http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd">
"""
_GEXF = """<?xml version='1.0' encoding='utf-8'?>
<gexf xmlns="http://www.gexf.net/1.2draft" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://www.gexf.net/1.2draft http://www.gexf.net/1.2draft/gexf.xsd" version="1.2">
  <graph defaultedgetype="directed" mode="static" name="">
"""

Node = tuple[str, str, dict[str, Any]]


def write_graphml(circuit: Edges, path: str | Path, naming: Naming | None = None) -> None:
    """Writes the circuit atomically as GraphML."""
    check_finite(circuit)
    write_text(path, _graphml(circuit, _named(circuit, naming)))


def write_gexf(circuit: Edges, path: str | Path, naming: Naming | None = None) -> None:
    """Writes the circuit atomically as GEXF 1.2."""
    check_finite(circuit)
    write_text(path, _gexf(circuit, _named(circuit, naming)))


def _named(circuit: Edges, naming: Naming | None) -> list[Node]:
    """Name, label and attributes of each node."""
    naming = (naming or Naming()).checked(circuit.graph)
    nodes = []
    for name, attributes in nodes_of(circuit):
        role = naming.role(name)
        texts = {key: " ".join(value) if isinstance(value, list) else value for key, value in attributes.items()}
        nodes.append((name, name if role is None else role, {**texts, "role": role}))
    return nodes


def _graphml(circuit: Edges, nodes: list[Node]) -> Iterator[str]:
    yield _GRAPHML
    for owner, kinds in (
        ("graph", GRAPH),
        ("node", {**NODE, "label": "string"}),
        ("edge", {"id": "string", **_edge(circuit)}),
    ):
        for name, kind in kinds.items():
            yield f'  <key id="{owner}.{name}" for="{owner}" attr.name="{name}" attr.type="{kind}" />\n'
    yield '  <graph edgedefault="directed">\n'
    for name, label, attributes in nodes:
        data = "".join(_data("node", key, value) for key, value in {**attributes, "label": label}.items())
        yield f'    <node id="{name}">\n{data}    </node>\n'
    sources, ends = _ends(circuit)
    for w, r, score, stderr in circuit.entries():
        target, kind, place = ends[r]
        name = f"{sources[w]}-&gt;{target}&lt;{kind}&gt;{_attribute('' if place is None else '@' + place)}"
        at = "" if place is None else f'      <data key="edge.position">{escape(place)}</data>\n'
        first = "" if score is None else f'      <data key="edge.score">{score!r}</data>\n'
        second = "" if stderr is None else f'      <data key="edge.stderr">{stderr!r}</data>\n'
        yield (
            f'    <edge source="{sources[w]}" target="{target}" id="{name}">\n      <data key="edge.id">{name}</data>\n'
            f'      <data key="edge.kind">{kind}</data>\n{at}{first}{second}    </edge>\n'
        )
    for key, value in header(circuit).items():
        text = json.dumps(value) if isinstance(value, dict) else value
        yield _data("graph", key, text).removeprefix("  ")
    yield "  </graph>\n</graphml>\n"


def _edge(circuit: Edges) -> dict[str, str]:
    """Attributes of edges and their types; over places also `position`."""
    return EDGE if circuit.graph.reader_nodes[0].place is None else {**EDGE, "position": "string"}


def _data(owner: str, key: str, value: Any) -> str:
    return "" if value is None else f'      <data key="{owner}.{key}">{escape(str(value))}</data>\n'


def _ends(circuit: Edges) -> tuple[tuple[str, ...], list[tuple[str, str, str | None]]]:
    """Names of the writers; node, kind and place of each reader. Only places have characters that XML escapes."""
    return circuit.graph.writer_names, [
        (reader.node, reader.kind, reader.place) for reader in circuit.graph.reader_nodes
    ]


def _gexf(circuit: Edges, nodes: list[Node]) -> Iterator[str]:
    yield _GEXF
    for owner, kinds in (("edge", {**_edge(circuit), "networkx_key": "string"}), ("node", NODE)):
        yield f'    <attributes mode="static" class="{owner}">\n'
        for name, kind in kinds.items():
            yield f'      <attribute id="{owner}.{name}" title="{name}" type="{kind}" />\n'
        yield "    </attributes>\n"
    yield "    <nodes>\n"
    for name, label, attributes in nodes:
        data = "".join(_value("node", key, value) for key, value in attributes.items())
        yield f'      <node id="{name}" label="{_attribute(label)}">\n        <attvalues>\n{data}        </attvalues>\n      </node>\n'
    yield "    </nodes>\n    <edges>\n"
    sources, ends = _ends(circuit)
    for w, r, score, stderr in circuit.entries():
        target, kind, place = ends[r]
        key = kind if place is None else f"{kind}@{place}"
        values = {"kind": kind, "position": place, "score": score, "stderr": stderr, "networkx_key": key}
        at = "" if place is None else "@" + place
        data = "".join([_value("edge", key, value) for key, value in values.items()])
        yield (
            f'      <edge source="{sources[w]}" target="{target}" id="{sources[w]}-&gt;{target}&lt;{kind}&gt;{_attribute(at)}">\n'
            f"        <attvalues>\n{data}        </attvalues>\n      </edge>\n"
        )
    yield "    </edges>\n  </graph>\n</gexf>\n"


def _value(owner: str, key: str, value: Any) -> str:
    if value is None:
        return ""
    text = repr(value) if isinstance(value, float) else _attribute(str(value))
    return f'          <attvalue for="{owner}.{key}" value="{text}" />\n'


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})
