"""Logits of circuits, with and without places, for one batch."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.ablate import Ablated, ablated_logits
from circuits.engine.ablate_places import ablated_at_places
from circuits.engine.capture import Writes
from circuits.engine.hooks import run
from circuits.graph.places import PlacedGraph
from circuits.prompts.pairs import PromptPairs
from circuits.question.places import SpanTable, spans_of_graph
from circuits.question.question import Batch, Question
from circuits.results.circuit import Circuit

PASS_TOKENS = 256
"""Circuits share a forward pass up to this many tokens; beyond, a pass is bound by its matrix products, and gains nothing."""
PASS_BYTES = 128 * 2**20
"""The most memory for all writers' outputs in such a pass."""

Resolved = tuple[Circuit, SpanTable | None]
"""A circuit over the places of some pairs, and their spans; see `resolved`."""


def resolved(circuit: Circuit, pairs: PromptPairs) -> Resolved:
    """A circuit over the places of the pairs, and their spans; a circuit without places is unchanged.

    Raises:
        InputError: the circuit has a place that the pairs do not have, or its spans are not those of the pairs.
    """
    graph = circuit.graph
    if not isinstance(graph, PlacedGraph):
        return circuit, None
    table = spans_of_graph(graph, pairs, "circuit")
    return circuit.over(table.places(graph.places.destinations)), table


def circuit_logits(
    question: Question,
    batch: Batch,
    replacement: Writes,
    circuit: Circuit,
    spans: SpanTable | None,
    tokens: Int[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "read d_out"]:
    """Logits of a batch with everything outside the circuit ablated.

    Args:
        question: model, pairs, metric and ablation.
        batch: some of its pairs.
        replacement: the replacement values of all writers.
        circuit, spans: of `resolved`.
        tokens: compute the logits of these tokens only (`Batch.tokens`); None: all.
    """
    architecture = question.model.architecture
    if spans is None:
        return ablated_logits(architecture, batch.suffix, replacement, circuit.mask, tokens=tokens)
    assert isinstance(circuit.graph, PlacedGraph)
    mask = circuit.mask.to(batch.suffix.clean.device)
    at = spans.of_tokens(batch)
    return ablated_at_places(architecture, batch.suffix, replacement, circuit.graph, mask, at, tokens)


def each_circuits_logits(
    question: Question, batch: Batch, replacement: Writes, circuits: Sequence[Resolved]
) -> Iterator[Float[Tensor, "read d_out"]]:
    """`circuit_logits` of several circuits, in order, of the tokens `Batch.tokens`.

    Small batches take several circuits in one forward pass: a pass over few tokens takes about as long as reading the weights. The
    results do not depend on how circuits share passes, up to rounding.
    """
    size = replacement.embedding.numel() * replacement.embedding.element_size() * question.model.graph.n_writers
    tiles, start = max(1, min(PASS_TOKENS // batch.suffix.clean.numel(), PASS_BYTES // size)), 0
    while start < len(circuits):
        some = circuits[start : start + tiles]
        if len(some) > 1 and all(spans is None for _, spans in some):
            yield from _in_one_pass(question, batch, replacement, [circuit for circuit, _ in some])
            start += len(some)
        else:
            circuit, spans = circuits[start]
            yield circuit_logits(question, batch, replacement, circuit, spans, batch.tokens)
            start += 1


def _in_one_pass(
    question: Question, batch: Batch, replacement: Writes, circuits: Sequence[Circuit]
) -> Float[Tensor, "circuit read d_out"]:
    architecture, n = question.model.architecture, len(circuits)
    tiled = replacement.map(lambda x: x.repeat(n, *[1] * (x.ndim - 1)))
    keep = torch.stack([circuit.mask for circuit in circuits]).repeat_interleave(len(batch.suffix.clean), dim=0)
    with torch.no_grad():
        hooks = Ablated(architecture, tiled, keep).hooks()
        logits = run(architecture, batch.suffix.clean_tokens.tiled(n), hooks, batch.tokens)
    return logits.unflatten(0, (n, -1))
