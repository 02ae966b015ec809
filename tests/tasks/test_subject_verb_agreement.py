"""Subject-verb agreement: its pairs, and what SmolLM2 makes of them."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import tasks
from tasks import words
from tasks.subject_verb_agreement import PREPOSITIONS, SubjectVerbAgreement
from tests.tasks.logit_differences import logit_differences

Toys = Callable[..., Any]
NUMBER = {word: number for row in words.SUBJECTS for number, word in enumerate(row)}
PROMPT = re.compile(rf"The (\w+) ({'|'.join(PREPOSITIONS)}) the (\w+)")


def nouns(pair: Any) -> tuple[str, str, str]:
    """Subject, corrupted subject and attractor; nothing else differs between the prompts."""
    clean, corrupted = PROMPT.fullmatch(str(pair.clean_text)), PROMPT.fullmatch(str(pair.corrupted_text))
    assert clean is not None
    assert corrupted is not None
    assert clean.groups()[1:] == corrupted.groups()[1:]
    return clean[1], corrupted[1], clean[3]


def test_the_verb_agrees_with_the_subject_and_the_corrupted_subject_has_the_other_number(toy: Toys) -> None:
    model, numbers = toy(), Counter()
    for pair in SubjectVerbAgreement().pairs(model, 80):
        subject, other, attractor = nouns(pair)
        assert {subject, other} == set(next(row for row in words.SUBJECTS if subject in row))
        assert attractor not in (subject, other)
        verbs = (" is", " are")
        assert model.text(pair.answers) == verbs[NUMBER[subject]]
        assert model.text(pair.distractors) == verbs[NUMBER[other]]
        numbers[NUMBER[subject], NUMBER[attractor]] += 1
    assert numbers == {(subject, attractor): 20 for subject in (0, 1) for attractor in (0, 1)}


def test_roles_are_at_their_words_and_only_the_subject_differs(toy: Toys) -> None:
    model = toy()
    for pair in SubjectVerbAgreement().pairs(model, 80):
        subject, _, attractor = nouns(pair)
        at = {role: model.text((pair.clean[index],)) for role, index in pair.roles.items()}
        assert at == {"subject": f" {subject}", "attractor": f" {attractor}", "end": f" {attractor}"}
        assert [i for i in range(len(pair)) if pair.clean[i] != pair.corrupted[i]] == [pair.roles["subject"]]


@pytest.mark.real_model
def test_smollm2_does_it(smollm2: Any) -> None:
    """Reference, of 100 pairs: accuracy 0.98, clean 3.41, corrupted -3.47."""
    pairs = tasks.load("subject-verb-agreement").pairs(smollm2, 40)
    clean, corrupted = (logit_differences(smollm2, pairs, which) for which in ("clean", "corrupted"))
    assert (clean > 0).float().mean() >= 0.94
    assert clean.mean() == pytest.approx(3.41, abs=0.7)
    assert corrupted.mean() == pytest.approx(-3.47, abs=0.7)
