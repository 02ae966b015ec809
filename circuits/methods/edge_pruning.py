"""Edge pruning: trains masks on all edges together, by gradient descent with an edge budget (Bhaskar et al. 2024, 2406.16778).

Every edge has a hard concrete mask (Louizos et al. 2018; `circuits.stats.hard_concrete`) with a parameter log α; the training, the budget
and the choice of the circuit are those of `circuits.measure.mask_training`. The loss is the metric (KL from the clean logits, or any with
a gradient) with the sign that makes lower better, as in ACDC.

Training masks on frozen weights is the idea of subnetwork probing (Cao et al. 2021, 2104.03514). The budget departs from edge
pruning: theirs is on the share of edges removed, rises linearly, and is enforced by two trained Lagrange multipliers; a budget of
half a percent is then approached only in the last of thousands of steps. A logarithm treats every halving alike, and a fixed
gain needs no tuning. With `positions="spans"` every edge has a mask at every span, with `destinations` edges into keys and values one
for every span of queries, and the budget counts (edge, place) pairs. There are no masks on whole nodes here. log α starts at 2 rather than 10, where masks that are always 1 have no gradient. Starting from scores
(`start`) is the idea of sequential ensembles (Mondorf et al. 2025, 2510.06811); their masks start in the same order, at other values.
"""

from functools import partial

from circuits.measure.mask_training import HARD_CONCRETE, Report, train_masks
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
from circuits.stats.hard_concrete import chance_open


@on_model
def edge_pruning(
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
    """A circuit of at most `edges` edges, found by training masks.

    Args:
        model: a loaded model.
        pairs: the prompts to explain. All pairs' replacements are held in memory.
        edges: the budget; over places, of (edge, place) pairs.
        positions: None, or where every edge has a mask of its own: `spans` (the pairs' schema) or `each` (every token, for prompts
            of one length). The result is then a circuit over places.
        destinations: with `positions`, edges into keys and values also have a mask for each span of the query that reads them. A step
            then costs up to as many passes as there are spans.
        steps: gradient steps, each on one batch.
        learning_rate: Adam's, in units of log α: approximately the largest change of a mask's log-odds in a step.
        absolute: the loss is the distance of a prompt's metric from the model's own, in either direction; otherwise exceeding
            the model lowers the loss (masks can push most metrics past the model's, but not KL).
        start: scores by whose ranks the masks start; None: all masks start alike. Over places, scores that have these places.
        metric: the metric to preserve; it must have a gradient.
        ablation: what replaces an ablated edge's value.
        seed: random seed of the masks and of the order of batches.
        batch_size: largest number of pairs per step, all of equal length; None: 8. Results depend on it.
        progress: called with a `PruningStep`.

    Returns:
        The circuit. An edge's score is its log α: up to a constant, the log-odds of its mask being open. It is not an effect,
        and its order means more than its size. `provenance["selection"]` has the number of edges requested and kept.
        `provenance["training"]` has the choice of edges, its metric on the pairs, the loss' range, and from the training the
        metric under the masks drawn in the last tenth of the steps and the expected number of open edges.

    Raises:
        InputError: an invalid option, destinations without positions, a metric without a gradient, or `start` has the scores of another graph.
        ModelError: the metric is not finite.
        PairsError: the pairs have no such places.
    """
    return train_masks(
        Question.ask(model, pairs, metric, ablation, batch_size), "edge_pruning", HARD_CONCRETE, edges, positions=positions,
        destinations=destinations, steps=steps, learning_rate=learning_rate, absolute=absolute, start=start, seed=seed, progress=progress,
    )  # fmt: skip


METHOD = Method(
    name="edge-pruning", function=partial(discovered, "edge_pruning", HARD_CONCRETE), gives="circuit", stage=STAGE,
    help="masks on edges, trained", draws=True, remedy=REMEDY, takes=TAKES,
    results=Recorded(quantity=LOG_ODDS, metric_units=False, kept_probability=chance_open),
)  # fmt: skip
