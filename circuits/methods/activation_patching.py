"""Activation patching: the effect of a node, measured by giving it its value from the other run.

Two directions (Zhang & Nanda 2024, 2309.16042). *Denoising* runs the corrupted prompt and restores a node's clean value:

    effect = metric(corrupted, node <- clean) - metric(corrupted)

*Noising* runs the clean prompt and gives a node its corrupted value:

    effect = metric(clean) - metric(clean, node <- corrupted)

Positive = the node helps. Normalised on dataset means: effect / (metric(clean) - metric(corrupted)), which for denoising is
(patched - corrupted) / (clean - corrupted). With `window`, nodes of neighbouring layers are patched together (Meng et al.
2022): such effects are larger, and say nothing of a single layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from circuits.ablations import Ablation, RunAblation
from circuits.effects import BatchEffects, node_effects, other_run
from circuits.engine.patch import Patch
from circuits.errors import InputError
from circuits.metrics import Metric, MetricFunction
from circuits.model import Model
from circuits.node_scores import NodeScores
from circuits.nodes import Site, select_sites
from circuits.pairs import PromptPairs
from circuits.patch_runs import PatchRuns
from circuits.positions import place, position_axis
from circuits.question import Batch, Progress, Question

DIRECTIONS = ("denoising", "noising")


def activation_patching(
    model: Model,
    pairs: PromptPairs,
    *,
    nodes: str | Sequence[str] = "heads+mlps",
    positions: str | Sequence[str] | None = None,
    direction: str = "denoising",
    window: int = 1,
    metric: str | Metric | MetricFunction | None = None,
    ablation: str | Ablation = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """Patches nodes one after the other and measures the metric.

    Args:
        model, pairs: what is asked.
        nodes: names, or groups joined by `+`: `heads`, `mlps`, `input`, `q`, `k`, `v`, `neurons`.
        positions: None: a node at all positions at once; `each`: every position for itself (prompts of equal length);
            `roles`: the positions that the task names; or names of roles.
        direction: `denoising` or `noising`.
        window: how many neighbouring layers are patched together; the score of a node is that of the window centred on it.
        metric: None: the one the task prefers.
        ablation: where corrupted values come from: `interchange` (the corrupted prompt), `gaussian` (noise on the
            embedding), or `resample`.
        batch_size: pairs at a time; results do not depend on it.
        progress: called with (patched runs done, in all).

    Returns:
        Effects per node (and position) and prompt.

    Raises:
        InputError: an unknown option or node, or an ablation that is no run of the model.
        PairsError: positions that the pairs do not have.
    """
    if direction not in DIRECTIONS:
        raise InputError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    if window < 1:
        raise InputError(f"window must be at least 1, got {window}")
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    other = other_run(question, "activation patching")
    sites = select_sites(model.graph, nodes, model.widths)
    sweep = Sweep(sites, position_axis(pairs, positions), window)
    options = {"nodes": nodes if isinstance(nodes, str) else list(nodes), "positions": sweep.positions, "window": window,
               "direction": direction}  # fmt: skip
    return node_effects(
        question, "activation_patching", options, [site.name for site in sites], sweep.positions,
        lambda batch: _sweep_batch(question, other, batch, sweep, direction), progress,
    )  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """Which patches are made, one intervention after the other: sites × positions.

    Attributes:
        sites: the nodes.
        positions: labels of the positions, None without.
        window: layers patched together.
    """

    sites: tuple[Site, ...]
    positions: tuple[str, ...] | None
    window: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes of the scores."""
        return (len(self.sites),) if self.positions is None else (len(self.sites), len(self.positions))

    def interventions(self, batch: Batch, pairs: PromptPairs) -> list[list[Patch]]:
        """In the order of the scores: positions change fastest."""
        places: list[Tensor | None] = [None]
        if self.positions is not None:
            places = [place(label, batch, pairs) for label in self.positions]
        return [[Patch(s, place) for s in self._around(site)] for site in self.sites for place in places]

    def _around(self, site: Site) -> list[Site]:
        if self.window == 1:
            return [site]
        first = site.layer - (self.window - 1) // 2
        layers = range(first, first + self.window)
        return [
            other
            for other in self.sites
            if other.layer in layers and other.where == site.where and other.point == site.point
        ]


def _sweep_batch(question: Question, other: RunAblation, batch: Batch, sweep: Sweep, direction: str) -> BatchEffects:
    runs = PatchRuns.of(question, other, batch, sweep.sites, direction)
    metrics = runs.metrics(sweep.interventions(batch, question.pairs))
    effects = metrics - runs.corrupted if direction == "denoising" else runs.clean - metrics
    return BatchEffects(effects.reshape(*sweep.shape, -1), runs.clean, runs.corrupted)
