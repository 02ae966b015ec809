"""Path patching: the effect of the direct paths from some writers to some readers, everything else frozen at clean.

(Wang et al. 2022, 2211.00593, appendix B; Goldowsky-Dill et al. 2023, 2304.05969.) Two passes on the clean prompt:

1. the senders take their corrupted values; every other head keeps its clean value, and so does every MLP
   (`mlps="frozen"`: paths through the residual stream only) or not (`mlps="live"`: through MLPs as well, as in the IOI
   paper). What arrives in front of each receiver is kept.
2. each receiver's input is shifted by what arrived there; everything behind it runs.

    effect = metric(clean) - metric(pass 2)

Positive = the paths help. With frozen MLPs this is the ablation of the edges sender -> receiver under interchange.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.ablations import Ablation, RunAblation
from circuits.effects import BatchEffects, node_effects, other_run
from circuits.engine.architecture import Architecture
from circuits.engine.hooks import Hook
from circuits.engine.patch import Patch, ValueRecorder, Values, patch_hooks, record_values
from circuits.engine.readers import ShiftedReaders
from circuits.engine.resume import BaseRun, base_run, resume
from circuits.errors import InputError
from circuits.graph import Reader
from circuits.metrics import Metric, MetricFunction
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.node_scores import NodeScores
from circuits.nodes import Site, select_sites
from circuits.pairs import PromptPairs
from circuits.question import Batch, Progress, Question

MLPS = ("frozen", "live")


@on_model
def path_patching(
    model: Model,
    pairs: PromptPairs,
    receivers: Sequence[str],
    *,
    senders: str | Sequence[str] = "heads+mlps",
    together: bool = False,
    mlps: str = "frozen",
    metric: str | Metric | MetricFunction | None = None,
    ablation: str | Ablation = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """The effect of each sender on the metric through the receivers.

    Args:
        model, pairs: what is asked.
        receivers: readers: `a9.h9<q>`, `a9.kv3<k>`, `m10`, `logits`.
        senders: writers, by name or group (`heads`, `mlps`, `input`, joined by `+`).
        together: patch all senders at once instead of one after the other; the result has one score, named by all.
        mlps: `frozen` or `live`, see the module docstring.
        metric: None: the one the task prefers.
        ablation: where corrupted values come from: `interchange`, `gaussian` or `resample`.
        batch_size, progress: see `activation_patching`.

    Raises:
        InputError: an unknown node or option.
    """
    if isinstance(receivers, str) or not receivers:
        raise InputError(f"receivers must be a list of readers, such as ['logits', 'a9.h9<q>'], got {receivers!r}")
    if mlps not in MLPS:
        raise InputError(f"mlps must be one of {', '.join(MLPS)}, got {mlps!r}")
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    other = other_run(question, "path patching")
    sites = select_sites(model.graph, senders)
    wrong = [site.name for site in sites if site.point not in ("z", "mlp_out", "resid_pre")]
    if wrong:
        raise InputError(f"senders are writers (heads, MLPs, input), not {wrong[0]!r}")
    frozen = "heads+mlps" if mlps == "frozen" and any(model.graph.mlps) else "heads"
    plan = _Plan(tuple(map(model.graph.reader_index, receivers)), select_sites(model.graph, frozen))
    groups = [list(sites)] if together else [[site] for site in sites]
    options = {
        "receivers": list(receivers),
        "senders": [site.name for site in sites],
        "together": together,
        "mlps": mlps,
    }
    names = ["+".join(site.name for site in group) for group in groups]
    return node_effects(
        question, "path_patching", options, names, None,
        lambda batch: _patch_batch(question, other, batch, plan, groups), progress,
    )  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """Who receives, and what is frozen.

    Attributes:
        receivers: positions of the receiving readers.
        frozen: nodes that keep their clean values in the first pass (senders excepted).
    """

    receivers: tuple[int, ...]
    frozen: tuple[Site, ...]


def _patch_batch(
    question: Question, other: RunAblation, batch: Batch, plan: _Plan, groups: Sequence[Sequence[Site]]
) -> BatchEffects:
    model, suffix = question.model, batch.suffix
    bridge, architecture = model.bridge, model.architecture
    tokens, noise = other.run(model, suffix)
    senders = [site for group in groups for site in group]
    logits, corrupted = record_values(bridge, architecture, tokens, suffix.position, senders, suffix.cache(), noise)
    corrupted_metric = question.metric(logits, batch.targets)
    own, stream = ValueRecorder(architecture, plan.frozen), _StreamRecorder(architecture)
    base = base_run(
        bridge, architecture, suffix.clean, suffix.position, suffix.cache(), [*own.hooks(), *stream.hooks()],
        model.report.resume_exact,
    )  # fmt: skip
    clean_metric = question.metric(base.logits, batch.targets)
    metrics = []
    for group in groups:
        sent = _first_pass(model, base, plan, group, own.values, corrupted)
        metrics.append(question.metric(_second_pass(model, base, plan, stream, sent), batch.targets))
    return BatchEffects(clean_metric - torch.stack(metrics), clean_metric, corrupted_metric)


class _StreamRecorder:
    """The residual stream where attention, MLPs and `logits` read it: (layer, part) -> value."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture, self.seen = architecture, {}

    def hooks(self) -> list[Hook]:
        hooks: list[Hook] = []
        for block in self.architecture.blocks:
            hooks.append((block.resid_pre, lambda x, key=(block.layer, "attention"): self.seen.__setitem__(key, x)))
            mid = block.resid_mid or (block.resid_pre if block.parallel else block.mlp_in)
            if mid is not None:
                hooks.append((mid, lambda x, key=(block.layer, "mlp"): self.seen.__setitem__(key, x)))
        end = (len(self.architecture.blocks), "attention")
        hooks.append((self.architecture.final, lambda x: self.seen.__setitem__(end, x)))
        return hooks

    def at(self, reader: Reader) -> Tensor | None:
        """What a reader sees before its norm; None if the pass began behind it."""
        return self.seen.get((reader.layer, "mlp" if reader.part == "mlp" else "attention"))


def _first_pass(
    model: Model, base: BaseRun, plan: _Plan, senders: Sequence[Site], clean: Values, corrupted: Values
) -> _StreamRecorder:
    """The residual stream with the senders corrupted and the rest frozen."""
    first = min(site.layer for site in senders)
    held = [Patch(site) for site in plan.frozen if site not in senders and site.layer >= first]
    stream = _StreamRecorder(model.architecture)
    hooks = [
        *patch_hooks(model.architecture, clean, [held]),
        *patch_hooks(model.architecture, corrupted, [[Patch(site) for site in senders]]),
        *stream.hooks(),
    ]
    resume(model.bridge, model.architecture, base, first, hooks)
    return stream


def _second_pass(model: Model, base: BaseRun, plan: _Plan, clean: _StreamRecorder, sent: _StreamRecorder) -> Tensor:
    """Logits with the receivers shifted by what was sent to them, and everything behind them live."""
    shifts, layers = {}, []
    for r in plan.receivers:
        reader = model.graph.reader_nodes[r]
        before, after = clean.at(reader), sent.at(reader)
        if before is not None and after is not None:
            shifts[r] = after - before
            layers.append(min(reader.layer, model.graph.n_layers - 1))
    if not shifts:
        return base.logits
    shifted = ShiftedReaders(model.architecture, shifts)
    return resume(model.bridge, model.architecture, base, min(layers), shifted.hooks())
