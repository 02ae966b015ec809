"""What holds for every task: pairs that fit a real tokenizer, right answers, roles, and what SmolLM2 makes of them."""

import re
from collections import Counter
from typing import Any

import pytest

import tasks
from circuits.errors import InputError
from circuits.evaluation.task import check_task
from tasks import words
from tests.tasks.right_answers import RIGHT

NAMES = sorted(name for name in tasks.BUILT_IN if name not in tasks.COMPILED)
ROLES = {
    "acronym": "W1 W2 W3 L1 L2",
    "addition": "a plus b equals",
    "antonym": "x",
    "capital": "x",
    "docstring": "described answer distractor again",
    "gendered-pronoun": "name",
    "greater-than": "noun year tens",
    "hypernym": "x",
    "induction": "before answer",
    "ioi": "IO S1 S1+1 S2",
    "official-language": "x",
    "open-bracket": "variable bracket",
    "past-tense": "x",
    "sentiment": "adjective",
    "subject-verb-agreement": "subject attractor",
    "successor": "first second third",
}


@pytest.mark.real_model
@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_distinct_and_follow_from_the_seed(smollm2_words: Any, name: str) -> None:
    model, task = smollm2_words, tasks.load(name)
    pairs = task.pairs(model, 24)
    assert pairs == task.pairs(model, 24)
    assert pairs[:9] == task.pairs(model, 9)
    assert pairs != task.pairs(model, 24, seed=1)
    assert len(set(zip(pairs.clean, pairs.corrupted, strict=True))) == 24


@pytest.mark.real_model
@pytest.mark.parametrize("name", NAMES)
def test_pairs_fit_smollm2s_tokenizer(smollm2_words: Any, name: str) -> None:
    model, task = smollm2_words, tasks.load(name)
    pairs = task.pairs(model, 24)
    for pair in pairs:
        assert len(pair.clean) == len(pair.corrupted)
        assert pair.clean[0] == pair.corrupted[0] == model.tokenizer.bos_token_id
        assert pair.roles["end"] == pair.position == len(pair) - 1
        assert set(pair.roles) == {*ROLES[name].split(), "end"}
        assert 0 < pair.prefix < len(pair)
        for prompt, text in ((pair.clean, pair.clean_text), (pair.corrupted, pair.corrupted_text)):
            for token in pair.answers + pair.distractors:
                assert tuple(model.encode(str(text) + model.text((token,)))) == (*prompt, token)
        assert not set(pair.answers) & set(pair.distractors)


@pytest.mark.real_model
@pytest.mark.parametrize("name", sorted(RIGHT))
def test_answers_are_right_after_the_clean_prompt_and_distractors_after_the_corrupted(
    smollm2_words: Any, name: str
) -> None:
    for pair in tasks.load(name).pairs(smollm2_words, 100):
        assert smollm2_words.text(pair.answers) == RIGHT[name](str(pair.clean_text))
        assert smollm2_words.text(pair.distractors) == RIGHT[name](str(pair.corrupted_text))


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_answers_are_right_for_other_tokenizers_too(toy: Any, name: str) -> None:
    """Digits in pairs, with the space before them: addition's prompt then ends with the sign."""
    model = toy("two", lambda word: word not in ("Paris", "salmon", "went", "Monday", "III", "Royal"))
    for pair in tasks.load(name).pairs(model, 30):
        assert model.text(pair.answers) == RIGHT[name](str(pair.clean_text))
        assert model.text(pair.distractors) == RIGHT[name](str(pair.corrupted_text))


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("name", "role", "expected"),
    [
        ("acronym", "W3", r"The \w+ \w+( \w+) \("),
        ("acronym", "L2", r"\.(\w)\.$"),
        ("addition", "a", r"(\d) \+ \d = $"),
        ("addition", "b", r"(\d) = $"),
        ("antonym", "x", r"of( \w+) is"),
        ("docstring", "described", r"\(self, \w+,( \w+)"),
        ("docstring", "answer", r"\(self, \w+, \w+,( \w+)"),
        ("docstring", "distractor", r"( \w+)\):"),
        ("docstring", "again", r":param( \w+):"),
        ("gendered-pronoun", "name", r"So( \w+) is"),
        ("induction", "before", r"( \w+)$"),
        ("open-bracket", "bracket", r"=( .)"),
        ("open-bracket", "variable", r"^(\w+)"),
        ("past-tense", "x", r"they( \w+)\."),
        ("sentiment", "adjective", r"was( \w+)\. Sentiment:$"),
        ("successor", "third", r"( \w+),$"),
    ],
)
def test_roles_are_where_they_should_be(smollm2_words: Any, name: str, role: str, expected: str) -> None:
    for pair in tasks.load(name).pairs(smollm2_words, 20):
        match = re.search(expected, str(pair.clean_text))
        assert match is not None
        before = smollm2_words.encode(str(pair.clean_text)[: match.end(1)])
        place = pair.roles[role]
        assert smollm2_words.text((pair.clean[place],)) == match[1]
        if (name, role) != ("induction", "before"):  # the word before the answer is the prompt's end too
            assert place == len(before) - 1


@pytest.mark.parametrize(
    ("name", "prompts"), [("gendered-pronoun", {" he", " she"}), ("open-bracket", {")", "]"}), ("sentiment", None)]
)
def test_both_answers_are_asked_for_equally_often(toy: Any, name: str, prompts: set[str] | None) -> None:
    model = toy()
    answers = Counter(model.text(pair.answers) for pair in tasks.load(name).pairs(model, 40))
    assert answers == dict.fromkeys(prompts or {" positive", " negative"}, 20)


def test_names_have_one_pronoun() -> None:
    known = {"John": "he", "William": "he", "Walter": "he", "Mary": "she", "Susan": "she", "Lily": "she"}
    assert not set(words.MALE_NAMES) & set(words.FEMALE_NAMES)
    for name, pronoun in known.items():
        assert (name in words.MALE_NAMES, name in words.FEMALE_NAMES) == (pronoun == "he", pronoun == "she")


def test_opposites_are_functions_of_the_word() -> None:
    """No word has two opposites or is its own, and where an opposite is listed itself, it leads back or to a synonym."""
    opposite = dict(words.ANTONYMS)
    assert len(opposite) == len(words.ANTONYMS)
    back = {word: opposite[other] for word, other in opposite.items() if other in opposite}
    assert all(word != other for word, other in words.ANTONYMS)
    assert back == {
        "young": "new",
        "heavy": "dark",
    }  # old is new's opposite as well as young's, light heavy's and dark's


@pytest.mark.parametrize("name", NAMES)
def test_word_lists_have_no_entry_twice(name: str) -> None:
    for entries in tasks.load(name).word_lists.values():
        rows = [(entry,) if isinstance(entry, str) else tuple(entry) for entry in entries]
        assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_options_that_a_task_does_not_have_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="no option 'colour'"):
        tasks.load(name, colour="red")


@pytest.mark.real_model
@pytest.mark.parametrize("name", [name for name in NAMES if name in RIGHT or name in ("antonym", "gendered-pronoun")])
def test_smollm2_does_it(smollm2: Any, name: str) -> None:
    """The tasks that have tests of their own left out; docs/tasks.md has the figures of 100 pairs."""
    result = check_task(smollm2, tasks.load(name), 5)
    assert result.accuracy is not None
    assert result.values is not None
    assert result.accuracy.clean.value >= 0.8
    assert result.values.clean.value > 1.5 > -1.5 > result.values.corrupted.value
    assert result.warnings == ()
