"""Edge pruning: trains masks on all edges together, by gradient descent with an edge budget (Bhaskar et al. 2024, 2406.16778).

Every edge has a hard concrete mask z (Louizos et al. 2018; `circuits.stats.hard_concrete`) with a parameter log α. A reader receives
z · current + (1 - z) · replacement from each writer (`engine.masked`). Each step draws all masks and some pairs, and Adam
minimises over log α

    loss / range + gain/2 · max(0, log(N / K))²,      N = Σ P(z ≠ 0)

where the loss is the metric (KL from the clean logits, or any with a gradient) with the sign that makes lower better, as in ACDC.
Its range is its change from all edges kept to none, so one gain fits all metrics. N is the expected number of open edges, and K
the allowed number: it falls geometrically from the initial N to the budget over the first four fifths of the steps, and then stays.
At the end, edges are chosen by log α, without dead ends (`selection.top`), in three ways: the strongest, up to the budget; the same
with the budget filled by edges further down; or only those that are open at least half of the time. The circuit with the lowest
loss on the pairs is returned.

Training masks on frozen weights is the idea of subnetwork probing (Cao et al. 2021, 2104.03514). The budget departs from edge
pruning: theirs is on the share of edges removed, rises linearly, and is enforced by two trained Lagrange multipliers; a budget of
half a percent is then approached only in the last of thousands of steps. A logarithm treats every halving alike, and a fixed
gain needs no tuning. With `positions="spans"` every edge has a mask at every span, with `destinations` edges into keys and values one
for every span of queries, and N and K count (edge, place) pairs. There are no masks on whole nodes here. log α starts at 2 rather than 10, where masks that are
always 1 have no gradient.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.capture import Writes
from circuits.engine.differences import replaced_stream
from circuits.engine.hooks import inference_state
from circuits.engine.soft_masks import Streams, masked_logits
from circuits.errors import InputError, ModelError
from circuits.graph.graph import Graph
from circuits.graph.places import PlacedGraph
from circuits.methods.method import Method
from circuits.methods.options import ABSOLUTE, DESTINATIONS, EDGES, PLACES, RANDOM_CIRCUITS, Kind, Option
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import StageReport
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import METRICS, Metric, MetricLike
from circuits.question.places import PlaceAxis, covering_axis
from circuits.question.question import Batch, Question
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.provenance import Provenance, provenance
from circuits.stats.hard_concrete import OPEN, chance_open, draw

FIRST_LOG_ALPHA, FIRST_SPREAD = 2.0, 0.01
GAIN = 50.0
FALLING = 0.8
"""Share of the steps in which the number of allowed edges falls."""
MEMORY = (0.9, 0.99)
"""Adam's β for the gradient and its square: for some hundred steps, the usual 0.999 is too slow."""
LARGEST_BATCH = 8


@dataclass(frozen=True)
class PruningStep:
    """Progress of a training.

    Attributes:
        done, steps: steps done, and in total.
        metric: mean over this step's pairs under the drawn masks, in the metric's unit.
        expected, allowed: expected and allowed number of open edges.
    """

    done: int
    steps: int
    metric: float
    expected: float
    allowed: float


Report = Callable[[PruningStep], None]


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
        InputError: an invalid option, destinations without positions, or a metric without a gradient.
        ModelError: the metric is not finite.
        PairsError: the pairs have no such places.
    """
    return edge_pruning_of(
        Question.ask(model, pairs, metric, ablation, batch_size), edges, positions=positions, destinations=destinations,
        steps=steps, learning_rate=learning_rate, absolute=absolute, seed=seed, progress=progress,
    )  # fmt: skip


def edge_pruning_of(
    question: Question, edges: int, *, positions: str | None = None, destinations: bool = False, steps: int = 300,
    learning_rate: float = 0.2, absolute: bool = False, seed: int = 0, progress: Report | None = None,
) -> Circuit:  # fmt: skip
    """`edge_pruning` of a question."""
    question, model = question.again(usual_size=LARGEST_BATCH), question.model
    axis = covering_axis(model.graph, question.pairs, positions, destinations)
    graph = model.graph if axis is None else axis.graph
    if not 1 <= edges <= graph.n_edges:
        raise InputError(f"edges must be between 1 and the graph's {graph.n_edges}, got {edges}")
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    check_training(question.metric, learning_rate)
    options: dict[str, Any] = {} if positions is None else {"positions": positions}
    options |= {"destinations": True} if destinations else {}
    options |= {"edges": edges, "steps": steps, "learning_rate": learning_rate, "absolute": absolute, "seed": seed,
                "batch_size": question.batch_size}  # fmt: skip
    origin = provenance(question, "edge_pruning", options)
    with inference_state(model.bridge):
        objective = Objective(question, absolute, axis)
        training = Training(objective, edges, steps, learning_rate, seed)
        for _ in range(steps):
            done = training.step()
            if progress is not None:
                progress(done)
        return training.circuit(origin)


def check_training(metric: Metric, learning_rate: float) -> None:
    """Refuses options with which masks cannot be trained.

    Raises:
        InputError: a metric without a gradient, or a learning rate that is not positive.
    """
    metric.require_gradient("edge pruning", at_clean=False)
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise InputError(f"learning_rate must be a positive number, got {learning_rate}")


@dataclass(frozen=True, eq=False)
class _Part:
    """A batch with everything that is constant during the training.

    Attributes:
        clean: its metric on the clean prompts.
        placed: the graph over places and the span of every token, if edges have masks at places.
    """

    batch: Batch
    replacement: Writes
    streams: Streams
    clean: Float[Tensor, " pair"]
    placed: tuple[PlacedGraph, Int[Tensor, "batch pos"]] | None = None


class Objective:
    """The metric under soft masks as a loss.

    Attributes:
        graph: the graph of the masks.
        parts: all pairs in batches.
        range: mean change of the loss from all edges kept to none.
    """

    def __init__(self, question: Question, absolute: bool, axis: PlaceAxis | None = None) -> None:
        self.question, self.absolute, self.axis = question, absolute, axis
        self.graph: Graph = question.model.graph if axis is None else axis.graph
        self.parts = [self._part(batch) for batch in question.batches()]
        none = torch.zeros(self.graph.edge_mask.shape, dtype=question.sum_dtype, device=question.model.device)
        moved = [self.metric(part, none) - part.clean for part in self.parts]
        self.range = float(torch.cat(moved).abs().mean()) or 1.0

    def _part(self, batch: Batch) -> _Part:
        question, suffix = self.question, batch.suffix
        logits, clean = question.clean_run(suffix)
        replacement = question.replacement(suffix, clean)
        streams = replaced_stream(question.model.architecture, replacement)
        placed = None if self.axis is None else (self.axis.graph, self.axis.table.of_tokens(batch))
        return _Part(batch, replacement, streams, self._finite(question.metric(logits, batch.targets)), placed)

    def metric(self, part: _Part, mask: Float[Tensor, "writer reader"]) -> Float[Tensor, " pair"]:
        """The metric per prompt under these masks; masks of exactly 0 are assumed to have no gradient."""
        architecture, suffix = self.question.model.architecture, part.batch.suffix
        tokens = part.batch.tokens
        logits = masked_logits(architecture, suffix, part.replacement, mask, part.streams, True, part.placed, tokens)
        return self._finite(self.question.metric_of(part.batch, logits))

    def loss(self, part: _Part, values: Float[Tensor, " pair"]) -> Float[Tensor, ""]:
        """The mean loss for these metrics, in units of its range."""
        change = values - part.clean
        return (change.abs() if self.absolute else change * -self.question.metric.sign).mean() / self.range

    def judge(self, circuit: Circuit) -> tuple[float, float]:
        """Loss and metric of a circuit, averaged over all pairs."""
        mask = circuit.mask.to(self.question.model.device, self.question.sum_dtype)
        values = [self.metric(part, mask) for part in self.parts]
        n = len(self.question.pairs)
        loss = sum(float(self.loss(part, each)) * len(each) for part, each in zip(self.parts, values, strict=True)) / n
        return loss, float(torch.cat(values).mean())

    def _finite(self, values: Tensor) -> Tensor:
        if not bool(values.isfinite().all()):
            raise ModelError(
                f"{self.question.metric.name} is {values.detach().flatten().tolist()} under some masks; training cannot "
                "continue (use float32 or wider)"
            )
        return values


class Training:
    """The parameters of the masks, and their optimisation.

    Attributes:
        log_alpha: one per edge, in graph order.
    """

    def __init__(self, objective: Objective, edges: int, steps: int, learning_rate: float, seed: int) -> None:
        self.objective, self.edges, self.steps = objective, edges, steps
        model = objective.question.model
        self.graph = objective.graph
        self.edge_mask = self.graph.edge_mask.to(model.device)
        self.generator = torch.Generator().manual_seed(seed)
        start = FIRST_LOG_ALPHA + FIRST_SPREAD * torch.randn(self.graph.n_edges, generator=self.generator)
        self.log_alpha = start.to(model.device, objective.question.sum_dtype).requires_grad_()
        self.first = float(chance_open(self.log_alpha.detach()).sum())
        self.optimizer = torch.optim.Adam([self.log_alpha], lr=learning_rate, betas=MEMORY)
        self.sizes = torch.tensor([float(len(part.batch)) for part in objective.parts])
        self.done: list[PruningStep] = []

    def step(self) -> PruningStep:
        part = self.objective.parts[int(torch.multinomial(self.sizes, 1, generator=self.generator))]
        uniform = torch.rand(self.graph.n_edges, generator=self.generator).to(self.log_alpha)
        with torch.enable_grad():
            mask = self.log_alpha.new_zeros(self.edge_mask.shape)
            values = self.objective.metric(part, mask.masked_scatter(self.edge_mask, draw(self.log_alpha, uniform)))
            if not values.requires_grad:
                raise InputError(f"edge pruning needs a gradient, and {self.objective.question.metric.name} has none")
            expected, allowed = chance_open(self.log_alpha).sum(), self._allowed(len(self.done) + 1)
            excess = (expected / allowed).log().clamp(min=0)
            loss = self.objective.loss(part, values) + GAIN / 2 * excess.square()
        (self.log_alpha.grad,) = torch.autograd.grad(loss, self.log_alpha)
        self.optimizer.step()
        self.done.append(
            PruningStep(
                len(self.done) + 1, self.steps, float(values.detach().mean()), float(expected.detach()), allowed
            )
        )
        return self.done[-1]

    def _allowed(self, step: int) -> float:
        """The number of edges that may be open at this step (from 1)."""
        return self.first * (self.edges / self.first) ** min(1.0, step / (FALLING * self.steps))

    def circuit(self, origin: Provenance) -> Circuit:
        """The strongest masks within the budget."""
        log_alpha = self.log_alpha.detach().to("cpu", torch.float64)
        values = torch.zeros(self.graph.edge_mask.shape, dtype=torch.float64)
        values[self.graph.edge_mask] = log_alpha
        n_pairs = len(self.objective.question.pairs)
        scores = EdgeScores(self.graph, values, torch.full_like(values, torch.nan), n_pairs, origin)
        often = replace(scores, kept=self.graph.edge_mask & (values >= OPEN))
        candidates = {
            "filled": scores.top(self.edges, by="signed", fill=True),
            "first": scores.top(self.edges, by="signed"),
            "open": often.top(self.edges, by="signed", fill=True),
        }
        judged = {name: self.objective.judge(candidate) for name, candidate in candidates.items()}
        best = min(candidates, key=lambda name: judged[name][0])
        last = self.done[-max(1, self.steps // 10) :]
        training = {
            "chosen": best,
            "metric": judged[best][1],
            "range": self.objective.range,
            "masked_metric": sum(step.metric for step in last) / len(last),
            "masked_steps": len(last),
            "expected": float(chance_open(log_alpha).sum()),
        }
        return candidates[best].with_provenance(training=training)


def _discovered(
    question: Question, *, edges: int, objective: str, seed: int, progress: StageReport, **training: Any
) -> Circuit:
    """Trains masks on the objective; the circuit is tested with the run's own metric."""

    def report(at: PruningStep) -> None:
        progress(at.done, at.steps, f"{at.expected:.0f} edges open, {objective} {at.metric:.4g}")

    return edge_pruning_of(question.again(metric=objective), edges, seed=seed, progress=report, **training)


METHOD = Method(
    name="edge-pruning",
    function=_discovered,
    gives="circuit",
    stage=("training", "steps"),
    help="masks on edges, trained",
    draws=True,
    remedy="masks trained on kl_divergence, or with --absolute, stay closer to the model",
    takes=(
        replace(EDGES, default=200, help="Edges to choose."),
        replace(PLACES, help="spans or each: masks for each edge at each place."),
        DESTINATIONS,
        Option(
            "objective",
            Kind.METRIC,
            "kl_divergence",
            "Differentiable metric that the masks are trained on.",
            choices=tuple(name for name, metric in METRICS.items() if metric.differentiable),
        ),
        Option("steps", Kind.WHOLE, 300, "Steps of training.", at_least=1),
        Option("learning_rate", Kind.NUMBER, 0.2, "Learning rate of the masks' log-odds.", above=0),
        ABSOLUTE,
        RANDOM_CIRCUITS,
    ),
)
