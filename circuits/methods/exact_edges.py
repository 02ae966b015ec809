"""Exact edge effects: every edge ablated alone, in a context that the user chooses.

    effect(e) = metric(C) - metric(C without e)     for an edge of the context C
    effect(e) = metric(C with e) - metric(C)        for any other

Positive = the edge helps. With `context=None` everything else is clean (C is the whole graph): this is what edge
attribution approximates. Nothing upstream of a reader changes when an edge into it does, so each pass begins at that
reader's layer, and the writer's difference is a constant; several writers of one reader share a pass.

Cost: about half a forward pass an edge, divided by what a pass shares. It is resumable: with `store`, finished pieces are
kept in a directory, and a second call continues where the first was stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.ablations import Ablation
from circuits.circuit import Circuit
from circuits.edge_statistics import EdgeStatistics
from circuits.engine.hooks import inference_state
from circuits.errors import InputError
from circuits.graph import Graph
from circuits.metrics import Metric, MetricFunction
from circuits.model import Model
from circuits.pairs import PromptPairs
from circuits.pieces import Pieces, question_of
from circuits.provenance import Provenance, frozen, provenance
from circuits.question import Progress, Question
from circuits.scores import EdgeScores
from circuits.single_edges import EdgeRuns, edge_effects


@dataclass(frozen=True, eq=False)
class ExactEffects:
    """Measured effects of edges.

    Attributes:
        edges: their names, in graph order.
        per_prompt: the effect of each on each prompt.
        graph: the graph they are edges of.
        provenance: where they come from.
    """

    edges: tuple[str, ...]
    per_prompt: Float[Tensor, "edge prompt"]
    graph: Graph
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    def to_dict(self) -> dict[str, float]:
        """`{edge: mean effect}`."""
        return dict(zip(self.edges, self.per_prompt.mean(1).tolist(), strict=True))

    def to_scores(self) -> EdgeScores:
        """The same as `EdgeScores`; only if every edge of the graph was measured."""
        if len(self.edges) != self.graph.n_edges:
            raise InputError(f"{len(self.edges)} of {self.graph.n_edges} edges were measured; scores need all of them")
        statistics = EdgeStatistics(self.graph)
        dense = torch.zeros(self.per_prompt.shape[1], *self.graph.edge_mask.shape, dtype=torch.float64)
        dense[:, self.graph.edge_mask] = self.per_prompt.T
        statistics.add(dense)
        return statistics.scores(self.provenance)


def exact_edge_effects(
    model: Model,
    pairs: PromptPairs,
    edges: Sequence[str] | None = None,
    *,
    context: Circuit | None = None,
    metric: str | Metric | MetricFunction | None = None,
    ablation: str | Ablation = "interchange",
    batch_size: int | None = None,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> ExactEffects:
    """Ablates edges one at a time.

    Args:
        model, pairs: what is asked.
        edges: names; None: all of the graph.
        context: the circuit in which the edges are switched; None: everything else clean.
        metric: None: the one the task prefers.
        ablation: what replaces an ablated edge's value.
        batch_size: pairs at a time; results do not depend on it.
        store: a directory for finished pieces; a call with the same question continues from it.
        progress: called with (edges times prompts done, in all).

    Raises:
        InputError: an unknown edge, a context of another graph, or a store that belongs to another question.
    """
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    if context is not None and context.graph != model.graph:
        raise InputError(f"the context belongs to another graph ({context.graph}) than {model.name}")
    mask = model.graph.edge_mask if edges is None else model.graph.mask_of(edges)
    names = model.graph.edge_names(mask)
    options = {
        "edges": len(names),
        "context": None if context is None else len(context),
        "batch_size": question.batch_size,
    }
    origin = provenance(question, "exact_edge_effects", options)
    manifest = {"schema": 1, "question": question_of(origin), "edges": list(names),
                "context": None if context is None else list(context.edges)}  # fmt: skip
    pieces = Pieces(store, manifest)
    by_reader = {r: mask[:, r].nonzero()[:, 0].tolist() for r in range(model.graph.n_readers) if mask[:, r].any()}
    values = torch.zeros(*mask.shape, len(pairs), dtype=torch.float64)
    done, total = 0, len(names) * len(pairs)
    with inference_state(model.bridge):
        for number, batch in enumerate(question.batches()):
            index = batch.suffix.batch.index.cpu()
            runs: EdgeRuns | None = None
            for r, writers in by_reader.items():
                name = f"batch-{number:05d}-reader-{r:05d}"
                piece = pieces.get(name)
                if piece is None:
                    runs = runs or EdgeRuns.of(question, batch, context)
                    piece = edge_effects(question, batch, runs, r, writers, context)
                    pieces.put(name, piece)
                values[writers, r] = values[writers, r].index_copy(1, index, piece)
                done += len(writers) * len(index)
                if progress is not None:
                    progress(done, total)
    return ExactEffects(names, values[mask] * question.metric.sign, model.graph, origin)
