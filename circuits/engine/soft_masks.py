"""The logits under soft masks on edges, and their gradient with respect to every mask.

With a mask m between 0 (ablated) and 1 (kept) on each edge into it, a reader sees

    Σ_writers [m · current + (1 - m) · replacement] + constants  =  (all replaced) + Σ_writers m · (current - replacement)

where `current` is the writer's output in the same run. Masks of 0 and 1 give the result of `engine.ablate`. Over places, the tokens of
every span have masks of their own, and 0 and 1 give that of `engine.ablate_places`. With destinations, every span of queries has keys
and values of its own: the prompts are copied for each (`engine.by_query`).

Memory: for each of thousands of readers, autograd would keep its input and a copy of all writers that it reads. Here
the writers' differences and their gradients are stored once, [writer, batch, pos, d_model] each; the backward pass
recomputes readers' inputs one layer at a time.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.architecture import Architecture, Block
from circuits.engine.by_query import QueryCopies, n_queries, slot_columns, slot_ranges
from circuits.engine.capture import Writes, expanded_heads, stored_heads
from circuits.engine.differences import replaced_stream
from circuits.engine.hooks import Hook, run
from circuits.engine.prefix import Suffix
from circuits.graph.places import PlacedGraph

Streams = dict[tuple[int, str], Tensor]
"""The result of `replaced_stream`."""
ATTENTION = ("q", "k", "v")


def masked_logits(
    architecture: Architecture,
    suffix: Suffix,
    replacement: Writes,
    mask: Float[Tensor, "writer reader"],
    streams: Streams | None = None,
    closed_stay: bool = False,
    placed: tuple[PlacedGraph, Int[Tensor, "batch pos"]] | None = None,
    tokens: Int[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "read d_out"]:
    """Logits on the clean prompts under soft masks; connected to `mask` if it requires gradients.

    Call it within `inference_state`: weights are constants here.

    Args:
        architecture: the model.
        suffix: the prompts.
        replacement: the replacement values of ablated writers.
        mask: the share of the current value that an edge carries; entries outside the graph are ignored.
        streams: `replaced_stream(architecture, replacement)`, if it is known already.
        closed_stay: masks of exactly 0 may get the gradient 0, which is cheaper if most masks are 0.
        placed: a graph over places, whose readers are then those of the mask, and the span of every token.
        tokens: see `run`.
    """
    streams = replaced_stream(architecture, replacement) if streams is None else streams
    masked = _Masked(architecture, replacement, mask, streams, closed_stay, placed)
    with torch.set_grad_enabled(mask.requires_grad):
        return run(architecture, suffix.clean_tokens.copied(masked.queries.n), masked.hooks(), tokens)


class _Differences:
    """(current - replacement) of all writers, and the gradients at them.

    Attributes:
        values: filled as the forward pass proceeds.
        gradients: sums over the readers that the backward pass has reached.
    """

    def __init__(self, n_writers: int, like: Float[Tensor, "batch pos d_model"]) -> None:
        self.values = like.new_empty(n_writers, *like.shape)
        self._gradients: Tensor | None = None

    @property
    def gradients(self) -> Float[Tensor, "writer batch pos d_model"]:
        if self._gradients is None:
            self._gradients = torch.zeros_like(self.values)
        return self._gradients

    def add_gradients(
        self,
        writers: slice | Tensor,
        mask: Float[Tensor, "slot writer *span"],
        at_inputs: Float[Tensor, "slot entry"],
        tokens: Sequence[Tensor] | None,
    ) -> None:
        gradients = self.gradients.flatten(1)
        if tokens is not None:
            by_token = at_inputs.unflatten(1, (-1, self.values.shape[-1]))
            added = by_token.new_zeros(mask.shape[1], *by_token.shape[1:])
            for span, at in enumerate(tokens):
                added[:, at] = torch.einsum("sw,snd->wnd", mask[..., span], by_token[:, at])
            gradients[writers] += added.flatten(1)
            return
        if isinstance(writers, slice):
            gradients[writers].addmm_(mask.T, at_inputs)
        else:
            gradients.index_add_(0, writers, mask.T @ at_inputs)


class _Write(torch.autograd.Function):
    """Stores writers' differences; the backward pass picks up the gradients collected there.

    `order` carries no value. Each `_Write` returns it and each `_Read` takes it, so that autograd handles a writer only
    after all readers that follow it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        order: Tensor,
        written: Float[Tensor, "writer batch pos d_model"],
        differences: _Differences,
        writers: slice,
    ) -> Tensor:
        ctx.differences, ctx.writers = differences, writers
        differences.values[writers] = written
        return order.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        here = ctx.differences.gradients[ctx.writers]
        taken = here.clone()
        here.zero_()
        return gradients[0], taken, None, None


class _Read(torch.autograd.Function):
    """The results of readers at one place from their inputs, which the backward pass recomputes."""

    @staticmethod
    def forward(
        ctx: Any,
        order: Tensor,
        mask: Float[Tensor, "slot writer *span"],
        differences: _Differences,
        writers: slice | Tensor,
        start: Float[Tensor, "batch pos d_model"],
        then: Callable[[Float[Tensor, "slot batch pos d_model"]], tuple[Tensor, ...]],
        tokens: Sequence[Tensor] | None,
    ) -> tuple[Tensor, ...]:
        """`writers`: the columns of the mask, as a slice or as indices; `tokens`: of each span, if the mask has an axis of spans."""
        ctx.save_for_backward(mask)
        ctx.differences, ctx.writers, ctx.start, ctx.then, ctx.tokens = differences, writers, start, then, tokens
        return then(_inputs(mask, differences.values[writers], start, tokens))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (mask,), used = ctx.saved_tensors, ctx.differences.values[ctx.writers]
        x = _inputs(mask, used, ctx.start, ctx.tokens).requires_grad_()
        with torch.enable_grad():
            (at_x,) = torch.autograd.grad(ctx.then(x), x, gradients)
        at_x = at_x.flatten(1)
        ctx.differences.add_gradients(ctx.writers, mask, at_x, ctx.tokens)
        if ctx.tokens is None:
            return at_x.new_zeros(()), at_x @ used.flatten(1).T, None, None, None, None, None
        by_token, flat = at_x.unflatten(1, (-1, used.shape[-1])), used.flatten(1, 2)
        at_mask = [by_token[:, at].flatten(1) @ flat[:, at].flatten(1).T for at in ctx.tokens]
        return at_x.new_zeros(()), torch.stack(at_mask, -1), None, None, None, None, None


def _inputs(
    mask: Float[Tensor, "slot writer *span"],
    used: Float[Tensor, "writer batch pos d_model"],
    start: Float[Tensor, "batch pos d_model"],
    tokens: Sequence[Tensor] | None,
) -> Float[Tensor, "slot batch pos d_model"]:
    if tokens is not None:
        flat = used.flatten(1, 2)
        x = start.flatten(0, 1).repeat(len(mask), 1, 1)
        for span, at in enumerate(tokens):
            x[:, at] += torch.einsum("sw,wnd->snd", mask[..., span], flat[:, at])
        return x.reshape(len(mask), *start.shape)
    return torch.addmm(start.reshape(1, -1), mask, used.flatten(1)).reshape(len(mask), *start.shape)


class _Masked:
    """The hooks of one forward pass under soft masks."""

    def __init__(
        self,
        architecture: Architecture,
        replacement: Writes,
        mask: Tensor,
        streams: Streams,
        closed_stay: bool,
        placed: tuple[PlacedGraph, Tensor] | None,
    ) -> None:
        self.architecture, self.graph = architecture, architecture.graph
        self.replacement, self.streams, self.closed_stay = replacement, streams, closed_stay
        self.masks, self.tokens = mask.to(replacement.embedding).T, None
        self.queries = QueryCopies(1, torch.zeros(replacement.embedding.shape[:2], dtype=torch.long))
        if placed is not None:
            graph, spans = placed
            columns = slot_columns(graph).T.to(self.masks.device)  # the last mask is that of absent edges
            some = torch.cat([self.masks, self.masks.new_zeros(1, self.graph.n_writers)])
            self.masks = some[columns].transpose(1, 2)  # [slot, writer, span]
            self.tokens = [(spans.flatten() == span).nonzero()[:, 0] for span in range(len(graph.places.spans))]
            self.queries = QueryCopies(n_queries(graph), spans)
        # Read once in a pass: what it decides would otherwise be waited for at every layer.
        self.open = (self.masks.detach() != 0).cpu() if closed_stay else None
        self.slots = slot_ranges(self.graph, self.queries.n)
        self.differences = _Differences(self.graph.n_writers, replacement.embedding)
        self.order = replacement.embedding.new_zeros(())
        self.projected: dict[str, Tensor] = {}

    def hooks(self) -> list[Hook]:
        hooks: list[Hook] = []
        for block in self.architecture.blocks:
            hooks.append((block.resid_pre, partial(self._on_resid_pre, block)))
            hooks += [(getattr(block, part), partial(self._projected, part)) for part in ATTENTION]
            hooks.append((block.z, partial(self._on_heads, block)))
            if block.mlp_in is not None and block.mlp_out is not None:
                hooks += [
                    (block.mlp_in, partial(self._mlp_in, block)),
                    (block.mlp_out, partial(self._on_mlp, block.layer)),
                ]
        return [*hooks, (self.architecture.final, self._logits_in)]

    def _on_resid_pre(self, block: Block, x: Tensor) -> None:
        if block.layer == 0:
            self._write(slice(0, 1), (x[: len(self.replacement.embedding)] - self.replacement.embedding)[None])
        read = self._read(block.layer, "attention", partial(_projections, block, self.queries))
        self.projected = dict(zip(ATTENTION, read, strict=True))

    def _projected(self, part: str, value: Tensor) -> Tensor:
        return self.projected[part].reshape(value.shape)

    def _on_heads(self, block: Block, z: Tensor) -> None:
        stored = stored_heads(block, self.queries.merged(z))
        change = expanded_heads(block, stored - self.replacement.heads[block.layer])
        self._write(self.graph.head_writers(block.layer), change.permute(2, 0, 1, 3))

    def _mlp_in(self, block: Block, mlp_in: Tensor) -> Tensor:
        return self.queries.tiled(self._read(block.layer, "mlp", partial(_normed, block))[0])

    def _on_mlp(self, layer: int, mlp: Tensor) -> None:
        replacement, writer = self.replacement.mlps[layer], self.graph.mlp_writer(layer)
        assert replacement is not None
        self._write(slice(writer, writer + 1), (mlp[: len(replacement)] - replacement)[None])

    def _logits_in(self, x: Tensor) -> Tensor:
        (end,) = self._read(self.graph.n_layers, "attention", lambda x: (x[0],))
        return self.queries.tiled(end).to(x.device)

    def _write(self, writers: slice, difference: Float[Tensor, "writer batch pos d_model"]) -> None:
        if self.open is not None and not bool(self.open[:, writers].any()):
            difference = difference.detach()  # no gradient will arrive here
        difference = difference.to(self.replacement.embedding.device)
        self.order = _Write.apply(self.order, difference, self.differences, writers)  # type: ignore[assignment]

    def _read(self, layer: int, part: str, then: Callable[[Tensor], tuple[Tensor, ...]]) -> Sequence[Any]:
        last = layer == self.graph.n_layers
        readers = self.graph.readers_of(layer, "logits" if last else "mlp" if part == "mlp" else "q")
        n_writers = self.graph.reader_nodes[readers.start].n_writers
        mask, writers = self.masks[self.slots[layer, part], :n_writers], slice(0, n_writers)
        start = self.streams[layer, "attention" if self.graph.parallel else part]
        if self.open is not None:
            used = self.open[self.slots[layer, part], :n_writers].transpose(0, 1).flatten(1).any(1)
            if 4 * int(used.sum()) < n_writers:
                writers = used.nonzero()[:, 0]
                mask = mask[:, writers]
        return _Read.apply(self.order, mask, self.differences, writers, start, then, self.tokens)  # type: ignore[return-value]


def _projections(block: Block, queries: QueryCopies, x: Float[Tensor, "slot batch pos d_model"]) -> tuple[Tensor, ...]:
    """q, k and v [copied, pos, head, d_head] of a layer from the inputs of its slots, in their order."""
    weights, projected = [block.projection(part) for part in ATTENTION], []
    copies = [1, queries.n, queries.n]
    sizes = [n * len(weight) for n, weight in zip(copies, weights, strict=True)]
    normed = block.attn_norm(x.to(weights[0].device)).split(sizes)
    for part, weight, n, own in zip(ATTENTION, weights, copies, normed, strict=True):
        value = torch.einsum("csbpd,sde->cbpse", own.unflatten(0, (n, -1)), weight).flatten(0, 1)
        bias = block.projection_bias(part)
        value = value if bias is None else value + bias.reshape(len(weight), -1)
        projected.append(queries.tiled(value) if part == "q" else value)
    return tuple(projected)


def _normed(block: Block, x: Float[Tensor, "slot batch pos d_model"]) -> tuple[Tensor, ...]:
    return (block.mlp_norm(x[0].to(block.projection("q").device)),)
