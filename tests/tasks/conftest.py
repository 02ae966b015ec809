"""A small model stand-in, so that tasks are tested without a model and with tokenizers that split in every way."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

DIGITS = {"one": r" |\d", "two": r" ?\d\d", "three": r" |\d{1,3}"}


class ToyTokenizer:
    """Words with the space before them are tokens, numbered as they come; words that are not whole fall into letters.

    Digits are split one by one (SmolLM2), two by two (GPT-2) or three by three (Llama 3).
    """

    unk_token_id = None

    def __init__(self, digits: str, whole: Callable[[str], bool]) -> None:
        self.pattern = re.compile(rf" ?[^\W\d]+|{DIGITS[digits]}|[^\w\s]|.")
        self.whole = whole
        self.vocabulary = {"<bos>": 0}

    def pieces(self, text: str) -> list[str]:
        result = []
        for piece in self.pattern.findall(text):
            result += [piece] if self.whole(piece.strip()) else list(piece)
        return result

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        pieces = self.pieces(text)
        return {"input_ids": [self.vocabulary.setdefault(piece, len(self.vocabulary)) for piece in pieces]}

    def decode(self, ids: list[int]) -> str:
        return "".join(list(self.vocabulary)[token] for token in ids)


@dataclass
class Toy:
    """What tasks need of a model."""

    tokenizer: Any
    name: str = "toy"
    d_vocab: int = 10_000
    n_ctx: int = 100

    def encode(self, text: str) -> list[int]:
        return [0, *self.tokenizer(text)["input_ids"]]

    def text(self, ids: tuple[int, ...]) -> str:
        return self.tokenizer.decode(list(ids))


def make_toy(digits: str = "one", whole: Callable[[str], bool] = lambda word: True) -> Toy:
    return Toy(ToyTokenizer(digits, whole))


@pytest.fixture
def toy() -> Callable[..., Toy]:
    """`toy(digits="one", whole=…)` makes a stand-in with a tokenizer of its own."""
    return make_toy


@dataclass
class RealTokens(Toy):
    """A real tokenizer without its model."""

    def encode(self, text: str) -> list[int]:
        return [self.tokenizer.bos_token_id, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]


@pytest.fixture(scope="session")
def smollm2_words() -> RealTokens:
    """SmolLM2's tokenizer, fetched into the user's cache if it is not there."""
    from transformers import AutoTokenizer

    from circuits import zoo

    return RealTokens(AutoTokenizer.from_pretrained(zoo.fetch("smollm2-135m")), "smollm2", 49_152, 2048)
