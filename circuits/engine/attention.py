"""The output of a block's attention with other queries or keys, everything else unchanged.

One pass of the model itself computes it: every layer gets the old residual stream and the new queries (or keys), its
heads' outputs z are recorded, and MLPs are skipped. Each layer thus sees its own change only. Everything between a
query and the pattern (rotary embeddings, query/key norms, scale, soft cap, biases, masks, the cached prefix) is the
model's own code. This is exact because query i of a head affects only row i of that head's pattern (`heads_apart`
checks this).

Keys replaced one position at a time would need one pass per position. But key j changes only one score of each row, so
two runs, with all keys old and with all keys new, provide every score that is needed (`engine.qk_fix`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from circuits.engine.architecture import Architecture, Block
from circuits.engine.check import tolerance
from circuits.engine.hooks import NO_LOGITS, Hook, TokenBatch, run
from circuits.engine.patch import Values
from circuits.engine.qk_fix import KeyFix, RowFix, key_fix
from circuits.errors import ModelError

Part = Literal["q", "k"]
SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)
"""What models call to make an attention pattern."""
_apart: "WeakKeyDictionary[Architecture, bool]" = WeakKeyDictionary()


class AttentionScores(TorchFunctionMode):
    """While active, records the input of the softmax in each block's attention.

    (`hook_attn_scores` is not used: on GPT-Neo, GPT-J, OPT and native models it shows the pattern.)

    Attributes:
        layers: the scores with the model's mask, after a run with `hooks`.
    """

    def __init__(self, architecture: Architecture, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers: dict[int, Float[Tensor, "batch head query key"]] = {}
        self._blocks = [architecture.blocks[layer] for layer in layers]
        self._last: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in SOFTMAX:
            scores = args[0] if args else kwargs["input"]
            if scores.ndim == 4:
                self._last = scores.detach()
        return func(*args, **kwargs)

    def hooks(self) -> list[Hook]:
        return [(block.z, lambda z, layer=block.layer: self._keep(layer)) for block in self._blocks]

    def _keep(self, layer: int) -> None:
        if self._last is None:
            raise _no_scores(layer, "no softmax over attention scores was seen")
        self.layers[layer], self._last = self._last, None


def _no_scores(layer: int, why: str) -> ModelError:
    return ModelError(
        f"layer {layer}: {why}, so its keys cannot be patched one position at a time; use positions=False, or qk_fix=False"
    )


@dataclass(frozen=True, eq=False)
class CleanAttention:
    """The recorded run whose queries and keys are replaced.

    Attributes:
        batch: its prompts.
        stream: the input of each block.
        values: per layer z and the replaced part, and v if keys are patched one by one.
        scores: per layer the input of the softmax, if keys are patched one by one.
    """

    batch: TokenBatch
    stream: Sequence[Float[Tensor, "batch pos d_model"]]
    values: Values
    scores: Mapping[int, Float[Tensor, "batch head query key"]]


def attention_fixes(
    architecture: Architecture,
    clean: CleanAttention,
    part: Part,
    layers: Sequence[int],
    source: Values,
    one_by_one: bool,
) -> dict[int, list[RowFix] | list[KeyFix]]:
    """Each layer's fixes for new queries or new keys; the slots of a layer's fixes are its nodes, in order.

    Takes one pass of the model, or one per head if a norm over all heads couples them (OLMo-2).

    Args:
        architecture: the model.
        clean: the run that is changed.
        part: whether queries or keys are replaced.
        layers: the layers.
        source: the new queries or keys.
        one_by_one: replace keys one position at a time; False: all positions together. For queries both are the same,
            since each query has its own row.

    Raises:
        ModelError: the recorded scores do not reproduce the model's attention.
    """
    n = architecture.n_heads if part == "q" else architecture.n_kv_heads
    apart = heads_apart(architecture)
    fixes: dict[int, list[Any]] = {layer: [] for layer in layers}
    for heads in [list(range(n))] if apart else [[head] for head in range(n)]:
        scores = AttentionScores(architecture, layers) if one_by_one else None
        new = _run_with(architecture, clean, part, layers, source, heads, scores)
        for layer in layers:
            if scores is None:
                old = clean.values[layer, "z"].detach()
                old = old.to(torch.promote_types(old.dtype, torch.float32))
                fixes[layer].append(RowFix(new[layer] - old, len(heads)))
            else:
                fixes[layer].append(_keys(architecture, clean, layer, new[layer], scores.layers[layer], len(heads)))
    return fixes


def _run_with(
    architecture: Architecture,
    clean: CleanAttention,
    part: Part,
    layers: Sequence[int],
    source: Values,
    heads: Sequence[int],
    scores: AttentionScores | None,
) -> dict[int, Float[Tensor, "batch pos head d_head"]]:
    """z of each layer with some heads' queries or keys replaced; each layer gets the old residual stream."""
    new: dict[int, Tensor] = {}
    hooks: list[Hook] = [] if scores is None else scores.hooks()
    for layer in layers:
        block = architecture.blocks[layer]
        hooks.append((block.resid_pre, partial(_instead, clean.stream[layer].detach())))
        hooks.append((getattr(block, part), partial(_with_heads, source[layer, part], heads)))
        hooks.append((block.z, partial(new.__setitem__, layer)))
    with torch.no_grad(), without_mlps(architecture), nullcontext() if scores is None else scores:
        run(architecture, clean.batch, hooks, NO_LOGITS)
    return new


def _instead(old: Tensor, x: Tensor) -> Tensor:
    return old


def _with_heads(source: Tensor, heads: Sequence[int], x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, heads] = source[:, :, heads]
    return x


@contextmanager
def without_mlps(architecture: Architecture) -> Iterator[None]:
    """MLPs write zeros, since nothing uses their outputs. (Expert layers, which may return more, run as usual.)"""
    skipped = [block.module._modules["mlp"] for block in architecture.blocks if block.neurons is not None]
    try:
        for mlp in skipped:
            object.__setattr__(mlp, "forward", _write_nothing)
        yield
    finally:
        for mlp in skipped:
            mlp.__dict__.pop("forward", None)


def _write_nothing(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return torch.zeros_like(hidden_states)


def _keys(
    architecture: Architecture, clean: CleanAttention, layer: int, new_z: Tensor, patched: Tensor, slots: int
) -> KeyFix:
    values = clean.values[layer, "v"].detach().transpose(1, 2)
    n_patched = values.shape[2]
    prefix = clean.batch.cache
    if prefix is not None:
        values = torch.cat([prefix.layers[layer].values.to(values), values], dim=2)
    values = values.repeat_interleave(architecture.n_heads // values.shape[1], dim=1)
    for scores, z in ((clean.scores[layer], clean.values[layer, "z"].detach()), (patched, new_z)):
        if scores.shape[-1] != values.shape[2] or scores.shape[:3] != z.transpose(1, 2).shape[:3]:
            raise _no_scores(layer, f"its scores have shape {tuple(scores.shape)} for {values.shape[2]} keys")
        given = (scores.to(values.dtype).softmax(-1) @ values).transpose(1, 2)
        error = float((given - z).abs().max() / values.abs().max())
        if not error <= tolerance(z.dtype):
            raise _no_scores(layer, f"its scores do not give its attention (off by {error:.2g})")
    return key_fix(clean.scores[layer], patched, values, slots, n_patched)


def heads_apart(architecture: Architecture) -> bool:
    """Whether a head's query or key affects no other head; False if a norm is taken over all heads' queries together.

    Tested once per model on three copies of a few tokens: the second has another query in head 0 at the last position,
    the third other keys in the first key head.

    Raises:
        ModelError: a query changes the attention of another position.
    """
    if architecture not in _apart:
        bridge = architecture.bridge
        length = min(8, int(bridge.cfg.n_ctx or 8))
        tokens = (torch.arange(length) % int(bridge.cfg.d_vocab)).repeat(3, 1).to(next(bridge.parameters()).device)
        rows = [_Probe(architecture, block) for block in architecture.blocks]
        hooks = [hook for probe in rows for hook in probe.hooks()]
        position = torch.full((3,), length - 1, device=tokens.device)
        with torch.no_grad():
            run(architecture, TokenBatch(tokens, position), hooks)
        _apart[architecture] = all(probe.apart for probe in rows)
    return _apart[architecture]


class _Probe:
    """Hooks on one block for `heads_apart`."""

    def __init__(self, architecture: Architecture, block: Block) -> None:
        self.block, self.group = block, architecture.n_heads // architecture.n_kv_heads
        self.apart = True

    def hooks(self) -> list[Hook]:
        return [
            (self.block.q, lambda q: self._change(q, 1, slice(-1, None))),
            (self.block.k, lambda k: self._change(k, 2, slice(None))),
            (self.block.z, self._compare),
        ]

    def _change(self, x: Tensor, row: int, where: slice) -> Tensor:
        x = x.clone()
        x[row, where, 0] = 2 * x[row, where, 0] + x.std()
        return x

    def _compare(self, z: Tensor) -> Tensor:
        limit = 50 * torch.finfo(z.dtype).eps * z.abs().max()
        changed = (z[1:] - z[:1]).abs().amax(-1) > limit
        if bool(changed[0, :-1].any()):
            raise ModelError(
                f"layer {self.block.layer}: a query at one position changes the attention of another, so the softmax cannot be "
                "recomputed row by row; use qk_fix=False"
            )
        self.apart &= not bool(changed[0, :, 1:].any() or changed[1, :, self.group :].any())
        return z[:1].repeat(3, 1, 1, 1)
