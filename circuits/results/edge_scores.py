"""Scores of edges, their uncertainty, and the circuits chosen by them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.graph.graph import Graph
from circuits.graph.places import PlacedGraph, Places, over, source_columns
from circuits.plain_torch import plain_methods
from circuits.results import score_file, selection, significance
from circuits.results.circuit import Circuit
from circuits.results.head_array import HeadArray, head_array
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import Provenance, frozen
from circuits.shown import Shown, from_above
from circuits.stats.bootstrap import row_sizes
from circuits.workers.workers import Workers

TENSORS = ("values", "stderr", "by_position", "by_position_stderr", "per_prompt", "kept")


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class EdgeScores(Shown):
    """An effect per edge, in the metric's unit; positive = the edge helps.

    Attributes:
        graph: the graph whose edges are scored.
        values: mean effect over the prompts; 0 if there is no edge.
        stderr: standard error of that mean over the prompts (NaN with a single prompt).
        n_prompts: number of prompts.
        provenance: their origin.
        positions: labels of positions, if effects are split by position.
        by_position, by_position_stderr: mean effect at each position, and its standard error. For an edge into k or v this is
            the position of the token attended to.
        per_prompt: effects on each prompt, edges in graph order; None if not kept. For more than 128 prompts
            (`circuits.stats.bootstrap.KEPT_ROWS`) each row is the mean over `group` prompts.
        group: prompts per row of `per_prompt` (the last row may have fewer).
        kept: the edges that `significant` kept; None: all. Other edges score 0 and are never selected.
        placed: the same effects by place (`positions="spans"`), as scores of a graph over places (`circuits.graph.places`); see
            `over_places`. Over its places they sum to `values`.
    """

    graph: Graph
    values: Float[Tensor, "writer reader"]
    stderr: Float[Tensor, "writer reader"]
    n_prompts: int
    provenance: Provenance = field(default_factory=lambda: frozen(None))
    positions: tuple[str, ...] | None = None
    by_position: Float[Tensor, "writer reader position"] | None = None
    by_position_stderr: Float[Tensor, "writer reader position"] | None = None
    per_prompt: Float[Tensor, "row edge"] | None = None
    group: int = 1
    kept: Bool[Tensor, "writer reader"] | None = None
    placed: "EdgeScores | None" = None

    def __post_init__(self) -> None:
        tensors = {name: getattr(self, name) for name in TENSORS}
        if self.placed is not None and self.placed.graph.base != self.graph:
            raise InputError("the effects by place belong to another graph")
        score_file.check_shapes(self.graph, self.n_prompts, self.positions, self.group, tensors)

    @property
    def candidates(self) -> Bool[Tensor, "writer reader"]:
        """The edges that can be selected: all edges of the graph, or the significant ones."""
        return self.graph.edge_mask if self.kept is None else self.graph.edge_mask & self.kept

    @property
    def places(self) -> tuple[str, ...] | None:
        """Names of the spans that cover the prompt and by which effects are split; None if they are not."""
        graph = self.graph if self.placed is None else self.placed.graph
        if isinstance(graph, PlacedGraph):
            return graph.places.spans
        return self.positions if self._at_every_token else None

    @property
    def _at_every_token(self) -> bool:
        return self.by_position is not None and all(map(str.isdecimal, self.positions or ("",)))

    def over_places(self) -> "EdgeScores":
        """The effects of edges at places, as scores whose edges are named `a5.h2->a9.h9<k>@S2` or `…@S2=>end`.

        All rules, intervals and evaluations take them; numbers of edges are then numbers of (edge, place) pairs.

        Raises:
            InputError: the effects are not split by positions that cover the prompt.
        """
        if isinstance(self.graph, PlacedGraph):
            return self
        if self.placed is not None:
            return self.placed
        if self.positions is None or self.by_position is None or not self._at_every_token:
            raise InputError("these scores have no places; compute them with positions='spans' or 'each'")
        return self._over_positions(self.positions, self.by_position)

    def _over_positions(self, labels: tuple[str, ...], by_position: Tensor) -> "EdgeScores":
        """The effects at each position, as scores over places."""
        graph = over(self.graph, Places(labels))
        readers = torch.tensor([r for r, _ in graph.columns])
        spans = torch.tensor([place.source for _, place in graph.columns])
        errors = torch.full_like(by_position, torch.nan) if self.by_position_stderr is None else self.by_position_stderr
        kept = None if self.kept is None else self.kept[:, readers]
        values, stderr = by_position[:, readers, spans], errors[:, readers, spans]
        return EdgeScores(graph, values, stderr, self.n_prompts, self.provenance, kept=kept)

    def spread(self, places: Places) -> "EdgeScores":
        """The scores over places, where an edge has its whole effect at each place: for circuits that do not know places.

        A circuit chosen from them has an edge at all places or (but for the last edge chosen) at none, and its size counts
        (edge, place) pairs.
        """
        graph = over(self.graph.base, places)
        columns = source_columns(self.graph, graph)
        kept = None if self.kept is None else self.kept[:, columns]
        return EdgeScores(
            graph, self.values[:, columns], self.stderr[:, columns], self.n_prompts, self.provenance, kept=kept
        )

    def to_dict(self, places: bool = False) -> dict[str, Any]:
        """`{edge name: effect}` in graph order; lists of effects if they are split by position.

        Args:
            places: name edges with their places (`m0->a1.h0<q>@end`), see `over_places`.
        """
        if places:
            return self.over_places().to_dict()
        split = self.values if self.by_position is None else self.by_position
        names = self.graph.edge_names(self.candidates)
        return dict(zip(names, split[self.candidates].tolist(), strict=True))

    def __getitem__(self, name: str) -> float:
        """The effect of an edge (`m0->logits`, at a place `m0->logits@end`), or the sum over the edges out of a node (`a5.h2`).

        An edge over places that is named without a place or destination has the sum of its effects at all of them.
        """
        if "@" in name and not isinstance(self.graph, PlacedGraph):
            return self.over_places()[name]
        if isinstance(self.graph, PlacedGraph) and "->" in name:
            return float(sum(self.values[edge] for edge in self.graph.named(name)))
        if name in self.graph.writer_names:
            return float(self._node_sums[self.graph.writer_names.index(name)])
        return float(self.values[self.graph.edge_index(name)])

    @property
    def _node_sums(self) -> Float[Tensor, " writer"]:
        return (self.values * self.candidates).double().sum(1)

    def to_array(self) -> HeadArray:
        """Sums over the edges out of each node as arrays: heads as layers × heads, MLPs beside them."""
        return head_array(self.graph.writer_names, self._node_sums)

    def plot(self, **options: Any) -> Any:
        """A heat map of the sums over the edges out of each node, as a plotly figure; see `circuits.notebook.plot`."""
        return from_above("plot")(self, **options)

    def __len__(self) -> int:
        return int(self.candidates.sum())

    def __repr__(self) -> str:
        return f"EdgeScores({len(self)} edges, {self.n_prompts} prompts, {self.provenance.get('method', 'unknown method')})"

    def rows(self) -> list[dict[str, Any]]:
        """One row per edge in graph order: its name, both ends, effect and standard error."""
        places = self.candidates.nonzero()
        return self._rows(places)

    def _shown_rows(self) -> list[dict[str, Any]]:
        return self._rows(selection.ranking(self, "abs"))

    def _rows(self, places: Int[Tensor, "edge 2"]) -> list[dict[str, Any]]:
        writers, readers = self.graph.writer_names, self.graph.reader_names
        at = places.unbind(1)
        columns = zip(places.tolist(), self.values[at].tolist(), self.stderr[at].tolist(), strict=True)
        return [
            {
                "edge": f"{writers[w]}->{readers[r]}", "source": writers[w], "target": readers[r], "effect": value,
                "stderr": error,
            }
            for (w, r), value, error in columns
        ]  # fmt: skip

    def strongest(self, n: int = 10) -> list[tuple[str, float, float]]:
        """(edge, effect, standard error) of the n largest effects by absolute value, strongest first."""
        order = selection.ranking(self, "abs")[:n]
        writers, readers = self.graph.writer_names, self.graph.reader_names
        return [
            (f"{writers[w]}->{readers[r]}", float(self.values[w, r]), float(self.stderr[w, r]))
            for w, r in order.tolist()
        ]

    # --- spread -------------------------------------------------------------------------------------------------------

    def interval(
        self,
        level: float = 0.95,
        kind: str = "bootstrap",
        resamples: int = 1000,
        seed: int = 0,
        workers: Workers | None = None,
    ) -> tuple[Float[Tensor, "writer reader"], Float[Tensor, "writer reader"]]:
        """Interval of each mean effect over prompts; 0 to 0 if there is no edge, NaN with a single prompt.

        Args:
            level: nominal coverage; see `circuits.stats.bootstrap` for the actual coverage.
            kind: `bootstrap`: percentile bootstrap, with the same draws of prompts (of groups of prompts, if `group` is above 1)
                for all edges; `t`: Student's, mean ± t·stderr. With fewer than about twenty prompts the bootstrap is too narrow
                (89% instead of 95% for 8 prompts with normal effects): use `t`. With skewed effects both are too narrow
                (lognormal, 16 prompts: 84% and 86%).
            resamples, seed: of the bootstrap.
            workers: where resampling is computed; None: in this process.

        Raises:
            InputError: an invalid option, or a bootstrap of scores without `per_prompt`.
        """
        return significance.interval(self, level, kind, resamples, seed, workers)

    def significant(
        self,
        level: float = 0.95,
        kind: str = "bootstrap",
        correction: str = "none",
        resamples: int = 1000,
        seed: int = 0,
    ) -> "EdgeScores":
        """Only the edges whose interval excludes zero (a bootstrap of scores before the selection: Nikankin et al. 2025,
        2510.25786).

        The result has the same graph, but other edges score 0, are not listed and are never selected; files and provenance record
        this. Without a correction, a share of 1 - level of the edges without any effect pass: 3,500 of SmolLM2's 70,651 at 0.95,
        and more with few prompts or skewed effects, see `circuits.stats.bootstrap`. Effects below the last digit of the largest
        one, in the dtype of the computation, are never significant.

        Args:
            level: nominal coverage of the interval.
            kind, resamples, seed: see `interval`.
            correction: for the number of edges tested; only for `kind="t"`, since a bootstrap cannot resolve such high levels.
                `bonferroni`: the probability of any wrong edge is at most 1 - level; `bh` (Benjamini and Hochberg 1995): on
                average at most 1 - level of the edges kept are wrong.

        Raises:
            InputError: an invalid option, or a single prompt.
        """
        return self._restricted(*significance.significant(self, level, kind, correction, resamples, seed))

    def _restricted(self, kept: Bool[Tensor, "writer reader"], how: dict[str, Any]) -> "EdgeScores":
        axes = {"by_position": kept[:, :, None], "by_position_stderr": kept[:, :, None]}
        axes["per_prompt"] = kept[self.graph.edge_mask]
        tables = {name: getattr(self, name) for name in ("values", "stderr", *axes)}
        masked = {name: None if table is None else table * axes.get(name, kept) for name, table in tables.items()}
        origin = frozen({**self.provenance, "significance": {**how, "kept": int(kept.sum())}})
        # Whether an edge's effect at a place is significant is another question: ask `over_places()`.
        return replace(self, **masked, kept=kept, provenance=origin, placed=None)

    def to_nodes(self) -> NodeScores:
        """The sum over the out-edges of each node: for `gradient="clean"` its attribution patching effect.

        For more than 128 prompts each prompt has the mean of its group (`group`), so that spreads are too small.

        Raises:
            InputError: scores without effects per prompt.
        """
        if self.per_prompt is None:
            raise InputError("these scores do not hold effects per prompt, so they cannot be summed to nodes")
        writers = self.graph.edge_mask.nonzero()[:, 0]
        rows = torch.zeros(len(self.graph.writers), len(self.per_prompt), dtype=torch.float64)
        rows.index_add_(0, writers, self.per_prompt.T.double())
        sizes = row_sizes(self.n_prompts, self.group).long()
        origin = {**self.provenance, "summed": "out-edges"}
        return NodeScores(self.graph.writer_names, rows.repeat_interleave(sizes, 1), provenance=frozen(origin))

    # --- selection: the rules are in circuits.results.selection ------------------------------------------------------------

    def top(self, n: int, by: str = "abs", fill: bool = False, places: bool = False) -> Circuit:
        """The circuit of the n strongest edges, without dead ends. Ties are broken by graph order.

        Args:
            n: number of edges chosen before pruning; the circuit may have fewer (recorded in `provenance["selection"]`).
            by: `abs`: the largest effects of either sign; `signed`: the most positive ones.
            fill: continue down the ranking as long as at most n edges remain after pruning.
            places: choose among edges at places (`over_places`); n counts (edge, place) pairs.

        Raises:
            InputError: n is negative or more than the graph has, or `by` is unknown.
        """
        return selection.top(self._chosen_from(places), n, by, fill)

    def threshold(self, tau: float, by: str = "abs", places: bool = False) -> Circuit:
        """The circuit of all edges with an effect of at least `tau` (`abs`: of either sign), without dead ends; `places` as for `top`."""
        return selection.threshold(self._chosen_from(places), tau, by)

    def greedy(self, n: int, by: str = "abs", fill: bool = False, places: bool = False) -> Circuit:
        """A circuit grown from `logits`: n times the strongest edge into a node of the circuit. Then nodes that `input` does not
        reach are pruned. `n`, `by`, `fill` and `places` as for `top`.
        """
        return selection.greedy(self._chosen_from(places), n, by, fill)

    def positive_share(self, n: int, share: float = 0.5, fill: bool = False, places: bool = False) -> Circuit:
        """A circuit with a minimum share of edges that help: the `share`·n most positive edges (rounded down; fewer if fewer are
        positive) and the strongest others of either sign, without dead ends (after Nikankin et al. 2025, 2510.25786).

        Args:
            n: see `top`.
            share: 0, or a share that the strongest edges have anyway: as `top(n, by="abs")`; 1: as `top(n, by="signed")`, if there
                are n positive edges.
            fill: see `top`; the share is then of all edges chosen before pruning.
            places: see `top`.
        """
        return selection.positive_share(self._chosen_from(places), n, share, fill)

    def optimal(self, n: int, by: str = "abs", time_limit: float | None = 60.0, places: bool = False) -> Circuit:
        """The connected circuit of at most n edges with the largest sum of effects; see `circuits.results.optimal_selection` (idea:
        Nikankin et al. 2025, 2510.25786).

        `provenance["selection"]` has this `sum`, an upper `bound` for any such circuit, and the `gap` between them as a share of
        the sum: 0 if the circuit is proven best. Unlike other rules, the solver breaks ties.

        Args:
            n: the largest number of edges.
            by: `abs`: effects count by absolute value; `signed`: edges that hurt are kept only to connect others.
            time_limit: seconds after which the best circuit so far is returned; None: no limit. Such a result may differ
                between machines.
            places: see `top`.
        """
        return selection.optimal(self._chosen_from(places), n, by, time_limit)

    def select(self, n: int, rule: str = "top", *, places: bool = False, **options: Any) -> Circuit:
        """A circuit of at most n edges, by the name of a rule: `top`, `greedy`, `positive-share` or `optimal`.

        Args:
            n: the largest number of edges.
            rule: its name.
            places: see `top`.
            options: of the rule, such as `by="signed"`.

        Raises:
            InputError: an unknown rule or option.
        """
        return selection.select(self._chosen_from(places), n, rule, **options)

    def _chosen_from(self, places: bool) -> "EdgeScores":
        return self.over_places() if places else self

    def save(self, path: str | Path) -> None:
        """Writes everything to one safetensors file (JSON header, no pickle); see `circuits.results.score_file`."""
        score_file.write_scores(self, path)

    @classmethod
    def load(cls, path: str | Path) -> "EdgeScores":
        """Reads what `save` wrote; InputError for any other file."""
        arguments = score_file.read_scores(path)
        placed = arguments.pop("placed")
        return cls(**arguments, placed=None if placed is None else cls(**placed))
