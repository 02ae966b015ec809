"""Rows in the form of the hub's datasets `mib-bench/…`, and a small model whose tokenizer reads them."""

from functools import cache
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import circuits
from tests.mib.shapes import D_VOCAB, hf_model

NAMES = ("Mary", "John", "Anna")
WORDS = (
    "When",
    "and",
    "went",
    "gave",
    "to",
    "Answer",
    ":",
    "A",
    "B",
    "C",
    "D",
    "1",
    "2",
    "3",
    "4",
    "5",
    "+",
    "-",
    "=",
    ",",
    "ab",
)
IOI = {
    "prompt": "When Mary and John went , John gave to",
    "metadata": {"indirect_object": "Mary", "subject": "John", "random_c": "Anna"},
    "s2_io_flip_counterfactual": {"prompt": "When Mary and John went , Mary gave to"},
    "abc_counterfactual": {"prompt": "When Anna and John went , Mary gave to"},
}
MCQA = {
    "prompt": "A , B , Answer :",
    "choices": {"label": ["A", "B"], "text": ["x", "y"]},
    "answerKey": 1,
    "symbol_counterfactual": {
        "prompt": "C , D , Answer :",
        "choices": {"label": ["C", "D"], "text": ["x", "y"]},
        "answerKey": 1,
    },
    "randomLetter_counterfactual": {"prompt": "C , A , Answer :", "choices": {"label": ["C", "A"]}, "answerKey": 0},
}
SUM = {
    "prompt": "1 + 2 =", "label": 3, "operator": "+",
    "random_counterfactual": {"prompt": "1 + 4 =", "label": 5},
}  # fmt: skip


def tokenizer(bos: str | None = "<s>") -> Any:
    """A token a word; `Johnathan` is two."""
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{word: 3 + i for i, word in enumerate((*NAMES, *WORDS))}}
    assert len(words) <= D_VOCAB
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="</s>", **({"bos_token": bos} if bos else {})
    )


@cache
def model(shape: str = "llama", bos: str | None = "<s>") -> circuits.Model:
    """A loaded model with a key/value head per query head."""
    return circuits.load_model(hf_model(shape), tokenizer=tokenizer(bos), ungrouped=True)
