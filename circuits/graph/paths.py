"""Which outputs and edges of a circuit are on paths from `input` or to `logits`."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.graph.graph import Graph


def live_nodes(graph: Graph, keep: Bool[Tensor, "writer reader"], coupled: bool = False) -> set[str]:
    """Names of the outputs that reach `logits` along kept edges, with `logits`. Other outputs have no effect.

    Args:
        graph: the graph of the circuit.
        keep: its edges.
        coupled: the heads of a layer go through one post-norm, so that the output of each depends on all: if one is live,
            all are.
    """
    if graph.base is graph:
        return _live_writers(graph, keep, coupled)
    live = {"logits"}
    writers_of: dict[int, list[int]] = {}
    for r, w in keep.t().nonzero().tolist():
        writers_of.setdefault(r, []).append(w)
    for r in range(graph.n_readers - 1, -1, -1):
        reader = graph.reader_nodes[r]
        if not coupled and r not in writers_of:
            continue
        fed = graph.outputs_of(reader, coupled)
        if any(output in live for output in fed):
            live.update(
                fed if coupled and reader.part not in ("k", "v") else ()
            )  # keys reach heads at other places too
            live.update(graph.output_read(w, reader) for w in writers_of.get(r, ()) if w < reader.n_writers)
    return live


def _live_writers(graph: Graph, keep: Bool[Tensor, "writer reader"], coupled: bool) -> set[str]:
    """`live_nodes` of a graph without places, whose outputs are its writers: a column of `keep` at a time."""
    columns: np.ndarray = keep.cpu().t().contiguous().numpy()
    live: np.ndarray = np.zeros(graph.n_writers, dtype=bool)
    filled: np.ndarray = np.asarray(columns.any(1))
    for r in range(graph.n_readers - 1, -1, -1):
        if not coupled and not filled[r]:
            continue
        reader, fed = graph.reader_nodes[r], graph.writers_fed[r]
        if coupled and reader.kind != "in":
            fed = graph.head_writers(reader.layer)
        if reader.part == "logits" or live[fed].any():
            if coupled and reader.part not in ("logits", "k", "v"):
                live[fed] = True  # keys reach heads at other places too
            live[: reader.n_writers] |= columns[r, : reader.n_writers]
    return {"logits", *(graph.writer_names[w] for w in live.nonzero()[0])}


def outputs_from_input(graph: Graph, keep: Bool[Tensor, "writer reader"]) -> Bool[Tensor, "writer reader"]:
    """True at the kept edges whose writer is reachable from `input`. A head is reached if its q, k or v is."""
    writers_of: dict[int, list[int]] = {}
    for r, w in keep.t().nonzero().tolist():
        writers_of.setdefault(r, []).append(w)
    fed: set[str] = set()
    reached = torch.zeros_like(keep)
    for r, reader in enumerate(graph.reader_nodes):
        for w in writers_of.get(r, ()):
            if w == 0 or graph.output_read(w, reader) in fed:
                reached[w, r] = True
        if r in writers_of and bool(reached[:, r].any()):
            fed.update(graph.outputs_of(reader))
    return reached


def readers_by_output(graph: Graph) -> dict[str, list[int]]:
    """The indices of the readers that each output depends on; those of a shared key/value head belong to all its heads."""
    readers: dict[str, list[int]] = {}
    for r, reader in enumerate(graph.reader_nodes):
        for output in graph.outputs_of(reader):
            readers.setdefault(output, []).append(r)
    return readers
