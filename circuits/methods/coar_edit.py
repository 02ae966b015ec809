"""COAR-Edit: changes a model's predictions on some prompts, and not on others, by ablating a few components.

(Shah, Ilyas & Madry 2024, 2404.11534, section 5.) From COAR attributions of target prompts T and reference prompts R, each
component gets a two-sample t statistic

    τ_j = (mean_T w_j - mean_R w_j) / sqrt(var_T w_j / |T| + var_R w_j / |R|)

A component with very negative τ lowers the targets' metric, and does little for the references' or raises it. Ablating the k lowest
should raise the targets' metric and preserve the references'; ablating the k highest should lower it. `apply_edit` measures this:
it ablates the first k components for each k, on any prompts, preferably fresh ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.measure.component_samples import Sampler, in_blocks
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods, plain_torch
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.node_scores import LinearAttribution
from circuits.shown import Shown
from circuits.stats.rounding import computed_in, rounding


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Edit(Shown):
    """Components in the order of ablation.

    Attributes:
        nodes: names of the components.
        statistic: τ of each.
        raises: whether the edit is to raise the targets' metric; otherwise it lowers it.
    """

    nodes: tuple[str, ...]
    statistic: Float[Tensor, " node"]
    raises: bool

    def rows(self) -> list[dict[str, Any]]:
        """One row per component, in the order of ablation."""
        columns = zip(self.nodes, self.statistic.tolist(), strict=True)
        return [{"node": node, "statistic": statistic} for node, statistic in columns]

    def __repr__(self) -> str:
        return f"Edit({len(self.nodes)} components, to {'raise' if self.raises else 'lower'} the metric)"


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class EditOutcome(Shown):
    """The measured effect of an edit, for each number of ablated components.

    Attributes:
        ks: numbers of ablated components.
        nodes: the components ablated for the largest k.
        metric: set of prompts -> the metric for every k and prompt, signed like the behaviour.
    """

    ks: tuple[int, ...]
    nodes: tuple[str, ...]
    metric: dict[str, Float[Tensor, "step prompt"]]

    def mean(self, name: str) -> Float[Tensor, " step"]:
        """Mean of the metric over a set's prompts."""
        return self.metric[name].mean(1)

    def accuracy(self, name: str) -> Float[Tensor, " step"]:
        """Share of a set's prompts on which the metric is positive; for metrics that compare answer and distractor."""
        return (self.metric[name] > 0).double().mean(1)

    def rows(self) -> list[dict[str, Any]]:
        """One row per set of prompts and number of ablated components."""
        return [
            {"prompts": name, "ablated": k, "metric": mean, "share_above_0": share}
            for name in self.metric
            for k, mean, share in zip(self.ks, self.mean(name).tolist(), self.accuracy(name).tolist(), strict=True)
        ]

    def __repr__(self) -> str:
        return f"EditOutcome({', '.join(self.metric)}; up to {len(self.nodes)} components ablated)"

    def __str__(self) -> str:
        width = max(map(len, self.metric))
        lines = [f"  {'ablated':<{width}} " + " ".join(f"{k:>13}" for k in self.ks)]
        for name in self.metric:
            cells = zip(self.mean(name).tolist(), self.accuracy(name).tolist(), strict=True)
            lines.append(f"  {name:<{width}} " + " ".join(f"{mean:+7.2f} ({share:.2f})" for mean, share in cells))
        return "\n".join(["mean metric (share of prompts above 0)", *lines])


@plain_torch
def plan_edit(target: LinearAttribution, reference: LinearAttribution, raises: bool = True) -> Edit:
    """Ranks components by the difference of their importance for the targets and for the references.

    Args:
        target: COAR attributions on the prompts whose metric is to change. For a single prompt, the references' variance is
            used.
        reference: attributions of the same components, on at least two prompts whose metric is to be preserved.
        raises: ablate components that lower the targets' metric; False: those that raise it.

    Raises:
        InputError: attributions of different components, or of a single reference prompt.
    """
    if target.positions is not None or reference.positions is not None:
        raise InputError("an edit ablates components at all tokens; give attributions without positions")
    if set(target.nodes) != set(reference.nodes):
        raise InputError("target and reference attributions are of different components; score the same nodes for both")
    n_target, n_reference = target.n_prompts, reference.n_prompts
    if n_reference < 2:
        raise InputError("an edit needs at least two reference prompts, to estimate their variance")
    rows = [reference.nodes.index(node) for node in target.nodes]
    weights = reference.per_prompt[rows]
    spread = weights.var(1)
    own = target.per_prompt.var(1) if n_target > 1 else spread
    # If weights differ only by rounding, their spread is not a scale.
    sizes = torch.cat([target.per_prompt, weights], 1).abs().max()
    least = rounding(sizes, computed_in(target.per_prompt, target.provenance))
    error = (own / n_target + spread / n_reference).sqrt().clamp(min=float(least) or torch.finfo(torch.float64).tiny)
    statistic = (target.per_prompt.mean(1) - weights.mean(1)) / error
    order = torch.sort(statistic, descending=not raises, stable=True).indices
    return Edit(tuple(target.nodes[i] for i in order.tolist()), statistic[order], raises)


@on_model
def apply_edit(
    model: Model,
    edit: Edit,
    prompts: Mapping[str, PromptPairs],
    *,
    ks: Sequence[int] = (0, 1, 2, 5, 10, 20),
    metric: MetricLike | None = None,
    ablation: AblationLike = "zero",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> EditOutcome:
    """Ablates the first k components of an edit, for each k, and measures the metric.

    Args:
        model: a loaded model; it is not changed.
        edit: from `plan_edit`.
        prompts: name -> pairs: targets, references, other tasks.
        ks: numbers of components.
        metric: None: the preferred metric of each set's task.
        ablation: what replaces an ablated component's value; use that of the attributions.
        batch_size, progress: see `circuits.coar`.

    Raises:
        InputError: a k that is negative or exceeds the number of components, or no prompts.
    """
    if not prompts:
        raise InputError("there are no prompts to measure an edit on")
    if not ks or any(not 0 <= k <= len(edit.nodes) for k in ks):
        raise InputError(f"ks must be between 0 and the edit's {len(edit.nodes)} components, got {list(ks)}")
    chosen = edit.nodes[: max(1, max(ks))]
    metrics = {}
    for name, pairs in prompts.items():
        sampler = Sampler.for_question(Question.ask(model, pairs, metric, ablation, batch_size), list(chosen))
        rank = torch.tensor([chosen.index(node) for node in sampler.nodes])
        masks = torch.stack([rank < k for k in ks])
        metrics[name] = sampler.measured("edit", in_blocks(masks), progress).outcomes
    return EditOutcome(tuple(ks), chosen, metrics)
