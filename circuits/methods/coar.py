"""COAR: a linear function of the components that predicts the metric when random components are ablated.

(Shah, Ilyas & Madry 2024, 2404.11534.) Random sets of components are ablated, each component with probability alpha. The metric on
each prompt is regressed on the components that were kept:

    metric ≈ bias + Σ_j kept_j · weight_j

Positive = the component helps. The weights predict best under ablations drawn with the same alpha. Under such masks, least squares
estimate the alpha-biased Banzhaf value: the mean change of the metric when a component is kept, over random ablations of the
others. On an additive function they are the exact effects.

A head is ablated at its z, before `W_O`. If a norm follows attention (Gemma 2, OLMo 2), that norm reacts to the missing head, so
ablating a head differs from ablating its edges.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.insert import with_dictionaries
from circuits.errors import AttributionWarning, InputError
from circuits.measure.component_samples import Sampler, Samples, in_blocks
from circuits.methods.method import Method
from circuits.methods.options import FEATURES, NODES, POSITIONS, Kind, Option, Vary
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_torch
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metric_range import share_known
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.node_scores import LinearAttribution, NodeScores
from circuits.results.provenance import frozen
from circuits.results.quantity import Quantity
from circuits.results.recorded import Recorded
from circuits.stats.correlation import correlation
from circuits.stats.interactions import interactions
from circuits.stats.linear_fit import FITS, LinearFit, fit_linear
from circuits.stats.rounding import computed_in
from circuits.workers.workers import Workers


@on_model
def coar(
    model: Model,
    pairs: PromptPairs,
    *,
    samples: int = 2000,
    alpha: float = 0.1,
    nodes: str | Sequence[str] = "heads+mlps",
    positions: str | Sequence[str] | None = None,
    fit: str = "least_squares",
    dictionaries: Sequence[Dictionary] = (),
    metric: MetricLike | None = None,
    ablation: AblationLike = "zero",
    seed: int = 0,
    batch_size: int | None = None,
    store: str | Path | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> LinearAttribution:
    """Estimates COAR attributions of components.

    Args:
        model: a loaded model.
        pairs: the prompts to explain.
        samples: number of ablated runs; each costs about a forward pass of all prompts.
        alpha: ablation probability per component.
        nodes: the components: groups joined by `+` (`heads`, `mlps`, `input`, `neurons`, `q`, `k`, `v`, `features`), or names.
        positions: None: a node at all tokens is one component; `spans`, `each`, `roles` or names: a node at each of these
            positions is a component of its own, and the scores have an axis of positions. See `circuits.question.positions`.
        fit: `least_squares`, `ridge` or `lasso`.
        dictionaries: sparse dictionaries, whose features, errors and skips then are nodes too (`circuits.dictionaries`).
        metric: None: the task's preferred metric.
        ablation: what replaces an ablated component's value: `zero` as in the paper, or any other.
        seed: random seed of the sets.
        batch_size: pairs at a time; results do not depend on it.
        store: a directory for finished samples; a call with the same question continues from it, even with more samples,
            another alpha or another seed.
        workers: processes that share the samples; None: this process. Results do not depend on it.
        progress: called with (samples × prompts done, in total).

    Warns:
        AttributionWarning: there are too few samples, see `LinearAttribution.statement`.

    Raises:
        InputError: an invalid option, or a store that belongs to another question.
        PairsError: the pairs lack these positions.
    """
    return coar_of(
        Question.ask(with_dictionaries(model, dictionaries), pairs, metric, ablation, batch_size), samples=samples, alpha=alpha, nodes=nodes,
        positions=positions, fit=fit, seed=seed, store=store, workers=workers, progress=progress,
    )  # fmt: skip


def coar_of(
    question: Question, *, samples: int = 2000, alpha: float = 0.1, nodes: str | Sequence[str] = "heads+mlps",
    positions: str | Sequence[str] | None = None, fit: str = "least_squares", seed: int = 0, store: str | Path | None = None, workers: Workers | None = None,
    progress: Progress | None = None,
) -> LinearAttribution:  # fmt: skip
    """`coar` of a question."""
    if fit not in FITS:
        raise InputError(f"fit must be one of {', '.join(FITS)}, got {fit!r}")
    sampler = Sampler.for_question(question, nodes, store, workers, positions=positions)
    linear = fit_samples(sampler.bernoulli(samples, alpha, seed, progress), fit)
    if (statement := linear.statement) is not None:
        warnings.warn(statement, AttributionWarning, stacklevel=4)
    return linear


@on_model
def draw_samples(
    model: Model,
    pairs: PromptPairs,
    store: str | Path,
    *,
    share: tuple[int, int] = (0, 1),
    samples: int = 2000,
    alpha: float = 0.1,
    nodes: str | Sequence[str] = "heads+mlps",
    positions: str | Sequence[str] | None = None,
    dictionaries: Sequence[Dictionary] = (),
    metric: MetricLike | None = None,
    ablation: AblationLike = "zero",
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Samples:
    """Computes a share of a store's samples in one of several processes; `coar` with the same store then uses all of them.

    Args:
        store: the directory that the processes share.
        share: (i, n): the i-th of n shares, from 0.
    """
    question = Question.ask(with_dictionaries(model, dictionaries), pairs, metric, ablation, batch_size)
    sampler = Sampler.for_question(question, nodes, store, positions=positions)
    return sampler.bernoulli(samples, alpha, seed, progress, share)


@on_model
def leave_one_out(
    model: Model,
    pairs: PromptPairs,
    *,
    nodes: str | Sequence[str] = "heads+mlps",
    positions: str | Sequence[str] | None = None,
    dictionaries: Sequence[Dictionary] = (),
    metric: MetricLike | None = None,
    ablation: AblationLike = "zero",
    batch_size: int | None = None,
    store: str | Path | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """COAR's first baseline: the metric lost when one component alone is ablated.

    Args:
        model, pairs, nodes, positions, dictionaries, metric, ablation, batch_size, store, workers, progress: see `coar`.
    """
    question = Question.ask(with_dictionaries(model, dictionaries), pairs, metric, ablation, batch_size)
    sampler = Sampler.for_question(question, nodes, store, workers, positions=positions)
    runs = sampler.measured("leave-one-out", in_blocks(torch.eye(len(sampler.nodes)).bool()), progress)
    origin = {**runs.origin, "method": "leave_one_out"}
    effects = runs.by_position(runs.clean - runs.outcomes)
    return NodeScores(runs.whole_nodes, effects, runs.positions, clean=runs.clean, provenance=frozen(origin))


@plain_torch
def fit_samples(samples: Samples, fit: str = "least_squares") -> LinearAttribution:
    """Fits a linear attribution to existing samples.

    Args:
        samples: the ablated sets and their metrics.
        fit: `least_squares`, `ridge` or `lasso`.
    """
    dtype = computed_in(samples.outcomes, samples.origin)
    fitted = fit_linear(samples.kept, samples.outcomes, fit, dtype)
    plain = fitted if fit == "least_squares" else fit_linear(samples.kept, samples.outcomes, dtype=dtype)
    left = float(plain.rounding.mean())
    pairs = interactions(samples.nodes, samples.kept, _residuals(samples, plain), rounding=left)
    tested = ~fitted.left_out.isnan().any(1)  # a component's weight is undefined without its only ablated sample
    held_out = correlation(
        fitted.left_out[tested], samples.outcomes[tested], rounding=share_known(samples.origin)
    ).nanmean()
    worth = {
        "kind": fit,
        "samples": len(samples),
        "components": len(samples.nodes),
        "rank": fitted.rank,
        "condition": fitted.condition,
        "held_out": None if bool(held_out.isnan()) else float(held_out),
        "strength": list(fitted.strength),
        "interactions": [list(pair) for pair in pairs],
    }
    options = {**samples.origin["options"], "samples": len(samples), "fit": fit}
    origin = frozen({**samples.origin, "method": "coar", "options": options})
    return LinearAttribution(
        samples.whole_nodes, samples.by_position(fitted.weights), samples.positions, samples.clean, None, origin,
        fitted.bias, samples.by_position(fitted.stderr), samples.by_position(fitted.mean_stderr), _plain(fitted, worth),
    )  # fmt: skip


def _residuals(samples: Samples, fitted: LinearFit) -> Float[Tensor, "sample prompt"]:
    return samples.outcomes - fitted.bias - samples.kept @ fitted.weights


def _plain(fitted: LinearFit, worth: dict[str, Any]) -> dict[str, Any]:
    """JSON values."""
    return worth | {"condition": fitted.condition if fitted.rank else None}


METHOD = Method(
    name="coar",
    function=coar_of,
    gives="nodes",
    stage=("sampling", "ablating components"),
    help="a linear model of random ablations",
    results=Recorded(title="COAR", quantity=Quantity("weight", preposition="for")),
    ablation="zero",
    divided=True,
    resumable=True,
    draws=True,
    takes=(
        NODES,
        POSITIONS,
        Option("samples", Kind.WHOLE, 2000, "Number of random sets of components to ablate.", at_least=2, label="samples"),
        Option(
            "alpha", Kind.NUMBER, 0.1, "Ablation probability per component.", above=0, below=1, label="alpha",
            vary=Vary((0.5, 2.0), "α = {:g}", usual=0.1, below=1.0),
        ),
        Option("fit", Kind.TEXT, "least_squares", "How the linear model is fitted.", choices=FITS),
        *FEATURES,
    ),
)  # fmt: skip
