"""Components as players of a game whose value is the metric: Shapley and Banzhaf values, and Sobol indices.

v(S) is the metric with the components S kept and all others ablated.

| | | runs, for d components |
|---|---|---|
| `shapley` | the mean of v(S + j) - v(S) over all orders of the components (Shapley 1953), from random orders and their reverses (Castro et al. 2009; Mitchell et al. 2022, 2104.12199) | d - 1 per order |
| `banzhaf` | the same mean over sets that keep each component with probability 1 - alpha, independently (Banzhaf 1965; alpha = ½), from sets that each serve all components (Wang & Jia 2023, 2205.15466, eq. 5) | samples |
| `sobol` | the share of the metric's variance under such sets in which a component takes part (total order: Jansen 1999), and the share it explains alone (first order: Sobol' 1993) | samples · (d + 1) |

COAR's weights estimate the same values as `banzhaf`, with less noise. A prompt's Shapley values sum to clean - everything ablated,
exactly, for any orders. A total index far above the first-order index shows that a component interacts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import InputError
from circuits.measure.component_samples import BLOCK, Sampler, Samples, check_samples, draw_block, in_blocks
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metric_range import rounding_share
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import Provenance, frozen
from circuits.results.quantity import Quantity
from circuits.results.recorded import Recorded
from circuits.shown import Shown
from circuits.stats.rounding import ROUNDING


@on_model
def shapley(
    model: Model,
    pairs: PromptPairs,
    *,
    orders: int = 16,
    nodes: str | Sequence[str] = "heads+mlps",
    positions: str | Sequence[str] | None = None,
    metric: MetricLike | None = None,
    ablation: AblationLike = "zero",
    seed: int = 0,
    batch_size: int | None = None,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """Shapley values of components, per prompt.

    Args:
        orders: number of orders; even, since each is used with its reverse.
        seed: random seed of the orders.
        model, pairs, nodes, positions, metric, ablation, batch_size, store, progress: see `circuits.coar`. With positions, every
            node at a position is a player.

    Raises:
        InputError: an odd number of orders, or an invalid option.
    """
    if orders < 2 or orders % 2:
        raise InputError(f"orders must be even and at least 2 (each is followed by its reverse), got {orders}")
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    sampler = Sampler.for_question(question, nodes, store, positions=positions)
    d = len(sampler.nodes)
    drawn = [order for i in range(orders // 2) for order in _order_and_reverse(d, seed, i)]
    # Step k of an order ablates its first k components: from none to all.
    masks = torch.cat([(order.argsort()[None] < torch.arange(1, d + 1)[:, None]) for order in drawn])
    measured = sampler.measured(f"orders-seed-{seed}", in_blocks(masks), progress)
    worth = measured.outcomes.reshape(orders, d, -1)
    before = torch.cat([measured.clean.expand(orders, 1, -1), worth[:, :-1]], 1)
    gain = torch.zeros(orders, d, len(pairs), dtype=torch.float64)
    for i, order in enumerate(drawn):
        gain[i, order] = before[i] - worth[i]
    return _scores(measured, gain.mean(0), _origin(measured.origin, "shapley", orders, seed))


@on_model
def banzhaf(
    model: Model,
    pairs: PromptPairs,
    *,
    samples: int = 2000,
    alpha: float = 0.5,
    nodes: str | Sequence[str] = "heads+mlps",
    positions: str | Sequence[str] | None = None,
    metric: MetricLike | None = None,
    ablation: AblationLike = "zero",
    seed: int = 0,
    batch_size: int | None = None,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """(Biased) Banzhaf values of components, per prompt: mean metric with the component minus mean metric without it.

    Args:
        samples, alpha: number of sets, and ablation probability per component; ½ is Banzhaf's own.
        model, pairs, nodes, positions, metric, ablation, seed, batch_size, store, progress: see `circuits.coar`.

    Raises:
        InputError: so few samples that some component was never ablated, or never kept; or an invalid option.
    """
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    sampler = Sampler.for_question(question, nodes, store, positions=positions)
    drawn = sampler.bernoulli(samples, alpha, seed, progress)
    kept = drawn.kept
    with_, without = kept.sum(0), (1 - kept).sum(0)
    if bool((torch.minimum(with_, without) == 0).any()):
        raise InputError(f"{samples} samples at alpha {alpha:g} never ablate, or never keep, some component; draw more")
    values = kept.T @ drawn.outcomes / with_[:, None] - (1 - kept).T @ drawn.outcomes / without[:, None]
    return _scores(drawn, values, _origin(drawn.origin, "banzhaf", samples, seed))


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class SobolIndices(Shown):
    """Shares of the metric's variance under random ablation.

    Attributes:
        nodes: the components; `a5.h2@S2` for nodes at positions.
        total: per prompt, the share that would remain if all others were fixed (alone or with others); NaN if the metric
            varies only by rounding.
        first: per prompt, the share that a component explains alone.
        variance: the metric's variance, per prompt.
        samples: number of sets.
    """

    nodes: tuple[str, ...]
    total: Float[Tensor, "node prompt"]
    first: Float[Tensor, "node prompt"]
    variance: Float[Tensor, " prompt"]
    samples: int

    @property
    def interaction(self) -> Float[Tensor, " node"]:
        """total - first, averaged over prompts: the share that a component explains only together with others."""
        return (self.total - self.first).nanmean(1)

    def rows(self) -> list[dict[str, Any]]:
        """One row per component: both indices, averaged over prompts."""
        columns = zip(self.nodes, self.total.nanmean(1).tolist(), self.first.nanmean(1).tolist(), strict=True)
        return [{"node": node, "total": total, "first": first} for node, total, first in columns]

    def _shown_rows(self) -> list[dict[str, Any]]:
        return sorted(self.rows(), key=lambda row: -row["total"])

    def __repr__(self) -> str:
        return f"SobolIndices({len(self.nodes)} components, {self.samples} samples, {self.total.shape[1]} prompts)"

    def strongest(self, n: int = 10) -> list[tuple[str, float, float]]:
        """(node, total, first) of the n largest total indices, averaged over prompts."""
        total, first = self.total.nanmean(1), self.first.nanmean(1)
        order = torch.sort(total.nan_to_num(), descending=True, stable=True).indices[:n].tolist()
        return [(self.nodes[i], float(total[i]), float(first[i])) for i in order]


@on_model
def sobol(
    model: Model,
    pairs: PromptPairs,
    *,
    samples: int = 32,
    alpha: float = 0.1,
    nodes: str | Sequence[str] = "heads+mlps",
    positions: str | Sequence[str] | None = None,
    metric: MetricLike | None = None,
    ablation: AblationLike = "zero",
    seed: int = 0,
    batch_size: int | None = None,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> SobolIndices:
    """Total-order and first-order Sobol indices of components under random ablation.

    From each set, every component is switched alone. With δ_j the resulting change, the variance in which j takes part is
    alpha (1 - alpha) E[δ_j²], and the variance it explains alone is alpha (1 - alpha) E[δ_j]², less its sampling error.

    Args:
        samples: number of sets; each costs one run and one per component.
        alpha: ablation probability per component.
        model, pairs, nodes, positions, metric, ablation, seed, batch_size, store, progress: see `circuits.coar`.

    Raises:
        InputError: fewer than two samples, or an invalid option.
    """
    check_samples(samples, alpha)
    if samples < 2:
        raise InputError("Sobol indices need at least 2 samples: a variance needs two values")
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    sampler = Sampler.for_question(question, nodes, store, positions=positions)
    d = len(sampler.nodes)
    blocks = [draw_block(d, block, alpha, seed) for block in range(-(-samples // BLOCK))]
    drawn = torch.cat(blocks)[:samples]
    switched = drawn[:, None] ^ torch.cat([torch.zeros(1, d).bool(), torch.eye(d).bool()])
    name = f"switched-alpha-{alpha:g}-seed-{seed}"
    measured = sampler.measured(name, in_blocks(switched.flatten(0, 1)), progress)
    outcomes = measured.outcomes.reshape(samples, d + 1, -1)
    return sobol_indices(sampler.nodes, drawn, outcomes, alpha, rounding_share(model))


def sobol_indices(
    nodes: tuple[str, ...],
    ablated: Bool[Tensor, "sample node"],
    outcomes: Float[Tensor, "sample switched prompt"],
    alpha: float,
    rounding: float = ROUNDING[torch.float64],
) -> SobolIndices:
    """Sobol indices from the metrics of random sets, and of each set with every component switched.

    Args:
        nodes: the components.
        ablated: the sets.
        outcomes: metric of the set (entry 0) and with component j switched (entry j + 1).
        alpha: ablation probability per component.
        rounding: a metric that varies by at most this share of its size counts as constant.
    """
    n, spread = len(outcomes), alpha * (1 - alpha)
    sign = torch.where(ablated, 1.0, -1.0).double()[:, :, None]  # change from ablated to kept
    change = sign * (outcomes[:, 1:] - outcomes[:, :1])
    variance = outcomes[:, 0].var(0)
    square, mean = change.square().mean(0), change.mean(0)
    alone = (mean.square() - change.var(0) / n).clamp(min=0)
    least = rounding * outcomes[:, 0].abs().amax(0)
    share = torch.where(variance > least.square(), spread / variance, torch.nan)
    return SobolIndices(nodes, square * share, alone * share, variance, n)


def _order_and_reverse(d: int, seed: int, i: int) -> tuple[Tensor, Tensor]:
    order = list(range(d))
    Random(f"{seed} order {i}").shuffle(order)
    return torch.tensor(order), torch.tensor(order[::-1])


def _scores(measured: Samples, values: Float[Tensor, "component prompt"], origin: Provenance) -> NodeScores:
    effects = measured.by_position(values)
    return NodeScores(measured.whole_nodes, effects, measured.positions, clean=measured.clean, provenance=origin)


def _origin(origin: Provenance, method: str, samples: int, seed: int) -> Provenance:
    return frozen({**origin, "method": method, "options": {**origin["options"], "samples": samples, "seed": seed}})


SHAPLEY = Recorded(title="Shapley values", quantity=Quantity("Shapley value", preposition="for"))
BANZHAF = Recorded(title="Banzhaf values", quantity=Quantity("Banzhaf value", preposition="for"))
