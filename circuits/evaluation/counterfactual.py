"""Counterfactual correlation: do scores predict the metric when random sets of components are ablated?

COAR's evaluation (Shah, Ilyas & Madry 2024, 2404.11534, eq. 3), for scores of any method. On each prompt, the sum of the kept
components' scores is correlated with the measured metric over random ablations. The correlation does not depend on the scale of the
scores. It is not faithfulness: a circuit keeps few components and ablates nearly all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.measure.component_samples import Sampler, Samples
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metric_range import share_known
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import finite
from circuits.shown import Shown
from circuits.stats.bootstrap import bootstrap_interval
from circuits.stats.correlation import correlation


@dataclass(frozen=True, eq=False)
class Correlation:
    """Correlation of predictions with the metric, at one alpha.

    Attributes:
        per_prompt: the correlation over the samples; NaN on a prompt where prediction or metric is constant.
        low, high: 95% bootstrap interval of its mean over the prompts; nominal, see `circuits.stats.bootstrap`.
    """

    per_prompt: Float[Tensor, " prompt"]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Mean over the prompts on which it is defined."""
        return float(self.per_prompt.nanmean())

    def to_dict(self) -> dict[str, float | None]:
        """JSON values; NaN as None."""
        return {"pearson": finite(self.mean), "low": finite(self.low), "high": finite(self.high)}


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Counterfactuals(Shown):
    """Ablations at several alphas, independent of the ablations that scores were fitted to.

    Attributes:
        samples: alpha -> its samples.
    """

    samples: dict[float, Samples]

    @property
    def nodes(self) -> tuple[str, ...]:
        return next(iter(self.samples.values())).nodes

    @property
    def ablation(self) -> str:
        return next(iter(self.samples.values())).origin["ablation"]

    def __str__(self) -> str:
        sets = " and ".join(sorted({str(len(samples)) for samples in self.samples.values()}))
        prompts = len(next(iter(self.samples.values())).clean)
        return (
            f"{sets} random sets of {len(self.nodes)} components at each α, {self.ablation} ablation, {prompts} prompts"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the ablation, and the number of sets at each alpha."""
        return {"ablation": self.ablation, "samples": {str(a): len(drawn) for a, drawn in self.samples.items()}}

    def prediction(self, scores: NodeScores, alpha: float) -> Float[Tensor, "sample prompt"]:
        """Sum of the kept components' scores; a component without a score counts as 0.

        Raises:
            InputError: scores with positions, of other prompts, or of none of the components.
        """
        samples = self.samples[alpha]
        if scores.positions is not None:
            raise InputError(
                "scores per position cannot predict ablations of whole components; sum them, or score all positions together"
            )
        if scores.n_prompts != len(samples.clean):
            raise InputError(
                f"the scores are for {scores.n_prompts} prompts, but the ablations for {len(samples.clean)}"
            )
        place = {node: i for i, node in enumerate(scores.nodes)}
        known = [i for i, node in enumerate(samples.nodes) if node in place]
        if not known:
            raise InputError(f"the scores have none of the {len(samples.nodes)} components that were ablated")
        weights = scores.per_prompt[[place[samples.nodes[i]] for i in known]]
        return samples.kept[:, known] @ weights.double()

    def correlations(self, scores: NodeScores, kind: str = "pearson", seed: int = 0) -> dict[float, Correlation]:
        """Correlations of the predictions with the metric, by alpha.

        Args:
            scores: node scores on the same prompts.
            kind: `pearson` or `spearman`.
            seed: random seed of the bootstrap over prompts.
        """
        by_alpha = {}
        for alpha, samples in self.samples.items():
            each = correlation(self.prediction(scores, alpha), samples.outcomes, kind, share_known(samples.origin))
            low, high = bootstrap_interval(each[~each.isnan()][None], seed=seed)
            by_alpha[alpha] = Correlation(each, float(low[0]), float(high[0]))
        return by_alpha


@on_model
def counterfactuals(
    model: Model,
    pairs: PromptPairs,
    *,
    alphas: Sequence[float] = (0.05, 0.1, 0.2, 0.5),
    samples: int = 200,
    nodes: str | Sequence[str] = "heads+mlps",
    metric: MetricLike | None = None,
    ablation: AblationLike = "zero",
    seed: int = 1,
    batch_size: int | None = None,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Counterfactuals:
    """Ablates random sets of components, to evaluate scores on them.

    Args:
        model, pairs, nodes, metric, ablation, batch_size, store: see `circuits.coar`.
        alphas: ablation probabilities per component.
        samples: number of sets per alpha.
        seed: random seed of the sets; must differ from the attribution's seed, which would draw the same samples again.
        progress: called with (samples × prompts done, in total).

    Raises:
        InputError: an invalid option.
    """
    if not alphas:
        raise InputError("no alphas are given; name at least one")
    sampler = Sampler.for_question(Question.ask(model, pairs, metric, ablation, batch_size), nodes, store)
    by_alpha: dict[float, Samples] = {}
    for i, alpha in enumerate(alphas):

        def report(done: int, total: int, i: int = i) -> None:
            if progress is not None:
                progress(i * total + done, len(alphas) * total)

        by_alpha[float(alpha)] = sampler.bernoulli(samples, float(alpha), seed, report)
    return Counterfactuals(by_alpha)
