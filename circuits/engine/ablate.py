"""The logits of a model with any set of edges ablated.

A reader sees the residual stream plus, for every ablated edge into it, (replacement - current) of that edge's writer,
where `current` is the writer's output in the same run. One forward pass computes everything: each reader's edited input
goes through the norm and its projection, and replaces the values computed from the unedited stream.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.architecture import Architecture, Block
from circuits.engine.capture import Writes, expanded_heads, stored_heads
from circuits.engine.hooks import Hook, run
from circuits.engine.prefix import Suffix
from circuits.engine.readers import EditedReaders
from circuits.graph.graph import Reader, live_nodes


class Ablated(EditedReaders):
    """The hooks of one ablated forward pass, with the differences (replacement - current) that they collect.

    A reader with ablated edges M and kept edges K sees one of two sums, which are equal up to rounding:

        x + Σ_M (replacement - current)        or        constants + Σ replacement + Σ_K (current - replacement)

    The sum with fewer terms is used. If few edges are kept, the first sum would cancel large values, and a norm would
    amplify their rounding errors. `ablated_logits` explains `edit`.

    Differences are stored on the embedding's device, whatever the devices of the blocks.
    """

    def __init__(
        self,
        architecture: Architecture,
        replacement: Writes,
        keep: Bool[Tensor, "writer reader"] | Bool[Tensor, "batch writer reader"],
        edit: str = "live",
    ) -> None:
        graph, embedding = architecture.graph, replacement.embedding
        keep = keep.to(embedding.device)
        missing = (graph.edge_mask.to(embedding.device) & ~keep).transpose(-1, -2)
        anywhere = missing if missing.ndim == 2 else missing.any(0)
        coupled = any(not block.linear_heads for block in architecture.blocks)
        live = live_nodes(graph, keep if keep.ndim == 2 else keep.any(0), coupled)
        lacking = anywhere.any(1).tolist()
        alive = [any(node in live for node in graph.nodes_fed_by(r) or ("logits",)) for r in graph.reader_nodes]
        edited = {"all": [True] * len(alive), "lacking": lacking}.get(edit)
        super().__init__(architecture, edited or [a and b for a, b in zip(lacking, alive, strict=True)])
        n_writers = torch.tensor([reader.n_writers for reader in graph.reader_nodes], device=embedding.device)
        self.from_replacement = 2 * missing.sum(-1) > n_writers
        self.missing, self.replacement = missing, replacement
        batch, pos, d_model = embedding.shape
        self.difference = embedding.new_empty(batch, graph.n_writers, pos, d_model)
        self.replaced = replaced_stream(architecture, replacement) if bool(self.from_replacement.any()) else {}

    def hooks(self) -> list[Hook]:
        hooks = super().hooks()
        for block in self.architecture.blocks:
            hooks.append((block.z, lambda z, block=block: self._on_heads(block, z)))
            if block.mlp_out is not None:
                hooks.append((block.mlp_out, lambda mlp, layer=block.layer: self._on_mlp(layer, mlp)))
        return hooks

    def inputs(
        self, readers: Sequence[int], x: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch slot pos d_model"]:
        reader = self.graph.reader_nodes[readers[0]]
        missing, turned = self.missing[..., readers, : reader.n_writers], self.from_replacement[..., readers]
        signs = missing.to(x.dtype) - turned[..., None].to(x.dtype)
        difference = self.difference[:, : reader.n_writers]
        used = signs.flatten(0, -2).any(0)
        if 4 * int(used.sum()) < reader.n_writers:
            columns = used.nonzero()[:, 0]
            signs, difference = signs[..., columns], difference[:, columns]
        batch, _, pos, d_model = difference.shape
        start = self._start(reader, turned, x.to(difference.device)).flatten(2).expand(batch, len(readers), -1)
        signs = signs.expand(batch, *signs.shape[-2:])
        summed = torch.baddbmm(start, signs, difference.flatten(2)).reshape(batch, len(readers), pos, d_model)
        return summed.to(x.device)

    def _start(self, reader: Reader, turned: Tensor, x: Tensor) -> Float[Tensor, "batch slot pos d_model"]:
        """The stream to which the differences are added; one slot if it is the same for all readers."""
        if not bool(turned.any()):
            return x[:, None]
        place = "mlp" if reader.part == "mlp" and not self.graph.parallel else "attention"
        replaced = self.replaced[reader.layer, place][:, None]
        return (
            replaced
            if bool(turned.all())
            else torch.where(turned.reshape(-1, turned.shape[-1], 1, 1), replaced, x[:, None])
        )

    def _on_resid_pre(self, block: Block, x: Tensor) -> None:
        super()._on_resid_pre(block, x)
        if block.layer == 0:
            self.difference[:, 0] = self.replacement.embedding - x

    def _on_heads(self, block: Block, z: Tensor) -> None:
        replacement = self.replacement.heads[block.layer]
        difference = expanded_heads(block, replacement - stored_heads(block, z))
        self.difference[:, self.graph.head_writers(block.layer)] = difference.transpose(1, 2)

    def _on_mlp(self, layer: int, mlp: Tensor) -> None:
        replacement = self.replacement.mlps[layer]
        assert replacement is not None
        self.difference[:, self.graph.mlp_writer(layer)] = replacement - mlp


def replaced_stream(architecture: Architecture, replacement: Writes) -> dict[tuple[int, str], Tensor]:
    """The residual stream with every writer replaced, as each layer's attention and MLP (and `logits`) would see it."""
    stream, places = replacement.embedding, {}
    for block, heads, mlp in zip(architecture.blocks, replacement.heads, replacement.mlps, strict=True):
        places[block.layer, "attention"] = stream
        stream = stream + (block.summed_writes(heads) if block.linear_heads else heads.sum(2)).to(stream.device)
        if block.constant is not None:
            stream = stream + block.constant.to(stream.device)
        places[block.layer, "mlp"] = stream
        stream = stream if mlp is None else stream + mlp.to(stream.device)
    places[len(architecture.blocks), "attention"] = stream
    return places


def ablated_logits(
    architecture: Architecture,
    suffix: Suffix,
    replacement: Writes,
    keep: Bool[Tensor, "writer reader"] | Bool[Tensor, "batch writer reader"],
    edit: str = "live",
) -> Float[Tensor, "read d_vocab"]:
    """Logits on the clean prompts with every edge outside `keep` ablated.

    Args:
        architecture: the model.
        suffix: the prompts.
        replacement: the replacement values of ablated writers.
        keep: True at the kept edges; with a leading batch axis, one circuit per prompt.
        edit: the readers to recompute. `live`: those that lack an edge and can change the logits; `lacking`: also those
            of nodes that do not reach `logits`, so that these nodes' outputs are the circuit's too; `all`: every reader
            (for the check at loading).
    """
    ablation = Ablated(architecture, replacement, keep, edit)
    with torch.no_grad():
        return run(architecture, suffix.clean_tokens, ablation.hooks())
