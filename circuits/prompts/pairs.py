"""Prompt pairs, the input of every method.

A pair is a clean prompt, a corrupted prompt of equal length, and the tokens that are right and wrong after it. `PromptPairs` are
checked when they are made, so methods need no checks. They hold token ids (text is only for display), so models without a
tokenizer work too.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from torch import Tensor

from circuits.errors import PairsError
from circuits.prompts import jsonl
from circuits.prompts.answer_tokens import decoded
from circuits.prompts.make import make
from circuits.prompts.pair import (
    Encoder,
    Pair,
    Roles,
    plain,
    show,
)
from circuits.prompts.pair_columns import NO_TEXTS, PairColumns
from circuits.prompts.reading import Reading
from circuits.prompts.records import table_of
from circuits.prompts.sequences import first_tokens
from circuits.prompts.tables import Table, read_table
from circuits.prompts.token_columns import Entries, token_columns

__all__ = ["Encoder", "Pair", "PromptPairs", "Roles"]


@dataclass(frozen=True, repr=False)
class PromptPairs(PairColumns):
    """Pairs of prompts, in order; every field has one entry per pair.

    Attributes:
        clean, corrupted: token ids, see `Pair`; either all pairs have a corrupted prompt or none.
        answers, distractors: per pair token ids, and tuples of ids for answers of several tokens.
        positions: index of the token whose logits are read.
        roles: name -> token index, or a half-open range of tokens.
        texts: the clean and the corrupted prompt as text, None if unknown.
        source: the origin of the pairs: a task, a file, or `tokens`.
        seed: the seed they were drawn with, if any.
        metric: name of the metric that suits them.
        metadata: other entries of their records.
        partitions: the spans that were given for each prompt; empty: they follow from its roles. Read them as `spans`.
        alignments: the corrupted token that belongs to each clean token (`circuits.prompts.aligned`); empty: both prompts have
            one length, and belong together token by token.
        unfit: counts of pairs that `from_records` left out; None: none.

    Raises:
        PairsError: a pair is invalid; messages count pairs from 0, as `pairs[17]` does.

    >>> clean, corrupted = [[0, 5, 6], [0, 7, 6]], [[0, 7, 6], [0, 5, 6]]
    >>> pairs = PromptPairs.from_tokens(clean, corrupted, answers=[8, 9], distractors=[9, 8])
    >>> pairs
    PromptPairs(2 pairs of 3 tokens, source='tokens', seed=None, metric='logit_difference')
    >>> pairs.prefix(0), pairs.positions, pairs[1].clean
    (1, (2, 2), (0, 7, 6))
    """

    @classmethod
    def from_pairs(
        cls, pairs: Sequence[Pair], source: str = "tokens", seed: int | None = None, metric: str = "logit_difference"
    ) -> "PromptPairs":
        """Combines single pairs, in their order."""
        names = ("clean", "corrupted", "answers", "distractors", "roles", "metadata")
        columns: Any = {name: tuple(getattr(pair, name) for pair in pairs) for name in names}
        positions, texts = tuple(pair.position for pair in pairs), tuple(map(_texts, pairs))
        columns |= {f"{name}s": tuple(getattr(pair, name) for pair in pairs) for name in ("partition", "alignment")}
        return cls(**columns, positions=positions, texts=texts, source=source, seed=seed, metric=metric)

    @classmethod
    def from_tokens(
        cls,
        clean: Entries,
        corrupted: Entries | None,
        answers: Entries,
        distractors: Entries | None = None,
        positions: Entries | None = None,
        roles: Sequence[Mapping[str, Any]] | None = None,
        *,
        spans: Sequence[Mapping[str, Any]] | None = None,
        corrupted_spans: Sequence[Mapping[str, Any]] | None = None,
        align: str | None = None,
        model: Encoder | None = None,
        source: str = "tokens",
        seed: int | None = None,
        metric: str = "logit_difference",
    ) -> "PromptPairs":
        """Pairs from token ids, as lists, tensors or arrays. BOS is not added.

        Args:
            clean, corrupted: a list of ids for each pair, or a tensor [batch, pos]. corrupted=None: without corrupted prompts.
            answers, distractors: an id or a list of ids for each pair; an answer of several tokens is a list of ids in that list:
                `answers=[[[5, 6], [7]]]` are the two answers (5, 6) and 7 of one pair. By default no distractors.
            positions: index of the token whose logits are read; by default the last one.
            roles: a mapping from name to token index, or to a half-open range of tokens, for each pair.
            spans: the spans of each clean prompt, in the same form; tokens that they leave out make spans of their own. By
                default they follow from the roles, see `spans`.
            corrupted_spans: the spans of each corrupted prompt, for `align="spans"`.
            align: how tokens of a pair of unequal length belong together: `spans` or `diff`, see `circuits.prompts.aligned`;
                None: pairs must have equal length.
            model: used to check the ids; its tokenizer, if it has one, adds the texts of the prompts.

        Raises:
            PairsError: a pair is invalid.
        """
        columns = token_columns(
            clean, corrupted, answers, distractors, positions=positions, roles=roles, spans=spans,
            corrupted_spans=corrupted_spans, align=align,
        )  # fmt: skip
        made = cls(**columns, source=source, seed=seed, metric=metric)
        return made if model is None else made._with_texts(model)

    def _with_texts(self, model: Encoder) -> "PromptPairs":
        self.validate_for(model)
        if model.tokenizer is None:
            return self
        columns = (
            [decoded(model, ids) or None if ids else None for ids in ids_of] for ids_of in (self.clean, self.corrupted)
        )
        return replace(self, texts=tuple(zip(*columns, strict=True)))

    @classmethod
    def from_records(
        cls,
        records: Any,
        model: Encoder | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        skip_unfit: bool = False,
        trust_ids: bool = False,
        bos: bool = True,
        n: int | None = None,
        first_token: bool = False,
        align: str | None = None,
        source: str = "records",
        seed: int | None = None,
        metric: str = "logit_difference",
    ) -> "PromptPairs":
        """Pairs from a list of mappings, a pandas or polars DataFrame, a `datasets.Dataset`, or any iterable of mappings.

        Args:
            records: each record has the fields of a pair under our names or a published dataset's, see `docs/prompts.md`.
            model: a model whose tokenizer encodes text; None: prompts and answers must be token ids.
            columns: field -> column, or a text in quotes: `{"answers": "capital", "distractors": "' he'"}`.
            skip_unfit: leave out pairs that do not fit the model (unequal lengths, answers of several tokens if the metric takes
                none …); `unfit` counts them.
            trust_ids: accept token ids without evidence in the texts that this model's tokenizer made them.
            bos: put the tokenizer's BOS token before text.
            n: read at most n pairs; later records are not checked.
            first_token: keep only the first token of answers of several tokens.
            align: how tokens of a pair of unequal length belong together: `spans` or `diff`, see `circuits.prompts.aligned`.
            source, seed, metric: defaults for records without them. Texts of several tokens are answers for every metric but
                logit_difference.

        Raises:
            PairsError: a record cannot be used, or pairs do not fit and `skip_unfit` is not set; the message counts all of them.
        """
        reading = Reading(columns, skip_unfit, trust_ids, bos, n, first_token, align=align)
        return cls._made(table_of(records, "records"), model, reading, source, seed, metric)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        model: Encoder | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        skip_unfit: bool = False,
        trust_ids: bool = False,
        bos: bool = True,
        n: int | None = None,
        first_token: bool = False,
        metric: str | None = None,
        align: str | None = None,
        kind: str | None = None,
    ) -> "PromptPairs":
        """Pairs from a .csv, .tsv, .jsonl, .json or .parquet file.

        Args:
            path: the file.
            model, columns, skip_unfit, trust_ids, bos, n, first_token, align: see `from_records`.
            metric: the metric that will be measured; None: the file's. It decides whether texts of several tokens are answers, and
                replaces the file's metric if some are.
            kind: the suffix to assume; by default the file's own, and `.jsonl` if that is unknown.

        Raises:
            PairsError: see `from_records`; the message names the line.
        """
        table = read_table(path, kind)
        reading = Reading(columns, skip_unfit, trust_ids, bos, n, first_token, metric, align)
        return cls._made(table, model, reading, table.name)

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str], model: Encoder | None = None, **reading: Any) -> "PromptPairs":
        """Pairs from JSON lines, see `from_file`. Text needs a model; ids are checked if one is given."""
        return cls.from_file(path, model, kind=".jsonl", **reading)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str], model: Encoder | None = None, **reading: Any) -> "PromptPairs":
        """Pairs from CSV with a header, see `from_file`."""
        return cls.from_file(path, model, kind=".csv", **reading)

    @classmethod
    def _made(
        cls,
        table: Table,
        model: Encoder | None,
        reading: Reading,
        source: str,
        seed: int | None = None,
        metric: str = "logit_difference",
    ) -> "PromptPairs":
        made = make(table, model, reading, {"source": source, "seed": seed, "metric": metric})
        pairs = replace(cls.from_pairs(made.pairs, **made.shared), unfit=made.unfit)
        return replace(pairs, metric=reading.metric) if reading.metric and pairs.several_tokens else pairs

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Writes a file from which `from_jsonl` reads equal pairs."""
        jsonl.write(self, {"source": self.source, "seed": self.seed, "metric": self.metric}, path)

    @overload
    def __getitem__(self, which: int) -> Pair: ...
    @overload
    def __getitem__(self, which: slice | Sequence[int] | Tensor) -> "PromptPairs": ...
    def __getitem__(self, which: int | slice | Sequence[int] | Tensor) -> "Pair | PromptPairs":
        """A pair by its number, counted from 0 (or from the end), or several as `PromptPairs`, by a slice or a list of numbers."""
        if isinstance(which, slice):
            chosen = list(range(len(self))[which])
        elif isinstance(numbers := plain(which), list | tuple):
            chosen = [_signed(number) for number in numbers]
        else:
            return self.pair(_signed(numbers))
        return self.from_pairs([self.pair(i) for i in chosen], self.source, self.seed, self.metric)

    def first_token(self) -> "PromptPairs":
        """The pairs with the first token of each answer and distractor only; equal ones count once.

        Raises:
            PairsError: an answer and a distractor of a pair begin with the same token.
        """
        columns: Any = {what: tuple(map(first_tokens, getattr(self, what))) for what in ("answers", "distractors")}
        return replace(self, **columns)


def _texts(pair: Pair) -> tuple[str | None, str | None]:
    known = pair.clean_text is not None or pair.corrupted_text is not None
    return (pair.clean_text, pair.corrupted_text) if known else NO_TEXTS


def _signed(index: object) -> int:
    """An index of a pair; may be negative."""
    number = plain(index)
    if isinstance(number, bool) or not isinstance(number, int):
        raise PairsError(f"pairs are chosen by whole numbers, a slice or a list of numbers, not by {show(number)}")
    return number
