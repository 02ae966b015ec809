"""Masks on edges, trained together by gradient descent under a budget of edges; what edge pruning and UGS share.

Every edge has a parameter θ, from which a `MaskLaw` draws its mask z between 0 (ablated) and 1 (kept). A reader receives
z · current + (1 - z) · replacement from each writer (`engine.soft_masks`). Each step draws all masks and some pairs, and Adam minimises

    loss / range + gain/2 · max(0, log(N / K))²,      N = Σ P(z ≠ 0)

where the loss is the metric with the sign that makes lower better, and its range its change from all edges kept to none, so one gain
fits all metrics. N is the expected number of open edges, and K the allowed number: it falls geometrically from the initial N to the
budget over the first four fifths of the steps, and then stays. At the end, edges are chosen by θ, without dead ends
(`selection.top`), in three ways: the strongest, up to the budget; the same with the budget filled by edges further down; or only those
that are open at least half of the time. The circuit with the lowest loss on the pairs is returned.

If training starts from scores, θ starts at its law's usual value plus 4 · logit(q) / logit(q of the strongest edge), where q is the rank
of the edge's absolute score among all edges, between 0 and 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

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
from circuits.question.metrics import Metric
from circuits.question.places import PlaceAxis, covering_axis
from circuits.question.question import Batch, Question
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.provenance import Provenance, provenance
from circuits.results.recorded import method_name
from circuits.stats import hard_concrete, uniform_window
from circuits.stats.correlation import ranks

FIRST_SPREAD = 0.01
FARTHEST_START = 4.0
"""The largest distance of a parameter from its usual first value, if training starts from scores."""
GAIN = 50.0
FALLING = 0.8
"""Share of the steps in which the number of allowed edges falls."""
MEMORY = (0.9, 0.99)
"""Adam's β for the gradient and its square: for some hundred steps, the usual 0.999 is too slow."""
LARGEST_BATCH = 8


@dataclass(frozen=True)
class MaskLaw:
    """How masks are drawn from their parameters.

    Attributes:
        draw: (parameters, uniform numbers) -> masks.
        chance_open: parameters -> P(z ≠ 0), or the mean of z.
        half: the parameter at which that is one half.
        first: the parameters' first value.
    """

    draw: Callable[[Tensor, Tensor], Tensor]
    chance_open: Callable[[Tensor], Tensor]
    half: float
    first: float


HARD_CONCRETE = MaskLaw(hard_concrete.draw, hard_concrete.chance_open, hard_concrete.OPEN, 2.0)
UNIFORM_WINDOW = MaskLaw(uniform_window.draw, torch.sigmoid, 0.0, 1.0)


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


def first_steps(start: EdgeScores, graph: Graph) -> Float[Tensor, " edge"]:
    """How far from its usual first value each parameter starts: log-odds of the rank of its absolute score, up to `FARTHEST_START`.

    Raises:
        InputError: the scores belong to another graph.
    """
    if isinstance(graph, PlacedGraph):
        start = start.over_places()
    # Graphs over places that were made for different prompts can have the same edges, so edges are looked up by name.
    values = dict(
        zip(start.graph.edges, (start.values * start.candidates)[start.graph.edge_mask].tolist(), strict=True)
    )
    if missing := next((edge for edge in graph.edges if edge not in values), None):
        raise InputError(
            f"the scores to start from belong to another graph ({start.graph}): they have no edge {missing}"
        )
    sizes = torch.tensor([abs(values[edge]) for edge in graph.edges], dtype=torch.float64)
    quantiles = (ranks(sizes[:, None])[:, 0] - 0.5) / len(sizes)
    farthest = torch.logit(torch.tensor(1 - 0.5 / len(sizes)))
    return (FARTHEST_START * torch.logit(quantiles) / farthest).float()


def train_masks(
    question: Question, method: str, law: MaskLaw, edges: int, *, positions: str | None, destinations: bool, steps: int,
    learning_rate: float, absolute: bool, start: EdgeScores | None, seed: int, progress: Report | None,
) -> Circuit:  # fmt: skip
    """The circuit of `edge_pruning` and `uniform_gradient_sampling`, which have the arguments; `method`: its name in the provenance."""
    question, model = question.again(usual_size=LARGEST_BATCH), question.model
    axis = covering_axis(model.graph, question.pairs, positions, destinations)
    graph = model.graph if axis is None else axis.graph
    if not 1 <= edges <= graph.n_edges:
        raise InputError(f"edges must be between 1 and the graph's {graph.n_edges}, got {edges}")
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    check_training(question.metric, learning_rate, method)
    options: dict[str, object] = {} if positions is None else {"positions": positions}
    options |= {"destinations": True} if destinations else {}
    options |= {"edges": edges, "steps": steps, "learning_rate": learning_rate, "absolute": absolute, "seed": seed,
                "batch_size": question.batch_size}  # fmt: skip
    if start is not None:
        origin = start.provenance
        options["start"] = {name: origin.get(name) for name in ("method", "options", "of") if name in origin}
    first = None if start is None else first_steps(start, graph)
    with inference_state(model.bridge):
        training = Training(Objective(question, absolute, axis), edges, steps, learning_rate, seed, first, law)
        for _ in range(steps):
            done = training.step()
            if progress is not None:
                progress(done)
        return training.circuit(provenance(question, method, options))


def check_training(metric: Metric, learning_rate: float, method: str) -> None:
    """Refuses options with which masks cannot be trained.

    Raises:
        InputError: a metric without a gradient, or a learning rate that is not positive.
    """
    metric.require_gradient(method_name({"method": method}), at_clean=False)
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
        theta: one per edge, in graph order.
    """

    def __init__(
        self, objective: Objective, edges: int, steps: int, learning_rate: float, seed: int, first: Tensor | None = None,
        law: MaskLaw = HARD_CONCRETE,
    ) -> None:  # fmt: skip
        self.objective, self.edges, self.steps = objective, edges, steps
        model = objective.question.model
        self.graph = objective.graph
        self.edge_mask = self.graph.edge_mask.to(model.device)
        self.generator = torch.Generator().manual_seed(seed)
        self.law = law
        start = law.first + FIRST_SPREAD * torch.randn(self.graph.n_edges, generator=self.generator)
        start = start if first is None else start + first
        self.theta = start.to(model.device, objective.question.sum_dtype).requires_grad_()
        self.first = float(self.law.chance_open(self.theta.detach()).sum())
        self.optimizer = torch.optim.Adam([self.theta], lr=learning_rate, betas=MEMORY)
        self.sizes = torch.tensor([float(len(part.batch)) for part in objective.parts])
        self.done: list[PruningStep] = []

    def step(self) -> PruningStep:
        part = self.objective.parts[int(torch.multinomial(self.sizes, 1, generator=self.generator))]
        uniform = torch.rand(self.graph.n_edges, generator=self.generator).to(self.theta)
        with torch.enable_grad():
            mask = self.theta.new_zeros(self.edge_mask.shape)
            values = self.objective.metric(
                part, mask.masked_scatter(self.edge_mask, self.law.draw(self.theta, uniform))
            )
            if not values.requires_grad:
                raise InputError(f"masks need a gradient, and {self.objective.question.metric.name} has none")
            expected, allowed = self.law.chance_open(self.theta).sum(), self._allowed(len(self.done) + 1)
            excess = (expected / allowed).log().clamp(min=0)
            loss = self.objective.loss(part, values) + GAIN / 2 * excess.square()
        (self.theta.grad,) = torch.autograd.grad(loss, self.theta)
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
        theta = self.theta.detach().to("cpu", torch.float64)
        values = torch.zeros(self.graph.edge_mask.shape, dtype=torch.float64)
        values[self.graph.edge_mask] = theta
        n_pairs = len(self.objective.question.pairs)
        scores = EdgeScores(self.graph, values, torch.full_like(values, torch.nan), n_pairs, origin)
        often = replace(scores, kept=self.graph.edge_mask & (values >= self.law.half))
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
            "expected": float(self.law.chance_open(theta).sum()),
        }
        return candidates[best].with_provenance(training=training)
