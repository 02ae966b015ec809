"""Exact edge effects: each edge is ablated alone, in a context that the user chooses.

    effect(e) = metric(C) - metric(C without e)     for an edge of the context C
    effect(e) = metric(C with e) - metric(C)        for any other edge

Positive = the edge helps. With `context=None`, everything else is clean (C is the whole graph); edge attribution approximates this.
Ablating an edge changes nothing upstream of its reader, so each pass begins at the reader's layer with a constant difference of the
writer, and several writers of one reader share a pass.

With `positions`, each edge is ablated at one place at a time: the reader reads the replacement at the tokens of one span only, and
with `destinations`, for the queries of one span only (`a5.h2->a9.h9<v>@S2=>end`). Effects at places do not sum to the edge's effect,
which is not linear.

Cost: about half a forward pass per edge, divided by the number of edges that share a pass; in a context with `positions`, a whole pass
per edge (several with destinations, see `engine.by_query`). With `store`, finished results are kept
in a directory, and a second call continues from them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.hooks import inference_state
from circuits.errors import InputError
from circuits.graph.graph import Graph
from circuits.measure.circuit_logits import resolved
from circuits.measure.divided import Measurement, MeasurementRequest, measure_pieces
from circuits.measure.edge_statistics import EdgeStatistics
from circuits.measure.placed_edges import PlacedEdgeRuns
from circuits.measure.single_edges import EdgeRuns, edge_effects
from circuits.measure.store import Pieces, question_of
from circuits.methods.method import Method
from circuits.methods.options import CHOICE, DESTINATIONS, PLACES, RANDOM_CIRCUITS
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.places import PlaceAxis, covering_axis
from circuits.question.question import Batch, Question
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.provenance import Provenance, frozen, provenance
from circuits.workers.workers import Workers, in_units

Effects = Callable[[int, Sequence[int]], Float[Tensor, "writer prompt"]]


@plain_methods
@dataclass(frozen=True, eq=False)
class ExactEffects:
    """Measured effects of edges.

    Attributes:
        edges: names of the edges, in graph order; with their places, if they were ablated at places.
        per_prompt: effect of each edge on each prompt.
        graph: the graph of the edges.
        provenance: origin of the numbers.
    """

    edges: tuple[str, ...]
    per_prompt: Float[Tensor, "edge prompt"]
    graph: Graph
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    def to_dict(self) -> dict[str, float]:
        """`{edge: mean effect}`."""
        return dict(zip(self.edges, self.per_prompt.mean(1).tolist(), strict=True))

    def to_scores(self) -> EdgeScores:
        """The effects as `EdgeScores`; requires that every edge of the graph was measured."""
        if len(self.edges) != self.graph.n_edges:
            raise InputError(f"{len(self.edges)} of {self.graph.n_edges} edges were measured; scores need all of them")
        statistics = EdgeStatistics(self.graph)
        dense = torch.zeros(self.per_prompt.shape[1], *self.graph.edge_mask.shape, dtype=torch.float64)
        dense[:, self.graph.edge_mask] = self.per_prompt.T
        statistics.add(dense)
        return statistics.scores(self.provenance)


@on_model
def exact_edge_effects(
    model: Model,
    pairs: PromptPairs,
    edges: Sequence[str] | None = None,
    *,
    context: Circuit | None = None,
    positions: str | None = None,
    destinations: bool = False,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    store: str | Path | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> ExactEffects:
    """Ablates edges one at a time.

    Args:
        model: a loaded model.
        pairs: the prompts to explain.
        edges: names of edges; None: all edges of the graph. With `positions`, a name without a place means all its places.
        context: the circuit in which each edge is ablated or added; None: everything else is clean.
        positions: ablate each edge at one place at a time: `spans` (the pairs' schema) or `each` (every token, for prompts of one
            length). The context may then have places too.
        destinations: with `positions`, take edges into keys and values apart by the span of the query that reads them.
        metric: None: the task's preferred metric.
        ablation: what replaces an ablated edge's value.
        batch_size: pairs at a time; results do not depend on it.
        store: a directory for finished results; a call with the same question continues from it.
        workers: processes that share the readers; None: this process. Results do not depend on it.
        progress: called with (edges × prompts done, in total).

    Raises:
        InputError: an unknown edge or place, a context of another graph or with places that the edges do not have, or a store that
            belongs to another question.
        PairsError: the pairs have no such places.
    """
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    return exact_edge_effects_of(
        question, edges, context=context, positions=positions, destinations=destinations, store=store, workers=workers,
        progress=progress,
    )  # fmt: skip


def exact_edge_effects_of(
    question: Question, edges: Sequence[str] | None = None, *, context: Circuit | None = None,
    positions: str | None = None, destinations: bool = False, store: str | Path | None = None, workers: Workers | None = None,
    progress: Progress | None = None,
) -> ExactEffects:  # fmt: skip
    """`exact_edge_effects` of a question."""
    options: dict[str, Any] = {"edges": edges, "context": context, "positions": positions, "destinations": destinations}
    sweep = _Sweep.for_question(question, **options, store=store, in_memory=workers is not None)
    n = len(question.pairs)
    values = torch.zeros(*sweep.mask.shape, n, dtype=torch.float64)
    if workers is not None:
        asked = MeasurementRequest.for_question(_Sweep, question, **options)
        units = {
            readers: [_key(batch, r) for r in readers for batch in range(question.n_batches)]
            for readers in in_units(list(sweep.by_reader), workers)
        }
        measure_pieces(workers, sweep.pieces, asked, units, progress)
        progress = None
    done, total = 0, len(sweep.names) * n
    for r, index, piece in sweep.measured(list(sweep.by_reader)):
        writers = sweep.by_reader[r]
        values[writers, r] = values[writers, r].index_copy(1, index, piece)
        done += len(writers) * len(index)
        if progress is not None:
            progress(done, total)
    per_prompt = values[sweep.mask] * question.metric.sign
    return ExactEffects(sweep.names, per_prompt, sweep.graph, sweep.origin)


@dataclass(frozen=True, eq=False)
class _Sweep(Measurement):
    """The edges to ablate, by reader, and the store of their effects.

    Attributes:
        by_reader: reader -> the writers of its edges.
        axis: the places at which edges are ablated; their readers are those of its graph.
    """

    context: Circuit | None
    axis: PlaceAxis | None
    mask: Bool[Tensor, "writer reader"]
    names: tuple[str, ...]
    by_reader: dict[int, list[int]]
    origin: Provenance

    @classmethod
    def for_question(
        cls,
        question: Question,
        edges: Sequence[str] | None,
        context: Circuit | None,
        positions: str | None,
        destinations: bool,
        store: str | Path | None = None,
        in_memory: bool = False,
    ) -> "_Sweep":
        """Validates; see `exact_edge_effects`."""
        model = question.model
        if context is not None and context.graph.base != model.graph:
            raise InputError(f"the context belongs to another graph ({context.graph}) than {model.name}")
        axis = covering_axis(model.graph, question.pairs, positions, destinations)
        if axis is None and context is not None and context.places is not None:
            raise InputError(
                "the context has places, so its edges are ablated at places: give positions='spans', or context.without_places()"
            )
        if axis is not None and context is not None:
            context = resolved(context, question.pairs)[0].over(axis.graph.places)
        graph = model.graph if axis is None else axis.graph
        mask = graph.edge_mask if edges is None else graph.mask_of(edges)
        names = graph.edge_names(mask)
        options: dict[str, Any] = {"edges": len(names), "context": None if context is None else len(context),
                                   "batch_size": question.batch_size}  # fmt: skip
        if axis is not None:
            options |= {"positions": positions, "destinations": destinations}
        origin = provenance(question, "exact_edge_effects", options)
        manifest = {"schema": 1, "question": question_of(origin), "edges": list(names),
                    "context": None if context is None else list(context.edges)}  # fmt: skip
        pieces = Pieces(store, manifest, in_memory)
        by_reader = {r: mask[:, r].nonzero()[:, 0].tolist() for r in range(graph.n_readers) if mask[:, r].any()}
        return cls(question, pieces, context, axis, mask, names, by_reader, origin)

    @property
    def graph(self) -> Graph:
        """The graph of the edges."""
        return self.question.model.graph if self.axis is None else self.axis.graph

    def measured(
        self, readers: Sequence[int]
    ) -> Iterator[tuple[int, Int[Tensor, " prompt"], Float[Tensor, "writer prompt"]]]:
        """Yields (reader, prompts, effects of its edges on them), batch by batch, from the store or measured."""
        question = self.question
        with inference_state(question.model.bridge):
            for number, batch in enumerate(question.batches()):
                effects: Effects | None = None
                for r in readers:
                    piece = self.pieces.get(_key(number, r))
                    if piece is None:
                        effects = effects or self._effects(batch)
                        piece = effects(r, self.by_reader[r])
                        self.pieces.put(_key(number, r), piece)
                    yield r, batch.index, piece

    def _effects(self, batch: Batch) -> Effects:
        """The function of a reader and its writers that measures a batch."""
        question, context, axis = self.question, self.context, self.axis
        if context is not None and axis is not None:
            return PlacedEdgeRuns.prepare(question, batch, context, axis).effects
        runs = EdgeRuns.prepare(question, batch, context, axis)
        return lambda r, writers: edge_effects(question, batch, runs, r, writers, context)

    def fill(self, unit: Sequence[int]) -> None:
        """Measures a unit: readers."""
        for _ in self.measured(unit):
            pass


def _key(batch: int, reader: int) -> str:
    return f"batch-{batch:05d}-reader-{reader:05d}"


def _scores(
    question: Question, *, destinations: bool, store: str | Path | None, workers: Workers | None, progress: Progress,
    positions: str | None = None,
) -> EdgeScores:  # fmt: skip
    """The exact effects of every edge, or of every edge at every place."""
    return exact_edge_effects_of(
        question, positions=positions, destinations=destinations, store=store, workers=workers, progress=progress
    ).to_scores()


METHOD = Method(
    name="exact-edges", function=_scores, gives="edges", stage=("ablation", "ablating edges"),
    help="each edge ablated alone", divided=True, resumable=True, takes=(PLACES, DESTINATIONS, *CHOICE, RANDOM_CIRCUITS),
)  # fmt: skip
