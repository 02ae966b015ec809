"""Indirect object identification: its pairs, and what SmolLM2 makes of them."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import tasks
from circuits.errors import InputError
from tasks.ioi import COUNTERFACTUALS, IOI, TEMPLATES
from tests.tasks.logit_differences import logit_differences

Toys = Callable[..., Any]


def names_in(model: Any, text: str) -> list[str]:
    """The three names of a prompt, in order."""
    known = {row for row in IOI.word_lists["names"]}
    result = [word for word in re.findall(r"\w+", text) if word in known]
    assert len(result) == 3, text
    return result


@pytest.mark.parametrize("counterfactual", COUNTERFACTUALS)
def test_the_name_that_is_not_repeated_is_right_and_roles_point_at_the_names(toy: Toys, counterfactual: str) -> None:
    model = toy()
    for i, pair in enumerate(IOI(counterfactual).pairs(model, 40)):
        a, b, s = names_in(model, str(pair.clean_text))
        io, s1 = (a, b) if i % 2 == 0 else (b, a)
        assert s1 == s != io
        assert model.text(pair.answers) == f" {io}"
        assert model.text(pair.distractors) == f" {s}"
        tokens = {role: model.text((pair.clean[index],)) for role, index in pair.roles.items()}
        assert {role: tokens[role] for role in ("IO", "S1", "S2")} == {"IO": f" {io}", "S1": f" {s}", "S2": f" {s}"}
        assert pair.roles["S1"] + 1 == pair.roles["S1+1"] < pair.roles["S2"]
        assert pair.roles["end"] == pair.position == len(pair) - 1
        assert tokens["end"] == " to"


def test_counterfactuals_change_the_names_they_say_and_nothing_else(toy: Toys) -> None:
    model = toy()
    for pair in IOI("s2_to_io").pairs(model, 40):
        assert [i for i in range(len(pair)) if pair.clean[i] != pair.corrupted[i]] == [pair.roles["S2"]]
        assert (pair.corrupted[pair.roles["S2"]],) == pair.answers
    for pair in IOI("s2_to_third").pairs(model, 40):
        assert [i for i in range(len(pair)) if pair.clean[i] != pair.corrupted[i]] == [pair.roles["S2"]]
        assert pair.corrupted[pair.roles["S2"]] not in pair.answers + pair.distractors
    for pair in IOI("abc").pairs(model, 40):
        places = sorted(pair.roles[role] for role in ("IO", "S1", "S2"))
        assert [i for i in range(len(pair)) if pair.clean[i] != pair.corrupted[i]] == places
        assert len({*(pair.corrupted[i] for i in places), *pair.answers, *pair.distractors}) == 5


def test_counterfactuals_share_the_clean_prompts(toy: Toys) -> None:
    model = toy()
    first, *others = (IOI(counterfactual).pairs(model, 30, seed=5) for counterfactual in COUNTERFACTUALS)
    assert all(pairs.clean == first.clean and pairs.answers == first.answers for pairs in others)
    assert first.source == "ioi"
    assert others[0].source == "ioi(counterfactual=s2_to_third)"


def test_orders_and_templates_are_balanced(toy: Toys) -> None:
    pairs = IOI().pairs(toy(), 2 * 2 * len(TEMPLATES))
    used: Counter[tuple[str, bool]] = Counter()
    for pair in pairs:
        (template,) = [t for t in TEMPLATES if re.fullmatch(re.sub(r"{\w}", r"\\w+", t), str(pair.clean_text))]
        used[template, pair.roles["IO"] < pair.roles["S1"]] += 1
    assert used == {(template, order): 2 for template in TEMPLATES for order in (False, True)}


def test_an_unknown_counterfactual_is_refused() -> None:
    with pytest.raises(InputError, match="no counterfactual 'swap'; expected one of s2_to_io, s2_to_third, abc"):
        IOI("swap")


def test_a_tokenizer_that_splits_names_is_refused_with_the_list(toy: Toys) -> None:
    model = toy(whole=lambda word: word in ("Mary", "John", "Tom"))
    with pytest.raises(
        InputError, match=r"of the 144 entries of the word list 'names', 3 are single tokens of toy; an"
    ):
        IOI().pairs(model, 4)


@pytest.mark.real_model
def test_smollm2_does_it(smollm2: Any) -> None:
    """Reference, of 100 pairs: accuracy .98; clean 4.13 (ABBA), 6.35 (BABA); name swap -4.99."""
    pairs = tasks.load("ioi").pairs(smollm2, 40)
    clean, corrupted = (logit_differences(smollm2, pairs, which) for which in ("clean", "corrupted"))
    assert (clean > 0).float().mean() >= 0.93
    assert clean[0::2].mean() == pytest.approx(4.13, abs=0.8)
    assert clean[1::2].mean() == pytest.approx(6.35, abs=0.8)
    assert corrupted.mean() == pytest.approx(-4.99, abs=0.8)


@pytest.mark.real_model
def test_three_new_names_are_neutral_for_smollm2(smollm2: Any) -> None:
    """Reference, of 100 pairs: 0.12."""
    pairs = tasks.load("ioi", counterfactual="abc").pairs(smollm2, 40)
    assert logit_differences(smollm2, pairs, "corrupted").mean() == pytest.approx(0.12, abs=0.7)
