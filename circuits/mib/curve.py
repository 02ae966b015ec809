"""MIB's areas under the curve, counted in its edges and in ours.

    CPR = ∫ f dp, parts by signed score          CMD = ∫ |1 - f| dp, parts by absolute score

over the shares p of `FRACTIONS`, with f as in `circuits.evaluation.curves`, interchange ablation and the logit difference. What a
share is a share of differs:

- `mib`: MIB's edges. Under grouped-query attention an edge into a key or value is counted, kept and ablated once per query head.
  n = ⌊p · edges⌋ of them are taken, then dead ends are pruned.
- `ours`: edges into the key/value head itself. Its score is the sum over its query heads, and it is kept or ablated for all of them.

Without groups both are the same. At the level of nodes and neurons p counts those that have a score; the others are always kept. A
node is kept with all its outgoing edges. What an ablated part sees in a model with a norm after attention is MIB's choice, not that
of `circuits evaluate`: see `circuits.engine.ablate_mixed`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.ablate import ablated_logits
from circuits.engine.ablate_mixed import capture_plain, mixed_logits
from circuits.engine.capture import Writes
from circuits.errors import InputError
from circuits.evaluation.curves import FaithfulnessCurves, curves_of_values
from circuits.evaluation.faithfulness import CircuitMetrics, measure_logits
from circuits.export.mib_names import FRACTIONS, check_level, check_rule
from circuits.graph.graph import Graph
from circuits.graph.ungrouped import shared_readers, summed_over_groups
from circuits.mib.files import CIRCUITS, Importances
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.question import Batch, Question
from circuits.results import selection
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.shown import Shown

ORDERS = ("signed", "abs")


@dataclass(frozen=True, eq=False)
class Part:
    """What a circuit keeps.

    Attributes:
        mask: True at the kept edges of the model's graph.
        size: the number of kept edges, nodes or neurons.
        neurons: True at the kept coordinates of each writer; None: all.
    """

    mask: Bool[Tensor, "writer reader"]
    size: int
    neurons: Bool[Tensor, "writer d_model"] | None = None


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class MibCurves(Shown):
    """The areas of one circuit file.

    Attributes:
        level: `edge`, `node` or `neuron`.
        mib: counted as MIB counts.
        ours: counted per key/value head; None: there is no difference, or the file holds circuits or another level.
        n_mib, n_ours: the number of parts of the whole model in each count.
    """

    level: str
    mib: FaithfulnessCurves
    ours: FaithfulnessCurves | None
    n_mib: int
    n_ours: int | None

    @property
    def counts(self) -> dict[str, tuple[int, FaithfulnessCurves]]:
        """name of the count -> number of parts, and curves."""
        first = {"mib": (self.n_mib, self.mib)}
        return first if self.ours is None or self.n_ours is None else {**first, "ours": (self.n_ours, self.ours)}

    def rows(self) -> list[dict[str, Any]]:
        """One row per point of every curve."""
        return [{"count": name, **row} for name, (_, curves) in self.counts.items() for row in curves.rows()]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        each = {name: {"parts": n, **curves.to_dict()} for name, (n, curves) in self.counts.items()}
        return {"level": self.level, **each}

    def __repr__(self) -> str:
        return f"MibCurves({self})"

    def __str__(self) -> str:
        return "; ".join(f"{n:,} {self.level}s as {name} counts: {curves}" for name, (n, curves) in self.counts.items())


@on_model
def mib_curves(
    model: Model,
    pairs: PromptPairs,
    importances: Importances | list[Importances],
    *,
    level: str | None = None,
    rule: str = "top",
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> MibCurves:
    """CPR, CMD and every point of the curves by which MIB ranks methods.

    Args:
        model: loaded with `ungrouped=True` if it has grouped key/value heads.
        pairs: of `circuits.mib_pairs`, or others with one answer and one distractor.
        importances: of `circuits.read_importances`; or the nine circuits of a folder, which have one curve, whose `signed` and
            `abs` points are the same.
        level: `edge`, `node` or `neuron`; None: the finest that has scores.
        rule: how edges are taken: `top`, as MIB does, or `greedy` from the logits, as it does for information flow routes.
        resamples, seed: of the intervals.
        batch_size, progress: see `circuits.circuit_metrics`.

    Raises:
        InputError: a model with grouped heads, or of another graph; or importances that lack the level.
    """
    question = Question.ask(model, pairs, "logit_difference", "interchange", batch_size)
    first = importances[0] if isinstance(importances, list) else importances
    _check_graph(model, first)
    circuits = isinstance(importances, list)
    chosen = check_level(level or first.level)
    measurement = _Curves(question, resamples, seed, progress)
    if circuits:
        parts = [[_of_file(one) for one in importances]]
        if len(parts[0]) != len(CIRCUITS):
            raise InputError(f"got {len(parts[0])} circuits; a submission has {len(CIRCUITS)}, the smallest first")
        return MibCurves(
            chosen, measurement.curves(parts, first.flat.n_edges, "circuits"), None, first.flat.n_edges, None
        )
    if chosen != "edge":
        n, ranked = (_nodes if chosen == "node" else _neurons)(first)
        return MibCurves(chosen, measurement.curves(ranked, n, "top"), None, n, None)
    check_rule(rule)
    if not bool((first.edges != 0).any()):
        raise InputError(
            "the circuit file has no score of an edge other than 0; give --level node or neuron, or another file"
        )
    flat, grouped = first.flat, model.grouped_graph
    mib = measurement.curves(_edges(first.edges, flat, rule), flat.n_edges, rule)
    if not grouped.grouped:
        return MibCurves(chosen, mib, None, flat.n_edges, None)
    columns = shared_readers(grouped, flat)
    ours = [
        [Part(part.mask[:, columns] & flat.edge_mask, part.size) for part in order]
        for order in _edges(summed_over_groups(first.edges, grouped, flat), grouped, rule)
    ]
    return MibCurves(chosen, mib, measurement.curves(ours, grouped.n_edges, rule), flat.n_edges, grouped.n_edges)


def circuits_of(importances: Importances) -> list[list[Importances]]:
    """The nine circuits by signed, and the nine by absolute score, for a folder of circuits."""
    level = importances.level
    if level == "edge":
        ranked = _edges(importances.edges, importances.flat, "top")
    else:
        ranked = (_nodes if level == "node" else _neurons)(importances)[1]
    blank = torch.zeros_like(importances.edges)
    return [
        [Importances(importances.graph, blank, part.mask, neurons_in_graph=part.neurons) for part in order]
        for order in ranked
    ]


@dataclass(frozen=True, eq=False)
class _Curves:
    """A question, and how its curves are computed."""

    question: Question
    resamples: int
    seed: int
    progress: Progress | None

    def curves(self, ranked: Sequence[Sequence[Part]], whole: int, rule: str) -> FaithfulnessCurves:
        """The curves of one or two orders of parts."""
        mask = self.question.model.graph.edge_mask
        ends = [Part(mask, whole), Part(torch.zeros_like(mask), 0)]
        measured = measure_parts(self.question, [*ends, *(part for order in ranked for part in order)], self.progress)
        sizes = [[*(part.size for part in order), whole] for order in ranked]
        return curves_of_values(
            self.question, measured, FRACTIONS, sizes, rule=rule, resamples=self.resamples, seed=self.seed
        )


def measure_parts(question: Question, parts: Sequence[Part], progress: Progress | None = None) -> CircuitMetrics:
    """The metric per prompt with everything outside each part ablated by interchange, by MIB's rule."""
    model = question.model
    linear = all(block.linear_heads for block in model.architecture.blocks)

    def logits(batch: Batch, clean: Writes) -> Iterator[Float[Tensor, "read d_vocab"]]:
        replacement = question.replacement(batch.suffix, clean) if linear else None
        plain = None
        for part in parts:
            if part.neurons is None and replacement is not None:
                yield ablated_logits(model.architecture, batch.suffix, replacement, part.mask)
                continue
            if plain is None:
                plain = capture_plain(model.architecture, batch.suffix.corrupted_tokens).map(batch.suffix.on_clean)
            yield mixed_logits(model.architecture, batch.suffix, plain, part.mask, part.neurons)

    return measure_logits(question, [not bool(part.mask.any()) for part in parts], logits, progress)


def _check_graph(model: Model, importances: Importances) -> None:
    if model.graph.grouped:
        raise InputError(
            f"{model.name} has {model.graph.n_kv_heads} key/value heads for {model.graph.n_heads} query heads; load it with "
            "ungrouped=True, since MIB counts an edge for each query head"
        )
    if importances.flat != model.graph:
        raise InputError(
            f"the circuit file belongs to another model ({importances.flat}) than {model.name} ({model.graph})"
        )


def _edges(values: Tensor, graph: Graph, rule: str) -> list[list[Part]]:
    """The circuits of each order of the edges."""
    scores = EdgeScores(graph, values, torch.full_like(values, math.nan), 1)
    choose = selection.RULES[rule]
    sizes = [int(p * graph.n_edges) for p in CIRCUITS]
    return [[_part(choose(scores, n, by)) for n in sizes] for by in ORDERS]


def _part(circuit: Circuit) -> Part:
    return Part(circuit.mask, len(circuit))


def _of_file(importances: Importances) -> Part:
    """A circuit of a folder."""
    if importances.neurons_in_graph is None:
        return _part(Circuit(importances.flat, importances.in_graph))
    kept = importances.neurons_in_graph
    return Part(importances.in_graph, int(kept.sum()), kept)


def _nodes(importances: Importances) -> tuple[int, list[list[Part]]]:
    """The number of scored nodes, and the circuits of each order."""
    if importances.nodes is None:
        raise InputError("the circuit file has no scores of nodes; give --level edge, or another file")
    mask = importances.flat.edge_mask
    n, kept = _ranked(importances.nodes)
    return n, [[Part(mask & one[:, None], int(one.sum())) for one in order] for order in kept]


def _neurons(importances: Importances) -> tuple[int, list[list[Part]]]:
    """The same of neurons."""
    if importances.neurons is None:
        raise InputError("the circuit file has no scores of neurons; give --level edge or node, or another file")
    mask = importances.flat.edge_mask
    n, kept = _ranked(importances.neurons)
    return n, [[Part(mask & one.any(1, keepdim=True), int(one.sum()), one) for one in order] for order in kept]


def _ranked(scores: Float[Tensor, "*axes"]) -> tuple[int, list[list[Bool[Tensor, "*axes"]]]]:
    """The number of scored parts, and for each order those that are kept at each share; parts without a score always are."""
    known = ~scores.isnan()
    n, made = int(known.sum()), []
    for by in ORDERS:
        values = (scores.abs() if by == "abs" else scores).nan_to_num(nan=-math.inf).flatten()
        order = torch.sort(values, descending=True, stable=True).indices
        kept = [~known.flatten() for _ in CIRCUITS]
        for one, share in zip(kept, CIRCUITS, strict=True):
            one[order[: int(share * n)]] = True
        made.append([one.reshape(scores.shape) for one in kept])
    return n, made
