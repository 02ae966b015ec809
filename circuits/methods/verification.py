"""Verification: patches nodes in the order of their scores until the diagnostics bound the effects of the rest.

First, nodes whose scores reach `below` are patched, each alone (exact effects). Then, in round r = 1, 2, …:

1. samples · 2^(r-1) fresh random subsets of the remaining nodes, and the joint sets, give an upper bound on the largest size of an
   average effect among them (`circuits.methods.diagnosis`), with confidence 1 - α/(r(r+1)), where α = 1 - confidence.
2. If the bound is under `below`, the search ends.
3. Otherwise, as many nodes are patched as subsets were drawn: those whose estimate reaches `below`, then the next by score.

If a round would draw as many sets as nodes remain, all of them are patched, and the result is exact. Rounds double, so patching and
sampling cost about the same: in total less than two forward passes per node, and the joint sets of all rounds but one. Samples are
fresh in every round, and Σ α/(r(r+1)) = α. Hence the probability of stopping while a node with average effect `below` or more
remains is at most α for any number of rounds, as far as each bound holds with its stated confidence, and on the assumption of
`circuits.methods.diagnosis`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.measure.joint_sets import JOINT_SETS, spread_of
from circuits.measure.placed_nodes import PlacedNode, placed_nodes
from circuits.measure.subsets import SetRuns, chosen_sets, draw_subsets, whole_share
from circuits.methods.diagnosis import ASSUMPTION, Diagnosis, check_sampling, sizes
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.node_scores import NodeScores, node_scores
from circuits.results.provenance import Provenance, provenance
from circuits.shown import Shown


@dataclass(frozen=True)
class Round:
    """One diagnosis during the verification.

    Attributes:
        patched: number of nodes patched before it.
        samples: number of subsets drawn, besides the joint sets.
        confidence: confidence of its bound.
        bound: bound on the size of the average effect of every remaining node.
        spread: how much the marginal effect of a node may depend on other nodes, see `circuits.measure.joint_sets`.
    """

    patched: int
    samples: int
    confidence: float
    bound: float
    spread: float


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Verification(Shown):
    """Exact effects of the patched nodes, and a bound on the effects of the others.

    Attributes:
        effects: effects of the patched nodes, in the order of patching (with a position: `a0.h1@3`).
        unverified: the nodes that were not patched.
        below: the requested size.
        bound: bound on the size of the average effect of every unverified node; 0 if there are none.
        confidence: confidence of the bound, on the assumption of `circuits.methods.diagnosis`.
        size: definition of the size of an effect, see `circuits.methods.diagnosis`.
        rounds: the diagnoses.
        passes: number of forward passes over the pairs; each patched run counts as one.
    """

    effects: NodeScores
    unverified: tuple[str, ...]
    below: float
    bound: float
    confidence: float
    size: str
    rounds: tuple[Round, ...]
    passes: int

    @property
    def found(self) -> tuple[str, ...]:
        """Nodes whose exact effect has size `below` or more, largest first."""
        measured = sizes(self.effects.per_prompt, self.size)
        order = measured.argsort(descending=True, stable=True)
        return tuple(self.effects.nodes[i] for i in order[measured[order] >= self.below].tolist())

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the nodes found, their exact mean effects, the bound on the rest, and the cost."""
        effects = self.effects.to_dict()
        return {
            "found": {node: effects[node] for node in self.found},
            "effects": effects,
            "unverified": list(self.unverified),
            "below": self.below,
            "bound": self.bound,
            "assumes": ASSUMPTION if self.unverified else None,
            "confidence": self.confidence,
            "size": self.size,
            "rounds": [vars(done) for done in self.rounds],
            "passes": self.passes,
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per patched node: its exact mean effect, and whether its size is `below` or more."""
        large = set(self.found)
        return [
            {"node": node, "effect": effect, "found": node in large} for node, effect in self.effects.to_dict().items()
        ]

    def __repr__(self) -> str:
        return (
            f"Verification({len(self.found)} nodes of {self.below:g} or more, {len(self.effects)} patched, "
            f"{len(self.unverified)} not: {self._rest()}; {self.passes} passes)"
        )

    def _rest(self) -> str:
        if not self.unverified:
            return "exact"
        return (
            f"no average effect above {self.bound:.3g} with confidence {self.confidence:g}, if interactions show when half or a "
            "quarter of them is patched"
        )


@on_model
def verify(
    model: Model,
    pairs: PromptPairs,
    scores: NodeScores,
    *,
    below: float,
    confidence: float = 0.95,
    size: str = "mean",
    samples: int = 128,
    share: float = 0.0625,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Patches nodes in the order of their scores until, with the given confidence, no other node has an effect of size `below`.

    Args:
        model, pairs, ablation: see `circuits.activation_patching`.
        batch_size: pairs at a time.
        scores: scores of the nodes to verify, preferably from `atp_star`; nodes are patched in the order of their sizes.
        below: smallest size of effects that must not be missed, in the metric's unit.
        confidence: probability that none is missed.
        size: `mean` or `contribution`, see `circuits.methods.diagnosis`.
        samples: number of subsets in the first round, besides the joint sets.
        share: probability that a node is in a subset, to the nearest 1/32, see `diagnose`.
        metric: None: the task's preferred metric. It may differ from the scores' metric.
        seed: random seed of the subsets.
        store: a directory for finished results; a call with the same question continues from it.
        progress: called with (forward passes done, the largest possible number).

    Raises:
        InputError: an invalid option, unknown nodes in the scores, or a store of another question.
        PairsError: the pairs lack these positions.
    """
    check_sampling(confidence, size, samples)
    if not below > 0:
        raise InputError(f"below must be above 0, got {below:g} (to patch every node use activation_patching)")
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    nodes, expected = _in_order(model, pairs, scores, size)
    promising = [node for node, value in zip(nodes, expected.tolist(), strict=True) if value >= below]
    options = {
        "nodes": len(nodes), "promising": len(promising), "below": below, "confidence": confidence, "size": size,
        "samples": samples, "share": whole_share(share), "subsets_seed": seed, "batch_size": question.batch_size,
        "scores": scores.provenance.get("method"),
    }  # fmt: skip
    origin = provenance(question, "verify", options)
    runs = SetRuns.for_method(question, "verification", origin, nodes, store)
    search = _Search(runs, nodes, size, samples, progress)
    search.patch(promising)
    search.make_rounds(samples, share, seed, below, confidence)
    return search.result(origin, below, confidence)


def _in_order(
    model: Model, pairs: PromptPairs, scores: NodeScores, size: str
) -> tuple[list[PlacedNode], Float[Tensor, " node"]]:
    """The nodes of the scores, largest first, and the sizes of their scores."""
    names = scores.nodes if scores.positions is None else [f"{a}@{b}" for a in scores.nodes for b in scores.positions]
    nodes = placed_nodes(model, pairs, names)
    expected = sizes(scores.per_prompt.reshape(len(nodes), -1), size)
    if not bool(expected.isfinite().all()):
        raise InputError(
            f"some scores are not finite, such as that of {nodes[int(expected.isfinite().int().argmin())].name}"
        )
    order = expected.argsort(descending=True, stable=True)
    return [nodes[i] for i in order.tolist()], expected[order]


def _next(left: Sequence[PlacedNode], diagnosis: Diagnosis, below: float, n: int) -> list[PlacedNode]:
    """The n nodes to patch next: those whose estimates reach `below`, then by score."""
    estimates = diagnosis.estimates.nan_to_num(0).abs()
    order = estimates.argsort(descending=True, stable=True)
    suspect = order[estimates[order] >= below].tolist()
    rest = sorted(set(range(len(left))) - set(suspect))
    return [left[i] for i in (suspect + rest)[:n]]


class _Search:
    """The patched and the remaining nodes."""

    def __init__(
        self, runs: SetRuns, nodes: Sequence[PlacedNode], size: str, samples: int, progress: Progress | None
    ) -> None:
        self.runs, self.size, self.progress = runs, size, progress
        self.left, self.done = list(nodes), []
        self.rounds: list[Round] = []
        self.passes, self.most = 0, len(nodes)
        while samples + JOINT_SETS < len(nodes):
            self.most, samples = self.most + samples + JOINT_SETS, 2 * samples
        n = len(runs.question.pairs)
        self.effects, self.ends = torch.empty(0, n, dtype=torch.float64), torch.empty(2, n, dtype=torch.float64)

    def patch(self, nodes: Sequence[PlacedNode]) -> None:
        """Patches and measures these nodes, each alone."""
        if not nodes:
            return
        outcomes = self._outcomes(f"patched-{len(self.done):07d}", [[node] for node in nodes])
        self.effects = torch.cat([self.effects, outcomes])
        self.done += nodes
        chosen = set(nodes)
        self.left = [node for node in self.left if node not in chosen]

    def make_rounds(self, samples: int, share: float, seed: int, below: float, confidence: float) -> None:
        """Diagnoses and patches until no remaining effect can be as large as `below`."""
        while self.left:
            number = len(self.rounds) + 1
            n = samples * 2 ** (number - 1)
            if n + JOINT_SETS >= len(self.left):
                self.patch(self.left)
                break
            diagnosis = self.diagnose(n, share, seed, 1 - (1 - confidence) / (number * (number + 1)))
            if diagnosis.bound < below:
                break
            self.patch(_next(self.left, diagnosis, below, n))

    def diagnose(self, samples: int, share: float, seed: int, confidence: float) -> Diagnosis:
        """Diagnoses random subsets of the remaining nodes."""
        number = len(self.rounds) + 1
        included = draw_subsets(len(self.left), samples, share, seed, stream=f"round {number}")
        outcomes = self._outcomes(f"round-{number:03d}", chosen_sets(self.left, included))
        names = tuple(node.name for node in self.left)
        diagnosis = Diagnosis(names, included, outcomes, confidence, self.size)
        spread = float(spread_of(outcomes[:JOINT_SETS].mean(1, keepdim=True)).spread)
        self.rounds.append(Round(len(self.done), samples, confidence, diagnosis.bound, spread))
        return diagnosis

    def _outcomes(self, name: str, sets: Sequence[Sequence[PlacedNode]]) -> Float[Tensor, "set prompt"]:
        before, report = self.passes, self.progress
        tick = None if report is None else lambda done, total: report(before + done * len(sets) // total, self.most)
        outcomes, self.ends = self.runs.outcomes(name, sets, tick)
        self.passes += len(sets)
        return outcomes

    def result(self, origin: Provenance, below: float, confidence: float) -> Verification:
        """The result so far."""
        names = tuple(node.name for node in self.done)
        effects = node_scores(names, self.effects, origin, None, self.ends[0], self.ends[1])
        bound = self.rounds[-1].bound if self.left else 0.0
        left = tuple(node.name for node in self.left)
        return Verification(effects, left, below, bound, confidence, self.size, tuple(self.rounds), self.passes + 2)
