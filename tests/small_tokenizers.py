"""Tokenizers of every kind that matters for spaces, over a few words, and a stand-in for a model that has one."""

from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ("drink", "store", "When", "went", "gave", "Mary", "John", "the", "and", "17", "00", "01", "to", "a", ",")
MARK = "▁"
SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3}
LETTERS = sorted({*"".join(WORDS), *"abcdefghijklmnopqrstuvwxyz", "\n"})


def _merges(space: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of BPE in which each word is one token, alone and behind a space."""
    vocabulary, merges = dict(SPECIAL), []
    for piece in (space, *LETTERS):
        vocabulary.setdefault(piece, len(vocabulary))
    for word in WORDS:
        for i in range(1, len(word)):
            merges.append((word[:i], word[i]))
            vocabulary.setdefault(word[: i + 1], len(vocabulary))
    for word in WORDS:
        merges.append((space, word))
        vocabulary.setdefault(space + word, len(vocabulary))
    return vocabulary, list(dict.fromkeys(merges))


def byte_level() -> Tokenizer:
    """As GPT-2's."""
    vocabulary, merges = _merges("Ġ")
    vocabulary.setdefault("Ċ", len(vocabulary))
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def word_level() -> Tokenizer:
    """A token a word; spaces are not among its tokens."""
    made = Tokenizer(models.WordLevel({**SPECIAL, **{word: 4 + i for i, word in enumerate(WORDS)}}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def legacy() -> Tokenizer:
    """As Llama 2's and Mistral 0.1's: a space before any text, and no pieces."""
    vocabulary, merges = _merges(MARK)
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    made.decoder = decoders.Sequence(
        [decoders.Replace(MARK, " "), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    return made


def metaspace(prepend_scheme: str) -> Tokenizer:
    """As sentencepiece models that are not legacy have it; `always`, `first` or `never` a space before the text."""
    vocabulary, merges = _merges(MARK)
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme=prepend_scheme, split=False)
    made.decoder = decoders.Metaspace(replacement=MARK, prepend_scheme=prepend_scheme, split=False)
    return made


KINDS = {
    "byte-level": byte_level,
    "word-level": word_level,
    "legacy": legacy,
    "metaspace-first": lambda: metaspace("first"),
    "metaspace-always": lambda: metaspace("always"),
    "metaspace-never": lambda: metaspace("never"),
}


def tokenizer(kind: str, bos: str | None = "<s>", pad: str | None = "<pad>") -> Any:
    """A Hugging Face tokenizer of this kind."""
    marks = {"unk_token": "<unk>", "eos_token": "</s>", "bos_token": bos, "pad_token": pad}
    given = {name: mark for name, mark in marks.items() if mark is not None}
    return PreTrainedTokenizerFast(tokenizer_object=KINDS[kind](), **given)


@dataclass
class Reader:
    """What pairs need of a model, and no more."""

    tokenizer: Any
    name: str = "reader"
    d_vocab: int = 1000
    n_ctx: int = 64

    def encode(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        bos = self.tokenizer.bos_token_id
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]
