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
from circuits.prompts.sequences import Answer, TokenIds, answer_of, n_forced, tokens_of
from circuits.prompts.unfit import UnfitError

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

    >>> roles = Roles.from_mapping({"IO": 4, "place": (7, 9), "end": 14})
    >>> roles["IO"], roles["place"], roles == {"end": 14, "IO": 4, "place": (7, 9)}
    (4, (7, 9), True)
    """

    entries: tuple[tuple[str, Place], ...] = ()

    @classmethod
    def from_mapping(cls, roles: Mapping[str, Place]) -> "Roles":
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
        answers: the correct answers, at least one: each the id of the next token, or a tuple of the next tokens' ids.
        distractors: the wrong answers, likewise; may be empty.
        position: index of the token whose logits are read; the last one if an answer has several tokens.
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
    answers: tuple[Answer, ...]
    distractors: tuple[Answer, ...]
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
    def forced(self) -> int:
        """How many tokens of its longest answer or distractor are appended to the prompt; 0: all are single tokens."""
        return n_forced((*self.answers, *self.distractors))

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


def as_answers(value: object, what: str, where: str) -> tuple[Answer, ...]:
    """`value` as a tuple of answers: ids, and tuples of several ids."""
    entries = plain(value)
    if not isinstance(entries, list | tuple) or not any(isinstance(entry, list | tuple) for entry in entries):
        return as_ids(entries, what, where)
    return tuple(_as_answer(entry, f"{what}, entry {i},", where) for i, entry in enumerate(entries))


def _as_answer(entry: object, what: str, where: str) -> Answer:
    if not isinstance(entry, list | tuple):
        return as_index(entry, what, where)
    if not entry:
        raise PairsError(f"{where}: {what} has no tokens; expected a token id, or a list of at least one")
    return answer_of(as_ids(entry, what, where))


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
    return Roles.from_mapping({name: as_place(place, f"{what} {show(name)}", where) for name, place in entries})


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
    for what, read in (("clean", as_ids), ("corrupted", as_ids), ("answers", as_answers), ("distractors", as_answers)):
        _check_type(getattr(pair, what), tuple, what, where)
        if read(getattr(pair, what), what, where) != getattr(pair, what):
            raise PairsError(f"{where}: {what} has a list of one token; an answer of one token is its id")
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
                f"{where}: {_named(twice)} occurs twice among the {what} and would count twice; give it once",
            )
        if pair.forced:
            _check_nested(tokens, what, where)
    if pair.forced and pair.position != len(pair) - 1:
        raise PairsError(
            f"{where}: an answer has several tokens and position is {pair.position}, not the last token {len(pair) - 1}; the answer's "
            "tokens stand behind the whole prompt: end the prompt at that position, or keep the first tokens (first_token)"
        )
    if pair.forced and pair.alignment and pair.corrupted_position != len(pair.corrupted) - 1:
        raise UnfitError(
            "of unequal length, with answers of several tokens behind a corrupted token that is not the last",
            f"{where}: an answer has several tokens, which stand behind both prompts, and the token that is read is aligned with token "
            f"{pair.corrupted_position} of the corrupted prompt, not with its last, {len(pair.corrupted) - 1}; change the prompts or "
            "their spans, or keep the first tokens (first_token)",
        )
    if both := set(pair.answers) & set(pair.distractors):
        raise UnfitError(
            "with an answer that is a distractor too",
            f"{where}: {_named(min(both, key=tokens_of))} is an answer and a distractor; it can be only one of them",
        )


def _check_nested(answers: tuple[Answer, ...], what: str, where: str) -> None:
    """Refuses an answer that begins another one: the other's probability would count twice."""
    tree: dict[int, Any] = {}  # token -> the tree behind it; an answer ends at an empty tree
    for answer in sorted(answers, key=lambda answer: len(tokens_of(answer))):
        tokens, at = tokens_of(answer), tree
        for i, token in enumerate(tokens):
            if token in at and not at[token]:
                raise UnfitError(
                    f"with one of the {what} beginning another",
                    f"{where}: among the {what}, {_named(answer_of(tokens[: i + 1]))} begins {_named(answer)}, whose probability "
                    "would count twice; give one of them",
                )
            at = at.setdefault(token, {})


def _named(answer: Answer) -> str:
    return f"token {answer}" if isinstance(answer, int) else f"tokens {show(list(answer))}"


def check_for(pair: Pair, model: Encoder, where: str) -> None:
    """Refuses a pair that the model cannot read; the message names `where`."""
    if (longest := max(len(pair.clean), len(pair.corrupted))) + pair.forced > model.n_ctx:
        behind = f" and their answers {pair.forced} more" if pair.forced else ""
        raise UnfitError(
            "longer than the model reads",
            f"{where}: the prompts have {longest} tokens{behind}; {model.name} reads at most {model.n_ctx}",
        )
    for what in ("clean", "corrupted", "answers", "distractors"):
        for token in (token for entry in getattr(pair, what) for token in tokens_of(entry)):
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
