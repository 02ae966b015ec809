"""Alignments of prompts of unequal length, against their definition token by token; what is none is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import PairsError
from circuits.prompts.aligned import aligned, back, by_diff
from circuits.prompts.pairs import PromptPairs
from tests.tasks.conftest import make_toy


def naive(parts: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Both directions, for parts given by their numbers of clean and corrupted tokens: one part at a time, from its end."""
    there: list[int] = []
    home: list[int] = []
    for n, m in parts:
        low, high = len(there), len(home)
        there += [high + max(m - 1 - i, 0) for i in reversed(range(n))] if m else [high] * n
        home += [low + max(n - 1 - i, 0) for i in reversed(range(m))] if n else [low] * m
    return [min(t, len(home) - 1) for t in there], [min(t, len(there) - 1) for t in home]


FULL = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(st.lists(FULL, min_size=1, max_size=5))
def test_the_last_tokens_of_each_part_belong_together_both_ways(parts: list[tuple[int, int]]) -> None:
    ranges, at, to = [], 0, 0
    for n, m in parts:
        ranges.append(((at, at + n), (to, to + m)))
        at, to = at + n, to + m
    result = aligned(ranges)
    there, home = naive(parts)
    assert list(result) == there
    assert [back(result, token) for token in range(to)] == home


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_a_diff_never_goes_back_and_keeps_what_is_shared(clean: list[int], corrupted: list[int]) -> None:
    result = by_diff(tuple(clean), tuple(corrupted))
    assert len(result) == len(clean)
    assert list(result) == sorted(result)
    assert 0 <= result[0] <= result[-1] < len(corrupted)
    for i, (a, b) in enumerate(zip(clean, corrupted, strict=False)):
        if a != b:
            break
        assert result[i] == i
    assert len(clean) != len(corrupted) or list(result) == list(range(len(clean)))


def test_a_diff_aligns_a_name_of_several_tokens_by_its_last() -> None:
    assert by_diff((1, 2, 3, 9, 9), (1, 2, 4, 5, 6, 9, 9)) == (0, 1, 4, 5, 6)
    assert by_diff((1, 2, 4, 5, 6, 9, 9), (1, 2, 3, 9, 9)) == (0, 1, 2, 2, 2, 3, 4)
    assert by_diff((1, 2, 7, 3), (1, 2, 3)) == (0, 1, 2, 2)  # what only the clean prompt has takes what follows


def made(**more: Any) -> PromptPairs:
    clean, corrupted = [[1, 2, 3, 4, 5], [1, 2, 6, 4, 5]], [[1, 2, 7, 8, 4, 5], [1, 2, 7, 4, 5]]
    return PromptPairs.from_tokens(clean, corrupted, [9, 9], **more)


def test_pairs_of_unequal_length_need_an_alignment(tmp_path: Any) -> None:
    with pytest.raises(PairsError, match=r"pair 0: clean has 5 tokens, corrupted 6; .*or align them: --align diff"):
        made()
    pairs = made(align="diff")
    assert pairs.alignments == ((0, 1, 3, 4, 5), ())
    assert [(pair.prefix, pair.corrupted_position, pair.differing) for pair in pairs] == [(2, 5, [2]), (2, 4, [2])]
    spans = {"spans": [{"name": 2}] * 2, "corrupted_spans": [{"name": [2, 4]}, {"name": 2}]}
    assert made(align="spans", **spans).alignments == pairs.alignments
    assert pairs.digest() != PromptPairs.from_pairs([pairs[1], pairs[1]]).digest()
    pairs.to_jsonl(tmp_path / "pairs.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [line.get("alignment") for line in lines] == [[0, 1, 3, 4, 5], None]
    again = PromptPairs.from_jsonl(tmp_path / "pairs.jsonl")
    assert (again.alignments, again.digest()) == (pairs.alignments, pairs.digest())
    assert pairs[[1, 0]].alignments == ((), (0, 1, 3, 4, 5))


def test_the_prefix_ends_before_a_token_that_a_later_one_is_aligned_with() -> None:
    pairs = PromptPairs.from_tokens([[1, 2, 3, 3, 5]], [[1, 2, 3, 5]], [9], align="diff")
    assert pairs.alignments == ((0, 1, 2, 3, 3),)
    (batch,) = pairs.batches(1)
    assert (pairs.prefix(0), batch.prefix) == (3, 3)
    again = PromptPairs.from_records(
        [{"clean": [1, 2, 3, 3, 5], "corrupted": [1, 2, 3, 5], "answers": [9], "alignment": [0, 1, 1, 2, 3]}]
    )
    assert again.prefix(0) == 1


def test_files_are_aligned_by_the_words_of_spans(tmp_path: Any) -> None:
    record = {
        "clean": "The Space Needle is in", "corrupted": "The Louvre is in", "answers": " Seattle",
        "spans": {"subject": "Space Needle"}, "corrupted_spans": {"subject": "Louvre"},
    }  # fmt: skip
    model = make_toy()
    pairs = PromptPairs.from_records([record], model, align="spans")
    assert pairs.alignments == ((0, 1, 2, 2, 3, 4),)
    assert PromptPairs.from_records([record], model, align="diff").alignments == pairs.alignments
    del record["corrupted_spans"]
    with pytest.raises(
        PairsError, match='no spans of the corrupted prompt are given; give "corrupted_spans", or align'
    ):
        PromptPairs.from_records([record], model, align="spans")
    kept = PromptPairs.from_records(
        [record, {**record, "corrupted": "The old House is in"}], model, align="spans", skip_unfit=True
    )
    assert str(kept.unfit) == "1 of 2 pairs used; 1 of unequal length without spans of the corrupted prompt"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"align": "words"}, "align is 'words'; expected 'spans' or 'diff'"),
        ({"align": "spans", "spans": [{"a": 2}] * 2, "corrupted_spans": [{"b": 2}] * 2}, "pair 0: the spans of the clean prompt are start, a, a\\+, end, and those of the corrupted one start, b"),
        ({"align": "spans", "spans": [{"a": 2}] * 2, "corrupted_spans": [{"a": [2, 9]}] * 2}, "pair 0: span of the corrupted prompt 'a' is at \\(2, 9\\), and the prompt has 6"),
    ],
)  # fmt: skip
def test_what_cannot_be_aligned_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(PairsError, match=message):
        made(**more)


@pytest.mark.parametrize(
    ("alignment", "message"),
    [
        ([0, 1, 2], "the alignment has 3 entries, and the clean prompt 5 tokens"),
        ([0, 2, 1, 3, 4], "expected tokens of the corrupted prompt \\(0 to 5\\), none before the one"),
        ([0, 1, 2, 3, 6], "expected tokens of the corrupted prompt"),
        ([0, 1, 2, 3, True], "alignment, entry 4, is True"),
    ],
)
def test_an_alignment_in_a_file_is_checked(alignment: list[int], message: str) -> None:
    record = {"clean": [1, 2, 3, 4, 5], "corrupted": [1, 2, 7, 8, 4, 5], "answers": [9], "alignment": alignment}
    with pytest.raises(PairsError, match=message):
        PromptPairs.from_records([record])
    with pytest.raises(PairsError, match=r"the token whose logits are read \(3\) shares its token"):
        PromptPairs.from_records([{**record, "alignment": [0, 1, 2, 4, 4], "position": 3}])
