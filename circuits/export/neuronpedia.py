"""A circuit as an attribution graph, for Neuronpedia's viewer and circuit-tracer's (JSON, schema version 1).

Attribution graphs have features at token positions; a circuit has heads and MLPs, which act at all positions. Each becomes a
node with the feature type `attention head` or `mlp` at the last position; `input` is the embedding at the first. Edges into q,
k and v of a head are one link: its weight is the sum of their effects, and `inputs` has each effect. Labels become the texts
of nodes (`clerp`), groups become supernodes. A circuit over places is written without them: the schema's positions are those of
tokens of one prompt, and a place is a span of every prompt.
"""

import json
import math
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.export.collapsed import collapsed
from circuits.files.atomic import write_text
from circuits.graph.graph import Graph
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming
from circuits.results.provenance import plain, versions
from circuits.results.recorded import quantity_of

TYPES = {"input": "embedding", "head": "attention head", "mlp": "mlp", "logits": "logit"}
CERTAIN = 1.0
"""The probability of the node `logits`, which stands for all outputs together."""


def output_text(text: str) -> str:
    """The text of an output node. circuit-tracer's viewer takes the name of the output from between the quotation marks, and its
    probability from behind `(p=`; it fails on any other text."""
    return f'Output "{text.replace(chr(34), chr(39))}" (p={CERTAIN:.3f})'


def columns_of(tokens: Sequence[str], prompt: str) -> list[str]:
    """The columns of a graph. At least two: the viewers hide features that occur at more than two thirds of them."""
    return list(tokens) if len(tokens) > 1 else ["", *(tokens or [prompt or "input"])]


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
        circuit: with scores, which become the weights of links.
        path: of the file.
        naming: labels and groups.
        prompt: an example prompt, shown above the graph.
        tokens: its tokens, each of which gets a column; without tokens there are two columns.
        slug: the name of the graph in its URL; None: from the provenance.

    Raises:
        InputError: a circuit without scores, or an unknown node.
    """
    data = attribution_graph(circuit, naming, prompt=prompt, tokens=tokens, slug=slug)
    links = data.pop("links")
    # Web pages may embed the file, so "<", which occurs only in strings, is escaped.
    text = json.dumps(data, indent=1, allow_nan=False).replace("<", "\\u003c").removesuffix("\n}")
    # One line each: indenting them takes ten times as long.
    lines = (f"{',' if i else ''}\n  {json.dumps(link, allow_nan=False)}" for i, link in enumerate(links))
    write_text(path, chain([f'{text},\n "links": ['], lines, ["\n ]\n}\n"]))


def attribution_graph(
    circuit: Circuit,
    naming: Naming | None = None,
    *,
    prompt: str = "",
    tokens: Sequence[str] = (),
    slug: str | None = None,
) -> dict[str, Any]:
    """What `write_neuronpedia` writes."""
    circuit = collapsed(circuit, "an attribution graph")
    naming = (naming or Naming()).checked(circuit.graph)
    tokens = columns_of(tokens, prompt)
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
                "generator": {"name": "mech-circuits", "version": versions()["mech-circuits"]},
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
    text = name if role is None or role == name else f"{role} ({name})"
    if name == "input":
        layer, feature, position, kind = "E", 0, 0, "input"
    elif name == "logits":
        layer, feature, position, kind = str(graph.n_layers + 1), 0, last, "logits"
    else:
        writer = graph.writer_nodes[graph.writer_index(name)]
        # The MLP has the number after those of the layer's heads.
        feature = graph.n_heads if writer.head is None else writer.head
        layer, position, kind = str(writer.layer), last, writer.kind
    return {
        "node_id": f"{layer}_{feature}_{position}",
        "feature": feature,
        "layer": layer,
        "ctx_idx": position,
        "feature_type": TYPES[kind],
        "jsNodeId": f"{'L' if kind == 'logits' else layer}_{feature}-{position}",
        "clerp": output_text(text) if kind == "logits" else text,
        "token_prob": CERTAIN if kind == "logits" else 0.0,
        "is_target_logit": kind == "logits",
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "influence": None,
    }


def _links(circuit: Circuit, nodes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    graph, links = circuit.graph, {}
    targets = [
        [node for node in graph.nodes_fed_by(reader) or ("logits",) if node in nodes] for reader in graph.reader_nodes
    ]
    kinds = [reader.kind for reader in graph.reader_nodes]
    for w, r, score, _ in circuit.entries():
        if score is None or not math.isfinite(score):
            raise InputError("an attribution graph needs a score for each edge of the circuit")
        for target in targets[r]:
            links.setdefault((graph.writer_names[w], target), {})[kinds[r]] = score
    return [
        {
            "source": nodes[source]["node_id"],
            "target": nodes[target]["node_id"],
            "weight": math.fsum(inputs.values()),
            "inputs": inputs,
        }
        for (source, target), inputs in links.items()
    ]


def _weights(circuit: Circuit) -> str:
    """A description of the weights of links."""
    quantity = quantity_of(circuit.provenance)
    sign = f"positive: {quantity.positive}" if quantity.signed else "without sign"
    return f"weights: {quantity.over('the metric')}, {sign}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "circuit"
