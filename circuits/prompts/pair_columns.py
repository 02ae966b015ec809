"""What prompt pairs are: one tuple for each field, with one entry per pair, checked when they are made.

This file has the fields and what follows from them; `circuits.prompts.pairs` has the ways to make and to choose pairs.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from circuits.errors import PairsError
from circuits.prompts.batch import PairBatch, batches
from circuits.prompts.metadata import NOTHING, Metadata
from circuits.prompts.pair import (
    NO_ROLES,
    Encoder,
    Pair,
    Roles,
    TokenIds,
    bounds,
    check_for,
    check_pair,
    check_provenance,
    show,
)
from circuits.prompts.sequences import Answer
from circuits.prompts.spans import partition, schema
from circuits.prompts.unfit import Unfit
from circuits.shown import Shown

NO_TEXTS = (None, None)


@dataclass(frozen=True, repr=False)
class PairColumns(Shown):
    """The columns of `PromptPairs`, which explains them."""

    clean: tuple[TokenIds, ...]
    corrupted: tuple[TokenIds, ...]
    answers: tuple[tuple[Answer, ...], ...]
    distractors: tuple[tuple[Answer, ...], ...]
    positions: tuple[int, ...]
    roles: tuple[Roles, ...]
    texts: tuple[tuple[str | None, str | None], ...] = ()
    source: str = "tokens"
    seed: int | None = None
    metric: str = "logit_difference"
    metadata: tuple[Metadata, ...] = ()
    partitions: tuple[Roles, ...] = ()
    alignments: tuple[TokenIds, ...] = ()
    unfit: Unfit | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        n = len(self.clean)
        if n == 0:
            raise PairsError("there are no pairs; give at least one")
        if not self.texts:
            object.__setattr__(self, "texts", (NO_TEXTS,) * n)
        if not self.metadata:
            object.__setattr__(self, "metadata", (NOTHING,) * n)
        if not self.partitions:
            object.__setattr__(self, "partitions", (NO_ROLES,) * n)
        if not self.alignments:
            object.__setattr__(self, "alignments", ((),) * n)
        for column in (
            "corrupted",
            "answers",
            "distractors",
            "positions",
            "roles",
            "texts",
            "metadata",
            "partitions",
            "alignments",
        ):
            if (entries := len(getattr(self, column))) != n:
                raise PairsError(f"clean has {n} prompts, {column} {entries} entries; give one for each pair")
        for number, pair in enumerate(self):
            check_pair(pair, f"pair {number}")
            if bool(pair.corrupted) != self.has_corrupted:
                one, other = (0, number) if self.has_corrupted else (number, 0)
                raise PairsError(
                    f"pair {other} has no corrupted prompt, and pair {one} has; give one to all pairs, or to none"
                )
        check_provenance(self.source, self.seed, self.metric, "pairs")

    @property
    def has_corrupted(self) -> bool:
        """Whether the pairs have corrupted prompts."""
        return bool(self.corrupted[0])

    def __len__(self) -> int:
        return len(self.clean)

    def __iter__(self) -> Iterator[Pair]:
        return (self.pair(i) for i in range(len(self)))

    def __repr__(self) -> str:
        lengths = sorted({len(prompt) for prompt in self.clean})
        tokens = f"{lengths[0]}-{lengths[-1]}" if len(lengths) > 1 else f"{lengths[0]}"
        about = f"source={self.source!r}, seed={self.seed}, metric={self.metric!r}"
        return f"PromptPairs({len(self)} pair{'s' * (len(self) != 1)} of {tokens} tokens, {about})"

    def rows(self) -> list[dict[str, Any]]:
        """One row per pair: both prompts as text (as token ids if the text is unknown), ids of answers and distractors, the
        position whose logits are read, and the roles."""
        return [
            {
                "clean": pair.clean_text or list(pair.clean), "corrupted": pair.corrupted_text or list(pair.corrupted),
                "answers": _plain(pair.answers), "distractors": _plain(pair.distractors), "position": pair.position,
                "roles": ", ".join(f"{name} {at}" for name, at in pair.roles.items()),
            }
            for pair in self
        ]  # fmt: skip

    def pair(self, i: int) -> Pair:
        """Pair number i."""
        ids = (self.clean[i], self.corrupted[i], self.answers[i], self.distractors[i])
        return Pair(
            *ids,
            self.positions[i],
            self.roles[i],
            *self.texts[i],
            self.metadata[i],
            self.partitions[i],
            self.alignments[i],
        )

    @cached_property
    def spans(self) -> tuple[str, ...]:
        """The names of the spans into which every prompt is divided, in order: the same for all pairs, for prompts of any length.

        They are those that the pairs were given, or follow from the roles (`circuits.prompts.spans`): a role is a span, and so
        are the tokens before the first role (`start`), between a role and the next (`S1+` after `S1`), and the token whose
        logits are read (`end`), if no role has it.

        Raises:
            PairsError: roles overlap, or the spans of two pairs differ; the message names the pair.
        """
        return schema(self._divided)

    def span_starts(self, i: int) -> tuple[int, ...]:
        """The first token of every span of pair i; span s has the tokens from `starts[s]` to `starts[s + 1] - 1`.

        Raises:
            PairsError: see `spans`.
        """
        assert self.spans
        return tuple(bounds(place)[0] for _, place in self._divided[i].entries)

    @cached_property
    def _divided(self) -> tuple[Roles, ...]:
        """Each prompt's spans."""
        return tuple(
            pair.partition or partition(pair.roles, len(pair), pair.position, f"pair {number}")
            for number, pair in enumerate(self)
        )

    def prefix(self, i: int) -> int:
        """The number of leading tokens that the two prompts of pair i share."""
        return self.pair(i).prefix

    @cached_property
    def several_tokens(self) -> bool:
        """Whether an answer or distractor has several tokens."""
        return any(
            type(entry) is not int for side in (self.answers, self.distractors) for each in side for entry in each
        )

    def require_one_token(self, method: str) -> None:
        """Raises PairsError if an answer has several tokens, for a method that reads one next token of each prompt."""
        if self.several_tokens:
            raise PairsError(
                f"{method} reads one next token of each prompt, and an answer has several; keep the first token of each answer "
                "(pairs.first_token(), or first_token=True, --first-token)"
            )

    def batches(self, batch_size: int, forced: bool = True) -> Iterator[PairBatch]:
        """All pairs in batches of equal length, sorted by length, then by prefix; the order does not depend on batch_size.

        Args:
            batch_size: pairs in a batch.
            forced: append answers of several tokens to the prompts; False: prompts alone, and the answers' first tokens.

        Raises:
            PairsError: batch_size is not a whole number of at least 1.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise PairsError(f"batch_size is {show(batch_size)}; expected a whole number of at least 1")
        return batches(self, batch_size, forced and self.several_tokens)

    def validate_for(self, model: Encoder) -> None:
        """Checks that the model can read the pairs; PairsError if an id is outside the vocabulary or a prompt is too long."""
        for number, pair in enumerate(self):
            check_for(pair, model, f"pair {number}")

    def digest(self) -> str:
        """SHA-256 of the model's input (without texts, source, seed and metric), for provenance."""
        content = [
            [pair.clean, pair.corrupted, pair.answers, pair.distractors, pair.position, sorted(pair.roles.items())]
            + ([pair.alignment] if pair.alignment else [])
            for pair in self
        ]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _plain(answers: tuple[Answer, ...]) -> list[Any]:
    return [answer if isinstance(answer, int) else list(answer) for answer in answers]
