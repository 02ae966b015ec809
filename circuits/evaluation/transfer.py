"""Is a circuit still there in another model: a fine-tuned one, another checkpoint, rounded weights, another seed, another architecture?

*Faithfulness*: where both models have one graph, the same edges in model B, beside random circuits. *Changed edges*: effects of both
models compared by a permutation test that is corrected for all edges (`circuits.stats.changes`). *Heads by function*: for each head of
the circuit the head of B that does most nearly the same, also where the graphs differ (`circuits.evaluation.matched_heads`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError, ModelError
from circuits.evaluation.faithfulness import Faithfulness, faithfulness_of
from circuits.evaluation.matched_heads import MatchedHead, match_heads
from circuits.evaluation.recovery import NEGLIGIBLE
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.shown import Shown
from circuits.stats.bootstrap import check_level
from circuits.stats.changes import changes_p

FEWEST = 6
"""Fewer paired prompts have too few signs to show a change at 0.95."""


@dataclass(frozen=True)
class ChangedEdge:
    """An edge whose effect differs between two models.

    Attributes:
        edge: its name.
        before, after: its mean effect in model A and in model B.
        p: p value, corrected for all edges.
        in_circuit: whether the circuit has it.
    """

    edge: str
    before: float
    after: float
    p: float
    in_circuit: bool


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Transfer(Shown):
    """A circuit of model A in model B.

    Attributes:
        model_a, model_b: names of the models; `model_a` None: not known.
        n_edges: size of the circuit.
        faithfulness: of the circuit in B; None if B has another graph.
        before: of the circuit in A; None if A was not given.
        changed: edges whose effects differ, the largest change first; None if scores of both were not given or cannot be compared.
        matched: heads of the circuit by function; None if model A was not given.
        skipped: what was not compared, and why.
        level: 1 - the probability of naming any edge that did not change.
    """

    model_a: str | None
    model_b: str
    n_edges: int
    faithfulness: Faithfulness | None
    before: Faithfulness | None
    changed: tuple[ChangedEdge, ...] | None
    matched: tuple[MatchedHead, ...] | None
    skipped: dict[str, str]
    level: float

    @property
    def moved(self) -> tuple[MatchedHead, ...]:
        """Heads whose function is clearly at another head of B."""
        return tuple(head for head in self.matched or () if head.moved)

    def rows(self) -> list[dict[str, Any]]:
        """One row per changed edge."""
        return [vars(edge) for edge in self.changed or ()]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "model_a": self.model_a, "model_b": self.model_b, "edges": self.n_edges, "level": self.level,
            "faithfulness": None if self.faithfulness is None else self.faithfulness.to_dict(),
            "before": None if self.before is None else self.before.to_dict(),
            "changed": None if self.changed is None else [vars(edge) for edge in self.changed],
            "matched": None if self.matched is None else [vars(head) for head in self.matched],
            "skipped": dict(self.skipped),
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"Transfer({self})"

    def __str__(self) -> str:
        parts = []
        if self.faithfulness is not None:
            before = "" if self.before is None else f" (before: {self.before.value:.3f})"
            parts.append(f"faithfulness {self.faithfulness.value:.3f}{before}")
        if self.changed is not None:
            parts.append(
                f"{len(self.changed)} edges changed, {sum(e.in_circuit for e in self.changed)} of them in the circuit"
            )
        if self.matched is not None:
            clear = sum(head.clear for head in self.matched)
            parts.append(f"{clear} of {len(self.matched)} heads clearly matched, {len(self.moved)} moved")
        return f"{self.n_edges} edges of {self.model_a or 'another model'} in {self.model_b}: {'; '.join(parts) or 'nothing compared'}"


@on_model
def transfer(
    circuit: Circuit,
    model_b: Model,
    pairs_b: PromptPairs,
    *,
    model_a: Model | None = None,
    pairs_a: PromptPairs | None = None,
    scores_a: EdgeScores | None = None,
    scores_b: EdgeScores | None = None,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    n_random: int = 5,
    level: float = 0.95,
    permutations: int = 999,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Transfer:
    """Tests a circuit of model A in model B.

    Args:
        circuit: a circuit of model A.
        model_b, pairs_b: the other model, and prompts for it.
        model_a, pairs_a: the circuit's model, for its faithfulness and for matching heads; pairs None: `pairs_b`.
        scores_a, scores_b: effects per prompt in both models by one method, to compare edges.
        metric, ablation, batch_size, progress: see `circuits.faithfulness`.
        n_random: random circuits beside the faithfulness in B.
        level: 1 - the probability of naming any edge that did not change.
        permutations: of the test of edges.
        seed: of random circuits and permutations.

    Raises:
        InputError: a circuit that is not of model A, scores without effects per prompt, or a number out of range.
    """
    check_level(level)
    if model_a is not None and circuit.graph.base != model_a.graph:
        raise InputError(
            f"the circuit belongs to another graph ({circuit.graph}) than {model_a.name} ({model_a.graph})"
        )
    own = pairs_b if pairs_a is None else pairs_a
    reasons = _not_compared(circuit, model_a, model_b, scores_a, scores_b)
    after = before = changed = matched = None
    if "faithfulness" not in reasons:
        question = Question.ask(model_b, pairs_b, metric, ablation, batch_size)
        after = faithfulness_of(question, circuit, n_random=n_random, seed=seed, progress=progress)
    if model_a is not None:
        question = Question.ask(model_a, own, metric, ablation, batch_size)
        before = faithfulness_of(question, circuit, n_random=0, progress=progress)
    if "edges" not in reasons:
        assert scores_a is not None
        assert scores_b is not None
        changed = changed_edges(circuit, scores_a, scores_b, level, permutations, seed)
    if model_a is not None:
        try:
            matched = match_heads(circuit, (model_a, own), (model_b, pairs_b), metric, reasons)
        except ModelError as problem:
            reasons["heads"] = str(problem)
    name = None if model_a is None else model_a.name
    return Transfer(name, model_b.name, len(circuit), after, before, changed, matched, reasons, level)


def _not_compared(
    circuit: Circuit, model_a: Model | None, model_b: Model, scores_a: EdgeScores | None, scores_b: EdgeScores | None
) -> dict[str, str]:
    """What cannot be compared, and why."""
    reasons: dict[str, str] = {}
    if circuit.graph.base != model_b.graph:
        reasons["faithfulness"] = (
            f"{model_b.name} has another graph ({model_b.graph}) than the circuit ({circuit.graph})"
        )
    if scores_a is None or scores_b is None:
        reasons["edges"] = "scores of both models are needed to compare edges"
    elif scores_a.graph != scores_b.graph:
        reasons["edges"] = "the models have different graphs, so their edges cannot be compared"
    elif (few := too_few(scores_a, scores_b)) is not None:
        reasons["edges"] = few
    if model_a is None:
        reasons["heads"] = "the circuit's own model is needed to match heads"
    return reasons


def changed_edges(
    circuit: Circuit, before: EdgeScores, after: EdgeScores, level: float, permutations: int, seed: int
) -> tuple[ChangedEdge, ...]:
    """Edges whose effects differ, by a test that is corrected for all edges; the largest change first.

    Scores of the same pairs are compared prompt by prompt, others as two samples.
    """
    first, second = _rows(before), _rows(after)
    if permutations * (1 - level) < 1 - 1e-9:
        raise InputError(f"{permutations} permutations cannot show anything at this level")
    least = NEGLIGIBLE * max(float(first.mean(0).abs().max()), float(second.mean(0).abs().max()))
    p = changes_p(first, second, _paired(before, after), permutations, seed, least)
    graph = before.graph
    means = [scores.values[graph.edge_mask] for scores in (before, after)]
    own = circuit if circuit.graph == graph else circuit.without_places()
    inside = own.mask[graph.edge_mask] if own.graph == graph else torch.zeros(graph.n_edges, dtype=torch.bool)
    named = (p < 1 - level).nonzero()[:, 0]
    order = named[(means[1] - means[0]).abs()[named].argsort(descending=True, stable=True)]
    names = graph.edges
    return tuple(
        ChangedEdge(names[i], float(means[0][i]), float(means[1][i]), float(p[i]), bool(inside[i]))
        for i in order.tolist()
    )


def _paired(before: EdgeScores, after: EdgeScores) -> bool:
    known = before.provenance.get("pairs_sha256")
    return known is not None and known == after.provenance.get("pairs_sha256") and before.group == after.group


def too_few(before: EdgeScores, after: EdgeScores) -> str | None:
    """Why no edge can be shown to have changed; None if it can."""
    n, needed = min(len(_rows(before)), len(_rows(after))), FEWEST if _paired(before, after) else 4
    return f"{n} prompts are too few to show that an edge changed; score at least {needed}" if n < needed else None


def _rows(scores: EdgeScores) -> Float[Tensor, "row edge"]:
    if scores.per_prompt is None:
        raise InputError(
            "these scores do not hold effects per prompt, so changes cannot be distinguished from noise; score the pairs again"
        )
    return scores.per_prompt.double().cpu()
