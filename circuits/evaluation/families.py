"""Families of prompts: is it one circuit, or one for each kind of prompt?

Each prompt has a profile, its effects per edge, divided by their length. Families are found by dividing the prompts in two as long as
both of these tests reject one family:

1. *Profiles*: a dip test on held-out prompts (`circuits.stats.grouping`): between two centres that were found on other prompts, there
   are two modes. This test bounds the false splits. A group of n_g of n prompts is tested at the level (1 - level) · n_g/n, so that
   groups which are one family are split anywhere with a probability of at most 1 - level (Meinshausen 2008).
2. *Faithfulness*: one circuit for each half, from half of the prompts, is nearer to the model on the other prompts than for random
   groupings of equal sizes: p = (1 + number of random groupings at least as near) / (1 + number of them), at the level 1 - level. It
   keeps together prompts whose profiles differ and whose circuits do not.

The distance from the model is the sum over held-out prompts of |m(C) - m(all)|, where C is the circuit of the prompt's group, and over
circuits of a quarter, a half and all of `edges`: a circuit with enough edges holds several mechanisms, and families differ in how few
edges each needs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.evaluation.faithfulness import measure_circuits
from circuits.evaluation.family_traits import Trait, traits
from circuits.evaluation.recovery import NEGLIGIBLE
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metric_range import MetricRange
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.provenance import finite
from circuits.results.subsample_selection import pruned_sets, strongest
from circuits.shown import Shown
from circuits.stats.bootstrap import check_level
from circuits.stats.grouping import FEWEST, clusters, halves, in_order, nearest, two_groups_p, unit_gram

SIZES = (0.25, 0.5, 1.0)
"""Sizes of the circuits that are compared, as shares of the number of edges."""


@dataclass(frozen=True)
class Split:
    """The test whether some prompts are two families.

    Attributes:
        n_prompts: their number.
        profiles_p: p value of the dip test.
        profiles_level: the level that it must be below.
        faithfulness_p: p value against random groupings; NaN if the first test did not reject.
        accepted: whether they were split.
    """

    n_prompts: int
    profiles_p: float
    profiles_level: float
    faithfulness_p: float
    accepted: bool


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Families(Shown):
    """Groups of prompts with a circuit each.

    Attributes:
        labels: the family of each pair, numbered in the order of their first pair.
        circuits: the circuit of each family.
        faithfulness: faithfulness of each family's circuit (row) on the prompts of each family (column); NaN where the metric's range is within rounding. The
            circuits were found on these prompts.
        core: the edges that all circuits have.
        splits: the tests, in order; empty if k was given.
        grouping_p: k was given: p value of the faithfulness on held-out prompts against random groupings; otherwise NaN. It is not
            exact, since groups that were found are not one of the random ones (`benchmarks/error_rates.py`).
        traits: what the families follow, the clearest first; empty with one family.
        level: 1 - probability of splitting one family.
    """

    labels: Int[Tensor, " pair"]
    circuits: tuple[Circuit, ...]
    faithfulness: Float[Tensor, "circuit family"]
    core: Circuit
    splits: tuple[Split, ...]
    grouping_p: float
    traits: tuple[Trait, ...]
    level: float

    @property
    def k(self) -> int:
        """The number of families."""
        return len(self.circuits)

    @property
    def p(self) -> float:
        """The larger p value of both tests of the first split (of the profiles, if they were not split). k given: `grouping_p`."""
        if not self.splits:
            return self.grouping_p
        first = self.splits[0]
        return first.profiles_p if math.isnan(first.faithfulness_p) else max(first.profiles_p, first.faithfulness_p)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of pairs in each family."""
        return tuple(torch.bincount(self.labels, minlength=self.k).tolist())

    @property
    def follows(self) -> str | None:
        """What tells the families apart, in words; None: one family, or nothing that is known of the pairs."""
        return None if not self.traits or self.traits[0].p >= 1 - self.level else self.traits[0].name

    def rows(self) -> list[dict[str, Any]]:
        """One row per family."""
        return [
            {"family": i, "pairs": n, "edges": len(c), "edges not in the core": len(c - self.core)}
            | {f"faithfulness on {j}": finite(float(f)) for j, f in enumerate(self.faithfulness[i])}
            for i, (n, c) in enumerate(zip(self.sizes, self.circuits, strict=True))
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "k": self.k, "p": finite(self.p), "level": self.level, "labels": self.labels.tolist(), "families": self.rows(),
            "core": list(self.core.edges), "follows": self.follows, "traits": [vars(trait) for trait in self.traits],
            "splits": [{name: finite(v) if isinstance(v, float) else v for name, v in vars(s).items()} for s in self.splits],
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"Families({self})"

    def __str__(self) -> str:
        if self.k == 1:
            return f"one family of {len(self.labels)} prompts (p = {self.p:.2g})"
        follow = f"; they follow {self.follows}" if self.follows else ""
        return f"{self.k} families of {', '.join(map(str, self.sizes))} prompts (p = {self.p:.2g}), {len(self.core)} edges in all circuits{follow}"


@on_model
def families(
    model: Model,
    pairs: PromptPairs,
    scores: EdgeScores,
    k: int | None = None,
    seed: int = 0,
    *,
    edges: int = 200,
    level: float = 0.95,
    groupings: int = 39,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Families:
    """Groups prompts by their own attribution, and finds a circuit for each group.

    Args:
        model: a loaded model.
        pairs: the prompts.
        scores: their scores, with effects per prompt.
        k: the number of families; None: as many as the tests show.
        seed: of the divisions into halves, of the clustering and of random groupings.
        edges: the circuit of each family has this many strongest edges, before pruning.
        level: 1 - the probability of splitting one family.
        groupings: random groupings of each test; at least 20 for a level of 0.95.
        metric, ablation, batch_size: of the circuits' tests; metric None: the task's own.
        progress: called with (evaluations done, in total) for each test.

    Raises:
        InputError: scores without effects per prompt, of groups of prompts or of other pairs; fewer than eight pairs; a number out of
            range.
    """
    check_families(pairs, scores, k, edges, level, groupings)
    search = _Search(
        Question.ask(model, pairs, metric, ablation, batch_size), scores, edges, level, groupings, seed, progress
    )
    everything = torch.arange(len(pairs))
    if k is None:
        groups, splits, p = search.split(everything), tuple(search.splits), math.nan
        labels = torch.zeros(len(pairs), dtype=torch.long)
        for number, group in enumerate(groups):
            labels[group] = number
        labels = in_order(labels)
    else:
        labels, splits = clusters(search.gram, k, seed), ()
        p = search.faithfulness_p(everything, k) if k > 1 else math.nan
    circuits = search.circuits(everything, labels, int(labels.max()) + 1)
    core = circuits[0]
    for circuit in circuits[1:]:
        core = core & circuit
    followed = traits(pairs, labels, seed) if len(circuits) > 1 else ()
    return Families(labels, tuple(circuits), search.matrix(circuits, labels), core, splits, p, followed, level)


def check_families(
    pairs: PromptPairs,
    scores: EdgeScores,
    k: int | None = None,
    edges: int = 1,
    level: float = 0.95,
    groupings: int = 39,
) -> None:
    """Refuses scores and numbers from which families cannot be found."""
    if scores.per_prompt is None:
        raise InputError(
            "these scores do not hold effects per prompt, so prompts have no profiles; score the pairs again"
        )
    if scores.group > 1:
        raise InputError(f"each row of these scores is the mean over {scores.group} prompts; score at most 128 pairs")
    if scores.n_prompts != len(pairs) or scores.provenance.get("pairs_sha256", pairs.digest()) != pairs.digest():
        raise InputError(
            f"the scores are of other pairs ({scores.n_prompts}) than these {len(pairs)}; score these pairs"
        )
    if len(pairs) < FEWEST:
        raise InputError(f"families need at least {FEWEST} pairs, got {len(pairs)}")
    if k is not None and not 1 <= k <= len(pairs) // 2:
        raise InputError(f"k must be between 1 and {len(pairs) // 2}, half of the pairs; got {k}")
    if not 1 <= edges <= scores.graph.n_edges:
        raise InputError(f"edges must be between 1 and this graph's {scores.graph.n_edges}, got {edges}")
    check_level(level)
    if groupings * (1 - level) < 1 - 1e-9:
        raise InputError(
            f"{groupings} random groupings cannot show anything at this level; at least {math.ceil(1 / (1 - level))} are needed"
        )


class _Search:
    """The search for families.

    Attributes:
        gram: inner products of the profiles.
        splits: the tests so far.
    """

    def __init__(
        self,
        question: Question,
        scores: EdgeScores,
        edges: int,
        level: float,
        groupings: int,
        seed: int,
        progress: Progress | None,
    ) -> None:
        assert scores.per_prompt is not None
        self.question, self.scores, self.edges = question, scores, edges
        self.level, self.groupings, self.seed, self.progress = level, groupings, seed, progress
        self.rows = scores.per_prompt.double().cpu()
        self.gram = unit_gram(self.rows)
        self.splits: list[Split] = []

    def split(self, members: Int[Tensor, " member"]) -> list[Tensor]:
        """The families among some prompts."""
        gram = self.gram[members][:, members]
        at = (1 - self.level) * len(members) / len(self.gram)
        profiles_p = two_groups_p(gram, self.seed)
        faithfulness_p = self.faithfulness_p(members, 2) if profiles_p < at else math.nan
        accepted = profiles_p < at and faithfulness_p < 1 - self.level
        self.splits.append(Split(len(members), profiles_p, at, faithfulness_p, accepted))
        if not accepted:
            return [members]
        labels = clusters(gram, 2, self.seed)
        return [family for number in (0, 1) for family in self.split(members[labels == number])]

    def circuits(self, members: Tensor, labels: Tensor, k: int, share: float = 1.0) -> list[Circuit]:
        """The circuit of the strongest mean effects of each group, without effects that are rounding; empty for an empty group."""
        member = torch.nn.functional.one_hot(labels, k).double()
        means = (member.T @ self.rows[members]) / member.sum(0)[:, None].clamp(min=1)
        graph = self.scores.graph
        size = means.abs()
        chosen = strongest(size, max(1, round(share * self.edges))) & (size > NEGLIGIBLE * size.amax(1, keepdim=True))
        chosen = pruned_sets(graph, chosen)
        tables = torch.zeros(2, k, *graph.edge_mask.shape, dtype=torch.float64)
        tables[0][:, graph.edge_mask] = means
        tables[1][:, graph.edge_mask] = chosen.double()
        origin = self.scores.provenance
        return [Circuit(graph, mask.bool(), values, None, origin) for values, mask in zip(*tables, strict=True)]

    def faithfulness_p(self, members: Int[Tensor, " member"], k: int) -> float:
        """p value of the groups' circuits against those of random groupings, on held-out prompts of both halves."""
        divided = halves(len(members), self.seed)
        distances = torch.zeros(1 + self.groupings, dtype=torch.float64)
        for learnt, tested in (divided, divided[::-1]):
            distances += self._distances(members[learnt], members[tested], k)
        return float((1 + (distances[1:] <= distances[0] + 1e-12).sum()) / (1 + self.groupings))

    def _distances(self, learnt: Tensor, tested: Tensor, k: int) -> Float[Tensor, " grouping"]:
        """Sum over the tested prompts of the distance from the model: of the groups found, then of random ones of equal sizes."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        labels = clusters(self.gram[learnt][:, learnt], k, self.seed)
        groupings = [(labels, nearest(self.gram, learnt, labels, tested, k))]
        for _ in range(self.groupings):
            orders = [torch.randperm(len(part), generator=generator) for part in (learnt, tested)]
            groupings.append((groupings[0][0][orders[0]], groupings[0][1][orders[1]]))
        wanted = [[self.circuits(learnt, labels, k, share) for share in SIZES] for labels, _ in groupings]
        distinct = list(dict.fromkeys(circuit for sizes in wanted for chosen in sizes for circuit in chosen))
        index = {circuit: i for i, circuit in enumerate(distinct)}
        values = self.measure(tested, [*distinct, Circuit.full(self.scores.graph)])
        distance = (values[:-1] - values[-1]).abs()
        sums = torch.zeros(len(groupings), dtype=torch.float64)
        for i, (sizes, (_, labels)) in enumerate(zip(wanted, groupings, strict=True)):
            for chosen in sizes:
                rows = torch.tensor([index[circuit] for circuit in chosen])[labels]
                sums[i] += distance[rows, torch.arange(len(tested))].sum()
        return sums

    def measure(self, members: Tensor, circuits: Sequence[Circuit]) -> Float[Tensor, "circuit member"]:
        """The metric of circuits on some prompts."""
        asked = self.question
        some = Question.ask(asked.model, asked.pairs[members.tolist()], asked.metric, asked.ablation, asked.asked_size)
        return measure_circuits(some, circuits, self.progress).values

    def matrix(self, circuits: Sequence[Circuit], labels: Tensor) -> Float[Tensor, "circuit family"]:
        """Faithfulness of each circuit on each family's prompts."""
        graph = self.scores.graph
        asked = [Circuit.full(graph), Circuit.empty(graph), *circuits]
        measured = measure_circuits(self.question, asked, self.progress)
        columns = []
        for family in range(len(circuits)):
            here = labels == family
            clean, ablated, *kept = measured.values[:, here]
            metric_range = MetricRange.from_prompts(clean, ablated, measured.rounding[here])
            columns.append(metric_range.share(torch.stack(kept).mean(1)))
        return torch.stack(columns, 1)
