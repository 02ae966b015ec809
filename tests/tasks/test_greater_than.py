"""Greater-than: its pairs for each way to split a year, and what SmolLM2 makes of them."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tasks
from circuits.errors import InputError
from circuits.prompts.pairs import PromptPairs
from tasks.greater_than import GreaterThan

Toys = Callable[..., Any]
CLEAN = re.compile(r"The (\w+) lasted from the year (1[1-8])([2-8])([1-8]) to the year \2")


def test_answers_are_the_digits_above_the_tens_and_distractors_those_below(toy: Toys) -> None:
    model = toy("one")
    pairs = GreaterThan().pairs(model, 50)
    for pair in pairs:
        parts = CLEAN.fullmatch(str(pair.clean_text))
        assert parts is not None
        noun, century, tens, ones = parts.groups()
        assert pair.corrupted_text == f"The {noun} lasted from the year {century}01 to the year {century}"
        assert [model.text((token,)) for token in pair.answers] == [str(d) for d in range(int(tens) + 1, 10)]
        assert [model.text((token,)) for token in pair.distractors] == [str(d) for d in range(int(tens))]
        at = {role: model.text((pair.clean[index],)) for role, index in pair.roles.items()}
        assert at == {"noun": f" {noun}", "tens": tens, "year": ones, "end": century[1]}
        assert pair.roles["tens"] + 1 == pair.roles["year"]
    assert pairs.metric == "probability_difference"


def test_where_two_digits_are_a_token_answers_are_the_later_numbers(toy: Toys) -> None:
    model = toy("two")
    for pair in GreaterThan().pairs(model, 20):
        parts = CLEAN.fullmatch(str(pair.clean_text))
        assert parts is not None
        year = int(parts[3] + parts[4])
        assert [model.text((token,)) for token in pair.answers] == [f"{n:02}" for n in range(year + 1, 100)]
        assert [model.text((token,)) for token in pair.distractors] == [f"{n:02}" for n in range(year + 1)]
        assert model.text((pair.clean[pair.roles["year"]],)) == f"{year:02}"
        assert set(pair.roles) == {"noun", "year", "end"}


def test_a_tokenizer_that_splits_years_otherwise_is_refused(toy: Toys) -> None:
    with pytest.raises(
        InputError, match=r"greater-than gives 0 pairs .*split neither into digits nor into two and two"
    ):
        GreaterThan().pairs(toy("three"), 4)


def differences(model: Any, pairs: PromptPairs, which: str) -> torch.Tensor:
    """Sum of the answers' probabilities minus that of the distractors', for each pair."""
    out = torch.zeros(len(pairs))
    for batch in pairs.batches(25):
        with torch.no_grad():
            logits = model.bridge(getattr(batch, which).to(model.device)).cpu()
        here = logits[torch.arange(len(batch)), batch.position].softmax(-1)
        right = (here.gather(1, batch.answers) * batch.answers_mask).sum(1)
        out[batch.index] = right - (here.gather(1, batch.distractors) * batch.distractors_mask).sum(1)
    return out


@pytest.mark.real_model
def test_smollm2_does_it(smollm2: Any) -> None:
    """Reference, of 100 pairs: accuracy 1.0, clean 0.50, corrupted -0.83."""
    pairs = tasks.load("greater-than").pairs(smollm2, 40)
    clean, corrupted = (differences(smollm2, pairs, which) for which in ("clean", "corrupted"))
    assert (clean > 0).float().mean() >= 0.97
    assert clean.mean() == pytest.approx(0.50, abs=0.12)
    assert corrupted.mean() == pytest.approx(-0.83, abs=0.12)
