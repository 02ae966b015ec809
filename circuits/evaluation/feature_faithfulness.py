"""The metric with some features kept, and how faithful these features are: with and without errors.

    faithfulness = (m(C) - m(∅)) / (m(all) - m(∅))

on dataset means, where m(C) is the metric with every part outside C ablated, m(∅) with every part ablated, and m(all) the model's own.
The parts are the features, errors and skips of the dictionaries, and the other requested groups. Three numbers are always
reported together, since errors can hide how little of the behaviour features explain: with the errors that were chosen, with all
errors kept, and with none. (Marks et al. 2024, 2403.19647, evaluate circuits with and without error nodes in the same way.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.insert import with_dictionaries
from circuits.engine.hooks import inference_state
from circuits.errors import InputError
from circuits.measure.kept_parts import ERRORS, KeptRuns, Parts
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metric_range import MetricRange, metric_rounding, rounding_share
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.provenance import finite
from circuits.shown import Shown


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class FeatureFaithfulness(Shown):
    """How much of the behaviour some parts keep.

    Attributes:
        kept: names of the parts.
        clean, ablated: the metric per prompt of the model, and with every part ablated.
        chosen, all_errors, no_errors: the metric per prompt of the parts, with the errors among them, with all errors, and with none.
        rounding: rounding error of each prompt's metric, see `circuits.question.metric_range`.
        among: the groups of the parts.
        metric, ablation: names of the metric and of the ablation.
    """

    kept: tuple[str, ...]
    clean: Float[Tensor, " prompt"]
    ablated: Float[Tensor, " prompt"]
    chosen: Float[Tensor, " prompt"]
    all_errors: Float[Tensor, " prompt"]
    no_errors: Float[Tensor, " prompt"]
    rounding: Float[Tensor, " prompt"]
    among: str
    metric: str
    ablation: str

    @property
    def metric_range(self) -> MetricRange:
        """The range of which the values are shares."""
        return MetricRange.from_prompts(self.clean, self.ablated, self.rounding)

    @property
    def value(self) -> float:
        """Faithfulness with the errors that were chosen; NaN if undefined."""
        return float(self.metric_range.share(self.chosen.mean()))

    @property
    def with_errors(self) -> float:
        """Faithfulness with all errors kept."""
        return float(self.metric_range.share(self.all_errors.mean()))

    @property
    def without_errors(self) -> float:
        """Faithfulness with all errors ablated."""
        return float(self.metric_range.share(self.no_errors.mean()))

    def __repr__(self) -> str:
        n_errors = sum(name.startswith("e:") for name in self.kept)
        undefined = f"; {self.metric_range.undefined}" if self.metric_range.undefined else ""
        return (
            f"FeatureFaithfulness({self.value:.3f} with {n_errors} chosen errors, {self.with_errors:.3f} with all errors, "
            f"{self.without_errors:.3f} without errors; {len(self.kept)} parts of {self.among}, {self.metric}, {self.ablation} "
            f"ablation{undefined})"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values: means over the prompts."""
        return {
            "kept": list(self.kept), "among": self.among, "metric": self.metric, "ablation": self.ablation,
            "faithfulness": finite(self.value), "with_errors": finite(self.with_errors),
            "without_errors": finite(self.without_errors), "clean": float(self.clean.mean()),
            "ablated": float(self.ablated.mean()), "undefined": self.metric_range.undefined,
        }  # fmt: skip


@on_model
def feature_metric(
    model: Model,
    pairs: PromptPairs,
    kept: Sequence[str],
    *,
    dictionaries: Sequence[Dictionary],
    among: str = "features",
    errors: str = "chosen",
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
) -> Float[Tensor, " prompt"]:
    """The metric per prompt with these parts kept and all others ablated, at all positions.

    Args:
        model: a loaded model.
        pairs: the prompts to explain.
        kept: names of the kept parts: `f:m3.1201`, `e:m3`, and names of nodes of the other groups.
        dictionaries: the dictionaries whose features, errors and skips are parts.
        among: the groups of parts that are ablated unless they are kept: `features`, `heads`, `mlps`, `input`, joined by `+`. Everything
            else of the model runs as it is.
        errors: `chosen`: errors are kept if they are named; `all`: all are kept; `none`: none is.
        metric: None: the task's preferred metric.
        ablation: what replaces the value of an ablated part.
        batch_size: pairs at a time; results do not depend on it.

    Raises:
        InputError: an unknown part or option, or a dictionary that does not fit the model.
    """
    question = Question.ask(with_dictionaries(model, dictionaries), pairs, metric, ablation, batch_size)
    return _metrics(question, kept, among, (errors,))[0][0]


@on_model
def feature_faithfulness(
    model: Model,
    pairs: PromptPairs,
    kept: Sequence[str],
    *,
    dictionaries: Sequence[Dictionary],
    among: str = "features",
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
) -> FeatureFaithfulness:
    """How much of the behaviour these parts keep, with and without errors.

    Args:
        model, pairs, kept, dictionaries, among, metric, ablation, batch_size: see `feature_metric`.
    """
    question = Question.ask(with_dictionaries(model, dictionaries), pairs, metric, ablation, batch_size)
    return feature_faithfulness_of(question, kept, among)


def feature_faithfulness_of(question: Question, kept: Sequence[str], among: str = "features") -> FeatureFaithfulness:
    """`feature_faithfulness` of a question whose model has its dictionaries."""
    (chosen, every, none), clean, ablated, rounding = _metrics(question, kept, among, ERRORS)
    return FeatureFaithfulness(
        tuple(kept), clean, ablated, chosen, every, none, rounding, among, question.metric.name, question.ablation.label
    )


def _metrics(
    question: Question, kept: Sequence[str], among: str, errors: Sequence[str]
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """The metric per prompt for each way with errors, of the clean run, with every part ablated, and its rounding."""
    if isinstance(kept, str):
        raise InputError(f"kept must be a list of names, got the text {kept!r}")
    model, n = question.model, len(question.pairs)
    parts = Parts.from_groups(model, among)
    sets = [parts.ablated(model, kept, way) for way in errors]
    sets += [{}, parts.ablated(model, (), "none")]
    values = torch.zeros(len(sets), n, dtype=torch.float64)
    rounding, share = torch.zeros(n, dtype=torch.float64), rounding_share(model)
    with inference_state(model.bridge):
        for runs in KeptRuns.each(question, parts):
            index, targets = runs.batch.index, runs.batch.targets
            logits = [runs.logits(ablated) for ablated in sets]
            for row, one in zip(values, logits, strict=True):
                row[index] = question.metric(one, targets).to("cpu", torch.float64)
            ends = [metric_rounding(question.metric, one, targets, share) for one in logits[-2:]]
            rounding[index] = torch.maximum(*ends).to("cpu", torch.float64)
    return list(values[:-2]), values[-2], values[-1], rounding
