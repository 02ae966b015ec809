"""Spans: a partition of every prompt, by the same names in the same order; what is no partition is refused with the pair."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import PairsError
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.spans import partition, text_place
from tests.tasks.conftest import make_toy


def made(roles: list[dict[str, Any]], lengths: list[int], **more: Any) -> PromptPairs:
    """Pairs of prompts with these lengths."""
    prompts = [list(range(1, n + 1)) for n in lengths]
    return PromptPairs.from_tokens(prompts, [[9, *p[1:]] for p in prompts], [0] * len(lengths), roles=roles, **more)


def spans_of(pairs: PromptPairs, i: int) -> dict[str, tuple[int, ...]]:
    starts = [*pairs.span_starts(i), len(pairs.clean[i])]
    return {name: tuple(range(starts[s], starts[s + 1])) for s, name in enumerate(pairs.spans)}


def naive_spans(roles: dict[str, Any], length: int, position: int) -> list[tuple[str, tuple[int, ...]]]:
    """Token by token: the role of each, else a name from the last role before it."""
    owner: dict[int, str] = {}
    for name, place in roles.items():
        for token in range(*place) if isinstance(place, tuple | list) else [place]:
            owner[token] = name
    if "end" not in roles and position not in owner:
        owner[position] = "end"
    named, last = [], None
    for token in range(length):
        last = owner.get(token, last)
        named.append(owner.get(token, "start" if last is None else f"{last}+"))
    out: dict[str, list[int]] = {}
    for token, name in enumerate(named):
        out.setdefault(name, []).append(token)
    return [(name, tuple(tokens)) for name, tokens in out.items()]


@st.composite
def prompts(draw: st.DrawFn) -> tuple[dict[str, Any], int, int]:
    length = draw(st.integers(1, 9))
    cuts = sorted(draw(st.sets(st.integers(0, length), max_size=6)))
    runs = [(low, high) for low, high in itertools.pairwise(cuts) if draw(st.booleans())]
    order = draw(st.permutations(range(len(runs))))
    return {f"r{i}": list(runs[i]) for i in order}, length, draw(st.integers(0, length - 1))


@given(prompts())
def test_spans_are_the_roles_and_the_tokens_in_between(prompt: tuple[dict[str, Any], int, int]) -> None:
    roles, length, position = prompt
    pairs = made([roles], [length], positions=[position])
    assert list(spans_of(pairs, 0).items()) == naive_spans(roles, length, position)


def test_a_role_is_a_token_or_a_half_open_range(tmp_path: Any) -> None:
    pairs = made([{"S1": [3, 5], "S2": 7, "one": [8, 9]}], [10])
    assert dict(pairs.roles[0]) == {"S1": (3, 5), "S2": 7, "one": 8}
    assert spans_of(pairs, 0) == {"start": (0, 1, 2), "S1": (3, 4), "S1+": (5, 6), "S2": (7,), "one": (8,), "end": (9,)}
    pairs.to_jsonl(tmp_path / "pairs.jsonl")
    assert json.loads((tmp_path / "pairs.jsonl").read_text())["roles"]["S1"] == [3, 5]
    again = PromptPairs.from_jsonl(tmp_path / "pairs.jsonl")
    assert (again.roles, again.spans, again.digest()) == (pairs.roles, pairs.spans, pairs.digest())


def test_the_schema_holds_for_all_lengths() -> None:
    pairs = made([{"a": 1, "b": [3, 5]}, {"b": [2, 7], "a": 1}], [6, 8])
    with pytest.raises(PairsError, match=r"pair 1 has no token after 'a', and pair 0 has \('a\+'\)"):
        assert pairs.spans
    pairs = made([{"a": 1, "b": [3, 5]}, {"b": [4, 7], "a": [1, 3]}], [6, 8])
    assert pairs.spans == ("start", "a", "a+", "b", "end")
    assert [pairs.span_starts(i) for i in range(2)] == [(0, 1, 2, 3, 5), (0, 1, 3, 4, 7)]


def test_end_is_the_token_whose_logits_are_read() -> None:
    assert made([{"a": 1}], [6], positions=[3]).spans == ("start", "a", "a+", "end", "end+")
    assert made([{"a": 1}], [6], positions=[1]).spans == ("start", "a", "a+")
    assert made([{"last": 5}], [6]).spans == ("start", "last")
    assert made([{"end": 2}], [6]).spans == ("start", "end", "end+")
    assert made([{}], [1]).spans == ("end",)


def test_given_spans_replace_the_roles_and_travel_with_the_pairs(tmp_path: Any) -> None:
    roles = [{"S1": 2, "S1+1": 3, "same": 2}, {"S1": 1, "S1+1": 2, "same": 1}]
    plain = made(roles, [6, 7])
    with pytest.raises(
        PairsError, match=r"pair 0: roles 'S1' and 'same' overlap at token 2, .* give the pair \"spans\""
    ):
        assert plain.spans
    pairs = made(roles, [6, 7], spans=[{"S1": 2}, {"S1": 1}])
    assert pairs.spans == ("start", "S1", "S1+", "end")
    assert pairs.digest() == plain.digest()
    pairs.to_jsonl(tmp_path / "pairs.jsonl")
    assert json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0])["spans"] == {
        "start": [0, 2], "S1": 2, "S1+": [3, 5], "end": 5,
    }  # fmt: skip
    again = PromptPairs.from_jsonl(tmp_path / "pairs.jsonl")
    assert (again.partitions, again.spans, again.span_starts(1)) == (pairs.partitions, pairs.spans, (0, 1, 2, 6))
    assert pairs[[1]].span_starts(0) == pairs.span_starts(1)
    plain.to_jsonl(tmp_path / "plain.jsonl")
    assert "spans" not in (tmp_path / "plain.jsonl").read_text()


def test_spans_as_text_have_all_tokens_of_the_text(tmp_path: Any) -> None:
    record = {
        "clean": "The Space Needle is in", "corrupted": "The Eiffel Tower is in", "answers": " Seattle",
        "spans": {"subject": "Space Needle"}, "roles": {"subject": "Space Needle"},
    }  # fmt: skip
    model = make_toy()
    pairs = PromptPairs.from_records([record], model)
    assert (pairs.roles[0]["subject"], pairs.partitions[0]["subject"]) == (3, (2, 4))
    assert pairs.spans == ("start", "subject", "subject+", "end")
    (tmp_path / "t.csv").write_text('clean,corrupted,answers,at\nA b c d,A x c d, e,"[2, 4]"\n')
    read = PromptPairs.from_csv(tmp_path / "t.csv", model, columns={"answers": "answers", "roles.x": "at"})
    assert read.roles[0]["x"] == (2, 4)
    with pytest.raises(PairsError, match="span 'subject' is 'pace Need', which are not whole tokens"):
        PromptPairs.from_records([{**record, "spans": {"subject": "pace Need"}}], model)


def test_text_that_does_not_begin_and_end_at_tokens_has_no_place() -> None:
    model = make_toy(whole=lambda word: word != "Seattle")
    prompt = "In Seattle it rains"
    tokens = tuple(model.encode(prompt))
    at = prompt.index
    assert text_place(model, prompt, tokens, at("Seattle"), at(" it")) == (2, 10)
    assert text_place(model, prompt, tokens, at("it"), at(" rains")) == 10
    assert text_place(model, prompt, tokens, at("t rains"), len(prompt)) is None
    assert text_place(model, prompt, tokens, 0, 2) == 1


@pytest.mark.parametrize(
    ("roles", "lengths", "message"),
    [
        ([{"a": 1, "b": 3}, {"a": 3, "b": 1}], [5, 5], "pair 1 has the spans start, b, b\\+, a, end, and pair 0 start, a, a\\+, b, end; .* same order"),
        ([{"a": 1}, {"a": 0}], [5, 5], "pair 1 has no token before the first role, and pair 0 has \\('start'\\); a span must not be empty"),
        ([{"a": 1}, {"a": 2}, {"b": 1}], [5, 5, 5], "pair 2 has no span 'a', and pair 0 has; give all pairs the same roles"),
        ([{"a": [1, 3]}, {"a": 1, "b": 3}], [5, 5], "pair 0 has no span 'b', and pair 1 has"),
        ([{"a": 1}, {"a": [1, 3], "b": 2}], [5, 5], "pair 1: roles 'a' and 'b' overlap at token 2"),
        ([{"a": 1, "a+": 3}], [5], "pair 0: role 'a\\+' has the name that the tokens after 'a' get; give it another one"),
        ([{"start": 1}], [5], "pair 0: role 'start' has the name that the tokens before the first role get"),
    ],
)  # fmt: skip
def test_roles_that_make_no_schema_load_but_have_no_spans(
    roles: list[dict[str, Any]], lengths: list[int], message: str
) -> None:
    pairs = made(roles, lengths)
    for ask in (lambda: pairs.spans, lambda: pairs.span_starts(0)):
        with pytest.raises(PairsError, match=message):
            ask()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ([3, 3], r"role 'a' is \[3, 3\], which has no token; \[3, 5\] are the tokens 3 and 4"),
        ([3], r"role 'a' is \[3\]; expected a token's index, or the first token of a span"),
        ([2, 7], r"role 'a' is at \(2, 7\), outside the prompt; it has 6 tokens"),
        ([True, 3], "role 'a' is True"),
        ([-1, 3], "role 'a' is -1"),
        ("x", "role 'a' is 'x'"),
    ],
)
def test_a_role_that_is_no_place_is_refused(place: Any, message: str) -> None:
    with pytest.raises(PairsError, match=message):
        made([{"a": place}], [6])
    with pytest.raises(
        PairsError, match=message.replace("role", "span").replace(", outside the prompt; it", ", and the prompt")
    ):
        made([{}], [6], spans=[{"a": place}])


def test_partition_refuses_overlaps_of_given_spans() -> None:
    with pytest.raises(PairsError, match="pair 4: spans 'a' and 'b' overlap at token 3"):
        partition({"b": (3, 5), "a": (1, 4)}, 8, 7, "pair 4", "span")
