"""The queries of each span on a line of tokens, for keys and values that differ between them."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.engine.token_line import Line


@dataclass(frozen=True, eq=False)
class QueriesAt:
    """Queries of one span.

    Attributes:
        slots: per pair their slots among the last ones; where a pair has fewer than another, followed by any other slots.
        tokens: where their outputs belong: tokens of the line, counted from the first query.
        pair, rank: per token its place in `slots`.
    """

    slots: Int[Tensor, "pair query"]
    tokens: Int[Tensor, " token"]
    pair: Int[Tensor, " token"]
    rank: Int[Tensor, " token"]


@dataclass(frozen=True, eq=False)
class QuerySpans:
    """The queries of every span, of all tokens of a line or of the answers alone.

    Attributes:
        line: the pairs.
        spans: the span of every token.
    """

    line: Line
    spans: Int[Tensor, " token"]
    _known: dict[tuple[int, int], QueriesAt | None] = field(default_factory=dict)

    def in_span(self, span: int, n_tokens: int) -> QueriesAt | None:
        """The queries of a span; None: there are none.

        Args:
            span: its number.
            n_tokens: the number of tokens of the line with a query: all, or the answers.
        """
        if (span, n_tokens) not in self._known:
            self._known[span, n_tokens] = self._found(span, n_tokens)
        return self._known[span, n_tokens]

    def _found(self, span: int, n_tokens: int) -> QueriesAt | None:
        line, n_slots = self.line, self.line.slots.shape[1]
        tokens = (self.spans[-n_tokens:] == span).nonzero()[:, 0]
        if not len(tokens):
            return None
        place = line.place[len(line) - n_tokens + tokens]
        pair, slot = place // n_slots, place % n_slots
        shown = n_slots if n_tokens == len(line) else 1
        there = torch.zeros(line.n_pairs, shown, dtype=torch.long, device=place.device)
        there[pair, slot - n_slots + shown] = 1
        slots = there.argsort(dim=1, descending=True, stable=True)[:, : int(there.sum(1).max())]
        rank = (there.cumsum(1) - 1)[pair, slot - n_slots + shown]
        return QueriesAt(slots, tokens, pair, rank)
