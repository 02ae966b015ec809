"""A circuit as an attribution graph, for Neuronpedia's viewer and circuit-tracer's (JSON, schema version 1).

Those graphs have features at token positions; ours has heads and MLPs that act at all of them. Each becomes a node of
feature type `attention head` or `mlp` at the last position, `input` the embedding at the first. The parts of a head (q, k,
v) are one link, whose weight is the sum of their effects and whose `inputs` holds each. Labels become the nodes' texts
(`clerp`), groups the viewer's supernodes.
"""

import json
import math
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.files.atomic import replacing
from circuits.graph.graph import Graph
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming
from circuits.results.provenance import plain
from circuits.results.quantity import quantity_of

TYPES = {"input": "embedding", "head": "attention head", "mlp": "mlp", "logits": "logit"}


def write_neuronpedia(
    circuit: Circuit,
    path: str | Path,
    naming: Naming | None = None,
    *,
    prompt: str = "",
    tokens: Sequence[str] = (),
    slug: str | None = None,
) -> None:
    """Writes the circuit as an attribution graph.

    Args:
        circuit: with scores, which are the links' weights.
        path: of the file.
        naming: labels and groups.
        prompt: an example prompt, shown above the graph.
        tokens: its tokens; the viewer draws a column for each. Without, there is one column.
        slug: the graph's name in an address; None: from the provenance.

    Raises:
        InputError: a circuit without scores, or an unknown node.
    """
    data = attribution_graph(circuit, naming, prompt=prompt, tokens=tokens, slug=slug)
    links = data.pop("links")
    # Such graphs end up in web pages; "<" stands only in strings, where JSON can spell it so that no tag begins.
    text = json.dumps(data, indent=1, allow_nan=False).replace("<", "\\u003c").removesuffix("\n}")
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{text},\n "links": [')
        # A line each: indenting them takes ten times as long.
        file.writelines(f"{',' if i else ''}\n  {json.dumps(link, allow_nan=False)}" for i, link in enumerate(links))
        file.write("\n ]\n}\n")


def attribution_graph(
    circuit: Circuit,
    naming: Naming | None = None,
    *,
    prompt: str = "",
    tokens: Sequence[str] = (),
    slug: str | None = None,
) -> dict[str, Any]:
    """What `write_neuronpedia` writes."""
    naming = (naming or Naming()).checked(circuit.graph)
    tokens = list(tokens) or [prompt or "input"]
    origin = circuit.provenance
    nodes = {name: _node(name, circuit.graph, naming, len(tokens) - 1) for name in circuit.nodes}
    supernodes = [
        [label, *(nodes[node]["node_id"] for node in members if node in nodes)]
        for label, members in naming.groups.items()
    ]
    supernodes = [group for group in supernodes if len(group) > 1]
    return {
        "metadata": {
            "slug": _slug(slug or f"{origin.get('task') or 'circuit'}-{origin.get('method') or 'edges'}"),
            "scan": str(origin.get("model") or "unknown"),
            "transcoder_list": [],
            "prompt_tokens": tokens,
            "prompt": prompt,
            "schema_version": 1,
            "info": {
                "description": f"Heads and MLPs of a circuit; {_weights(circuit)}.",
                "generator": {"name": "mech-circuits", "version": _version()},
            },
            "generation_settings": plain(origin),
        },
        "qParams": {
            "pinnedIds": [node["node_id"] for node in nodes.values()] if supernodes else [],
            "supernodes": supernodes,
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": list(nodes.values()),
        "links": _links(circuit, nodes),
    }


def _node(name: str, graph: Graph, naming: Naming, last: int) -> dict[str, Any]:
    role = naming.role(name)
    if name == "input":
        layer, feature, position, kind = "E", 0, 0, "input"
    elif name == "logits":
        layer, feature, position, kind = str(graph.n_layers + 1), 0, last, "logits"
    else:
        writer = graph.writer_nodes[graph.writer_index(name)]
        # The MLP's number comes after those of the layer's heads.
        feature = graph.n_heads if writer.head is None else writer.head
        layer, position, kind = str(writer.layer), last, writer.kind
    return {
        "node_id": f"{layer}_{feature}_{position}",
        "feature": feature,
        "layer": layer,
        "ctx_idx": position,
        "feature_type": TYPES[kind],
        "jsNodeId": f"{'L' if kind == 'logits' else layer}_{feature}-{position}",
        "clerp": name if role is None or role == name else f"{role} ({name})",
        "token_prob": 0.0,
        "is_target_logit": kind == "logits",
        "run_idx": 0,
        "reverse_ctx_idx": 0,
    }


def _links(circuit: Circuit, nodes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    graph, found = circuit.graph, {}
    targets = [
        [node for node in graph.nodes_fed_by(reader) or ("logits",) if node in nodes] for reader in graph.reader_nodes
    ]
    kinds = [reader.kind for reader in graph.reader_nodes]
    for w, r, score, _ in circuit.entries():
        if score is None or not math.isfinite(score):
            raise InputError("an attribution graph needs a score for each edge of the circuit")
        for target in targets[r]:
            found.setdefault((graph.writer_names[w], target), {})[kinds[r]] = score
    return [
        {
            "source": nodes[source]["node_id"],
            "target": nodes[target]["node_id"],
            "weight": math.fsum(inputs.values()),
            "inputs": inputs,
        }
        for (source, target), inputs in found.items()
    ]


def _weights(circuit: Circuit) -> str:
    """What the weights of its links are."""
    quantity = quantity_of(circuit.provenance)
    sign = f"positive: {quantity.positive}" if quantity.signed else "without sign"
    return f"weights: {quantity.over('the metric')}, {sign}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "circuit"


def _version() -> str:
    try:
        return version("mech-circuits")
    except PackageNotFoundError:
        return "unknown"
