"""Prompt files: JSON lines, with one pair per line.

Such files are written by hand, by scripts and by runs, so any mistake is possible; messages name the line.
Required keys: `clean` and `corrupted` (text, or a list of token ids) and `answers` (a list of strings of exactly one
token each, or of ids). Optional: `distractors` (like answers), `position` (default: the last token), `roles` (a
mapping from name to token index), and `clean_text` and `corrupted_text` for prompts given as ids.
`source`, `seed` and `metric` record the origin of the pairs, on every line, so that lines can be cut and joined
with any tool.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from circuits.errors import InputError, PairsError
from circuits.files.atomic import write_text
from circuits.files.untrusted import check_size, keys_once, open_regular
from circuits.prompts.answer_tokens import answer_tokens, is_unknown, written
from circuits.prompts.pair import (
    Encoder,
    Pair,
    TokenIds,
    as_ids,
    as_index,
    as_roles,
    as_text,
    check_for,
    check_pair,
    check_provenance,
    show,
)

NEEDED = ("clean", "corrupted", "answers")
COMMON = ("source", "seed", "metric")
KEYS = (*NEEDED, "distractors", "position", "roles", "clean_text", "corrupted_text", *COMMON)


def read(path: str | os.PathLike[str], model: Encoder | None = None) -> tuple[list[Pair], dict[str, Any]]:
    """The pairs of a file, and their common source, seed and metric. Empty lines are skipped.

    Text is encoded by `model.encode`, which puts BOS first: `position` and `roles` count it. Answers given as text are encoded
    as they follow the clean prompt (`" Mary"` with its space), see `circuits.prompts.answer_tokens`. If a model is given, ids are
    checked against it.

    Raises:
        PairsError: the file cannot be read or used; the message names the line, counted from 1.
    """
    name = str(path).encode(errors="replace").decode()
    common = _Common({"source": name, "seed": None, "metric": "logit_difference"}, name)
    pairs: list[Pair] = []
    for number, raw in enumerate(_lines(path), start=1):
        if not raw.strip():
            continue
        where = f"{name}, line {number}"
        record = _record(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw, where)
        pairs.append(_pair(record, model, where))
        common.add(record, number)
    if not pairs:
        raise PairsError(f"{name} has no pairs; expected one JSON object a line with the keys {', '.join(NEEDED)}")
    return pairs, common.values


def write(pairs: Iterable[Pair], shared: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes pairs and their common entries atomically, so that `read` gives equal ones; PairsError if that fails."""
    try:
        write_text(Path(path), (json.dumps(_to_record(pair, shared), ensure_ascii=False) + "\n" for pair in pairs))
    except InputError as error:
        raise PairsError(str(error).replace("cannot write", "pairs cannot be written to", 1)) from None
    except ValueError as error:  # a NUL in the path
        raise PairsError(f"pairs cannot be written to {str(path)!r}: {error}") from error


def _to_record(pair: Pair, shared: Mapping[str, Any]) -> dict[str, Any]:
    record = {field.name: getattr(pair, field.name) for field in fields(pair)}
    record |= {"roles": dict(pair.roles), **{key: shared[key] for key in COMMON}}
    return {key: value for key, value in record.items() if value is not None}


def _lines(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """One line at a time, which saves memory."""
    try:
        with open_regular(path) as file:
            yield from file
    except InputError as error:  # a pipe, a device
        raise PairsError(f"pairs cannot be read: {error}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise PairsError(f"pairs cannot be read from {str(path)!r}: {reason}") from error


def _record(raw: bytes, where: str) -> dict[str, Any]:
    """A line as an object with only known keys."""
    example = '{"clean": "…", "corrupted": "…", "answers": […], "distractors": […]}'
    try:
        text = raw.decode()
        check_size(text)
        record = json.loads(text, object_pairs_hook=keys_once, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise PairsError(f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    except RecursionError:
        raise PairsError(f"{where}: nested too deeply; expected an object like {example}") from None
    except InputError as error:
        raise PairsError(f"{where}: {error}") from None
    except json.JSONDecodeError as error:
        what = f"{error.msg} at character {error.pos + 1} of {show(error.doc)}"
        raise PairsError(f"{where}: not JSON: {what}; expected one object a line like {example}") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise PairsError(f"{where}: {error}; expected an object like {example}") from None
    if not isinstance(record, dict):
        raise PairsError(f"{where}: found {show(record)} ({type(record).__name__}); expected an object like {example}")
    for key in record:
        if key not in KEYS:
            near = get_close_matches(key[:40], KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(KEYS)}"
            raise PairsError(f"{where}: unknown key {show(key)}; {hint}")
    if missing := [key for key in NEEDED if key not in record]:
        raise PairsError(f"{where}: {missing[0]!r} is missing; found only the keys {', '.join(record) or '(none)'}")
    return record


def _no_constant(name: str) -> NoReturn:
    raise PairsError(f"found {name}; expected token ids, which are whole numbers from 0")


def _pair(record: dict[str, Any], model: Encoder | None, where: str) -> Pair:
    """A line's object as a checked pair."""
    clean, clean_text = _prompt(record, "clean", model, where)
    corrupted, corrupted_text = _prompt(record, "corrupted", model, where)
    position = as_index(record.get("position", max(len(clean) - 1, 0)), "position", where)
    behind = _Behind(model, clean, position, record["clean"], where)
    answers = _answers(record["answers"], "answers", behind)
    distractors = _answers(record.get("distractors", []), "distractors", behind)
    roles = as_roles(record.get("roles", {}), where)
    pair = Pair(clean, corrupted, answers, distractors, position, roles, clean_text, corrupted_text)
    check_provenance(record.get("source", "file"), record.get("seed"), record.get("metric", "logit_difference"), where)
    check_pair(pair, where)
    if model is not None:
        check_for(pair, model, where)
    return pair


def _prompt(record: dict[str, Any], key: str, model: Encoder | None, where: str) -> tuple[TokenIds, str | None]:
    """A prompt's ids, and its text if known."""
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


def _answers(value: object, key: str, behind: "_Behind") -> TokenIds:
    """Answers or distractors as ids; strings must be one token each."""
    if not isinstance(value, list):
        expected = 'a list of single-token strings or token ids, such as [" Mary"]'
        raise PairsError(f"{behind.where}: {key} is {show(value)} ({type(value).__name__}); expected {expected}")
    return tuple(
        behind.one_token(entry, key) if isinstance(entry, str) else as_index(entry, f"{key}, entry {i},", behind.where)
        for i, entry in enumerate(value)
    )


class _Behind:
    """The place after a clean prompt, where answers are expected.

    Attributes:
        model: its tokenizer encodes the answers, if given.
        prompt: the ids before the answer.
        where: the line.
    """

    def __init__(self, model: Encoder | None, clean: TokenIds, position: int, given: object, where: str) -> None:
        self.model, self.where, self.prompt = model, where, clean[: position + 1]
        self._given = given if isinstance(given, str) and position == len(clean) - 1 else None

    @cached_property
    def text(self) -> str | None:
        """The prompt as text; None if unknown."""
        assert self.model is not None
        return written(self.model, self.prompt) if self._given is None else self._given

    def one_token(self, answer: str, key: str) -> int:
        """The id of an answer."""
        model, where = _need_tokenizer(self.model, key, self.where), self.where
        ids = answer_tokens(model, self.text, as_text(answer, f"an entry of {key}", where))
        if len(ids) != 1:
            tokens = ", ".join(repr(model.tokenizer.decode([token])) for token in ids)
            space = "" if answer[0].isspace() else "begin it with a space if it follows one, "
            raise PairsError(
                f"{where}: {show(answer)} in {key} is {len(ids)} tokens of {model.name} ({tokens}); expected exactly one: "
                f"use another word, {space}or give ids"
            )
        if is_unknown(model, ids[0], answer):
            raise PairsError(
                f"{where}: {show(answer)} in {key} is unknown to the tokenizer of {model.name}; use another word, or give ids"
            )
        return ids[0]


def _need_tokenizer(model: Encoder | None, key: str, where: str) -> Encoder:
    if model is None or model.tokenizer is None:
        given = "no model was given" if model is None else f"{model.name} has no tokenizer"
        raise PairsError(f"{where}: {key} has text, but {given}; give token ids instead")
    return model


class _Common:
    """The entries that are on every line, stored once.

    Attributes:
        values: the value of each key if it is the same on all lines, else the default.
    """

    def __init__(self, defaults: Mapping[str, Any], name: str) -> None:
        self.defaults, self.name = defaults, name
        self.first: dict[str, Any] = {}
        self.line = 0
        self.values: dict[str, Any] = {}

    def add(self, record: Mapping[str, Any], line: int) -> None:
        """Adds a line; PairsError if its metric differs."""
        entries = {key: record.get(key, default) for key, default in self.defaults.items()}
        if not self.line:
            self.line, self.first, self.values = line, entries, dict(entries)
        first = self.first["metric"]
        if entries["metric"] != first:
            raise PairsError(
                f"{self.name}, line {line}: metric is {show(entries['metric'])}, but {show(first)} at line {self.line}; "
                "all pairs of a file share one (make one file of each)"
            )
        for key, value in entries.items():
            if value != self.first[key]:
                self.values[key] = self.defaults[key]
