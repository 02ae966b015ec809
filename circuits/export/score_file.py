"""Scores as one safetensors file: tensors `values` and `stderr`, and a JSON header with the graph and the provenance."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from circuits.errors import InputError
from circuits.export.atomic import replacing
from circuits.export.node_link import _object
from circuits.graph import Graph
from circuits.provenance import frozen, plain
from circuits.scores import EdgeScores

SCHEMA = "mech-circuits edge scores 1"


def write_scores(scores: EdgeScores, path: str | Path) -> None:
    """Writes edge scores, whole or not at all."""
    header = {
        "schema": SCHEMA,
        "graph": json.dumps(scores.graph.to_dict()),
        "provenance": json.dumps(plain(scores.provenance)),
        "n_prompts": str(scores.n_prompts),
    }
    tensors = {"values": scores.values.contiguous(), "stderr": scores.stderr.contiguous()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def read_scores(path: str | Path) -> EdgeScores:
    """Reads what `write_scores` wrote.

    Raises:
        InputError: the file cannot be read or holds something else; with the reason.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("schema") != SCHEMA:
                raise InputError(f"{path}: schema {header.get('schema')!r}; expected {SCHEMA!r}")
            graph = Graph.from_dict(json.loads(header["graph"]))
            provenance = frozen(_object(json.loads(header["provenance"]), "provenance"))
            values, stderr = file.get_tensor("values"), file.get_tensor("stderr")
            n_prompts = int(header["n_prompts"])
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror or problem}") from None
    except (SafetensorError, KeyError, ValueError, RecursionError) as problem:
        raise InputError(f"{path} is not a file of edge scores: {problem}") from None
    for name, tensor in (("values", values), ("stderr", stderr)):
        if tensor.shape != graph.edge_mask.shape or tensor.dtype != torch.float64:
            raise InputError(f"{path}: {name} is {tensor.dtype} {tuple(tensor.shape)}, which does not fit its graph")
    return EdgeScores(graph, values, stderr, n_prompts, provenance)
