"""Graphs of grouped key/value heads, and of the same model with a key/value head for every query head.

EAP-IG and MIB know only the second: an edge into a key or value head is counted once per query head that shares it.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.graph.graph import Graph


def ungrouped(graph: Graph) -> Graph:
    """The graph with a key/value head for each query head."""
    return Graph.from_dict(graph.to_dict() | {"n_kv_heads": graph.n_heads})


def shared_readers(graph: Graph, flat: Graph) -> Int[Tensor, " reader"]:
    """For each reader of `flat`, which is `ungrouped(graph)`, the index of the reader of `graph` that it belongs to."""
    readers = []
    for reader in flat.reader_nodes:
        shared = graph.grouped and reader.part in ("k", "v") and reader.head is not None
        kv = f"a{reader.layer}.kv{(reader.head or 0) // graph.group_size}<{reader.part}>"
        readers.append(graph.reader_index(kv if shared else reader.name))
    return torch.tensor(readers)


def summed_over_groups(
    scores: Float[Tensor, "writer flat_reader"], graph: Graph, flat: Graph
) -> Float[Tensor, "writer reader"]:
    """Effects of the edges of `flat` as effects of the edges of `graph`: an edge into a shared head has the sum of its copies'."""
    total = scores.new_zeros(graph.edge_mask.shape)
    return total.index_add_(1, shared_readers(graph, flat).to(scores.device), scores)
