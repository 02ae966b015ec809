"""Passes that ablate edges: what every such pass collects and prepares, whatever the shape of its mask.

A reader sees the residual stream plus (replacement - current) of the writers of its ablated edges, or the stream of replacements plus
(current - replacement) of those of its kept edges; `engine.ablate` explains why there are two sums.
"""

from collections.abc import Iterator

from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.architecture import Architecture, Block
from circuits.engine.capture import Writes, expanded_heads, stored_heads
from circuits.engine.hooks import Hook
from circuits.engine.readers import EditedReaders
from circuits.graph.graph import Reader
from circuits.graph.paths import live_nodes


class CollectedDifferences(EditedReaders):
    """Edited readers, with the differences (replacement - current) of all writers, collected as the pass computes them.

    Attributes:
        replacement: the replacement values of ablated writers.
        from_replacement: True at the readers that see the sum over kept edges.
        difference: replacement - current, on the device of the embedding. If the pass has several copies of the prompts, in which
            all writers are equal, those of the first.
        replaced: `replaced_stream`, if a reader needs it.
    """

    def __init__(
        self,
        architecture: Architecture,
        edited: list[bool],
        replacement: Writes,
        from_replacement: Bool[Tensor, "*axes"],
        difference: Float[Tensor, "batch writer pos d_model"],
    ) -> None:
        super().__init__(architecture, edited)
        self.replacement, self.from_replacement, self.difference = replacement, from_replacement, difference
        self.replaced = replaced_stream(architecture, replacement) if bool(from_replacement.any()) else {}

    def hooks(self) -> list[Hook]:
        return [*super().hooks(), *self._collecting()]

    def _collecting(self) -> Iterator[Hook]:
        for block in self.architecture.blocks:
            yield block.z, lambda z, block=block: self._on_heads(block, z)
            if block.mlp_out is not None:
                yield block.mlp_out, lambda mlp, layer=block.layer: self._on_mlp(layer, mlp)

    def replaced_at(self, reader: Reader) -> Float[Tensor, "batch pos d_model"]:
        """The stream of replacements where a reader reads."""
        place = "mlp" if reader.part == "mlp" and not self.graph.parallel else "attention"
        return self.replaced[reader.layer, place]

    def _on_resid_pre(self, block: Block, x: Tensor) -> None:
        super()._on_resid_pre(block, x)
        if block.layer == 0:
            self.difference[:, 0] = self.replacement.embedding - x[: len(self.difference)]

    def _on_heads(self, block: Block, z: Tensor) -> Tensor | None:
        current = stored_heads(block, z[: len(self.difference)])
        difference = expanded_heads(block, self.replacement.heads[block.layer] - current)
        self.difference[:, self.graph.head_writers(block.layer)] = difference.transpose(1, 2).to(self.difference.device)

    def _on_mlp(self, layer: int, mlp: Tensor) -> None:
        replacement = self.replacement.mlps[layer]
        assert replacement is not None
        self.difference[:, self.graph.mlp_writer(layer)] = replacement - mlp[: len(self.difference)]


def live_readers(architecture: Architecture, keep: Bool[Tensor, "writer reader"]) -> list[bool]:
    """Per reader, whether its input can change the logits if these edges are kept."""
    graph = architecture.graph
    coupled = any(not block.linear_heads for block in architecture.blocks)
    live = live_nodes(graph, keep, coupled)
    return [any(output in live for output in graph.outputs_of(reader)) for reader in graph.reader_nodes]


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
