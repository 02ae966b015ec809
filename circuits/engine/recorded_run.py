"""A clean run with the inputs and outputs of its nodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.architecture import Architecture
from circuits.engine.capture import Writes, capture_writes
from circuits.engine.hooks import Hook
from circuits.engine.prefix import Suffix
from circuits.engine.token_line import Line
from circuits.graph.graph import Reader


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A clean run with everything that node functions need; of one batch, or joined to a line (then `batch` is 1).

    Attributes:
        logits: at the answer positions.
        writes: every writer's output.
        z: per layer with a norm behind attention the heads' z, which `writes` then does not have; None elsewhere.
        attention_in, mlp_in: per layer the readers' inputs, before the norm (None without an MLP).
        final: the input of `logits`.
        tables: per layer the rotation's cos and sin [batch or 1, pos, dimension]; None without a rotation.
        past: per layer the prefix's keys and values [pair, kv_head, pos, d_head] after norm and rotation, or None.
    """

    logits: Float[Tensor, "pair d_out"]
    writes: Writes
    z: tuple[Float[Tensor, "batch pos head d_head"] | None, ...]
    attention_in: tuple[Float[Tensor, "batch pos d_model"], ...]
    mlp_in: tuple[Float[Tensor, "batch pos d_model"] | None, ...]
    final: Float[Tensor, "batch pos d_model"]
    tables: tuple[tuple[Tensor, Tensor] | None, ...]
    past: tuple[tuple[Tensor, Tensor] | None, ...]

    def at(self, kept: Int[Tensor, " kept"], past: tuple[tuple[Tensor, Tensor] | None, ...]) -> "RecordedRun":
        """The given tokens of a run joined to a line, with another past."""
        pick = partial(torch.index_select, dim=1, index=kept)
        return RecordedRun(
            logits=self.logits,
            writes=self.writes.map(pick),
            z=tuple(None if layer is None else pick(layer) for layer in self.z),
            attention_in=tuple(pick(layer) for layer in self.attention_in),
            mlp_in=tuple(None if layer is None else pick(layer) for layer in self.mlp_in),
            final=pick(self.final),
            tables=tuple(None if tables is None else (pick(tables[0]), pick(tables[1])) for tables in self.tables),
            past=past,
        )

    def seen_by(self, reader: Reader) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream before a reader."""
        if reader.part == "logits":
            return self.final
        stream = self.mlp_in[reader.layer] if reader.part == "mlp" else self.attention_in[reader.layer]
        assert stream is not None
        return stream


def record_run(
    architecture: Architecture,
    suffix: Suffix,
    hooks: Sequence[Hook] = (),
    tokens: Int[Tensor, " d_out"] | None = None,
) -> RecordedRun:
    """The clean run of some prompts, under `hooks`, with the logits of `tokens` (see `run`)."""
    seen: dict[tuple[str, int], Tensor] = {}
    hooks = list(hooks)

    def keep(point: Any, what: str, layer: int) -> None:
        if point is not None:
            hooks.append((point, lambda x: seen.__setitem__((what, layer), x)))

    for block in architecture.blocks:
        keep(block.resid_pre, "attention", block.layer)
        if block.mlp_in is not None and not block.parallel:
            keep(block.resid_mid or block.mlp_in, "mlp", block.layer)
        if not block.linear_heads:
            keep(block.z, "z", block.layer)
        keep(block.rule.cos, "cos", block.layer)
        keep(block.rule.sin, "sin", block.layer)
    keep(architecture.final, "final", 0)
    logits, writes = capture_writes(architecture, suffix.clean_tokens, hooks, tokens)
    layers = range(len(architecture.blocks))
    parallel = any(block.parallel for block in architecture.blocks)
    attention = tuple(seen["attention", layer] for layer in layers)
    cached = getattr(suffix.clean_tokens.cache, "layers", None)
    return RecordedRun(
        logits=logits,
        writes=writes,
        z=tuple(seen.get(("z", layer)) for layer in layers),
        attention_in=attention,
        mlp_in=tuple(
            None if architecture.blocks[layer].mlp_in is None else seen["attention" if parallel else "mlp", layer]
            for layer in layers
        ),
        final=seen["final", 0],
        tables=tuple((seen["cos", layer], seen["sin", layer]) if ("cos", layer) in seen else None for layer in layers),
        past=tuple(None if cached is None else (cached[layer].keys, cached[layer].values) for layer in layers),
    )


def join_writes(line: Line, batches: Sequence[Writes]) -> Writes:
    """The writes of all batches in one line."""
    return Writes(
        line.join([writes.embedding for writes in batches]),
        tuple(line.join(heads) for heads in zip(*(writes.heads for writes in batches), strict=True)),
        tuple(_join_some(line, mlps) for mlps in zip(*(writes.mlps for writes in batches), strict=True)),
    )


def join_runs(line: Line, batches: Sequence[RecordedRun]) -> RecordedRun:
    """The runs of all batches in one line."""
    return RecordedRun(
        logits=torch.cat([run.logits for run in batches]),
        writes=join_writes(line, [run.writes for run in batches]),
        z=tuple(_join_some(line, layer) for layer in zip(*(run.z for run in batches), strict=True)),
        attention_in=tuple(line.join(layer) for layer in zip(*(run.attention_in for run in batches), strict=True)),
        mlp_in=tuple(_join_some(line, layer) for layer in zip(*(run.mlp_in for run in batches), strict=True)),
        final=line.join([run.final for run in batches]),
        tables=tuple(_join_tables(line, batches, layer) for layer in range(len(batches[0].tables))),
        past=tuple(_join_past(line, batches, layer) for layer in range(len(batches[0].past))),
    )


def _join_some(line: Line, batches: Sequence[Tensor | None]) -> Tensor | None:
    there = [values for values in batches if values is not None]
    return line.join(there) if there else None


def _join_tables(line: Line, batches: Sequence[RecordedRun], layer: int) -> tuple[Tensor, Tensor] | None:
    tables = [(tables, len(run.final)) for run in batches if (tables := run.tables[layer]) is not None]
    if not tables:
        return None
    cos, sin = (line.join([both[i].expand(n, *both[i].shape[1:]) for both, n in tables]) for i in (0, 1))
    return cos, sin


def _join_past(line: Line, batches: Sequence[RecordedRun], layer: int) -> tuple[Tensor, Tensor] | None:
    known = next((past for run in batches if (past := run.past[layer]) is not None), None)
    if known is None:
        return None
    empty = known[0].new_zeros(1, known[0].shape[1], 0, known[0].shape[3])
    parts = [run.past[layer] or (empty.expand(len(run.final), -1, -1, -1),) * 2 for run in batches]
    return line.join_past([keys for keys, _ in parts]), line.join_past([values for _, values in parts])
