"""Which span of a graph over places every token of every prompt is in."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.errors import InputError, PairsError
from circuits.graph.graph import Graph
from circuits.graph.places import REST, PlacedGraph, Places, over
from circuits.prompts.pairs import PromptPairs
from circuits.question.question import Batch

EACH = "each"
SPANS = "spans"


@dataclass(frozen=True, eq=False)
class SpanTable:
    """The spans of pairs of prompts, and the span of each of their tokens.

    Attributes:
        pairs: the prompts.
        kind: `spans`: the schema of the pairs; `each`: every token is a span, for prompts of one length.
    """

    pairs: PromptPairs
    kind: str = SPANS

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the spans in order; PairsError if the pairs do not have them."""
        return one_length(self.pairs) if self.kind == EACH else self.pairs.spans

    @cached_property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """For every pair the first token of every span."""
        if self.kind == EACH:
            return (tuple(range(len(self.names))),) * len(self.pairs)
        return tuple(self.pairs.span_starts(i) for i in range(len(self.pairs)))

    @cached_property
    def read(self) -> tuple[str, ...]:
        """Spans in which logits are read, in order."""
        spans = {self._span_at(i, position) for i, position in enumerate(self.pairs.positions)}
        return tuple(self.names[i] for i in sorted(spans))

    def _span_at(self, pair: int, token: int) -> int:
        return sum(start <= token for start in self.starts[pair]) - 1

    def places(self, destinations: bool = False) -> Places:
        """The places of a graph over these spans."""
        return Places(self.names, destinations, self.read)

    def of_tokens(self, batch: Batch) -> Int[Tensor, "row pos"]:
        """The number of the span of every token of a batch's suffix; the answers' tokens are in the last span."""
        suffix = batch.suffix
        starts = torch.tensor([self.starts[i] for i in suffix.batch.row_index.tolist()], device=suffix.clean.device)
        tokens = torch.arange(suffix.clean.shape[1], device=suffix.clean.device) + suffix.start
        return (starts[:, None, :] <= tokens[None, :, None]).sum(-1) - 1


@dataclass(frozen=True, eq=False)
class PlaceAxis:
    """Places as an axis of scores.

    Attributes:
        graph: the model's graph over the places.
        table: the span of every token.
    """

    graph: PlacedGraph
    table: SpanTable


def place_axis(
    graph: Graph, pairs: PromptPairs, positions: str | Sequence[str] | None, destinations: bool
) -> PlaceAxis | None:
    """The axis of `positions="spans"`, and of `each` with destinations; None for other positions.

    Raises:
        PairsError: the pairs have no such spans.
        InputError: destinations of positions that do not cover the prompt.
    """
    if positions == SPANS or (positions == EACH and destinations):
        table = SpanTable(pairs, str(positions))
        return PlaceAxis(over(graph, table.places(destinations)), table)
    if destinations:
        raise InputError("destinations=True needs positions='spans' or 'each', in which every query has a place")
    return None


def covering_axis(
    graph: Graph, pairs: PromptPairs, positions: str | Sequence[str] | None, destinations: bool = False
) -> PlaceAxis | None:
    """The axis of a method whose edges act at places that cover the prompt: of `spans` or `each`; None without positions.

    Raises:
        PairsError: the pairs have no such spans.
        InputError: other positions, or destinations without positions.
    """
    if positions is None or positions in (SPANS, EACH):
        if positions is None and not destinations:
            return None
        table = SpanTable(pairs, str(positions))
        axis = place_axis(graph, pairs, positions, destinations)
        return axis or PlaceAxis(over(graph, table.places()), table)
    raise InputError(
        f"positions must be 'spans' or 'each' here, places that cover the prompt, got {positions!r}; edge_attribution "
        "splits effects by any roles"
    )


def spans_of_graph(graph: PlacedGraph, pairs: PromptPairs, what: str) -> SpanTable:
    """The spans of the pairs, for a graph over them.

    Args:
        graph, pairs: the graph and the prompts.
        what: what has the graph, for messages: `circuit`.

    Raises:
        InputError: the graph has a place that the pairs do not have, or its spans are not those of the pairs.
    """
    verb = "have" if what.endswith("s") else "has"
    table = span_table(pairs, graph.places.spans)
    try:
        names = table.names
    except PairsError as problem:
        raise InputError(
            f"the {what} {verb} places ({', '.join(graph.places.spans)}), and the prompts do not: {problem}"
        ) from None
    if graph.places.partition and graph.places.spans != names:
        raise InputError(
            f"the {what} {verb} the spans {', '.join(graph.places.spans)}, and the prompts have {', '.join(names)}; "
            f"give prompts with the spans of the {what}"
        )
    return table


def one_length(pairs: PromptPairs) -> tuple[str, ...]:
    """The numbers of the tokens of prompts of one length, as labels.

    Raises:
        PairsError: the prompts have different lengths.
    """
    lengths = {len(tokens) for tokens in pairs.clean}
    if len(lengths) > 1:
        raise PairsError(
            f"positions='each' needs prompts of equal length, and these have {min(lengths)} to {max(lengths)} tokens; "
            "use positions='roles' or 'spans', one score for all positions (positions=False; on the command line: --positions all), "
            "or pairs of one length (of a task: task.pairs(…, one_length=True); on the command line: --one-length)"
        )
    return tuple(map(str, range(lengths.pop())))


def span_table(pairs: PromptPairs, spans: Sequence[str]) -> SpanTable:
    """The table in which spans of these names are found: of every token if the names are numbers, else of the schema."""
    numbers = [name for name in spans if name != REST]
    return SpanTable(pairs, EACH if numbers and all(name.isdecimal() for name in numbers) else SPANS)
