"""Logits of circuits, with and without places, for one batch."""

from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.ablate import ablated_logits
from circuits.engine.ablate_places import ablated_at_places
from circuits.engine.capture import Writes
from circuits.graph.places import PlacedGraph
from circuits.prompts.pairs import PromptPairs
from circuits.question.places import SpanTable, spans_of_graph
from circuits.question.question import Batch, Question
from circuits.results.circuit import Circuit


def resolved(circuit: Circuit, pairs: PromptPairs) -> tuple[Circuit, SpanTable | None]:
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
