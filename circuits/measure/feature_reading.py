"""The gradients of a run at what targets read, at the residual stream: through encoders, attention, MLPs and norms.

If a target is a feature f_j, the gradient passes through f_j alone:

    ∂metric/∂(what f_j reads) = (∂metric/∂(what is decomposed) · W_dec[j]) f_j' W_enc[:, j]

A dictionary of attention or of an MLP's write reads its own value, so the gradient goes on through attention (to all queries, keys and
values of the layer) or the MLP, and through the norm. Errors get the rest of the gradient of the whole.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.dictionaries.dictionary import Dictionary
from circuits.engine.architecture import Architecture, Block
from circuits.engine.insertion import Insertion
from circuits.engine.live_run import LiveRun
from circuits.engine.norms import Norm
from circuits.graph.nodes import Site
from circuits.measure.feature_links import ATTENTION, STREAM, Links, Target, place_of
from circuits.model import Model


class Reading:
    """The gradients of one run at what the targets read, at the residual stream."""

    def __init__(
        self, model: Model, architecture: Architecture, links: Links, live: LiveRun, dtype: torch.dtype
    ) -> None:
        self.model, self.architecture, self.live, self.dtype = model, architecture, live, dtype
        keys = links.keys(model)
        self.gradients, along = live.gradients(keys, again=True)
        self.along = [gradient.detach() for gradient in along]
        self.chosen: dict[str, list[int]] = {}
        for target in links.targets:
            if target.site is not None and target.site.index is not None:
                self.chosen.setdefault(target.site.point.rpartition(":")[2], []).append(target.site.index)
        self._slopes: dict[str, Tensor] = {}

    def gradient(self, target: Target) -> Float[Tensor, "batch pos d_model"]:
        """The gradient of the metric through this target, at its input from the stream."""
        if target.site is not None:
            return self._of_part(self.architecture.blocks[target.site.layer], target.site)
        reader = self.model.graph.reader_nodes[target.readers[0]]
        if reader.part == "logits":
            return self.along[-1].to(self.dtype)
        block = self.architecture.blocks[reader.layer]
        if reader.part == "mlp":
            return self._of_mlp(block)
        assert reader.head is not None
        g = self.gradients[block.layer, reader.part][:, :, reader.head].to(self.dtype)
        weight = block.projection(reader.part)[reader.head].to(self.dtype)
        return _back(block.attn_norm, self.live.stream[block.layer].detach().to(self.dtype), g @ weight.T)

    def _of_mlp(self, block: Block) -> Tensor:
        return _back(block.mlp_norm, self._stream(block), self.gradients[block.layer, "mlp_in"].to(self.dtype))

    def _of_attention(self, block: Block, gradients: dict[str, Tensor]) -> Tensor:
        """Gradients at a layer's queries, keys and values, at the stream."""
        total = torch.zeros_like(self.live.stream[block.layer], dtype=self.dtype)
        for part, g in gradients.items():
            total += torch.einsum("bphe,hde->bpd", g.to(self.dtype), block.projection(part).to(self.dtype))
        return _back(block.attn_norm, self.live.stream[block.layer].detach().to(self.dtype), total)

    def _of_whole(self, block: Block, site: Site) -> Tensor:
        """The gradient through all parts of a dictionary together."""
        place = place_of(site)
        if place == "m":
            return self._of_mlp(block)
        if place in ATTENTION:
            return self._of_attention(block, {part: self.gradients[block.layer, part] for part in ("q", "k", "v")})
        return self._at_value(block, place).to(self.dtype)

    def _at_value(self, block: Block, place: str) -> Float[Tensor, "batch pos d_out"]:
        """The gradient at what is decomposed."""
        if place in ("resid_pre", "resid_post"):
            return self.along[block.layer + (place == "resid_post")]
        point = {"m": "mlp_out", "resid_mid": "attn_out", **ATTENTION}[place]
        return self.gradients[block.layer, point].flatten(2)

    def _of_part(self, block: Block, site: Site) -> Tensor:
        kind, _, name = site.point.rpartition(":")
        insertion = self.architecture.inserted[name]
        coder = insertion.coder
        assert isinstance(coder, Dictionary)
        written = self._at_value(block, place_of(site)).to(coder.W_dec.dtype)
        if kind == "s":
            assert coder.skip is not None
            return self._from_read(block, insertion, written @ coder.skip)
        if kind == "f":
            at_feature = (written @ coder.W_dec[site.index]) * self._slope_of(block, name, site)
            return self._from_read(block, insertion, at_feature[..., None] * coder.W_enc[:, site.index])
        slope = self._slopes_at(block, coder)
        explained = self._from_read(block, insertion, ((written @ coder.W_dec.T) * slope) @ coder.W_enc.T)
        if coder.skip is not None:
            explained = explained + self._from_read(block, insertion, written @ coder.skip)
        return self._of_whole(block, site) - explained

    def _slopes_at(self, block: Block, coder: Dictionary) -> Float[Tensor, "batch pos feature"]:
        """The derivative of every feature by its own pre-activation."""
        linear = coder.encoder_input(self._read(block, coder)) @ coder.W_enc
        return coder.activation.slope(linear, coder.b_enc)

    def _slope_of(self, block: Block, place: str, site: Site) -> Float[Tensor, "batch pos"]:
        """That of one feature; of a dictionary only the columns of targets are kept."""
        if place not in self._slopes:
            coder = self.architecture.inserted[place].coder
            assert isinstance(coder, Dictionary)
            self._slopes[place] = self._slopes_at(block, coder)[..., self.chosen[place]]
        assert site.index is not None
        return self._slopes[place][..., self.chosen[place].index(site.index)]

    def _read(self, block: Block, coder: Dictionary) -> Tensor:
        """What the encoder reads in this run."""
        reads, layer, values = coder.site.reads, block.layer, self.live.values
        if reads in ("resid_pre", "resid_post"):
            return self.live.stream[layer + (reads == "resid_post")].detach()
        if reads == "resid_mid":
            at_attention = coder.site.writes == "resid_mid"
            return (
                self.live.stream[layer].detach() + values[layer, "attn_out"].detach()
                if at_attention
                else self._stream(block)
            )
        if reads == "mlp_normalized":
            return _plain(block.mlp_norm)(self._stream(block))
        return values[layer, {"hook_z": "z"}.get(reads, reads)].detach().flatten(2)

    def _from_read(self, block: Block, insertion: Insertion, g: Tensor) -> Tensor:
        """A gradient at what the encoder reads, at the stream."""
        coder, values, layer = insertion.coder, self.live.values, block.layer
        assert isinstance(coder, Dictionary)
        reads = coder.site.reads
        if reads in STREAM:
            return g.to(self.dtype)
        if reads in ("attn_out", "hook_z"):
            out, parts = values[layer, {"hook_z": "z"}.get(reads, reads)], ("q", "k", "v")
            into = [values[layer, part] for part in parts]
            back = torch.autograd.grad(
                out, into, g.to(out.dtype).reshape(out.shape), retain_graph=True, allow_unused=True
            )
            return self._of_attention(block, {part: x for part, x in zip(parts, back, strict=True) if x is not None})
        if reads == "mlp_out":
            out, into = (values[layer, point] for point in ("mlp_out", "mlp_in"))
            g = torch.autograd.grad(out, into, g.to(out.dtype), retain_graph=True)[0]
        norm = _plain(block.mlp_norm) if reads == "mlp_normalized" else block.mlp_norm
        return _back(norm, self._stream(block), g.to(self.dtype))

    def _stream(self, block: Block) -> Tensor:
        """The stream before the norm of an MLP."""
        if block.resid_mid is not None:
            return self.live.values[block.layer, "resid_mid"].detach().to(self.dtype)
        if block.parallel:
            return self.live.stream[block.layer].detach().to(self.dtype)
        return self.live.values[block.layer, "mlp_in"].detach().to(self.dtype)


def _plain(norm: Norm) -> Norm:
    """The norm without its weight and bias."""
    return replace(norm, weight=None, bias=None)


def _back(norm: Norm, x: Tensor, g: Tensor) -> Tensor:
    """A gradient at a norm's output, at its input."""
    return norm.vjp(x, g.clone()[None])[0]
