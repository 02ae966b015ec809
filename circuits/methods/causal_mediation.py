"""Causal mediation: how much of the corruption's effect goes through a set of nodes, and how much bypasses it.

(Pearl 2001; Vig et al. 2020, 2004.12265.) With m the metric and N the nodes, patched together,

    total    = m(clean) - m(corrupted)
    indirect = m(clean) - m(clean, N <- corrupted)        natural indirect effect: only the paths through N change
    direct   = m(clean) - m(corrupted, N <- clean)        natural direct effect: all paths but those through N change

Positive = helps. `direct + indirect = total` holds only without interaction between N and the rest; the remainder is

    interaction = total - direct - indirect
                = m(clean, N <- corrupted) + m(corrupted, N <- clean) - m(clean) - m(corrupted)

For a single node, `indirect` equals noising in activation patching, and `total - direct` equals denoising. Vig et al. divide by
the metric of the base run, prompt by prompt; here effects stay in the metric's own unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.hooks import inference_state
from circuits.engine.patch import Patch, ValueRecorder, changed_prompts, patched_logits
from circuits.engine.resume import base_run
from circuits.errors import InputError
from circuits.graph.nodes import Site, select_sites
from circuits.measure.node_effects import other_run
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike, RunAblation
from circuits.question.metric_range import MetricRange
from circuits.question.metrics import MetricLike
from circuits.question.positions import position_axis, tokens_at
from circuits.question.question import Batch, Question
from circuits.results.provenance import Frozen, Provenance, frozen, provenance
from circuits.shown import Shown
from circuits.stats.bootstrap import bootstrap_interval


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Mediation(Shown):
    """Total, direct and indirect effect of a set of nodes, in the metric's unit; positive = helps.

    Means over prompts are `total`, `direct`, `indirect` and `interaction`; see the module docstring for the equations.

    Attributes:
        nodes: the nodes, in the order of the forward pass.
        positions: the roles at which the nodes were patched; None: all positions.
        clean, corrupted: the metric per prompt of the two runs, signed like the behaviour, in float64.
        clean_patched: metric of the clean run with the nodes' corrupted values.
        corrupted_patched: metric of the corrupted run with the nodes' clean values.
        unit: the metric's unit.
        provenance: origin of the numbers.
    """

    nodes: tuple[str, ...]
    positions: tuple[str, ...] | None
    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    clean_patched: Float[Tensor, " prompt"]
    corrupted_patched: Float[Tensor, " prompt"]
    unit: str = ""
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    @property
    def per_prompt(self) -> Mapping[str, Float[Tensor, " prompt"]]:
        """`total`, `direct`, `indirect` and `interaction` on each prompt."""
        total = self.clean - self.corrupted
        direct = self.clean - self.corrupted_patched
        indirect = self.clean - self.clean_patched
        effects = {"total": total, "direct": direct, "indirect": indirect, "interaction": total - direct - indirect}
        return Frozen(effects)

    @property
    def total(self) -> float:
        """m(clean) - m(corrupted)."""
        return float(self.per_prompt["total"].mean())

    @property
    def direct(self) -> float:
        """m(clean) - m(corrupted, nodes <- clean)."""
        return float(self.per_prompt["direct"].mean())

    @property
    def indirect(self) -> float:
        """m(clean) - m(clean, nodes <- corrupted)."""
        return float(self.per_prompt["indirect"].mean())

    @property
    def interaction(self) -> float:
        """total - direct - indirect: 0 if the nodes and the rest act additively on the metric."""
        return float(self.per_prompt["interaction"].mean())

    @property
    def share(self) -> float:
        """indirect / total, on means over prompts; NaN if the total effect is rounding (see `circuits.question.metric_range`)."""
        known = MetricRange.from_prompts(self.clean, self.corrupted, origin=self.provenance).undefined is None
        return self.indirect / self.total if known else float("nan")

    @property
    def n_prompts(self) -> int:
        return len(self.clean)

    def interval(self, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Percentile bootstrap interval of each mean over prompts: `{"direct": (low, high), …}`.

        Args:
            level: nominal coverage; see `circuits.stats.bootstrap` for the actual one.
            resamples: number of resamples, shared by the four effects.
            seed: random seed of the resampling.

        Raises:
            InputError: the level is not between 0 and 1, or there are no resamples.
        """
        effects = self.per_prompt
        low, high = bootstrap_interval(torch.stack(list(effects.values())), level, resamples, seed)
        return dict(zip(effects, zip(low.tolist(), high.tolist(), strict=True), strict=True))

    def to_dict(self) -> dict[str, float]:
        """`{"total": …, "direct": …, "indirect": …, "interaction": …}`, means over prompts."""
        return {name: float(values.mean()) for name, values in self.per_prompt.items()}

    def rows(self) -> list[dict[str, Any]]:
        """One row per effect: its mean over the prompts, and the 95% bootstrap interval."""
        bounds = self.interval()
        return [
            {"effect": name, "value": value, "low": bounds[name][0], "high": bounds[name][1]}
            for name, value in self.to_dict().items()
        ]

    def __str__(self) -> str:
        shown = "+".join(self.nodes) if len(self.nodes) <= 4 else f"{len(self.nodes)} nodes"
        where = "" if self.positions is None else f" at {', '.join(self.positions)}"
        bounds = self.interval()
        effects = ", ".join(
            f"{name} {value:.3g} [{bounds[name][0]:.3g}, {bounds[name][1]:.3g}]"
            for name, value in self.to_dict().items()
        )
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"mediation by {shown}{where}: {effects}{unit} ({self.n_prompts} prompts, nominal 95% bootstrap intervals)"
        )

    __repr__ = __str__


@on_model
def causal_mediation(
    model: Model,
    pairs: PromptPairs,
    nodes: str | Sequence[str],
    *,
    positions: str | Sequence[str] | None = None,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Mediation:
    """Total, direct and indirect effect of a set of nodes that are patched together.

    `direct + indirect = total` only without interaction; `Mediation.interaction` is the remainder.

    Args:
        model, pairs, nodes, metric, ablation, batch_size, progress: see `circuits.activation_patching`.
        positions: None: all positions; names of roles or spans, or `roles` for all roles: the nodes at these positions, together.

    Raises:
        InputError: an unknown node, metric or option, or an ablation without a run of its own.
        PairsError: the pairs lack these roles.
    """
    if positions in ("each", "spans"):
        raise InputError(
            f"the positions are patched together, so positions={positions!r} means all of them: leave positions out, or name "
            "roles or spans"
        )
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    other = other_run(question, "causal mediation")
    sites, labels = select_sites(model.graph, nodes, model.widths), position_axis(pairs, positions)
    metrics = torch.zeros(4, len(pairs), dtype=torch.float64)
    with inference_state(model.bridge):
        for batch in question.batches(progress=progress):
            metrics[:, batch.index] = _mediate_batch(question, other, batch, sites, labels)
    options = {"nodes": nodes if isinstance(nodes, str) else list(nodes), "positions": labels}
    origin = provenance(question, "causal_mediation", options)
    names = tuple(site.name for site in sites)
    return Mediation(names, labels, *(metrics * question.metric.sign), unit=question.metric.unit, provenance=origin)


def _mediate_batch(
    question: Question, other: RunAblation, batch: Batch, sites: Sequence[Site], labels: Sequence[str] | None
) -> Float[Tensor, "run batch"]:
    """The metric of four runs: clean, corrupted, clean with corrupted nodes, corrupted with clean nodes."""
    model, architecture = question.model, question.model.architecture
    recorders, bases = [], []
    for tokens, hooks in ((batch.suffix.clean_tokens, []), other.run(model, batch.suffix)):
        recorder = ValueRecorder(architecture, sites)
        recording = [*hooks, *recorder.hooks()]
        bases.append(base_run(architecture, tokens, recording, model.report.resume_exact, batch.tokens))
        recorders.append(recorder)
    places = [None] if labels is None else [tokens_at(label, batch, question.pairs) for label in labels]
    patches = [Patch(site, where) for site in sites for where in places]
    metrics = [question.metric_of(batch, base.logits) for base in bases]
    clean, corrupted = (recorder.values for recorder in recorders)
    into_clean = (bases[0], clean, other.on_clean(batch.suffix, corrupted), patches)
    into_other = (bases[1], corrupted, other.on_own(batch.suffix, clean), other.own_patches(batch.suffix, patches))
    for (base, own, values, where), unpatched in zip((into_clean, into_other), metrics[:], strict=True):
        changed = batch.any_row(changed_prompts(own, values, where, unpatched.device))
        logits = patched_logits(architecture, base, values, [where], batch.tokens)[0]
        metrics.append(torch.where(changed, question.metric_of(batch, logits), unpatched))
    return torch.stack(metrics).to("cpu", torch.float64)
