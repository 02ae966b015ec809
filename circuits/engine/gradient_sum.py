"""The gradients of all readers at the residual stream, summed over runs without storing them in full.

A reader after a norm sees y = W norm(x). With r, x̂, w and the centring C of `engine.norms`, a gradient g at y is at x

    J(x)ᵀ Wᵀ g = C(w Wᵀ (r g)) - x̂ mean(x̂ · C(w Wᵀ (r g)))

The first term is linear in r g, which is small (d_head numbers per reader) and can be summed over runs before it is
projected. The second is one direction, shared by all readers after the norm, times one number per reader. The product
with a difference Δ of writers' outputs, summed over runs k, takes one projection and one large matrix product, however
many runs:

    Σ_k Δ · J_kᵀ Wᵀ g_k = Δ · C(w Wᵀ Σ_k r_k g_k) - Σ_k (Δ · x̂_k) c_k,    c_k = mean(x̂_k · C(w Wᵀ (r_k g_k)))
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.architecture import Architecture, Block
from circuits.engine.capture import Gradients
from circuits.engine.norms import Norm

SLOTS_AT_ONCE = 32
"""Readers per matrix product: fewer waste memory bandwidth, more waste work on edges outside the graph."""


@dataclass
class Part:
    """The readers after one norm, and their gradients so far.

    Attributes:
        readers: their indices in graph order.
        n_writers: how many writers they see.
        norm: the norm before them.
        projections: returns their weights W, some slots each; none: the gradient is at the norm's output itself.
        total: Σ_k r_k g_k; d_any is d_head, or d_model without projections.
        directions, coefficients: x̂_k and c_k of the module docstring.
        written_out: full gradients, if the norm has no closed form.
    """

    readers: slice
    n_writers: int
    norm: Norm
    projections: Callable[[], Sequence[Float[Tensor, "head d_model d_head"]]]
    total: Float[Tensor, "batch pos slot d_any"] | None = None
    directions: list[Float[Tensor, "batch pos d_model"]] = field(default_factory=list)
    coefficients: list[Float[Tensor, "batch pos slot"]] = field(default_factory=list)
    written_out: Float[Tensor, "slot batch pos d_model"] | None = None

    def add(self, x: Float[Tensor, "batch pos d_model"], g: Float[Tensor, "batch pos slot d_any"]) -> None:
        """Adds the gradients g of one run, whose norm has the input x."""
        if self.norm.kind == "other":
            out = x.new_empty(g.shape[2], *x.shape)
            self._project(g, out)
            back = self.norm.vjp(x, out)
            self.written_out = back if self.written_out is None else self.written_out + back
            return
        r, direction = self.norm.scale_and_direction(x)
        if r is not None:
            g = g * r[..., None]
        self.total = g if self.total is None else self.total + g
        if direction is not None:
            # x̂ · C(v) = x̂ · v, because x̂ has mean 0 if C removes the mean.
            weighted = direction if self.norm.weight is None else direction * self.norm.weight
            weights = self._weights(g.dtype)
            along = [torch.einsum("bpd,sde->bpse", weighted, w) for w in weights] or [weighted[:, :, None]]
            self.directions.append(direction)
            self.coefficients.append((torch.cat(along, dim=2) * g).sum(-1) / direction.shape[-1])

    def first_term(self, out: Float[Tensor, "slot batch pos d_model"]) -> None:
        """Writes Σ_k of the first term to `out`; without a closed form, the whole sum."""
        if self.written_out is not None:
            out.copy_(self.written_out)
            return
        assert self.total is not None
        here = out if out.device == self.total.device else torch.empty_like(out, device=self.total.device)
        self._project(self.total, here)
        self.norm.take_back_(here)
        if here is not out:
            out.copy_(here)

    def picked(self, at: tuple[Tensor | slice, ...]) -> "Part":
        """The part at some prompts and positions; `at` indexes [batch, pos]."""

        def pick(x: Tensor) -> Tensor:
            if all(isinstance(i, slice) for i in at):
                return x[at]
            return x[tuple(i if isinstance(i, slice) else i.to(x.device) for i in at)][:, None]

        return replace(
            self,
            total=None if self.total is None else pick(self.total),
            directions=[pick(x) for x in self.directions],
            coefficients=[pick(x) for x in self.coefficients],
            written_out=None
            if self.written_out is None
            else pick(self.written_out.permute(1, 2, 0, 3)).permute(2, 0, 1, 3),
        )

    def _project(self, g: Float[Tensor, "batch pos slot d_any"], out: Float[Tensor, "slot batch pos d_model"]) -> None:
        """Wᵀ g."""
        weights = self._weights(g.dtype)
        if not weights:
            out.copy_(g.permute(2, 0, 1, 3))
            return
        sizes = [len(w) for w in weights]
        for some, w, to in zip(g.permute(2, 0, 1, 3).split(sizes), weights, out.split(sizes), strict=True):
            torch.bmm(some.flatten(1, 2), w.transpose(1, 2), out=to.view(len(w), -1, to.shape[-1]))

    def _weights(self, dtype: torch.dtype) -> list[Float[Tensor, "some d_model d_head"]]:
        return [w.to(dtype) for w in self.projections()]


class GradientSum:
    """Σ over runs of weight · gradient, for every reader, to be multiplied with differences of writers' outputs.

    A layer's tensors are on that layer's device; products are computed on the differences' device.

    Attributes:
        architecture, graph: the model.
        dtype: dtype of the sums.
    """

    def __init__(self, architecture: Architecture, dtype: torch.dtype, parts: list[Part] | None = None) -> None:
        self.architecture, self.graph, self.dtype = architecture, architecture.graph, dtype
        self.parts = _parts(architecture) if parts is None else parts

    def add(self, gradients: Gradients, weight: float = 1.0) -> None:
        """Adds one run."""
        for part, (x, g) in zip(self.parts, self._gradients(gradients), strict=True):
            g = g.to(self.dtype)
            part.add(x.to(self.dtype), g if weight == 1.0 else g * weight)

    def tile(self, prompts: slice, positions: slice) -> "GradientSum":
        """The sum at some prompts and positions only."""
        return self._picked((prompts, positions))

    def places(self, prompts: Int[Tensor, " place"], positions: Int[Tensor, " place"]) -> "GradientSum":
        """The sum at some places, each as a prompt of one position."""
        return self._picked((prompts, positions))

    def _picked(self, at: tuple[Tensor | slice, ...]) -> "GradientSum":
        return self._with([part.picked(at) for part in self.parts])

    def _with(self, parts: list[Part]) -> "GradientSum":
        return GradientSum(self.architecture, self.dtype, parts)

    def _gradients(self, gradients: Gradients) -> Iterator[tuple[Tensor, Tensor]]:
        """Each part's norm input, and the gradients after the norm [batch, pos, slot, d_any]."""
        for layer, q in enumerate(gradients.q):
            yield gradients.resid_pre[layer], torch.cat([q, gradients.k[layer], gradients.v[layer]], dim=2)
            yield from behind_attention(gradients, layer)
        yield gradients.final, gradients.final[:, :, None]

    def products(
        self, difference: Float[Tensor, "batch writer pos d_model"], first: int = 0
    ) -> Float[Tensor, "batch writer reader"]:
        """Σ over positions and d_model of difference · gradient; 0 where there is no edge.

        Args:
            difference: differences of neighbouring writers' outputs.
            first: index of the first of these writers.
        """
        last = first + difference.shape[1]
        products = difference.new_zeros(*difference.shape[:2], self.graph.n_readers)
        flat = difference.flatten(2)
        parts = [part for part in self.parts if part.n_writers > first]
        for group in groups(parts):
            n = min(last, group[-1].n_writers) - first
            readers = slice(group[0].readers.start, group[-1].readers.stop)
            g = difference.new_empty(readers.stop - readers.start, *difference[:, 0].shape)
            for part in group:
                part.first_term(g[part.readers.start - readers.start : part.readers.stop - readers.start])
            products[:, :n, readers] = torch.bmm(flat[:, :n], g.flatten(2).permute(1, 2, 0))
        along = along_directions(parts, difference)
        for part in parts:
            for coefficients in part.coefficients:
                n = min(last, part.n_writers) - first
                here = coefficients.to(products.device)
                products[:, :n, part.readers] -= torch.einsum("bpw,bps->bws", next(along)[..., :n], here)
        return products.masked_fill_(~self.graph.edge_mask[first:last].to(products.device), 0.0)


def _parts(architecture: Architecture) -> list[Part]:
    graph, parts = architecture.graph, []
    for block in architecture.blocks:
        heads = slice(graph.readers_of(block.layer, "q").start, graph.readers_of(block.layer, "v").stop)
        seen = graph.reader_nodes[heads.start].n_writers
        parts.append(Part(heads, seen, block.attn_norm, partial(_projections, block)))
        if block.mlp_in is not None:
            mlp = graph.readers_of(block.layer, "mlp")
            parts.append(Part(mlp, graph.reader_nodes[mlp.start].n_writers, block.mlp_norm, tuple))
    parts.append(Part(graph.readers_of(0, "logits"), graph.n_writers, NO_NORM, tuple))
    return parts


NO_NORM = Norm(torch.nn.Identity(), "identity")


def _projections(block: Block) -> list[Float[Tensor, "head d_model d_head"]]:
    return [block.projection(part) for part in "qkv"]


def behind_attention(gradients: Gradients, layer: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The MLP's norm input and its gradient, if the layer has an MLP."""
    mlp_in, resid_mid = gradients.mlp_in[layer], gradients.resid_mid[layer]
    if mlp_in is not None and resid_mid is not None:
        yield resid_mid, mlp_in[:, :, None]


def groups(parts: list[Part]) -> Iterator[list[Part]]:
    group: list[Part] = []
    for part in parts:
        group.append(part)
        if group[-1].readers.stop - group[0].readers.start >= SLOTS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def along_directions(
    parts: list[Part], difference: Float[Tensor, "batch writer pos d_model"]
) -> Iterator[Float[Tensor, "batch pos writer"]]:
    """Δ · x̂ for every direction of every part."""
    directions = [direction.to(difference.device) for part in parts for direction in part.directions]
    if not directions:
        return iter(())
    together = torch.stack(directions, dim=-1)
    # Prompt by prompt, because one product over prompts and positions would copy the differences.
    along = torch.stack([torch.bmm(each.transpose(0, 1), x) for each, x in zip(difference, together, strict=True)])
    return iter(along.unbind(-1))
