"""Certified selection: which edges would still be chosen if some prompts were deleted or replaced?

The selection is run again on random subsamples of the prompts (deletion smoothing: 2602.22968, after RS-Del, 2302.01757). Each prompt
is deleted with probability δ. With p(e) the probability that a subsample's circuit has edge e, the *smoothed decision* is *in* if
p(e) > 1/2 and *out* if p(e) < 1/2. `circuits.stats.deletion` derives how many prompts may be deleted or replaced without changing it.
p(e) is estimated from `samples` subsamples; its Clopper-Pearson limits [low, high] hold for all edges at once with probability at
least `confidence` (Bonferroni over the edges), for any dependence between edges. An edge is

    in         if low > 1/2     certified for r deletions while δ^r > 2 (1 - low), for r replacements while δ^r > 3/2 - low
    out        if high < 1/2    certified for r deletions while δ^r > 2 high,      for r replacements while δ^r > 1/2 + high
    abstained  otherwise

What is certified is the smoothed decision, not the circuit of all prompts, which may differ from it. And it is a statement on these
prompts, with some of them missing or exchanged; the prompts may still all be of the wrong kind.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.graph.graph import Graph
from circuits.plain_torch import plain_methods, plain_torch
from circuits.results.choice import check_ranking, check_rule
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.provenance import Provenance, frozen
from circuits.results.subsample_selection import selection_counts
from circuits.shown import Shown
from circuits.stats.bootstrap import check_level
from circuits.stats.deletion import deletions_allowed, replacements_allowed
from circuits.stats.proportion import clopper_pearson

STATES = ("out", "abstained", "in")
ALONE = ("interchange", "zero")
"""Ablations whose values for one prompt do not depend on the other prompts."""


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Certificate(Shown):
    """Edges that are in or out of the circuit whichever few prompts are missing.

    Attributes:
        graph: the graph of the edges.
        counts: number of subsamples whose circuit has each edge, edges in graph order.
        samples: number of subsamples.
        deletions: probability δ that a prompt (or a group of prompts) is deleted from a subsample.
        confidence: probability that everything stated is true; of each edge on its own if not `simultaneous`.
        simultaneous: whether the confidence is for all edges at once.
        n_rows: number of prompts, or of groups of prompts.
        group: prompts per group; 1: prompts are deleted one by one.
        rule, edges, options: the selection that was run.
        seed: of the subsamples.
        caution: what the certificate does not cover, or None.
        provenance: that of the scores.
    """

    graph: Graph
    counts: Int[Tensor, " edge"]
    samples: int
    deletions: float
    confidence: float
    simultaneous: bool
    n_rows: int
    group: int
    rule: str
    edges: int | None
    options: Mapping[str, Any] = field(default_factory=lambda: frozen(None))
    seed: int = 0
    caution: str | None = None
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    @property
    def share(self) -> Float[Tensor, " edge"]:
        """Share of the subsamples whose circuit has each edge, in graph order."""
        return self.counts.double() / self.samples

    @property
    def limits(self) -> tuple[Float[Tensor, " edge"], Float[Tensor, " edge"]]:
        """Lower and upper limits of the probability p of each edge, in graph order."""
        error = (1 - self.confidence) / (len(self.counts) if self.simultaneous else 1)
        return clopper_pearson(self.counts, self.samples, error)

    @property
    def states(self) -> Int[Tensor, " edge"]:
        """1: in, -1: out, 0: abstained; in graph order."""
        low, high = self.limits
        return (low > 0.5).long() - (high < 0.5).long()

    @property
    def _doubt(self) -> Float[Tensor, " edge"]:
        low, high = self.limits
        return torch.minimum(1 - low, high)

    @property
    def radii(self) -> Int[Tensor, " edge"]:
        """How many rows may be deleted without changing each edge's decision; -1 if it is abstained."""
        return deletions_allowed(self._doubt, self.deletions, self.n_rows)

    @property
    def replaceable(self) -> Int[Tensor, " edge"]:
        """How many rows may be deleted, added or replaced without changing each edge's decision; -1 if it is abstained."""
        return replacements_allowed(self._doubt, self.deletions, self.n_rows)

    @cached_property
    def status(self) -> dict[str, str]:
        """`in`, `out` or `abstained` of each edge, by name."""
        return {e: STATES[s + 1] for e, s in zip(self.graph.edges, self.states.tolist(), strict=True)}

    @cached_property
    def radius(self) -> dict[str, int]:
        """How many rows may be deleted without changing the decision of each edge, by name; -1 if it is abstained."""
        return dict(zip(self.graph.edges, self.radii.tolist(), strict=True))

    @cached_property
    def replacements(self) -> dict[str, int]:
        """How many rows may be deleted, added or replaced, by name of the edge; -1 if it is abstained."""
        return dict(zip(self.graph.edges, self.replaceable.tolist(), strict=True))

    def circuit(self, radius: int = 0) -> Circuit:
        """The edges that are in and stay in if any `radius` rows are deleted. Edges on no path from `input` to `logits` are not
        pruned, since pruning would remove certified edges.
        """
        if radius < 0:
            raise InputError(f"radius must be at least 0, got {radius}")
        return self._of((self.states == 1) & (self.radii >= radius)).with_provenance(
            certificate={"radius": radius, "confidence": self.confidence, "deletions": self.deletions}
        )

    def abstained(self) -> Circuit:
        """The edges of which nothing is certified, as a set of edges."""
        return self._of(self.states == 0)

    def _of(self, chosen: Bool[Tensor, " edge"]) -> Circuit:
        mask = torch.zeros_like(self.graph.edge_mask)
        mask[self.graph.edge_mask] = chosen
        return Circuit(self.graph, mask, provenance=self.provenance)

    @property
    def unit(self) -> str:
        """What is deleted or replaced: `prompts`, or groups of them."""
        return "prompts" if self.group == 1 else f"groups of {self.group} prompts"

    def rows(self, states: tuple[str, ...] = ("in", "abstained")) -> list[dict[str, Any]]:
        """One row per edge of these states, the most frequent first."""
        low, high = self.limits
        columns = (self.share, low, high, self.radii, self.replaceable)
        of_edges = zip(self.graph.edges, self.states.tolist(), *(column.tolist() for column in columns), strict=True)
        keys: tuple[str, ...] = ("edge", "status", "share", "low", "high", "deletions", "replacements")
        rows: list[dict[str, Any]] = [
            dict(zip(keys, (edge, STATES[state + 1], *more), strict=True)) for edge, state, *more in of_edges
        ]
        return sorted((row for row in rows if row["status"] in states), key=lambda row: -row["share"])

    def to_dict(self) -> dict[str, Any]:
        """JSON values; edges that are out are only counted."""
        states = self.states
        return {
            "rule": self.rule, "edges": self.edges, "options": dict(self.options), "samples": self.samples,
            "deletion_probability": self.deletions, "confidence": self.confidence, "simultaneous": self.simultaneous, "rows": self.n_rows,
            "group": self.group, "unit": self.unit, "in": int((states == 1).sum()), "out": int((states == -1).sum()),
            "abstained": int((states == 0).sum()), "caution": self.caution, "of_edges": self.rows(),
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"Certificate({self})"

    def __str__(self) -> str:
        states, radii = self.states, self.radii[self.states == 1]
        many = f", for {int(radii.median())} deleted {self.unit} (median)" if len(radii) else ""
        each = "" if self.simultaneous else " each"
        return (
            f"{int((states == 1).sum())} edges in{many}, {int((states == 0).sum())} abstained, "
            f"{int((states == -1).sum())} out; {100 * self.confidence:g}% confidence{each}"
        )


@plain_torch
def certify(
    scores: EdgeScores,
    rule: str = "top",
    edges: int | None = 200,
    *,
    deletions: float = 0.8,
    samples: int = 1000,
    confidence: float = 0.95,
    simultaneous: bool = True,
    seed: int = 0,
    **options: Any,
) -> Certificate:
    """Certifies for each edge whether it stays in the circuit, or out of it, if some prompts are deleted or replaced.

    The cost is that of `samples` selections: 1,000 of the 70,651 edges of SmolLM2-135M take seconds for `top` and `threshold`, and
    about as long as that many calls of `scores.select` for other rules.

    Args:
        scores: scores with effects per prompt. If their rows are groups of prompts (more than 128 prompts), groups are deleted as a
            whole and radii count groups.
        rule: `top`, `greedy` or `positive-share`, or `threshold` with the option `tau`.
        edges: number of edges that the rule chooses; not used by `threshold`.
        deletions: probability δ that a prompt is deleted from a subsample. A larger one allows larger radii, but subsamples are
            smaller, so more edges are abstained. No prompt can be replaced if δ is at most 1/2.
        samples: number of subsamples. Their number limits the radius: an edge that is in all of them is certified for at most
            log(2 - 2 low) / log δ deletions.
        confidence: probability that all statements are true.
        simultaneous: False: the confidence is of each edge on its own, and with many edges some statements will be wrong.
        seed: of the subsamples.
        options: of the rule, such as `by="signed"`.

    Raises:
        InputError: scores without effects per prompt, of fewer than three prompts, or restricted to significant edges (a choice
            that itself depends on the prompts); an unknown rule; a number that is out of range.
    """
    _check(scores, deletions, samples, confidence)
    if rule == "threshold":
        edges, options = None, _threshold_options(options)
    else:
        check_rule(rule, options)
        if rule == "optimal":
            raise InputError("rule optimal takes up to a minute per selection; certify top, greedy or positive-share")
        if edges is None or not 0 <= edges <= scores.graph.n_edges:
            raise InputError(f"edges must be between 0 and this graph's {scores.graph.n_edges}, got {edges}")
    assert scores.per_prompt is not None
    n = len(scores.per_prompt)
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(samples, n, generator=generator, dtype=torch.float64) >= deletions
    counts = selection_counts(scores, kept, rule, edges or 0, options)
    return Certificate(
        scores.graph, counts, samples, float(deletions), float(confidence), simultaneous, n, scores.group, rule, edges,
        frozen(options), seed, _caution(scores), scores.provenance,
    )  # fmt: skip


def _check(scores: EdgeScores, deletions: float, samples: int, confidence: float) -> None:
    if scores.per_prompt is None:
        raise InputError(
            "these scores do not hold effects per prompt, so no prompt can be deleted; score the pairs again"
        )
    if len(scores.per_prompt) < 3:
        raise InputError(f"a certificate needs at least three prompts, got {len(scores.per_prompt)}")
    if scores.kept is not None:
        raise InputError(
            "these are the significant edges of all prompts, a choice that changes with the prompts; certify the scores before `significant`"
        )
    if not 0 < deletions < 1:
        raise InputError(f"deletions is the probability that a prompt is deleted, between 0 and 1; got {deletions}")
    if samples < 1:
        raise InputError(f"samples must be at least 1, got {samples}")
    check_level(confidence)


def _threshold_options(options: dict[str, Any]) -> dict[str, Any]:
    if not set(options) <= {"tau", "by"} or not math.isfinite(options.get("tau", math.nan)):
        raise InputError(
            f"rule threshold takes tau, the smallest score of an edge, and by; got {', '.join(options) or 'neither'}"
        )
    check_ranking(options.get("by", "abs"))
    return options


def _caution(scores: EdgeScores) -> str | None:
    ablation = str(scores.provenance.get("ablation", "interchange"))
    if ablation.partition("(")[0] in ALONE:
        return None
    return f"under {ablation} ablation a prompt's scores may depend on the other prompts; the replaced values are taken as fixed"
