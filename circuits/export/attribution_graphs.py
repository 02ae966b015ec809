"""Circuits of features as attribution graphs of circuit-tracer and Neuronpedia (JSON, schema version 1), written and read.

In an attribution graph every node is at a token position of one prompt; in a circuit it stands for all positions. A written node is at the
last position (`input` at the first), and there are at least two columns: the viewers hide what occurs at most tokens. On reading, the nodes of one feature at several positions become one node, and the weights of their
links are summed, as are those of all tokens (`input`) and of all output tokens (`logits`). The weights of circuit-tracer's graphs are
contributions to pre-activations in its replacement model, not effects on a metric.

| node | `feature_type` | `node_id` |
|---|---|---|
| `f:m3.1201` | `cross layer transcoder` (circuit-tracer's name, also for transcoders of one layer) | `3_1201_7` |
| `e:m3` | `mlp reconstruction error` | `error_3_7` (circuit-tracer's own `0_3_7` could also be feature 3 of layer 0) |
| `input`, `logits` | `embedding`, `logit` | |
| `a3.h2`, `m3`, parts of other dictionaries | `attention head`, `mlp`, `part` | the name, and the position |
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from circuits.errors import InputError, locating
from circuits.export.neuronpedia import CERTAIN, columns_of, output_text
from circuits.files.atomic import write_text
from circuits.files.untrusted import as_object, finite_number, read_json, shown
from circuits.plain_torch import plain_torch
from circuits.results.feature_circuit import FeatureCircuit, kind_of, split_target
from circuits.results.provenance import frozen, versions

_FEATURE = re.compile(r"f:m(\d+)\.(\d+)")
_THEIR_FEATURE = re.compile(r"(\d{1,5})_(\d{1,9})_\d{1,9}")
FEATURE_TYPES = ("cross layer transcoder", "per layer transcoder", "transcoder")
FIELDS = (
    "source",
    "target",
    "weight",
    "node_id",
    "feature",
    "layer",
    "ctx_idx",
    "feature_type",
    "jsNodeId",
    "clerp",
    "influence",
    "activation",
)


@plain_torch
def write_attribution_graph(
    circuit: FeatureCircuit,
    path: str | Path,
    *,
    prompt: str = "",
    tokens: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    slug: str = "feature-circuit",
    scan: str = "unknown",
) -> None:
    """Writes a circuit as an attribution graph, for circuit-tracer's and Neuronpedia's viewers.

    Args:
        circuit: with scores of its edges, which become the weights of links.
        path: of the file.
        prompt: an example prompt, shown above the graph.
        tokens: its tokens, each of which gets a column.
        labels: texts of nodes, by name.
        slug: the name of the graph in its URL.
        scan: the viewers' name of the dictionaries, by which they find descriptions of features.

    Raises:
        InputError: a circuit without scores of its edges, or labels of unknown nodes.
    """
    names = dict.fromkeys([*circuit.nodes, *(end for s, t in circuit.edges for end in (s, split_target(t)[0]))])
    if unknown := [name for name in labels or {} if name not in names]:
        raise InputError(f"labels name {unknown[0]!r}, which is not in the circuit")
    columns, influence = columns_of(tokens, prompt), _influence(circuit)
    top = max((kind_of(name)[1] or 0 for name in names), default=0)
    nodes = {
        name: _node(name, i, len(columns) - 1, top, (labels or {}).get(name), influence.get(name))
        for i, name in enumerate(names)
    }
    data = {
        "metadata": {
            "slug": re.sub(r"[^a-z0-9]+", "-", slug.lower()).strip("-")[:60] or "feature-circuit", "scan": scan,
            "transcoder_list": [], "prompt_tokens": columns, "prompt": prompt, "node_threshold": None, "schema_version": 1,
            "info": {"generator": {"name": "mech-circuits", "version": versions()["mech-circuits"]}},
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": list(nodes.values()),
        "links": _links(circuit, nodes),
    }  # fmt: skip
    # Web pages may embed the file, so "<", which occurs only in strings, is escaped.
    write_text(path, json.dumps(data, indent=1, allow_nan=False).replace("<", "\\u003c") + "\n")


def _node(name: str, index: int, last: int, top: int, label: str | None, influence: float | None) -> dict[str, Any]:
    kind, layer = kind_of(name)
    feature = _FEATURE.fullmatch(name)
    # Unique in its layer: the viewers take nodes of one number for one feature, and hide features that occur at most tokens.
    position, number = last, -2 - index
    if feature:
        layer, number = int(feature[1]), int(feature[2])
        identity, kind_name = f"{layer}_{number}_{last}", FEATURE_TYPES[0]
        number = (layer + number) * (layer + number + 1) // 2 + number  # circuit-tracer's pairing of layer and feature
    elif name == f"e:m{layer}":
        identity, kind_name = f"error_{layer}_{last}", "mlp reconstruction error"
    elif name == "input":
        identity, kind_name, position = "E_0_0", "embedding", 0
    elif name == "logits":
        identity, kind_name = f"{top + 1}_0_{last}", "logit"
    else:
        identity, kind_name = f"{name}_{last}", {"head": "attention head", "mlp": "mlp"}.get(kind, "part")
    is_output = name == "logits"
    text = name if label is None else f"{label} ({name})"
    shown_layer = "E" if name == "input" else str(top + 1 if layer is None else layer)
    return {
        "node_id": identity, "feature": number, "layer": shown_layer, "ctx_idx": position, "feature_type": kind_name,
        "token_prob": CERTAIN if is_output else 0.0, "is_target_logit": is_output, "run_idx": 0, "reverse_ctx_idx": 0,
        "jsNodeId": f"L_0-{last}" if is_output else identity, "clerp": output_text(text) if is_output else text,
        "influence": influence, "activation": None, "name": name,
    }  # fmt: skip


def _influence(circuit: FeatureCircuit) -> dict[str, float]:
    """Of each node with a score the share of all effects, by size, that it and the stronger nodes have: the viewers hide nodes whose
    influence is above a threshold between 0 and 1."""
    sizes = {
        name: abs(score) for name, score in zip(circuit.nodes, circuit.node_scores, strict=False) if score is not None
    }
    total, sum_so_far = math.fsum(sizes.values()), 0.0
    influence = {}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        sum_so_far += size
        influence[name] = min(1.0, sum_so_far / total) if total else 1.0
    return influence


def _links(circuit: FeatureCircuit, nodes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    inputs: dict[tuple[str, str], dict[str, float]] = {}
    if len(circuit.edge_scores) != len(circuit.edges) or any(score is None for score in circuit.edge_scores):
        raise InputError("an attribution graph needs a score for each edge of the circuit")
    for (source, target), score in zip(circuit.edges, circuit.edge_scores, strict=True):
        node, key = split_target(target)
        assert score is not None
        inputs.setdefault((source, node), {})[key] = score
    return [
        {
            "source": nodes[s]["node_id"],
            "target": nodes[t]["node_id"],
            "weight": math.fsum(by_key.values()),
            "inputs": by_key,
        }
        for (s, t), by_key in inputs.items()
    ]


@plain_torch
def read_attribution_graph(path: str | Path) -> FeatureCircuit:
    """Reads an attribution graph of circuit-tracer or Neuronpedia, or one that `write_attribution_graph` wrote.

    Raises:
        InputError: the file cannot be read, or holds something else; with the reason.
    """
    data = as_object(read_json(path, FIELDS), str(path))
    with locating(f"{path}: "):
        names = _names(data.get("nodes"))
        edges: dict[tuple[str, str], list[float]] = {}
        for link in _objects(data.get("links"), "links"):
            source, target = (names.get(str(link.get(end))) for end in ("source", "target"))
            if source is None or target is None:
                raise InputError(
                    f"a link between {shown(link.get('source'))} and {shown(link.get('target'))} has an unknown end"
                )
            inputs = as_object(link.get("inputs"), "inputs") or {"in": link.get("weight")}
            for key, weight in inputs.items():
                if key not in ("q", "k", "v", "in"):
                    raise InputError(f"a link has the input {shown(key)}; expected q, k, v or in")
                end = target if key == "in" else f"{target}<{key}>"
                edges.setdefault((source, end), []).append(finite_number(weight, "the weight of a link"))
        metadata = as_object(data.get("metadata"), "metadata")
        known = {name: metadata[name] for name in ("slug", "scan", "prompt") if isinstance(metadata.get(name), str)}
        sums = tuple(math.fsum(weights) for weights in edges.values())
        nodes = tuple(dict.fromkeys(name for name in names.values() if name != "logits" and ".kv" not in name))
        return FeatureCircuit(nodes, tuple(edges), (), sums, (), frozen({"method": "attribution graph", **known}))


def _names(nodes: Any) -> dict[str, str]:
    """Names of nodes by the ids of the file."""
    names: dict[str, str] = {}
    for node in _objects(nodes, "nodes"):
        identity, kind = node.get("node_id"), node.get("feature_type")
        if not isinstance(identity, str) or identity in names:
            raise InputError(f"a node has the id {shown(identity)}, which is not text, or occurs twice")
        own = node.get("name")
        name = own if isinstance(own, str) else _their_name(identity, kind, node.get("layer"))
        kind_of(name)
        names[identity] = name
    return names


def _their_name(identity: str, kind: Any, layer: Any) -> str:
    if kind in ("embedding", "logit"):
        return "input" if kind == "embedding" else "logits"
    feature = _THEIR_FEATURE.fullmatch(identity)
    if kind in FEATURE_TYPES and feature:
        return f"f:m{int(feature[1])}.{int(feature[2])}"
    if kind == "mlp reconstruction error" and isinstance(layer, str) and layer.isdecimal():
        return f"e:m{layer}"
    raise InputError(
        f"the node {shown(identity)} of type {shown(kind)} is not known here; expected a transcoder's feature, an error, a token or a logit"
    )


def _objects(value: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InputError(f"{what} must be a list of objects, got {shown(value)}")
    return value
