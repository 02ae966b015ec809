"""One file works with every tokenizer: an answer is the token that follows its prompt when both are written as one text."""

import json
import re

import pytest

from circuits.errors import PairsError
from circuits.prompts.answer_tokens import continuation, spaced
from circuits.prompts.pairs import PromptPairs
from tasks.base import Draw, Example, Task
from tests.small_tokenizers import KINDS, Reader, tokenizer

CLEAN, CORRUPTED = "When Mary and John went to the store, John gave a drink to", "When Mary and John went to the store, Mary gave a drink to"  # fmt: skip
LINE = {"clean": CLEAN, "corrupted": CORRUPTED, "answers": [" Mary"], "distractors": [" John"]}


def read(tmp_path, model, **changes):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({**LINE, **changes}) + "\n", encoding="utf-8")
    return PromptPairs.from_jsonl(path, model)


@pytest.fixture(params=KINDS)
def model(request):
    return Reader(tokenizer(request.param))


def last_of(model, text):
    """The last token of the whole text, read at once: what the model would be asked to say."""
    return model.encode(text)[-1]


def test_an_answer_is_the_token_behind_its_prompt(tmp_path, model):
    pairs = read(tmp_path, model)
    assert pairs.answers == ((last_of(model, f"{CLEAN} Mary"),),)
    assert pairs.distractors == ((last_of(model, f"{CLEAN} John"),),)
    assert len(model.encode(f"{CLEAN} Mary")) == len(pairs.clean[0]) + 1
    # Mary in the middle of the prompt is the same token, unless spaces are no part of tokens there.
    assert pairs.answers[0][0] in model.encode("to Mary and")


def test_prompts_of_ids_take_answers_of_text(tmp_path, model):
    by_text = read(tmp_path, model)
    by_ids = read(tmp_path, model, clean=model.encode(CLEAN), corrupted=model.encode(CORRUPTED))
    assert (by_ids.clean, by_ids.answers, by_ids.distractors) == (by_text.clean, by_text.answers, by_text.distractors)


def test_the_answer_behind_a_position_is_read_there(tmp_path, model):
    position = len(model.encode("When")) - 1
    pairs = read(tmp_path, model, position=position)
    assert pairs.answers == ((last_of(model, "When Mary"),),)


def test_an_answer_without_its_space_stays_without_it(tmp_path):
    for kind in ("byte-level", "legacy", "metaspace-first", "metaspace-always"):
        model = Reader(tokenizer(kind))
        pairs = read(tmp_path, model, answers=["Mary"], distractors=["John"])
        assert pairs.answers == ((last_of(model, f"{CLEAN}Mary"),),), kind
        assert model.tokenizer.convert_ids_to_tokens(pairs.answers[0][0]) == "Mary"
        assert spaced(model, pairs.pair(0)) == " Mary"
        assert spaced(model, read(tmp_path, model).pair(0)) is None
    for kind in ("word-level",):  # whose tokens have no spaces
        model = Reader(tokenizer(kind))
        pairs = read(tmp_path, model, answers=["Mary"], distractors=["John"])
        assert pairs.answers == read(tmp_path, model).answers
        assert spaced(model, pairs.pair(0)) is None


def test_an_answer_that_merges_with_its_prompt_is_the_token_by_itself(tmp_path):
    for kind in ("byte-level", "legacy", "metaspace-first"):
        model = Reader(tokenizer(kind))
        model.tokenizer.backend_tokenizer.model = merged(model)
        assert continuation(model, "went to 17", "00") is None
        pairs = read(tmp_path, model, clean="went to 17", corrupted="gave to 17", answers=["00"], distractors=["01"])
        assert model.tokenizer.convert_ids_to_tokens(pairs.answers[0][0]) == "00", kind


def merged(model):
    """The tokenizer's BPE, in which 1700 is one token as well."""
    state = json.loads(model.tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = {
        **state["vocab"],
        "1700": len(state["vocab"]),
        "▁1700": len(state["vocab"]) + 1,
        "Ġ1700": len(state["vocab"]) + 2,
    }
    for word in ("Ġ17", "▁17"):
        vocabulary.setdefault(word, len(vocabulary))
    space = "Ġ" if "Ġ17" in state["vocab"] else "▁"
    merges = [tuple(pair) for pair in state["merges"]]
    from tokenizers import models

    return models.BPE(vocabulary, [*merges, ("17", "00"), (f"{space}17", "00"), (space, "1700")], unk_token="<unk>")


def test_several_tokens_are_refused_and_unknown_words_too(tmp_path, model):
    expected = "is unknown to the tokenizer" if "<unk>" in model.tokenizer.convert_ids_to_tokens(model.encode("to drinkstore")) else "tokens of reader"  # fmt: skip
    with pytest.raises(PairsError, match=expected) as refused:
        read(tmp_path, model, answers=[" drinkstore"])
    assert "begin it with a space" not in str(refused.value)
    assert re.search(r"line 1: ' drinkstore' in answers", str(refused.value))


class Give(Task):
    """Who is given something."""

    name = "give"
    title = "Give"
    description = "Name who is given something"
    source = "this test"
    word_lists = {"names": ("Mary", "John")}  # noqa: RUF012

    def example(self, draw: Draw) -> Example:
        a, b = draw.words("names", 2)
        clean, corrupted = (f"When {a} and {b} went to the store, {c} gave a drink to" for c in (b, a))
        return Example(clean, corrupted, (f" {a}",), (f" {b}",))


def test_a_task_and_a_file_of_its_texts_give_the_same_pairs(tmp_path, model):
    drawn = Give().pairs(model, n=2)
    lines = [
        {"clean": p.clean_text, "corrupted": p.corrupted_text, "answers": [f" {right}"], "distractors": [f" {wrong}"]}
        for p in drawn
        for right, wrong in [("Mary", "John") if "John gave" in str(p.clean_text) else ("John", "Mary")]
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    of_file = PromptPairs.from_jsonl(path, model)
    assert (of_file.clean, of_file.answers, of_file.distractors) == (drawn.clean, drawn.answers, drawn.distractors)
