"""Prompts of any lengths laid out as one line of tokens, so that one matrix product serves all of them.

Norms, projections and MLPs handle each token separately, whatever its prompt. Only attention works on [pair, slot];
`to_slots` and `from_slots` convert. No computation needs tokens after a pair's answer, so the line leaves them out; and
the answers are its last tokens, so that "at the answers only" is a slice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from circuits.engine.prefix import Suffix


@dataclass(frozen=True, eq=False)
class Line:
    """The place of every token; made by `lay_out`.

    Attributes:
        n_pairs: number of pairs; the last tokens are their answers, in order.
        source: per token its index among all positions of all prompts, one prompt after the other, batch by batch.
        slots: per pair and slot the token, aligned so that the answer is in the last slot; 0 in empty slots.
        place: per token, pair · slots + slot.
        query_at, key_at: prompt position of a slot and of a key (the cached prefix's keys come first); -1: empty.
        rows: per pair its row among all rows of the batches, if a row is read at several positions: each of them then counts as
            a pair here, with the tokens up to it.
    """

    n_pairs: int
    source: Int[Tensor, " token"]
    slots: Int[Tensor, "pair slot"]
    place: Int[Tensor, " token"]
    query_at: Int[Tensor, "pair slot"]
    key_at: Int[Tensor, "pair key"]
    rows: Int[Tensor, " pair"] | None = None
    _hidden: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def n_past(self) -> int:
        """Number of keys in the longest past."""
        return self.key_at.shape[1] - self.query_at.shape[1]

    @property
    def answers(self) -> int:
        """Index of the first answer."""
        return len(self) - self.n_pairs

    @property
    def positions(self) -> Int[Tensor, " token"]:
        """The prompt position of every token."""
        return self.query_at.flatten()[self.place]

    def distance(self, n_slots: int) -> Int[Tensor, "pair slot key"]:
        """How far keys lie before the last slots' queries; of empty slots and keys, any number."""
        return self.query_at[:, -n_slots:, None] - self.key_at[:, None]

    def join(self, batches: Sequence[Shaped[Tensor, "_ _ *axes"]]) -> Shaped[Tensor, "1 token *axes"]:
        """Values at the batches' positions [batch, pos, …], as one prompt with the line's tokens."""
        return torch.cat([values.flatten(0, 1) for values in batches]).index_select(0, self.source)[None]

    def join_past(self, batches: Sequence[Float[Tensor, "_ head _ d_head"]]) -> Float[Tensor, "pair head past d_head"]:
        """Keys or values of the batches' prefixes, padded in front to the longest prefix."""
        past = torch.cat([F.pad(values, (0, 0, self.n_past - values.shape[2], 0)) for values in batches])
        return past if self.rows is None else past.index_select(0, self.rows)

    def to_slots(self, y: Float[Tensor, "row some_tokens width"]) -> Float[Tensor, "row pair slot width"]:
        """All tokens, or the answers alone (one slot), by pair and slot; empty slots contain an arbitrary token."""
        if y.shape[1] == self.n_pairs and len(self) > self.n_pairs:
            return y[:, :, None]
        return y.index_select(1, self.slots.flatten()).unflatten(1, self.slots.shape)

    def from_slots(self, z: Float[Tensor, "row pair slot width"]) -> Float[Tensor, "row some_tokens width"]:
        """The inverse of `to_slots`."""
        z_line = z.flatten(1, 2)
        return z_line if z.shape[2] < self.slots.shape[1] else z_line.index_select(1, self.place)

    def hidden(self, n_slots: int, window: int | None) -> Bool[Tensor, "pair slot key"] | None:
        """True at the keys that the last slots' queries do not see; None: they see all.

        Args:
            n_slots: number of slots.
            window: how many tokens, including its own, a query sees; None: all.
        """
        if (n_slots, window) not in self._hidden:
            query, key = self.query_at[:, -n_slots:, None], self.key_at[:, None]
            hidden = (key > query) | (key < 0)
            if window is not None:
                hidden = hidden | (key <= query - window)
            hidden = hidden & (query >= 0)  # an empty slot sees all keys, because a softmax over none is NaN
            self._hidden[n_slots, window] = hidden if bool(hidden.any()) else None
        return self._hidden[n_slots, window]

    def behind(self, same: Bool[Tensor, " token"]) -> tuple["Line", Int[Tensor, " kept"]]:
        """The line without each pair's leading `same` tokens, and the indices of the kept tokens.

        The past then includes the removed tokens: this line's past and all slots that some pair has removed.
        """
        there, n = self.query_at >= 0, self.query_at.shape[1]
        left_out = (same[self.slots] | ~there).cumprod(1).bool()
        left_out[:, -1] = False
        lengths = (~left_out).sum(1)
        cut, n_past = n - int(lengths.max()), self.n_past + n - int(lengths.min())
        kept = (~left_out.flatten()[self.place]).nonzero()[:, 0]
        renumbered = torch.zeros_like(self.source)
        renumbered[kept] = torch.arange(len(kept), device=kept.device)
        past_at = torch.cat([self.key_at[:, : self.n_past], self.query_at.masked_fill(~left_out, -1)], dim=1)
        query_at = self.query_at.masked_fill(left_out, -1)[:, cut:]
        place = self.place[kept]
        line = Line(
            n_pairs=self.n_pairs,
            source=self.source[kept],
            slots=renumbered[self.slots].masked_fill(left_out, 0)[:, cut:],
            place=place // n * (n - cut) + place % n - cut,
            query_at=query_at,
            key_at=torch.cat([past_at[:, :n_past], query_at], dim=1),
            rows=self.rows,
        )
        return line, kept


def lay_out(suffixes: Sequence[Suffix]) -> Line:
    """The line of all pairs of some batches, ordered by distance from the answer (farthest first), then by pair."""
    tokens: list[tuple[int, int, int, int]] = []  # (distance from the answer, pair, source, position in the prompt)
    starts: list[int] = []
    rows: list[int] = []
    first = first_row = 0
    for suffix in suffixes:
        n, n_pos = suffix.clean.shape
        in_order = list(range(n)) if suffix.row is None else suffix.row.tolist()
        rows += [first_row + i for i in in_order]
        first_row += n
        for i, answer in zip(in_order, suffix.position.tolist(), strict=True):
            pair = len(starts)
            tokens += [(answer - at, pair, first + i * n_pos + at, suffix.start + at) for at in range(answer + 1)]
            starts.append(suffix.start)
        first += n * n_pos
    tokens.sort(key=lambda token: (-token[0], token[1]))
    n_slots, n_past = tokens[0][0] + 1, max(starts)
    slots = torch.zeros(len(starts), n_slots, dtype=torch.long)
    query_at = torch.full((len(starts), n_slots), -1)
    places = []
    for t, (distance, pair, _, at) in enumerate(tokens):
        slot = n_slots - 1 - distance
        slots[pair, slot], query_at[pair, slot] = t, at
        places.append(pair * n_slots + slot)
    past_at = (torch.arange(n_past) - n_past + torch.tensor(starts)[:, None]).clamp(min=-1)
    device = suffixes[0].clean.device
    return Line(
        n_pairs=len(starts),
        source=torch.tensor([source for _, _, source, _ in tokens]).to(device),
        slots=slots.to(device),
        place=torch.tensor(places).to(device),
        query_at=query_at.to(device),
        key_at=torch.cat([past_at, query_at], dim=1).to(device),
        rows=torch.tensor(rows).to(device) if any(suffix.row is not None for suffix in suffixes) else None,
    )
