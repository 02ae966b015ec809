"""Is a loaded model's graph exact? Checked once per model, on a few tokens, before any other computation.

Three statements must hold: writers and constants sum to the residual stream that each layer sees; with all edges kept,
the logits are the model's own; with no edges kept, they are those of the corrupted prompt.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.engine.ablate import Ablated, ablated_logits
from circuits.engine.architecture import Architecture, Block
from circuits.engine.capture import Writes, capture_writes, expanded_heads
from circuits.engine.hooks import TokenBatch, run
from circuits.engine.prefix import Suffix, prefix_cache
from circuits.engine.resume import base_run, resume
from circuits.engine.unembedding import logits_of
from circuits.errors import ModelError
from circuits.prompts.batch import PairBatch
from circuits.prompts.pairs import PromptPairs


@dataclass(frozen=True)
class CheckReport:
    """The largest errors, relative to the largest logit (residual: to its largest entry).

    Attributes:
        residual: sum of writers and constants against the residual stream.
        all_kept: all edges kept, every reader recomputed, against the model's logits.
        none_kept: no edge kept, against the corrupted prompts' logits.
        prefix: suffix after a cached prefix against the whole prompt, logits and stream; None if there is no cache.
        prefix_exact: whether cached prefixes may be used.
        resume_exact: whether passes may begin in the middle.
        columns_exact: whether the logits of some tokens may be computed alone.
        remembered: the same weights were checked before, with the same versions (`circuits.remembered_check`).
    """

    residual: float
    all_kept: float
    none_kept: float
    prefix: float | None
    prefix_exact: bool
    resume_exact: bool
    columns_exact: bool
    remembered: bool = False


def tolerance(dtype: torch.dtype) -> float:
    """The largest relative error that counts as rounding (models compute norms and softmax in float32 at best)."""
    return 1e-4 if dtype in (torch.float32, torch.float64) else 0.1


def check(architecture: Architecture, name: str) -> CheckReport:
    """Checks the three statements of the module docstring.

    Raises:
        ModelError: a statement does not hold; the message names the layer and the size of the error.
    """
    bridge = architecture.bridge
    dtype, device = next(bridge.parameters()).dtype, next(bridge.parameters()).device
    limit = tolerance(dtype)
    batch = _example(int(bridge.cfg.d_vocab), int(bridge.cfg.n_ctx or 8)).to(device)
    suffix = Suffix(batch.clean, batch.corrupted, batch.position, 0, batch)
    seen: dict[str, list[Tensor]] = {"clean": [], "corrupted": []}
    writes: dict[str, Writes] = {}
    logits: dict[str, Tensor] = {}
    normed: list[Tensor] = []
    for which, tokens in (("clean", suffix.clean_tokens), ("corrupted", suffix.corrupted_tokens)):
        record = [
            (point, seen[which].append) for point in (*[b.resid_pre for b in architecture.blocks], architecture.final)
        ] + [(architecture.unembed, normed.append)]
        logits[which], writes[which] = capture_writes(architecture, tokens, record)
        if not torch.isfinite(logits[which]).all():
            raise ModelError(f"{name}: the logits on random tokens are not finite; are its weights damaged?")
    with torch.no_grad():
        plain = run(architecture, suffix.clean_tokens)
    scale = float(plain.abs().max())
    if scale == 0:
        raise ModelError(f"{name}: all logits on random tokens are 0; are its weights damaged?")
    residual = _check_residual(architecture, seen, writes, limit, name)
    mask = architecture.graph.edge_mask
    errors = {}
    for statement, keep, wanted in (
        ("all edges kept should give the model's own logits", mask, plain),
        ("no edge kept should give the corrupted prompt's logits", torch.zeros_like(mask), logits["corrupted"]),
    ):
        got = ablated_logits(architecture, suffix, writes["corrupted"], keep, edit="all")
        error = float((got - wanted).abs().max()) / scale
        if not error <= limit:
            layer = _first_wrong_layer(architecture, suffix, writes["corrupted"], seen, bool(keep.any()), limit)
            raise ModelError(
                f"{name}: its graph is not exact: {statement}, but they differ by {error:.2g} of the largest logit "
                f"(at most {limit:.0e} is rounding); {layer}"
            )
        errors[statement] = error
    all_kept, none_kept = errors.values()
    prefix = _prefix_error(architecture, batch, plain, scale)
    resume_exact = _resumes(architecture, batch, plain, limit * scale)
    columns_exact = _columns(architecture, normed[0], suffix, logits["clean"], limit * scale)
    prefix_exact = prefix is not None and prefix <= limit
    return CheckReport(residual, all_kept, none_kept, prefix, prefix_exact, resume_exact, columns_exact)


def _example(d_vocab: int, n_ctx: int) -> PairBatch:
    generator = torch.Generator().manual_seed(0)
    length = min(8, n_ctx)
    clean = torch.randint(0, d_vocab, (2, length), generator=generator)
    corrupted = clean.clone()
    corrupted[:, length // 2 - 1] = (clean[:, length // 2 - 1] + 1) % d_vocab
    pairs = PromptPairs.from_tokens(clean.tolist(), corrupted.tolist(), [0, 0], [1, 1])
    return next(iter(pairs.batches(2)))


def _check_residual(
    architecture: Architecture, seen: dict[str, list[Tensor]], writes: dict[str, Writes], limit: float, name: str
) -> float:
    """The residual stream minus all writes must equal the known constants, on both prompts and before every layer."""
    graph, worst = architecture.graph, 0.0
    wide = torch.promote_types(seen["clean"][0].dtype, torch.float32)
    streams = {which: writes[which].embedding.to(wide) for which in writes}
    for layer in range(graph.n_layers + 1):
        rests = []
        for which, summed in streams.items():
            wanted = seen[which][layer]
            rests.append((wanted - summed.to(wanted.device)).abs().max())
        error = float(max(rests)) / float(seen["clean"][layer].abs().max())
        if not error <= limit:
            where = f"in front of layer {layer}" if layer < graph.n_layers else "in front of the final norm"
            raise ModelError(
                f"{name}: its writers do not sum to the residual stream {where}: off by {error:.2g} of its largest "
                f"entry (at most {limit:.0e} is rounding), so layer {layer - 1} adds something that is neither a head nor an MLP"
            )
        worst = max(worst, error)
        if layer < graph.n_layers:
            streams = {which: _behind(architecture.blocks[layer], writes[which], x) for which, x in streams.items()}
    return worst


def _behind(block: Block, writes: Writes, stream: Tensor) -> Tensor:
    """The sum of writers and constants after a block, from the sum before it."""
    heads, mlp = expanded_heads(block, writes.heads[block.layer]), writes.mlps[block.layer]
    stream = stream.to(heads.device) + heads.to(stream.dtype).sum(2)
    stream = stream if block.constant is None else stream + block.constant
    return stream if mlp is None else stream + mlp


def _first_wrong_layer(
    architecture: Architecture,
    suffix: Suffix,
    replacement: Writes,
    seen: dict[str, list[Tensor]],
    all_kept: bool,
    limit: float,
) -> str:
    """The first layer that deviates from the clean residual stream when every reader is recomputed unchanged."""
    if not all_kept:
        return "with all edges kept it was exact, so what fails is the replacement of a writer"
    streams: list[Tensor] = []
    ablation = Ablated(architecture, replacement, architecture.graph.edge_mask, edit="all")
    record = [(block.resid_pre, streams.append) for block in architecture.blocks]
    with torch.no_grad():
        run(architecture, suffix.clean_tokens, [*record, *ablation.hooks()])
    for layer in range(1, len(streams)):
        error = float((streams[layer] - seen["clean"][layer]).abs().max() / seen["clean"][layer].abs().max())
        if not error <= limit:
            return f"the first wrong layer is {layer - 1}, off by {error:.2g}"
    return f"the first wrong layer is {len(streams) - 1}"


def _prefix_error(architecture: Architecture, batch: PairBatch, plain: Tensor, scale: float) -> float | None:
    """The larger error of the logits and of the residual stream after the prefix, at all positions.

    The logits alone are not enough: if they hardly depend on these tokens, they are the same without any prefix.
    """
    half = batch.clean.shape[1] // 2
    whole: list[Tensor] = []
    behind: list[Tensor] = []
    try:
        cache = prefix_cache(architecture.bridge, batch.clean[:, :half])
        with torch.no_grad():
            record = [(architecture.final, whole.append)]
            run(architecture, TokenBatch(batch.clean, batch.position), record)
            record = [(architecture.final, behind.append)]
            got = run(architecture, TokenBatch(batch.clean[:, half:], batch.position - half, cache), record)
    except Exception:  # the model's code may fail in any way on a cache; then no cache is used
        return None
    stream = float((behind[0] - whole[0][:, half:]).abs().max()) / float(whole[0].abs().max())
    return max(stream, float((got - plain).abs().max()) / scale)


def _columns(architecture: Architecture, normed: Tensor, suffix: Suffix, wanted: Tensor, limit: float) -> bool:
    """Whether some columns of the unembedding give the model's own logits."""
    tokens = torch.linspace(0, wanted.shape[1] - 1, 8, device=wanted.device).round().long()
    try:
        with torch.no_grad():
            got = logits_of(architecture, suffix.clean_tokens.read_from(normed), tokens)
    except Exception:  # no plain weights, or another rule: all logits are computed
        return False
    wanted = wanted[:, tokens].to(got.device)
    return got.shape == wanted.shape and bool((got - wanted).abs().max() <= limit)


def _resumes(architecture: Architecture, batch: PairBatch, plain: Tensor, limit: float) -> bool:
    try:
        base = base_run(architecture, TokenBatch(batch.clean, batch.position))
        got = resume(architecture, base, len(architecture.blocks) - 1, [], tiles=2)
    except Exception:  # a block cannot be skipped: passes begin at the first one
        return False
    return bool((got.reshape(2, *plain.shape) - plain).abs().max() <= limit)
