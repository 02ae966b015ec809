"""The edges that can have an effect according to the weights, without any data.

An edge u -> r is structural if the reader r reads what u can write, W_out(u) @ W_in(r) != 0, and if it is on a path of such
edges from `input` to `logits`. Constants (biases that belong to no writer) make no edge. All other edges can be ablated
together, in any way, without changing the logits.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.graph.graph import Reader, Writer
from circuits.model import Model
from circuits.results.circuit import Circuit

ROUNDING = 1e-12


def structural_edges(model: Model) -> tuple[str, ...]:
    """Names of the structural edges, in graph order.

    Raises:
        InputError: the model has a norm, which makes every reader depend on every writer, or it is not a native model of
            TransformerLens.
    """
    config = model.bridge.cfg
    if getattr(config, "normalization_type", None) is not None or config.model_name != "native":
        raise InputError(
            f"{model.name} is no native model without norms: its weights do not tell which edges are there"
        )
    graph = model.graph
    written = [_written(model, writer) for writer in graph.writer_nodes]
    mask = torch.zeros_like(graph.edge_mask)
    for r, reader in enumerate(graph.reader_nodes):
        read = _read(model, reader)
        for w in range(reader.n_writers):
            product = written[w] @ read
            mask[w, r] = bool(product.numel()) and float(product.abs().max()) > ROUNDING
    return Circuit(graph, mask).pruned().edges


def _written(model: Model, writer: Writer) -> Float[Tensor, "_ d_model"]:
    """Vectors that span everything that a writer can write."""
    bridge, layer, head = model.bridge, writer.layer, writer.head
    if writer.kind == "input":
        return torch.cat([bridge.W_E, bridge.W_pos])
    if writer.kind == "head":
        assert head is not None
        values = torch.cat([bridge.W_V[layer, head], bridge.b_V[layer, head][None]])
        return values @ bridge.W_O[layer, head]
    mlp: Any = bridge.blocks[layer].mlp
    return torch.cat([mlp.W_out, mlp.b_out[None]])


def _read(model: Model, reader: Reader) -> Float[Tensor, "d_model _"]:
    """The map from the residual stream to what the reader uses of it."""
    bridge, layer, head = model.bridge, reader.layer, reader.head
    if reader.part == "logits":
        return bridge.W_U
    if reader.part == "mlp":
        mlp: Any = bridge.blocks[layer].mlp
        return mlp.W_in[:, (mlp.W_out != 0).any(1)]
    assert head is not None
    if reader.part == "v":
        return bridge.W_V[layer, head] @ bridge.W_O[layer, head]
    if reader.part == "q":
        # b_K adds the same to the scores of all positions, which does not change the pattern.
        return bridge.W_Q[layer, head] @ bridge.W_K[layer, head].T
    return bridge.W_K[layer, head] @ torch.cat([bridge.W_Q[layer, head], bridge.b_Q[layer, head][None]]).T
