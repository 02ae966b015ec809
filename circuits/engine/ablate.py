"""The logits of a model in which any set of edges is ablated.

A reader sees the residual stream plus, for every ablated edge into it, (replacement - current) of that edge's writer,
where `current` is the writer's output in this very run. One forward pass computes all: each reader's edited input goes
through the norm and its projection, and takes the place of what the model computed from the unedited stream.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import TransformerBridge

from circuits.engine.architecture import Architecture, Block
from circuits.engine.capture import Writes, expanded_heads, stored_heads
from circuits.engine.hooks import Hook, run
from circuits.engine.prefix import Suffix
from circuits.graph import Graph


def live_nodes(graph: Graph, keep: Bool[Tensor, "writer reader"], coupled: bool = False) -> set[str]:
    """Names of the nodes whose output reaches `logits` along kept edges (`logits` among them).

    What any other node computes makes no difference: every reader that counts sees its replacement.

    Args:
        graph, keep: the circuit.
        coupled: the heads of a layer go through one post-norm, so that each one's write depends on all: if one is live,
            all are.
    """
    live = {"logits"}
    writers, readers = graph.writer_nodes, graph.reader_nodes
    reads = keep.t().tolist()
    for r in range(len(readers) - 1, -1, -1):
        reader = readers[r]
        fed = graph.nodes_fed_by(reader) or ("logits",)
        if coupled and reader.kind != "in":
            fed = graph.writer_names[graph.head_writers(reader.layer)]
        if any(node in live for node in fed):
            live.update(fed if coupled else ())
            live.update(writers[w].name for w, kept in enumerate(reads[r][: reader.n_writers]) if kept)
    return live


class _Ablation:
    """The hooks of one ablated forward pass, and the differences (replacement - current) they build up."""

    def __init__(
        self,
        architecture: Architecture,
        replacement: Writes,
        keep: Bool[Tensor, "writer reader"] | Bool[Tensor, "batch writer reader"],
        edit_all: bool,
    ) -> None:
        self.architecture, self.graph, self.replacement = architecture, architecture.graph, replacement
        embedding = replacement.embedding
        batch, pos, d_model = embedding.shape
        self.difference = embedding.new_empty(batch, self.graph.n_writers, pos, d_model)
        edge_mask = self.graph.edge_mask.to(embedding.device)
        keep = keep.to(embedding.device)
        self.missing = (edge_mask & ~keep).transpose(-1, -2)
        anywhere = self.missing if self.missing.ndim == 2 else self.missing.any(0)
        coupled = any(not block.linear_heads for block in architecture.blocks)
        live = live_nodes(self.graph, keep if keep.ndim == 2 else keep.any(0), coupled)
        self.edited = [
            edit_all or (bool(lacks) and any(node in live for node in self.graph.nodes_fed_by(reader) or ("logits",)))
            for reader, lacks in zip(self.graph.reader_nodes, anywhere.any(1).tolist(), strict=True)
        ]
        self.resid: dict[int, Tensor] = {}

    def hooks(self) -> list[Hook]:
        hooks: list[Hook] = []
        for block in self.architecture.blocks:
            layer = block.layer
            hooks.append((block.resid_pre, lambda x, block=block: self._on_resid_pre(block, x)))
            for part in ("q", "k", "v"):
                slots = self._slots(self.graph.readers_of(layer, part))
                if slots:
                    edit = lambda value, block=block, part=part, slots=slots: self._project(block, part, slots, value)  # noqa: E731
                    hooks.append((getattr(block, part), edit))
            hooks.append((block.z, lambda z, block=block: self._on_heads(block, z)))
            if block.mlp_in is None or block.mlp_out is None:
                continue
            if self._slots(self.graph.readers_of(layer, "mlp")):
                if block.resid_mid is not None:
                    hooks.append((block.resid_mid, lambda x, layer=layer: self.resid.__setitem__(layer, x)))
                hooks.append((block.mlp_in, lambda x, block=block: self._edit_mlp(block, x)))
            hooks.append((block.mlp_out, lambda mlp, layer=layer: self._on_mlp(layer, mlp)))
        if self.edited[-1]:
            readers = self.graph.readers_of(0, "logits")
            hooks.append((self.architecture.final, lambda x: x + self._edits([readers.start])[:, 0]))
        return hooks

    def _slots(self, readers: slice) -> list[int]:
        return [r for r in range(readers.start, readers.stop) if self.edited[r]]

    def _edits(self, readers: Sequence[int]) -> Float[Tensor, "batch slot pos d_model"]:
        """What ablated edges add to the inputs of readers that see the same writers."""
        n_writers = self.graph.reader_nodes[readers[0]].n_writers
        missing = self.missing[..., readers, :n_writers]
        used = missing.flatten(0, -2).any(0)
        difference = self.difference[:, :n_writers]
        if 2 * int(used.sum()) < n_writers:
            columns = used.nonzero()[:, 0]
            missing, difference = missing[..., columns], difference[:, columns]
        batch, _, pos, d_model = difference.shape
        edits = torch.matmul(missing.to(difference.dtype), difference.flatten(2))
        return edits.reshape(batch, len(readers), pos, d_model)

    def _on_resid_pre(self, block: Block, x: Tensor) -> None:
        self.resid = {-1: x}
        if block.layer == 0:
            self.difference[:, 0] = self.replacement.embedding - x

    def _project(self, block: Block, part: str, readers: list[int], value: Tensor) -> Tensor:
        first = self.graph.readers_of(block.layer, part).start  # type: ignore[arg-type]
        heads = [r - first for r in readers]
        x = block.attn_norm(self.resid[-1][:, None] + self._edits(readers))
        projected = torch.einsum("bspd,sde->bpse", x, block.projection(part)[heads])
        bias = block.projection_bias(part)
        if bias is not None:
            projected = projected + bias.reshape(-1, projected.shape[-1])[heads]
        if len(heads) == value.shape[2]:
            return projected
        value = value.clone()
        value[:, :, heads] = projected
        return value

    def _on_heads(self, block: Block, z: Tensor) -> None:
        replacement = self.replacement.heads[block.layer]
        difference = expanded_heads(block, replacement - stored_heads(block, z))
        self.difference[:, self.graph.head_writers(block.layer)] = difference.transpose(1, 2)

    def _edit_mlp(self, block: Block, mlp_in: Tensor) -> Tensor:
        where = -1 if block.parallel else block.layer
        resid = self.resid.get(where, mlp_in)
        reader = self.graph.readers_of(block.layer, "mlp").start
        return block.mlp_norm(resid + self._edits([reader])[:, 0])

    def _on_mlp(self, layer: int, mlp: Tensor) -> None:
        replacement = self.replacement.mlps[layer]
        assert replacement is not None
        self.difference[:, self.graph.mlp_writer(layer)] = replacement - mlp


def ablated_logits(
    bridge: TransformerBridge,
    architecture: Architecture,
    suffix: Suffix,
    replacement: Writes,
    keep: Bool[Tensor, "writer reader"] | Bool[Tensor, "batch writer reader"],
    edit_all: bool = False,
) -> Float[Tensor, "batch d_vocab"]:
    """Logits on the clean prompts with every edge outside `keep` ablated.

    Args:
        bridge, architecture: the model.
        suffix: the prompts.
        replacement: what takes an ablated writer's place.
        keep: True at the edges that stay; with a leading batch axis, another circuit for each prompt.
        edit_all: recompute every reader, also where nothing would change (the check at loading).
    """
    ablation = _Ablation(architecture, replacement, keep, edit_all)
    with torch.no_grad():
        return run(bridge, architecture.unembed, suffix.clean, suffix.position, ablation.hooks(), suffix.cache())
