"""The base class of tasks: words and a template that become prompt pairs for any model.

A task writes text. What depends on a model's tokenizer is done here: which words can be used, where they are among the tokens,
and which candidates must be dropped. So a new task is a class of about thirty lines: its word lists, and a method that
writes one example.

A task with a known circuit may have a method `known_circuits`, see `circuits.plugins.KnowsCircuits`.

Drawing is reproducible on every machine: pair i depends only on the task, the seed, i and the tokenizer. So the first k of a
hundred pairs are the same as k pairs drawn alone.
"""

import random
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import ClassVar

from circuits.errors import InputError
from circuits.progress import Progress
from circuits.prompts.answer_tokens import by_itself, continuation
from circuits.prompts.pair import Place, TokenIds
from circuits.prompts.pairs import Encoder, Pair, PromptPairs, Roles
from circuits.prompts.spans import partition, text_place

Row = tuple[str, ...]
Lists = Mapping[str, tuple[Row, ...]]
Prompts = tuple[TokenIds, TokenIds]
ATTEMPTS = 2000  # candidates for one pair: enough to find the last unused one of some hundreds
SAMPLED_LENGTHS = 32  # candidates from which the usual length of a task's prompts is determined
ATTEMPTS_AT_A_LENGTH = 50  # candidates of one number for a pair of that length
FRUITLESS_NUMBERS = 40  # consecutive numbers without such a pair: as many candidates as `ATTEMPTS`


class UnusableError(Exception):
    """The candidate does not suit the tokenizer; another one is drawn. The reason is shown if all candidates fail."""


@dataclass(frozen=True)
class At:
    """The last token of a word in the clean prompt, or a later token.

    Attributes:
        word: a whole word of the clean prompt.
        occurrence: which one, counted from 0 (from the end if negative).
        shift: number of tokens after it.
    """

    word: str
    occurrence: int = 0
    shift: int = 0


@dataclass(frozen=True)
class Words:
    """All tokens of some text in the clean prompt.

    Attributes:
        text: a part of the clean prompt that begins and ends where tokens do.
        after: the beginning of the prompt, behind which it is searched.
    """

    text: str
    after: str = ""


@dataclass(frozen=True)
class Example:
    """One pair as text.

    Attributes:
        clean, corrupted: the prompts, without BOS.
        answers, distractors: right and wrong continuations of the clean prompt, each one token, with its leading space.
        roles: name -> the word in the clean prompt (or `At`, or `Words`); `end`, the last token, is added.
        spans: likewise, what divides the prompt into spans (`circuits.prompts.spans`): the same names in the same order in every
            example. None: the roles.
    """

    clean: str
    corrupted: str
    answers: Row
    distractors: Row = ()
    roles: "Mapping[str, str | At | Words]" = field(default_factory=dict)
    spans: "Mapping[str, str | At | Words] | None" = None


@dataclass(frozen=True)
class Draw:
    """The input of `Task.example`.

    Attributes:
        index: the number of the pair, for alternating what must be balanced.
        random: the source of all randomness.
        lists: the task's word lists, without words that are several tokens of the model.
        model: the model, for tasks that depend on its tokenizer.
        task: the task.
    """

    index: int
    random: random.Random
    lists: Mapping[str, tuple[Row, ...]]
    model: Encoder
    task: "Source"

    def rows(self, name: str, k: int = 1) -> list[Row]:
        """k different rows of a list; InputError if fewer are usable with the model's tokenizer."""
        rows = self.lists[name]
        if len(rows) < k:
            raise InputError(
                f"task {self.task.name}: of the {len(self.task.word_lists[name])} entries of the word list {name!r}, "
                f"{len(rows)} are single tokens of {self.model.name}; an example needs {k} "
                "(use a model with another tokenizer)"
            )
        return self.random.sample(rows, k)

    def words(self, name: str, k: int = 1) -> list[str]:
        """k different words of a list of single words."""
        return [row[0] for row in self.rows(name, k)]

    def word(self, name: str) -> str:
        """One word of a list of single words."""
        return self.words(name)[0]


@dataclass(frozen=True)
class Source(ABC):
    """A source of prompt pairs for a behaviour: of text (`Task`), or of token ids of one model (derive from this class).

    Options are dataclass fields of the subclass.

    Attributes:
        name: the name in commands and records.
        title: the name in texts.
        description: what the model has to do, in a sentence.
        source: the paper.
        metric: name of the metric that suits it.
        model: short name of the only model that can do it; None: any model.
        word_lists: name -> words, or rows of words that are drawn together. Only rows whose words are all single tokens
            after a space are drawn.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    source: ClassVar[str]
    metric: ClassVar[str] = "logit_difference"
    model: ClassVar[str | None] = None
    word_lists: ClassVar[Mapping[str, Sequence[str | Row]]] = {}

    @abstractmethod
    def pair(self, draw: Draw) -> Pair:
        """One candidate for a pair; UnusableError if it cannot be used."""

    @abstractmethod
    def check(self, model: Encoder) -> None:
        """Raises InputError if the model cannot be given this task."""

    def text(self, ids: Sequence[int], model: Encoder) -> str:
        """Token ids as text."""
        return model.tokenizer.decode(list(ids))

    def pairs(
        self, model: Encoder, n: int = 64, seed: int = 0, *, one_length: bool = False, progress: Progress | None = None
    ) -> PromptPairs:
        """n different pairs.

        Args:
            model: its tokenizer makes the tokens.
            n: number of pairs.
            seed: random seed.
            one_length: draw only prompts of the most frequent length of this task, so that scores can have an axis of all
                positions (`positions="each"`). A task that alternates templates alternates those of that length.
            progress: called with (pairs drawn, n).

        Raises:
            InputError: n is not positive, the model cannot be given this task, or there are fewer different pairs.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InputError(f"task {self.name}: n is {n!r}; expected a whole number of at least 1")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise InputError(f"task {self.name}: seed is {seed!r}; expected a whole number")
        self.check(model)
        lists = self.usable_words(model)
        drawn: dict[Prompts, Pair] = {}
        source = (self._drawn_at_one_length if one_length else self._drawn)(model, lists, seed, drawn)
        while len(drawn) < n:
            pair = next(source)
            drawn[pair.clean, pair.corrupted] = pair
            if progress is not None:
                progress(len(drawn), n)
        pairs = PromptPairs.from_pairs(list(drawn.values()), source=self.label, seed=seed, metric=self.metric)
        pairs.validate_for(model)
        return pairs

    def usable_words(self, model: Encoder) -> dict[str, tuple[Row, ...]]:
        """The word lists without rows in which a word is several tokens."""
        return {name: _single_tokens(model, rows) for name, rows in self.word_lists.items()}

    @property
    def label(self) -> str:
        """The name, with options that differ from their default."""
        options = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        listed = ", ".join(f"{name}={value}" for name, value in options.items())
        return f"{self.name}({listed})" if options else self.name

    def _drawn(self, model: Encoder, lists: Lists, seed: int, drawn: Collection[Prompts]) -> Iterator[Pair]:
        """For each number, the first candidate that is usable and new."""
        for index in count():
            reasons: Counter[str] = Counter()
            pair = self._first(model, lists, seed, index, drawn, ATTEMPTS, reasons)
            if pair is None:
                raise self._exhausted(model, index, ATTEMPTS, reasons)
            yield pair

    def _drawn_at_one_length(
        self, model: Encoder, lists: Lists, seed: int, drawn: Collection[Prompts]
    ) -> Iterator[Pair]:
        """Pairs of the most frequent length. Numbers whose template has another length are skipped."""
        length = self._usual_length(model, lists, seed)
        fruitless, reasons = 0, Counter[str]()
        for index in count():
            pair = self._first(model, lists, seed, index, drawn, ATTEMPTS_AT_A_LENGTH, reasons, length)
            if pair is not None:
                fruitless, reasons = 0, Counter()
                yield pair
                continue
            fruitless += 1
            if fruitless == FRUITLESS_NUMBERS:
                raise self._exhausted(model, len(drawn), FRUITLESS_NUMBERS * ATTEMPTS_AT_A_LENGTH, reasons, length)

    def _usual_length(self, model: Encoder, lists: Lists, seed: int) -> int | None:
        """The most frequent number of tokens of a clean prompt; None if no prompt is usable."""
        firsts = (
            self._first(model, lists, seed, index, (), ATTEMPTS_AT_A_LENGTH, Counter())
            for index in range(SAMPLED_LENGTHS)
        )
        lengths = Counter(len(pair.clean) for pair in firsts if pair is not None)
        return lengths.most_common(1)[0][0] if lengths else None

    def _first(
        self, model: Encoder, lists: Lists, seed: int, index: int, drawn: Container[Prompts], attempts: int,
        reasons: Counter[str], length: int | None = None,
    ) -> Pair | None:  # fmt: skip
        """The first candidate for pair `index` that is usable, new, and of that length; `reasons` counts those of the others."""
        for attempt in range(attempts):
            # Seeding with text gives the same numbers everywhere. Options are left out, so that they share the clean prompts.
            source = random.Random(f"{self.name} {seed} {index} {attempt}")
            try:
                pair = self.pair(Draw(index, source, lists, model, self))
            except UnusableError as reason:
                reasons[str(reason)] += 1
                continue
            if length is not None and len(pair.clean) != length:
                reasons["another length"] += 1
            elif (pair.clean, pair.corrupted) in drawn:
                reasons["there already"] += 1
            else:
                return pair
        return None

    def _exhausted(
        self, model: Encoder, n: int, attempts: int, reasons: Counter[str], length: int | None = None
    ) -> InputError:
        why = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3))
        pairs = "pairs" if length is None else f"pairs of {length} tokens"
        return InputError(
            f"task {self.label} gives {n} {pairs} for the tokenizer of {model.name}, but more were asked for: "
            f"{attempts} further candidates were of no use ({why}). "
            + (f"Ask for at most {n}" if n else "Use a model with another tokenizer")
        )


@dataclass(frozen=True)
class Task(Source):
    """A task of text, for every model with a tokenizer."""

    @abstractmethod
    def example(self, draw: Draw) -> Example:
        """One candidate for an example; UnusableError if it does not suit the tokenizer."""

    def pair(self, draw: Draw) -> Pair:
        """The example as tokens."""
        return _encode(self.example(draw), draw.model)

    def check(self, model: Encoder) -> None:
        """Refuses a model without a tokenizer."""
        if model.tokenizer is None:
            raise InputError(
                f"task {self.name} is text, but {model.name} has no tokenizer; use PromptPairs.from_tokens"
            )


def _single_tokens(model: Encoder, rows: Sequence[str | Row]) -> tuple[Row, ...]:
    """The rows whose words are all one known token after a space."""
    unknown = getattr(model.tokenizer, "unk_token_id", None)

    def single(word: str) -> bool:
        added = continuation(model, "the", f" {word}")
        return added is not None and len(added) == 1 and added[0] != unknown

    listed = ((row,) if isinstance(row, str) else tuple(row) for row in rows)
    return tuple(row for row in listed if all(single(word) for word in row))


def _encode(example: Example, model: Encoder) -> Pair:
    """The example as tokens; UnusableError if it does not suit the tokenizer."""
    clean, corrupted = tuple(model.encode(example.clean)), tuple(model.encode(example.corrupted))
    if len(clean) != len(corrupted):
        raise UnusableError("clean and corrupted prompt of unequal length")
    if clean == corrupted:
        raise UnusableError("clean and corrupted prompt are the same tokens")
    answers = tuple(_answer(model, example.clean, answer) for answer in example.answers)
    distractors = tuple(_answer(model, example.clean, answer) for answer in example.distractors)
    if len({*answers, *distractors}) < len(answers) + len(distractors):
        raise UnusableError("two answers or distractors are the same token")
    end = len(clean) - 1
    roles = Roles.from_mapping({**_places(model, example.clean, clean, example.roles), "end": end})
    pair = Pair(clean, corrupted, answers, distractors, end, roles, example.clean, example.corrupted)
    if example.spans is None:
        return pair
    spans = _places(model, example.clean, clean, example.spans)
    return replace(pair, partition=partition(spans, len(clean), end, f"the prompt {example.clean!r}", "span"))


def _answer(model: Encoder, prompt: str, answer: str) -> int:
    """The one token that `answer` adds to the prompt."""
    added = continuation(model, prompt, answer)
    if added is None:  # prompt and answer merge, as "17" and "00" may: take the token of the answer alone
        added = by_itself(model, answer)
    if len(added) != 1:
        raise UnusableError("an answer or distractor that is not one token")
    return added[0]


def _places(model: Encoder, prompt: str, tokens: TokenIds, named: Mapping[str, str | At | Words]) -> dict[str, Place]:
    """Tokens of the prompt, by name."""
    return {
        name: _words(model, prompt, tokens, place)
        if isinstance(place, Words)
        else _place(model, prompt, tokens, At(place) if isinstance(place, str) else place)
        for name, place in named.items()
    }


def _words(model: Encoder, prompt: str, tokens: TokenIds, words: Words) -> Place:
    """All tokens of a text in the prompt."""
    start = prompt.find(words.text, len(words.after))
    if start < 0 or not prompt.startswith(words.after):
        raise ValueError(f"the prompt {prompt!r} does not have {words}")
    place = text_place(model, prompt, tokens, start, start + len(words.text))
    if place is None:
        raise UnusableError("a span that does not begin and end where tokens do")
    return place


def _place(model: Encoder, prompt: str, tokens: tuple[int, ...], at: At) -> int:
    """The index of the last token of a word of the prompt."""
    matches = list(re.finditer(rf"(?<!\w){re.escape(at.word)}(?!\w)", prompt))
    try:
        end = matches[at.occurrence].end()
    except IndexError:
        raise ValueError(f"the prompt {prompt!r} does not have {at}: it has the word {len(matches)} times") from None
    head = tuple(model.encode(prompt[:end]))
    index = len(head) - 1 + at.shift
    if tokens[: len(head)] != head:
        raise UnusableError("a word's end that is not the end of a token")
    if not 0 <= index < len(tokens):
        raise ValueError(f"the prompt {prompt!r} has {len(tokens)} tokens, and {at} is at {index}")
    return index
