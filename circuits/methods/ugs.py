"""Uniform gradient sampling: trains masks on all edges together, with gradients between 0 and 1 (Li & Janson 2024, 2409.09951).

Every edge has a mask that is 1 with probability about p = sigmoid(θ), 0 with probability about 1 - p, and uniform on (0, 1) with
probability p (1 - p); only in the last case it passes a gradient, which is then of size 1 (`circuits.stats.uniform_window`). In
expectation, this is the gradient of the loss under masks that are 0 or 1. Edges whose p is near one half are sampled most, and edges
that are decided hardly ever, so the masks of a step are close to those of a circuit. The training, the budget and the choice of the
circuit are those of `circuits.measure.mask_training`.

Departures from the authors' code (github.com/maxtli/optimalablation): a budget of edges, instead of a price for every edge; one set of
masks for all prompts of a step, instead of one for each prompt, so the gradient of a sampled mask is divided by the probability of
sampling it, not by how often it was sampled; dead ends are pruned at the end, not in every step; no price on nodes. There, the constants of
optimal ablation are trained together with the masks; here they are trained before (`ablation="optimal"`).
"""

from functools import partial

import torch

from circuits.measure.mask_training import UNIFORM_WINDOW, Report, train_masks
from circuits.methods.method import Method
from circuits.methods.trained_masks import LOG_ODDS, REMEDY, STAGE, TAKES, discovered
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.recorded import Recorded


@on_model
def uniform_gradient_sampling(
    model: Model,
    pairs: PromptPairs,
    edges: int,
    *,
    positions: str | None = None,
    destinations: bool = False,
    steps: int = 300,
    learning_rate: float = 0.2,
    absolute: bool = False,
    start: EdgeScores | None = None,
    metric: MetricLike = "kl_divergence",
    ablation: AblationLike = "interchange",
    seed: int = 0,
    batch_size: int | None = None,
    progress: Report | None = None,
) -> Circuit:
    """A circuit of at most `edges` edges, found by training masks with uniform gradient sampling.

    Arguments and errors are those of `edge_pruning`; an edge's score is its θ, the log-odds of its mask.
    """
    return train_masks(
        Question.ask(model, pairs, metric, ablation, batch_size), "ugs", UNIFORM_WINDOW, edges, positions=positions,
        destinations=destinations, steps=steps, learning_rate=learning_rate, absolute=absolute, start=start, seed=seed, progress=progress,
    )  # fmt: skip


METHOD = Method(
    name="ugs", function=partial(discovered, "ugs", UNIFORM_WINDOW), gives="circuit", stage=STAGE,
    help="masks on edges, trained by uniform gradient sampling", draws=True, remedy=REMEDY, takes=TAKES,
    results=Recorded(title="UGS", quantity=LOG_ODDS, metric_units=False, kept_probability=torch.sigmoid),
)  # fmt: skip
