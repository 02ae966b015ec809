"""The columns of `PromptPairs` from token ids, given as lists, tensors or arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from circuits.errors import PairsError
from circuits.prompts.pair import Roles, TokenIds, as_answers, as_ids, as_index, as_roles, plain, show
from circuits.prompts.sequences import Answer
from circuits.prompts.spans import alignment, partition

Entries = Tensor | np.ndarray | Sequence[Any]
"""An entry for each pair."""


def token_columns(
    clean: Entries,
    corrupted: Entries | None,
    answers: Entries,
    distractors: Entries | None,
    *,
    positions: Entries | None,
    roles: Sequence[Mapping[str, Any]] | None,
    spans: Sequence[Mapping[str, Any]] | None,
    corrupted_spans: Sequence[Mapping[str, Any]] | None,
    align: str | None,
) -> dict[str, Any]:
    """Arguments of `PromptPairs`, from those of `PromptPairs.from_tokens`, which explains them.

    Raises:
        PairsError: a column or an entry has the wrong type, or a pair cannot be divided or aligned. That all columns have one entry
            per pair is left to `PromptPairs`.
    """
    prompts = _ids(_column(clean, "clean"), "clean")
    n = len(prompts)
    right = [_listed(entry) for entry in _column(answers, "answers")]
    wrong = [()] * n if distractors is None else [_listed(entry) for entry in _column(distractors, "distractors")]
    last = [max(len(prompt) - 1, 0) for prompt in prompts]
    read = enumerate(last if positions is None else _column(positions, "positions"))
    places = tuple(as_index(place, "position", f"pair {number}") for number, place in read)
    names = enumerate([{}] * n if roles is None else _column(roles, "roles"))
    others = ((),) * n if corrupted is None else _ids(_column(corrupted, "corrupted"), "corrupted")
    named = tuple(as_roles(entry, f"pair {number}") for number, entry in names)
    partitions = () if spans is None else _partitions(prompts, places, _column(spans, "spans"))
    alignments = ()
    if align is not None:
        of_corrupted = [{}] * n if corrupted_spans is None else _column(corrupted_spans, "corrupted_spans")
        rows = zip(prompts, others, places, partitions or named, of_corrupted, strict=False)
        alignments = tuple(alignment(align, *row, f"pair {number}") for number, row in enumerate(rows))
    return {
        "clean": prompts, "corrupted": others, "answers": _answers(right, "answers"), "distractors": _answers(wrong, "distractors"),
        "positions": places, "roles": named, "partitions": partitions, "alignments": alignments,
    }  # fmt: skip


def _column(value: object, what: str) -> list[Any]:
    """`value` as a list with one entry per pair."""
    column = plain(value)
    if not isinstance(column, list | tuple):
        raise PairsError(f"{what} is {show(column)} ({type(column).__name__}); expected a list with one entry a pair")
    return list(column)


def _ids(column: Sequence[Any], what: str) -> tuple[TokenIds, ...]:
    return tuple(as_ids(entry, what, f"pair {number}") for number, entry in enumerate(column))


def _partitions(prompts: Sequence[TokenIds], positions: Sequence[int], column: list[Any]) -> tuple[Roles, ...]:
    """The spans given for each prompt, completed by those in between."""
    given = (as_roles(entry, f"pair {number}", "span") for number, entry in enumerate(column))
    rows = zip(given, prompts, positions, strict=False)  # their numbers are compared by `PromptPairs`
    return tuple(
        partition(spans, len(prompt), position, f"pair {number}", "span") if spans else spans
        for number, (spans, prompt, position) in enumerate(rows)
    )


def _answers(column: Sequence[Any], what: str) -> tuple[tuple[Answer, ...], ...]:
    return tuple(as_answers(entry, what, f"pair {number}") for number, entry in enumerate(column))


def _listed(entry: object) -> list[Any] | tuple[Any, ...]:
    """A single id as a list of one; lists, tuples, tensors and arrays as lists."""
    entry = plain(entry)
    return entry if isinstance(entry, list | tuple) else [entry]
