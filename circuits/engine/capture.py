"""Every writer's output and every reader's gradient, from one forward and one backward pass.

Writers are recorded in their smallest form: a head as its z [d_head], not as its write [d_model]. Gradients are
recorded at q, k and v; `engine.gradient_sum` takes them back through `W_Q`, `W_K`, `W_V` and the norm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.architecture import Architecture, Block
from circuits.engine.hooks import NO_LOGITS, Hook, TokenBatch, run

Metric = Callable[[Float[Tensor, "read d_out"]], Float[Tensor, " pair"]]


@dataclass(frozen=True, eq=False)
class Writes:
    """The outputs of all writers in one run.

    Attributes:
        embedding: the input of the first block.
        heads: per layer the heads' z, or their writes [batch, pos, head, d_model] if a post-norm makes the write depend
            on more than z (`Block.linear_heads`).
        mlps: per layer the MLP's write, or None without an MLP.
    """

    embedding: Float[Tensor, "batch pos d_model"]
    heads: tuple[Float[Tensor, "batch pos head d_any"], ...]
    mlps: tuple[Float[Tensor, "batch pos d_model"] | None, ...]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Writes":
        """Applies `function` to every tensor."""
        return Writes(
            function(self.embedding),
            tuple(function(heads) for heads in self.heads),
            tuple(None if mlp is None else function(mlp) for mlp in self.mlps),
        )

    def combine(self, other: "Writes", function: Callable[[Tensor, Tensor], Tensor]) -> "Writes":
        """Applies `function` to both, tensor by tensor."""
        return Writes(
            function(self.embedding, other.embedding),
            tuple(function(a, b) for a, b in zip(self.heads, other.heads, strict=True)),
            tuple(
                None if a is None or b is None else function(a, b) for a, b in zip(self.mlps, other.mlps, strict=True)
            ),
        )

    def minus(self, other: "Writes") -> "Writes":
        """Difference, writer by writer."""
        return self.combine(other, torch.sub)

    def plus(self, other: "Writes") -> "Writes":
        """Sum, writer by writer."""
        return self.combine(other, torch.add)


def stored_heads(block: Block, z: Tensor) -> Tensor:
    """A layer's heads in the form that `Writes` stores."""
    return z if block.linear_heads else block.head_writes(z)


def expanded_heads(block: Block, stored: Tensor) -> Float[Tensor, "batch pos head d_model"]:
    """The heads' writes, from that form."""
    return block.head_writes(stored) if block.linear_heads else stored


def stack(
    architecture: Architecture,
    writes: Writes,
    dtype: torch.dtype,
    writers: slice | None = None,
    token_by_token: bool = False,
) -> Float[Tensor, "batch writer pos d_model"]:
    """All writers in one tensor, in graph order. Linear: the stack of a difference is the difference of the stacks.

    Args:
        architecture, writes: the model, and its writers' outputs.
        dtype: dtype of the result.
        writers: only these writers; whole layers of heads.
        token_by_token: in memory, the writers at one token are neighbours.
    """
    graph = architecture.graph
    first, last = (0, graph.n_writers) if writers is None else (writers.start, writers.stop)
    batch, pos, d_model = writes.embedding.shape
    shape = (batch, pos, last - first, d_model) if token_by_token else (batch, last - first, pos, d_model)
    stacked = writes.embedding.new_empty(shape, dtype=dtype)
    stacked = stacked.transpose(1, 2) if token_by_token else stacked
    if first == 0:
        stacked[:, 0] = writes.embedding
    for block, stored, mlp in zip(architecture.blocks, writes.heads, writes.mlps, strict=True):
        heads = graph.head_writers(block.layer)
        if first <= heads.start < last:
            stacked[:, heads.start - first : heads.stop - first] = expanded_heads(block, stored).transpose(1, 2)
        if mlp is not None and first <= graph.mlp_writer(block.layer) < last:
            stacked[:, graph.mlp_writer(block.layer) - first] = mlp
    return stacked


class _WriteRecorder:
    """Hooks that record the writers of one forward pass."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.embedding: Tensor | None = None
        self.heads: list[Tensor] = []
        self.mlps: list[Tensor | None] = [None] * len(architecture.blocks)

    def hooks(self) -> list[Hook]:
        hooks: list[Hook] = [(self.architecture.blocks[0].resid_pre, self._on_embedding)]
        for block in self.architecture.blocks:
            hooks.append((block.z, lambda z, block=block: self._on_heads(block, z)))
            if block.mlp_out is not None:
                hooks.append((block.mlp_out, lambda mlp, block=block: self._on_mlp(block, mlp)))
        return hooks

    def _on_embedding(self, embedding: Tensor) -> None:
        self.embedding = embedding.detach()

    def _on_heads(self, block: Block, z: Tensor) -> None:
        self.heads.append(stored_heads(block, z.detach()))

    def _on_mlp(self, block: Block, mlp: Tensor) -> None:
        self.mlps[block.layer] = mlp.detach()

    def writes(self) -> Writes:
        assert self.embedding is not None
        return Writes(self.embedding, tuple(self.heads), tuple(self.mlps))


def capture_writes(
    architecture: Architecture,
    batch: TokenBatch,
    hooks: Sequence[Hook] = (),
    tokens: Int[Tensor, " d_out"] | None = None,
) -> tuple[Float[Tensor, "read d_out"], Writes]:
    """Logits and every writer's output, in one forward pass without gradients; `tokens`: see `run`.

    `hooks` run first, so the recorded values include their changes.
    """
    recorder = _WriteRecorder(architecture)
    with torch.no_grad():
        logits = run(architecture, batch, [*hooks, *recorder.hooks()], tokens)
    return logits, recorder.writes()


def only_writes(architecture: Architecture, batch: TokenBatch, hooks: Sequence[Hook] = ()) -> Writes:
    """The second result of `capture_writes`, without the unembedding."""
    return capture_writes(architecture, batch, hooks, NO_LOGITS)[1]


@dataclass(frozen=True, eq=False)
class Gradients:
    """Values and gradients of one forward and one backward pass.

    Attributes:
        values: the metric per prompt.
        logits: the logits, detached.
        writes: every writer's output.
        resid_pre, resid_mid: inputs of attention and of the MLP before the norm, per layer.
        resid_final: the end of the residual stream, before the final norm.
        q, k, v: gradients of the summed metric at each layer's projections: [batch, pos, head, d_head].
        mlp_in: gradients at the MLPs' inputs, after the norm.
        final: gradient at the end of the residual stream.
        k_by_query, v_by_query: the gradients at k and v, by the span of the queries through which they come; None: not taken apart.
    """

    values: Float[Tensor, " pair"]
    logits: Float[Tensor, "read d_out"]
    writes: Writes
    resid_pre: tuple[Float[Tensor, "batch pos d_model"], ...]
    resid_mid: tuple[Float[Tensor, "batch pos d_model"] | None, ...]
    resid_final: Float[Tensor, "batch pos d_model"]
    q: tuple[Float[Tensor, "batch pos head d_head"], ...]
    k: tuple[Float[Tensor, "batch pos kv_head d_head"], ...]
    v: tuple[Float[Tensor, "batch pos kv_head d_head"], ...]
    mlp_in: tuple[Float[Tensor, "batch pos d_model"] | None, ...]
    final: Float[Tensor, "batch pos d_model"]
    k_by_query: tuple[Float[Tensor, "batch pos query kv_head d_head"], ...] | None = None
    v_by_query: tuple[Float[Tensor, "batch pos query kv_head d_head"], ...] | None = None

    def parts(self, n: int) -> "list[Gradients]":
        """Those of n equal batches that went through one pass together, one after the other."""

        def cut(value: Any) -> list[Any]:
            if isinstance(value, Tensor):
                return list(value.chunk(n)) if len(value) else [value] * n
            if isinstance(value, tuple):
                return [*zip(*map(cut, value), strict=True)]
            if isinstance(value, Writes):
                return [
                    Writes(*part) for part in zip(*(cut(getattr(value, f.name)) for f in fields(Writes)), strict=True)
                ]
            return [value] * n

        columns = {field.name: cut(getattr(self, field.name)) for field in fields(self)}
        return [Gradients(**{name: column[i] for name, column in columns.items()}) for i in range(n)]


@dataclass(frozen=True, eq=False)
class Queries:
    """Spans of queries, by which gradients at keys and values are taken apart.

    Attributes:
        spans: the span of every token.
        n: number of spans.
    """

    spans: Int[Tensor, "batch pos"]
    n: int


class _GradientRecorder(_WriteRecorder):
    """Hooks that also record the readers' inputs, and their gradients during the backward pass.

    The activations themselves are not kept: with autograd's graph they would determine peak memory.
    """

    def __init__(self, architecture: Architecture, embedding: Tensor | None, queries: "Queries | None") -> None:
        super().__init__(architecture)
        n = len(architecture.blocks)
        self.queries = queries
        self.live: dict[tuple[str, int], Tensor] = {}
        self.replacement = embedding
        self.leaf: Tensor | None = None
        self.resid_pre: list[Tensor] = []
        self.resid_mid: list[Tensor | None] = [None] * n
        self.resid_final: Tensor | None = None
        self.gradients: dict[tuple[str, int], Tensor] = {}
        self.absent: dict[tuple[str, int], Callable[[], Tensor]] = {}

    def hooks(self) -> list[Hook]:
        architecture = self.architecture
        hooks: list[Hook] = [(architecture.blocks[0].resid_pre, self._start), *super().hooks()]
        for block in architecture.blocks:
            hooks.append((block.resid_pre, lambda x: self.resid_pre.append(x.detach())))
            parts = ("q", "k", "v") if self.queries is None else ("q", "k", "v", "z")
            for part in parts:
                hooks.append((getattr(block, part), lambda x, key=(part, block.layer): self._keep(key, x)))
            if block.mlp_in is not None:
                resid_mid = block.resid_mid or (block.resid_pre if block.parallel else block.mlp_in)
                hooks.append((resid_mid, lambda x, layer=block.layer: self._keep_mid(layer, x)))
                hooks.append((block.mlp_in, lambda x, key=("mlp", block.layer): self._keep(key, x)))
        hooks.append((architecture.final, self._keep_final))
        return hooks

    def _start(self, embedding: Tensor) -> Tensor:
        value = embedding if self.replacement is None else self.replacement
        self.leaf = value.detach().requires_grad_()
        return self.leaf

    def _keep(self, key: tuple[str, int], x: Tensor) -> Tensor:
        # Return a separate view: the hook's tensor may have other readers too (one norm for attention and MLP, or no
        # norm at all), or be a reshaped copy that is not on the path to the logits.
        view = x.view_as(x)
        if view.requires_grad:
            view.register_hook(lambda gradient: self.gradients.__setitem__(key, gradient))
        self.absent[key] = partial(torch.zeros, x.shape, dtype=x.dtype, device=x.device)
        if self.queries is not None and key[0] in ("k", "v", "z"):
            self.live[key] = view
        return view

    def backward(self, total: Tensor) -> None:
        """Fills `gradients`; zero where the metric does not depend on a point."""
        assert self.leaf is not None
        torch.autograd.grad(total, self.leaf, allow_unused=True, retain_graph=self.queries is not None)
        self.gradients |= {key: zeros() for key, zeros in self.absent.items() if key not in self.gradients}

    def by_query(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Per layer the gradients at k and at v, taken apart by the span of the query; each layer's graph is freed."""
        assert self.queries is not None
        keys, values = [], []
        for layer in range(len(self.architecture.blocks)):
            k, v, z = (self.live.pop((part, layer)) for part in "kvz")
            upstream = self.gradients.pop(("z", layer))
            # Value heads may have another size than key heads.
            parts = [x.new_zeros(*x.shape[:2], self.queries.n, *x.shape[2:]) for x in (k, v)]
            for query in self.queries.spans.unique().tolist() if z.requires_grad else ():
                here = (self.queries.spans == query)[..., None, None].to(upstream.device)
                pulled = torch.autograd.grad(z, [k, v], upstream * here, retain_graph=True, allow_unused=True)
                for part, gradient in zip(parts, pulled, strict=True):
                    if gradient is not None:
                        part[:, :, query] = gradient
            keys.append(parts[0])
            values.append(parts[1])
        return tuple(keys), tuple(values)

    def _keep_final(self, x: Tensor) -> Tensor:
        self.resid_final = x.detach()
        return self._keep(("final", 0), x)

    def _keep_mid(self, layer: int, x: Tensor) -> None:
        self.resid_mid[layer] = x.detach()


def capture_gradients(
    architecture: Architecture,
    batch: TokenBatch,
    metric: Metric,
    embedding: Float[Tensor, "batch pos d_model"] | None = None,
    hooks: Sequence[Hook] = (),
    queries: Queries | None = None,
    tokens: Int[Tensor, " d_out"] | None = None,
) -> Gradients:
    """One forward and one backward pass of the metric summed over the batch.

    Args:
        architecture: the model.
        batch: the prompts.
        metric: logits -> one number per prompt.
        embedding: the input of the first block, in place of the tokens' embedding.
        hooks: run first, so the recorded values include their changes.
        queries: take the gradients at keys and values apart by these spans of queries: one pass through each layer's attention
            for each span. Exact, since a gradient at a key or value is a sum over the queries that read it: for a value weighted by
            the pattern's rows, for a key by the derivative of the softmax.
        tokens: see `run`.
    """
    recorder = _GradientRecorder(architecture, embedding, queries)
    with torch.enable_grad():
        logits = run(architecture, batch, [*hooks, *recorder.hooks()], tokens)
        values = metric(logits)
        recorder.backward(values.sum())
        k_by_query, v_by_query = (None, None) if queries is None else recorder.by_query()
    assert recorder.resid_final is not None
    gradients = recorder.gradients
    layers = range(len(architecture.blocks))
    return Gradients(
        values=values.detach(),
        logits=logits.detach(),
        writes=recorder.writes(),
        resid_pre=tuple(recorder.resid_pre),
        resid_mid=tuple(recorder.resid_mid),
        resid_final=recorder.resid_final,
        q=tuple(gradients["q", layer] for layer in layers),
        k=tuple(gradients["k", layer] for layer in layers),
        v=tuple(gradients["v", layer] for layer in layers),
        mlp_in=tuple(gradients.get(("mlp", layer)) for layer in layers),
        final=gradients["final", 0],
        k_by_query=k_by_query,
        v_by_query=v_by_query,
    )
