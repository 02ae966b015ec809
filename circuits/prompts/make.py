"""Makes pairs from records: renames the fields, encodes text, checks the pairs, and counts those that do not fit the model.

`model.encode` puts BOS first, and `position` and `roles` count it. Answers given as text are encoded as they follow the clean
prompt (`" Mary"` with its space), see `circuits.prompts.answer_tokens`. Ids are checked against the model, if there is one, and
against the texts beside them (`circuits.prompts.evidence`).
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from circuits.errors import PairsError, PairsWarning
from circuits.prompts.answer_tokens import answer_tokens, continuation, is_unknown, written
from circuits.prompts.columns import COMMON, Columns, Record
from circuits.prompts.evidence import Evidence
from circuits.prompts.metadata import NOTHING, Metadata
from circuits.prompts.pair import (
    Encoder,
    Pair,
    Place,
    Roles,
    TokenIds,
    as_answers,
    as_ids,
    as_index,
    as_roles,
    as_text,
    check_for,
    check_pair,
    check_provenance,
    show,
)
from circuits.prompts.reading import Reading, ReadingModel, bos_tokens
from circuits.prompts.sequences import ONE_TOKEN_METRICS, WAYS_OUT, Answer, answer_of, first_tokens
from circuits.prompts.spans import alignment, partition, text_place
from circuits.prompts.tables import Table
from circuits.prompts.unfit import Tally, Unfit, UnfitError


@dataclass(frozen=True)
class Made:
    """The pairs made from a table.

    Attributes:
        pairs: the pairs that fit the model.
        shared: source, seed and metric.
        unfit: counts of the other pairs; None: all fit.
        form: the published form that was recognised; None: the caller chose the columns.
    """

    pairs: list[Pair]
    shared: dict[str, Any]
    unfit: Unfit | None
    form: str | None


def make(table: Table, model: Encoder | None, reading: Reading, shared: Mapping[str, Any]) -> Made:
    """The pairs of a table.

    Args:
        table: the records.
        model: a model whose tokenizer encodes text; None: all entries must be token ids.
        reading: the caller's choices.
        shared: default source, seed and metric.

    Raises:
        PairsError: a record cannot be read or used; the message names its line.
    """
    if model is not None:
        model = ReadingModel(model, reading.bos)
    columns = Columns(reading.columns, table.text, table.blanks)
    common, tally, pairs = _Common(shared, table.name), Tally(), []
    evidence = None
    if model is not None and model.tokenizer is not None and not reading.trust_ids:
        evidence = Evidence(model, table.name)
    seen = 0
    for place, given in table.rows:
        where = f"{table.name}, {place}"
        try:
            made = columns.record(given, where)
            pair = _pair(made, model, reading, shared["metric"], where)
            common.add(made, place)
            if evidence is not None:
                evidence.add(pair, made, given, place)
        except UnfitError as error:
            tally.add(place, error)
        else:
            pairs.append(pair)
        seen += 1
        if reading.n is not None and (len(pairs) if reading.skip_unfit else seen) >= reading.n:
            break
    if not seen:
        raise PairsError(f"{table.name} has no pairs; expected {table.expected}")
    if evidence is not None:
        evidence.check()
    unfit = tally.result(len(pairs))
    if unfit is not None and not (reading.skip_unfit and pairs):
        raise tally.refusal(table.name, len(pairs))
    form = columns.form.name if columns.form is not None and reading.columns is None else None
    return Made(pairs, common.found, unfit, form)


def _pair(record: Record, model: Encoder | None, reading: Reading, metric: str, where: str) -> Pair:
    """A record with renamed fields as a checked pair; `metric`: that of records without one."""
    clean, clean_text = _prompt(record, "clean", model, where)
    corrupted, corrupted_text = _prompt(record, "corrupted", model, where) if "corrupted" in record else ((), None)
    position = as_index(record.get("position", max(len(clean) - 1, 0)), "position", where)
    needs_one = _needs_one_token(reading, record.get("metric", metric))
    behind = _Behind(model, clean, position, record["clean"], where, needs_one)
    both = (_answers(record.get(key, []), key, behind) for key in ("answers", "distractors"))
    answers, distractors = map(first_tokens, both) if reading.first_token else both
    spans = as_roles(_spans(record, "clean", clean, model, where), where, "span")
    named = as_roles(_roles(record, clean, model, where), where)
    pair = Pair(
        clean=clean,
        corrupted=corrupted,
        answers=answers,
        distractors=distractors,
        position=position,
        roles=named,
        clean_text=clean_text,
        corrupted_text=corrupted_text,
        metadata=Metadata.from_mapping(record["metadata"], where) if record.get("metadata") else NOTHING,
        partition=partition(spans, len(clean), position, where, "span") if spans else spans,
        alignment=_alignment(record, reading.align, (clean, corrupted, position, spans or named), model, where),
    )
    check_provenance(record.get("source", "file"), record.get("seed"), record.get("metric", "logit_difference"), where)
    check_pair(pair, where)
    if model is not None:
        check_for(pair, model, where)
    return pair


def _prompt(record: Record, key: str, model: Encoder | None, where: str) -> tuple[TokenIds, str | None]:
    """The ids of a prompt, and its text if known."""
    value, text_key = record[key], f"{key}_text"
    if isinstance(value, str):
        ids = tuple(_need_tokenizer(model, key, where).encode(as_text(value, key, where)))
        return ids, as_text(record.get(text_key, value), text_key, where)
    if not isinstance(value, list):
        raise PairsError(
            f"{where}: {key} is {show(value)} ({type(value).__name__}); expected text or a list of token ids"
        )
    text = record.get(text_key)
    return as_ids(value, key, where), None if text is None else as_text(text, text_key, where)


def _needs_one_token(reading: Reading, metric: object) -> str | None:
    """The metric that refuses texts of several tokens; None: they are answers."""
    measured = reading.metric or metric
    return str(measured) if measured in ONE_TOKEN_METRICS and not reading.first_token else None


def _answers(value: object, key: str, behind: "_Behind") -> tuple[Answer, ...]:
    """Answers or distractors, as texts, ids or lists of ids."""
    if not isinstance(value, list):
        expected = 'a text, a token id, or a list of either, such as [" Mary"]'
        raise PairsError(f"{behind.where}: {key} is {show(value)} ({type(value).__name__}); expected {expected}")
    texts = [behind.answer(entry, key) if isinstance(entry, str) else entry for entry in value]
    return as_answers(texts, key, behind.where)


class _Behind:
    """The position after a clean prompt, where the answers follow.

    Attributes:
        model: a model whose tokenizer encodes the answers, if any.
        prompt: the ids before that position.
        where: the line.
        one_token_for: the metric because of which each text must be one token, if any.
    """

    def __init__(
        self,
        model: Encoder | None,
        clean: TokenIds,
        position: int,
        given: object,
        where: str,
        one_token_for: str | None,
    ) -> None:
        self.model, self.where, self.prompt, self.one_token_for = model, where, clean[: position + 1], one_token_for
        self._given = given if isinstance(given, str) and position == len(clean) - 1 else None

    @cached_property
    def text(self) -> str | None:
        """The prompt as text; None if unknown."""
        assert self.model is not None
        return written(self.model, self.prompt) if self._given is None else self._given

    def answer(self, answer: str, key: str) -> Answer:
        """The token ids of an answer."""
        model, where = _need_tokenizer(self.model, key, self.where), self.where
        one = key.removesuffix("s")
        ids = answer_tokens(model, self.text, as_text(answer, f"an entry of {key}", where))
        if not ids:
            raise PairsError(
                f"{where}: {show(answer)} in {key} has no tokens of {model.name}; use another word, or give ids"
            )
        if len(ids) > 1 and self.one_token_for is not None:
            tokens = ", ".join(repr(model.tokenizer.decode([token])) for token in ids)
            spaced = f" {answer}"
            is_one = not answer[0].isspace() and len(answer_tokens(model, self.text, spaced)) == 1
            space = (
                f"begin it with a space ({show(spaced)} is one; in a table --columns \"{key}=' {{COLUMN}}'\"), "
                * is_one
            )
            raise UnfitError(
                f"with {'an' if one[0] == 'a' else 'a'} {one} of several tokens",
                f"{where}: {show(answer)} in {key} is {len(ids)} tokens of {model.name} ({tokens}); {self.one_token_for} takes exactly "
                f"one: use another word, {space}or {WAYS_OUT}",
            )
        if any(is_unknown(model, token, answer) for token in ids):
            raise UnfitError(
                f"with {'an' if one[0] == 'a' else 'a'} {one} unknown to the tokenizer",
                f"{where}: {show(answer)} in {key} is unknown to the tokenizer of {model.name}; use another word, or give ids",
            )
        return answer_of(ids)


def _roles(record: Record, clean: TokenIds, model: Encoder | None, where: str) -> object:
    """Token indices by name; a role given as text is the last token of that text in the clean prompt."""
    roles = record.get("roles", {})
    if "word_idxs" in record and not roles and model is not None:
        return _labelled(record, clean, model, where)
    if not isinstance(roles, dict) or not any(isinstance(place, str) for place in roles.values()):
        return roles
    return {
        name: _place(name, place, record, clean, model, where) if isinstance(place, str) else place
        for name, place in roles.items()
        if place is not None
    }


def _alignment(
    record: Record, align: str | None, prompts: tuple[TokenIds, TokenIds, int, Roles], model: Encoder | None, where: str
) -> TokenIds:
    """The alignment in the record, or else the one that the caller chose."""
    if "alignment" in record:
        return as_ids(record["alignment"], "alignment", where)
    if align is None:
        return ()
    return alignment(align, *prompts, _spans(record, "corrupted", prompts[1], model, where), where)


def _spans(record: Record, prompt: str, tokens: TokenIds, model: Encoder | None, where: str) -> object:
    """Spans of a prompt by name; a span given as text has all the tokens of that text in the prompt."""
    spans = record.get("spans" if prompt == "clean" else "corrupted_spans") or {}
    if not isinstance(spans, dict):
        return spans
    return {
        name: _text_span(name, place, record, prompt, tokens, model, where) if isinstance(place, str) else place
        for name, place in spans.items()
    }


def _text_span(
    name: str, words: str, record: Record, prompt: str, tokens: TokenIds, model: Encoder | None, where: str
) -> Place:
    text = record[prompt] if isinstance(record.get(prompt), str) else record.get(f"{prompt}_text")
    start = -1 if not isinstance(text, str) or not words.strip() else text.find(words.strip())
    if start >= 0 and model is not None:
        assert isinstance(text, str)
        place = text_place(model, text, tokens, start, start + len(words.strip()))
        if place is not None:
            return place
    raise UnfitError(
        "with a span that is not in its prompt",
        f"{where}: span {show(name)} is {show(words)}, which are not whole tokens of the {prompt} prompt; expected words of it, a "
        "token's index, or a range such as [3, 5]",
    )


def _place(name: str, words: str, record: Record, clean: TokenIds, model: Encoder | None, where: str) -> int:
    text = record["clean"] if isinstance(record["clean"], str) else record.get("clean_text")
    start = -1 if not isinstance(text, str) or not words.strip() else text.find(words.strip())
    if start >= 0 and model is not None:
        assert isinstance(text, str)
        end = start + len(words.strip())
        rest = continuation(model, text[:end], text[end:]) if text[end:] else []
        if rest is not None:
            return len(clean) - len(rest) - 1
    raise UnfitError(
        "with a role that is not in its prompt",
        f"{where}: role {show(name)} is {show(words)}, which does not end a token of the clean prompt; expected words of it, or a "
        "token's index",
    )


def _labelled(record: Record, clean: TokenIds, model: Encoder, where: str) -> object:
    """Roles from auto-circuit's `word_idxs`, which count tokens without BOS, if the labels show that words are tokens here too."""
    words, labels = record["word_idxs"], record.get("seq_labels")
    shift = bos_tokens(model, clean)
    if not isinstance(words, dict) or (isinstance(labels, list) and len(labels) != len(clean) - shift):
        warnings.warn(
            f"{where.partition(',')[0]}: word_idxs are left out where a prompt has not as many tokens of {model.name} as there are seq_labels",
            PairsWarning,
            stacklevel=2,
        )
        return {}
    return {name: as_index(place, f"word_idxs of {show(name)}", where) + shift for name, place in words.items()}


def _need_tokenizer(model: Encoder | None, key: str, where: str) -> Encoder:
    if model is None or model.tokenizer is None:
        given = "no model was given" if model is None else f"{model.name} has no tokenizer"
        raise PairsError(f"{where}: {key} has text, but {given}; give token ids instead")
    return model


class _Common:
    """Entries that every line repeats and that hold for the whole file; stored once.

    Attributes:
        found: the value of each key if all lines agree; otherwise the default.
    """

    def __init__(self, defaults: Mapping[str, Any], name: str) -> None:
        self.defaults, self.name = defaults, name
        self.first: dict[str, Any] = {}
        self.place = ""
        self.has_corrupted = True
        self.found: dict[str, Any] = dict(defaults)

    def add(self, record: Record, place: str) -> None:
        """Adds a line.

        Raises:
            PairsError: its metric differs from that of earlier lines, or only one of the two has a corrupted prompt.
        """
        common = {key: record.get(key, self.defaults[key]) for key in COMMON}
        if not self.place:
            self.place, self.first, self.found = place, common, dict(common)
            self.has_corrupted = "corrupted" in record
        if ("corrupted" in record) != self.has_corrupted:
            here, there = ("has none", "has one") if self.has_corrupted else ("has one", "has none")
            raise PairsError(
                f"{self.name}, {place}: this pair {here}, and the pair at {self.place} {there}: a corrupted prompt; give one to "
                "all pairs, or to none"
            )
        if common["metric"] != self.first["metric"]:
            raise PairsError(
                f"{self.name}, {place}: metric is {show(common['metric'])}, but {show(self.first['metric'])} at {self.place}; "
                "all pairs of a file share one (make one file of each)"
            )
        for key, value in common.items():
            if value != self.first[key]:
                self.found[key] = self.defaults[key]
