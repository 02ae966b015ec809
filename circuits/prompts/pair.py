"""One pair of prompts, and its checks.

Pairs from files, lists, tensors and tasks all pass the same checks. Messages name the line or the number of the pair, what
was given, what was expected, and what to do.
"""

import reprlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from circuits.errors import PairsError
from circuits.prompts.aligned import check_alignment, differing, shared_prefix
from circuits.prompts.metadata import NOTHING, Metadata
from circuits.prompts.unfit import UnfitError

TokenIds = tuple[int, ...]
Place = int | tuple[int, int]
"""A token's index, or a half-open range: `(3, 5)` are the tokens 3 and 4, as in Python's slices."""
LARGEST = 2**63 - 1  # the largest id that a tensor can hold


@runtime_checkable
class Encoder(Protocol):
    """The parts of a `circuits.Model` that pairs and tasks use.

    Attributes:
        tokenizer: a Hugging Face tokenizer, or None.
        name: the model's name, for messages.
        d_vocab: number of token ids.
        n_ctx: the longest prompt, in tokens.
    """

    @property
    def tokenizer(self) -> Any: ...
    @property
    def name(self) -> str: ...
    @property
    def d_vocab(self) -> int: ...
    @property
    def n_ctx(self) -> int: ...
    def encode(self, text: str) -> list[int]:
        """The token ids of a prompt, beginning with the tokenizer's BOS token if it has one."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Roles(Mapping[str, Place]):
    """Names for tokens and runs of tokens, such as `IO` or `S2`: an immutable mapping, which can be hashed.

    >>> roles = Roles.of({"IO": 4, "place": (7, 9), "end": 14})
    >>> roles["IO"], roles["place"], roles == {"end": 14, "IO": 4, "place": (7, 9)}
    (4, (7, 9), True)
    """

    entries: tuple[tuple[str, Place], ...] = ()

    @classmethod
    def of(cls, roles: Mapping[str, Place]) -> "Roles":
        return cls(tuple((sys.intern(str(name)), place) for name, place in roles.items())) if roles else NO_ROLES

    @cached_property
    def _places(self) -> dict[str, Place]:
        return dict(self.entries)

    def __getitem__(self, name: str) -> Place:
        return self._places[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __hash__(self) -> int:
        return hash(frozenset(self.entries))

    def __repr__(self) -> str:
        return f"Roles({dict(self.entries)})"


NO_ROLES = Roles()


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair of prompts; `PromptPairs` checks it.

    Attributes:
        clean: token ids of the prompt with the behaviour.
        corrupted: token ids of a minimally changed prompt without the behaviour; as long as `clean`. Empty: there is none, and
            ablations that take its values are refused.
        answers: ids of the correct next tokens, at least one.
        distractors: ids of the wrong next tokens; may be empty.
        position: index of the token whose logits are read.
        roles: name -> token index, or a half-open range of tokens.
        clean_text, corrupted_text: the prompts as text, if known; only for display.
        metadata: other entries of the pair's record.
        partition: the spans of the clean prompt, in order, without gaps; empty: they follow from the roles
            (`circuits.prompts.spans`).
        alignment: for each clean token, the token of the corrupted prompt that belongs to it (`circuits.prompts.aligned`); empty:
            both have one length, and belong together token by token.
    """

    clean: TokenIds
    corrupted: TokenIds
    answers: TokenIds
    distractors: TokenIds
    position: int
    roles: Roles = NO_ROLES
    clean_text: str | None = None
    corrupted_text: str | None = None
    metadata: Metadata = NOTHING
    partition: Roles = NO_ROLES
    alignment: TokenIds = ()

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def corrupted_position(self) -> int:
        """Index of the corrupted prompt's token whose logits are read."""
        return self.alignment[self.position] if self.alignment else self.position

    @property
    def differing(self) -> list[int]:
        """The clean tokens that are other tokens in the corrupted prompt; none without one."""
        if not self.corrupted:
            return []
        alignment = self.alignment or tuple(range(len(self.clean)))
        return differing(alignment, self.clean, self.corrupted)

    @property
    def prefix(self) -> int:
        """The number of leading tokens that the two prompts share; 0 without a corrupted prompt."""
        if self.alignment:
            return shared_prefix(self.alignment, self.clean, self.corrupted)
        if not self.corrupted:
            return 0
        both = zip(self.clean, self.corrupted, strict=True)
        return next((i for i, (a, b) in enumerate(both) if a != b), len(self.clean))


def show(value: object) -> str:
    """Any value as short text for a message.

    >>> show("a" * 1000), show(10**5000)
    ("'aaaaaaaaaaa...aaaaaaaaaaaa'", 'a number of 16610 bits')
    """
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    return reprlib.repr(value)


def plain(value: object) -> object:
    """Tensors, arrays and their scalars as Python lists and numbers; other values unchanged."""
    return tolist() if callable(tolist := getattr(value, "tolist", None)) else value


def as_index(value: object, what: str, where: str) -> int:
    """`value` as a non-negative integer; booleans are refused."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= LARGEST:
        kind = f" ({type(number).__name__})" if not isinstance(number, int) or isinstance(number, bool) else ""
        raise PairsError(f"{where}: {what} is {show(number)}{kind}; expected a whole number, counted from 0")
    return number


def as_ids(value: object, what: str, where: str) -> TokenIds:
    """`value` as a tuple of token ids."""
    ids = plain(value)
    if not isinstance(ids, list | tuple):
        raise PairsError(f"{where}: {what} is {show(ids)} ({type(ids).__name__}); expected a list of token ids")
    if all(type(token) is int and 0 <= token <= LARGEST for token in ids):
        return tuple(ids)  # a tuple is not copied
    return tuple(as_index(token, f"{what}, entry {i},", where) for i, token in enumerate(ids))


def bounds(place: Place) -> tuple[int, int]:
    """The first token of a place, and the one behind its last."""
    return place if isinstance(place, tuple) else (place, place + 1)


def as_place(value: object, what: str, where: str) -> Place:
    """`value` as a token's index or a half-open range; a range of one token as its index."""
    ends = plain(value)
    if not isinstance(ends, list | tuple):
        return as_index(ends, what, where)
    if len(ends) != 2:
        raise PairsError(
            f"{where}: {what} is {show(ends)}; expected a token's index, or the first token of a span and the one behind "
            "its last, such as [3, 5] for the tokens 3 and 4"
        )
    start, stop = (as_index(end, what, where) for end in ends)
    if stop <= start:
        raise PairsError(f"{where}: {what} is {show(ends)}, which has no token; [3, 5] are the tokens 3 and 4")
    return start if stop == start + 1 else (start, stop)


def as_roles(value: object, where: str, what: str = "role") -> Roles:
    """`value` as a mapping from names to tokens and ranges of tokens."""
    if not isinstance(value, Mapping):
        raise PairsError(
            f"{where}: {what}s are {show(value)}; expected names with token indices, such as {{'IO': 4}}, or ranges: "
            "{'S1': [3, 5]}"
        )
    for name in value:
        as_text(name, f"a {what}'s name", where)
    entries = value.entries if isinstance(value, Roles) else value.items()  # faster than a dictionary
    return Roles.of({name: as_place(place, f"{what} {show(name)}", where) for name, place in entries})


def as_text(value: object, what: str, where: str) -> str:
    """`value` as non-empty text that can be written as UTF-8."""
    if not isinstance(value, str) or not value:
        raise PairsError(f"{where}: {what} is {show(value)}; expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PairsError(f"{where}: {what} is {show(value)}, with half a character (a lone surrogate)") from None
    return value


def check_pair(pair: Pair, where: str) -> None:
    """Refuses a pair whose fields are inconsistent; the message names `where`."""
    for what in ("clean", "corrupted", "answers", "distractors"):
        _check_type(getattr(pair, what), tuple, what, where)
        as_ids(getattr(pair, what), what, where)
    _check_type(pair.roles, Roles, "roles", where)
    as_roles(pair.roles, where)
    _check_type(pair.partition, Roles, "partition", where)
    _check_length(pair, where)
    _check_answers(pair, where)
    for what, text in (("the clean text", pair.clean_text), ("the corrupted text", pair.corrupted_text)):
        if text is not None:
            as_text(text, what, where)


def _check_type(value: object, kind: type, what: str, where: str) -> None:
    if not isinstance(value, kind):
        given = type(value).__name__
        raise PairsError(f"{where}: {what} is a {given}, not a {kind.__name__}; PromptPairs.from_tokens takes any list")


def _check_length(pair: Pair, where: str) -> None:
    length = len(pair.clean)
    if pair.corrupted and length != len(pair.corrupted) and not pair.alignment:
        raise UnfitError(
            "of unequal length",
            f"{where}: clean has {length} tokens, corrupted {len(pair.corrupted)}; pairs must have equal length "
            "(drop the pair, change its words until both have as many tokens, or align them: --align diff)",
        )
    if length == 0:
        raise PairsError(f"{where}: the prompts have no tokens; give at least one (a text needs a BOS token or a word)")
    outside = f"outside the prompt; it has {length} tokens, so 0 to {length - 1}"
    if as_index(pair.position, "position", where) >= length:
        raise PairsError(f"{where}: position {show(pair.position)} is {outside}")
    for name, place in pair.roles.entries:
        if bounds(place)[1] > length:
            raise PairsError(f"{where}: role {show(name)} is at {show(place)}, {outside}")
    at = 0
    for name, place in pair.partition.entries:
        start, stop = bounds(place)
        if start != at or stop <= start:
            raise PairsError(f"{where}: span {show(name)} begins at token {start}, not at {at}; spans leave no gap")
        at = stop
    if pair.alignment:
        check_alignment(pair.alignment, pair.clean, pair.corrupted, pair.position, where)
    if pair.partition and at != length:
        raise PairsError(f"{where}: the spans end at token {at}, and the prompt has {length} tokens")


def _check_answers(pair: Pair, where: str) -> None:
    if not pair.answers:
        raise UnfitError("without an answer", f"{where}: there is no answer; give at least one token that is right")
    for what, tokens in (("answers", pair.answers), ("distractors", pair.distractors)):
        if len(set(tokens)) < len(tokens):
            twice = next(token for token, n in Counter(tokens).items() if n > 1)
            raise UnfitError(
                f"with the same token twice among the {what}",
                f"{where}: token {twice} occurs twice among the {what} and would count twice; give it once",
            )
    if both := set(pair.answers) & set(pair.distractors):
        raise UnfitError(
            "with an answer that is a distractor too",
            f"{where}: token {min(both)} is an answer and a distractor; it can be only one of them",
        )


def check_for(pair: Pair, model: Encoder, where: str) -> None:
    """Refuses a pair that the model cannot read; the message names `where`."""
    if (longest := max(len(pair.clean), len(pair.corrupted))) > model.n_ctx:
        raise UnfitError(
            "longer than the model reads",
            f"{where}: the prompts have {longest} tokens; {model.name} reads at most {model.n_ctx}",
        )
    for what in ("clean", "corrupted", "answers", "distractors"):
        for token in getattr(pair, what):
            if token >= model.d_vocab:
                raise PairsError(
                    f"{where}: {what} has token id {show(token)}; {model.name} knows ids from 0 to {model.d_vocab - 1} "
                    "(were the ids made with another model's tokenizer?)"
                )


def check_provenance(source: object, seed: object, metric: object, where: str) -> None:
    """Refuses a source, seed or metric name that cannot be recorded."""
    as_text(source, "source", where)
    as_text(metric, "metric", where)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or abs(seed) > LARGEST):
        raise PairsError(f"{where}: seed is {show(seed)}; expected a whole number of at most 63 bits, or none")
