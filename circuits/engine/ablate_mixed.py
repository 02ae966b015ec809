"""The logits with parts of writers' outputs ablated, by the rule of EAP-IG and MIB (Mueller et al. 2025, 2504.13151).

It differs from `engine.ablate` in two cases, and equals it otherwise:

- **A norm after attention** (Gemma-2). Here a reader sees post_norm(Σ kept heads + Σ replaced heads): the norm is computed anew
  from the mixture. In `engine.ablate` each head has a write of its own, its share of the normed sum in the run that it is from.
- **Neurons.** A neuron is a coordinate of a writer's output in the residual stream (before the post-norm of a head). The
  coordinates that are not kept are replaced, for all readers. In a model with LayerNorm the outputs are centred first, as
  TransformerLens 2 does when it loads a model (`center_writing_weights`); the function is the same, the coordinates are not.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.architecture import Architecture, Block
from circuits.engine.capture import Writes
from circuits.engine.hooks import Hook, TokenBatch, run
from circuits.engine.prefix import Suffix
from circuits.engine.readers import EditedReaders

Neurons = Bool[Tensor, "writer d_model"]


class _Recorder:
    """Hooks that record the writers of one run, all heads as z."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.embedding: list[Tensor] = []
        self.heads: dict[int, Tensor] = {}
        self.mlps: dict[int, Tensor] = {}

    def hooks(self) -> list[Hook]:
        hooks: list[Hook] = [(self.architecture.blocks[0].resid_pre, lambda x: self.embedding.append(x))]
        for block in self.architecture.blocks:
            hooks.append((block.z, lambda z, layer=block.layer: self.heads.__setitem__(layer, z)))
            if block.mlp_out is not None:
                hooks.append((block.mlp_out, lambda mlp, layer=block.layer: self.mlps.__setitem__(layer, mlp)))
        return hooks

    def writes(self) -> Writes:
        layers = range(len(self.architecture.blocks))
        return Writes(self.embedding[0], tuple(self.heads[i] for i in layers), tuple(self.mlps.get(i) for i in layers))


def capture_plain(architecture: Architecture, batch: TokenBatch) -> Writes:
    """Every writer's output in one run; heads as z also under a post-norm."""
    recorder = _Recorder(architecture)
    with torch.no_grad():
        run(architecture, batch, recorder.hooks())
    return recorder.writes()


def coordinates(architecture: Architecture, writes: Writes) -> Float[Tensor, "batch writer pos d_model"]:
    """What `capture_plain` gave, or a difference of two, as coordinates of the residual stream: the neurons.

    Heads are before any post-norm. In a model with LayerNorm each output is centred (see the module docstring).
    """
    graph, (batch, pos, d_model) = architecture.graph, writes.embedding.shape
    made = writes.embedding.new_empty(batch, graph.n_writers, pos, d_model)
    made[:, 0] = writes.embedding
    for block, z, mlp in zip(architecture.blocks, writes.heads, writes.mlps, strict=True):
        made[:, graph.head_writers(block.layer)] = _projected(block, z).to(made.device)
        if mlp is not None:
            made[:, graph.mlp_writer(block.layer)] = mlp.to(made.device)
    return _centred(made) if architecture.blocks[0].attn_norm.kind == "layer" else made


def _centred(values: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
    return values - values.mean(-1, keepdim=True)


def _projected(block: Block, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch head pos d_model"]:
    """The heads' outputs, with the factor of a block without a post-norm."""
    made = torch.einsum("bphe,hed->bhpd", z, block.output_projection.to(z.dtype))
    return made if block.post_norm is not None else made * block.scale


def mixed_logits(
    architecture: Architecture,
    suffix: Suffix,
    replacement: Writes,
    keep: Bool[Tensor, "writer reader"],
    neurons: Neurons | None = None,
) -> Float[Tensor, "read d_vocab"]:
    """Logits on the clean prompts with everything outside `keep` ablated.

    Args:
        architecture: the model.
        suffix: the prompts.
        replacement: what replaces an ablated output, from `capture_plain`.
        keep: True at the kept edges. With `neurons`, only writers count: those without a kept edge are ablated whole.
        neurons: True at the kept coordinates of each writer; None: all of them.
    """
    mixed = _Mixed(architecture, replacement, keep, neurons)
    with torch.no_grad():
        return run(architecture, suffix.clean_tokens, mixed.hooks())


class _Mixed(EditedReaders):
    """The hooks of one ablated forward pass, with the differences (replacement - current) that they collect.

    Heads' differences are z · W_O, before any post-norm. A reader sees

        x + Σ_ablated difference + Σ_layers [post_norm(total + Σ_ablated difference) - post_norm(total)]

    where the first sum is over the writers without a post-norm, and `total` is what the post-norm of a layer gets in this run.
    """

    def __init__(
        self,
        architecture: Architecture,
        replacement: Writes,
        keep: Bool[Tensor, "writer reader"],
        neurons: Neurons | None,
    ) -> None:
        graph, device = architecture.graph, replacement.embedding.device
        keep = keep.to(device)
        missing = graph.edge_mask.to(device) & ~keep
        self.lost: Tensor | None = None
        if neurons is not None:
            kept = keep.any(1, keepdim=True)
            self.lost = (~(neurons.to(device) & kept)).to(replacement.embedding.dtype)
            missing = graph.edge_mask.to(device)
        super().__init__(architecture, missing.any(0).tolist())
        self.missing = missing.T.to(replacement.embedding.dtype)
        self.replacement = replacement
        batch, pos, d_model = replacement.embedding.shape
        self.difference = replacement.embedding.new_zeros(batch, graph.n_writers, pos, d_model)
        self.totals: dict[int, Tensor] = {}
        self.normed = [block for block in architecture.blocks if block.post_norm is not None]
        plain = torch.ones(graph.n_writers, dtype=torch.bool)
        for block in self.normed:
            plain[graph.head_writers(block.layer)] = False
        self.plain = plain.to(device)

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
        n = self.graph.reader_nodes[readers[0]].n_writers
        missing = self.missing[list(readers), :n]
        seen = x.to(self.difference.device)[:, None] + _summed(missing * self.plain[:n], self.difference[:, :n])
        for block in self.normed:
            heads = self.graph.head_writers(block.layer)
            if heads.stop > n:
                break
            assert block.post_norm is not None
            total = self.totals[block.layer][:, None]
            mixture = total + _summed(missing[:, heads], self.difference[:, heads])
            seen = seen + (block.post_norm(mixture) - block.post_norm(total)) * block.scale
        return seen.to(x.device)

    def _on_resid_pre(self, block: Block, x: Tensor) -> None:
        super()._on_resid_pre(block, x)
        if block.layer == 0:
            self._store(slice(0, 1), (self.replacement.embedding - x)[:, None], block)

    def _on_heads(self, block: Block, z: Tensor) -> None:
        changed = _projected(block, self.replacement.heads[block.layer] - z)
        self._store(self.graph.head_writers(block.layer), changed, block)
        if block.post_norm is not None:
            total = _projected(block, z).sum(1)
            self.totals[block.layer] = (total if block.output_bias is None else total + block.output_bias).to(
                self.difference.device
            )

    def _on_mlp(self, layer: int, mlp: Tensor) -> None:
        replacement = self.replacement.mlps[layer]
        assert replacement is not None
        writer = self.graph.mlp_writer(layer)
        self._store(slice(writer, writer + 1), (replacement - mlp)[:, None], self.architecture.blocks[layer])

    def _store(self, writers: slice, difference: Float[Tensor, "batch writer pos d_model"], block: Block) -> None:
        """Keeps a difference, without the coordinates that are not ablated."""
        if self.lost is not None:
            if block.attn_norm.kind == "layer":
                difference = _centred(difference)
            difference = difference * self.lost[writers, None].to(difference.device)
        self.difference[:, writers] = difference.to(self.difference.device)


def _summed(
    weights: Float[Tensor, "slot writer"], difference: Float[Tensor, "batch writer pos d_model"]
) -> Float[Tensor, "batch slot pos d_model"]:
    return torch.einsum("sw,bwpd->bspd", weights, difference)
