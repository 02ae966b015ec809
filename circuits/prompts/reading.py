"""The caller's choices for making pairs from records, in one value."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from circuits.prompts.aligned import check_way
from circuits.prompts.pair import Encoder, TokenIds

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""Suffixes of prompt files; files with other suffixes are read as JSON lines."""
LAST = 4
"""Number of texts whose tokens are cached."""


@dataclass(frozen=True)
class Reading:
    """Options for reading prompts.

    Attributes:
        columns: field -> column, or `'text'` in quotes; None: recognise the columns, see `circuits.prompts.columns`.
        skip_unfit: leave out pairs that do not fit the model, instead of refusing them all.
        trust_ids: accept token ids without evidence that this model's tokenizer made them.
        bos: put the tokenizer's BOS token before text.
        n: read at most n pairs; later records are not checked.
        first_token: keep only the first token of answers of several tokens.
        metric: the metric that will be measured; None: the one that the records name.
        align: how tokens of a pair of unequal length belong together, see `circuits.prompts.aligned`; None: such pairs do not fit.
    """

    columns: Mapping[str, str] | None = None
    skip_unfit: bool = False
    trust_ids: bool = False
    bos: bool = True
    n: int | None = None
    first_token: bool = False
    metric: str | None = None
    align: str | None = None

    def __post_init__(self) -> None:
        if self.align is not None:
            check_way(self.align)


class ReadingModel:
    """A model's tokenizer with a small cache: each answer is tried after its prompt, so the same texts recur.

    Args:
        model: the model.
        bos: put its BOS token before text.
    """

    def __init__(self, model: Encoder, bos: bool) -> None:
        self.model, self.bos = model, bos
        self.tokenizer, self.name = model.tokenizer, model.name
        self.d_vocab, self.n_ctx = model.d_vocab, model.n_ctx
        self._encoded = lru_cache(maxsize=LAST)(self._encode)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(self._encoded(text))

    def _encode(self, text: str) -> TokenIds:
        ids = tuple(self.model.encode(text))
        return ids if self.bos else ids[bos_tokens(self.model, ids) :]


def bos_tokens(model: Encoder, ids: TokenIds) -> int:
    """The number of BOS tokens at the beginning: 1 or 0."""
    bos = getattr(model.tokenizer, "bos_token_id", None)
    return int(bos is not None and ids[:1] == (bos,))
