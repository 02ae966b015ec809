"""How records become pairs: what a caller may choose, in one value."""

from collections.abc import Mapping
from dataclasses import dataclass

from circuits.prompts.pair import Encoder, TokenIds

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""Of files of prompts; any other file that is there is read as JSON lines."""


@dataclass(frozen=True)
class Reading:
    """How to read.

    Attributes:
        columns: field -> column, or `'text'` in quotes; None: by the columns' names, see `circuits.prompts.columns`.
        skip_unfit: leave out pairs that do not fit the model, instead of refusing them all.
        trust_ids: take token ids without evidence that this model's tokenizer made them.
        bos: put the tokenizer's BOS token before text.
        n: read so many pairs at most; what follows is not looked at.
    """

    columns: Mapping[str, str] | None = None
    skip_unfit: bool = False
    trust_ids: bool = False
    bos: bool = True
    n: int | None = None


@dataclass(frozen=True)
class WithoutBos:
    """A model that puts no BOS token before text."""

    model: Encoder

    @property
    def tokenizer(self) -> object:
        return self.model.tokenizer

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def d_vocab(self) -> int:
        return self.model.d_vocab

    @property
    def n_ctx(self) -> int:
        return self.model.n_ctx

    def encode(self, text: str) -> list[int]:
        ids = self.model.encode(text)
        bos = getattr(self.model.tokenizer, "bos_token_id", None)
        return ids[1:] if bos is not None and ids[:1] == [bos] else ids


def without_bos(model: Encoder, ids: TokenIds) -> int:
    """The number of BOS tokens in front: 1 or 0."""
    bos = getattr(model.tokenizer, "bos_token_id", None)
    return int(bos is not None and ids[:1] == (bos,))
