"""Prompt pairs: what holds for all that exist, and what is refused."""

import json
import os
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.errors import PairsError
from circuits.prompts.pair import Pair, Roles
from circuits.prompts.pairs import PromptPairs


class WordTokenizer:
    """A token a word with the space before it, 1 + its place in the vocabulary; unknown words go letter by letter."""

    def __init__(self, *words: str) -> None:
        self.vocabulary = [*words, *sorted({*"".join(words), *"abcdefghijklmnopqrstuvwxyz"})]

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        pieces = []
        for piece in re.findall(r" ?[^ ]+| +", text):
            pieces += [piece] if piece in self.vocabulary else list(piece)
        return {"input_ids": [1 + self.vocabulary.index(piece) for piece in pieces]}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.vocabulary[token - 1] for token in ids)


@dataclass
class StandIn:
    """What pairs need of a model."""

    tokenizer: Any = field(default_factory=lambda: WordTokenizer("When", " Mary", " John", " left", ","))
    name: str = "stand-in"
    d_vocab: int = 100
    n_ctx: int = 8

    def encode(self, text: str) -> list[int]:
        return [0, *self.tokenizer(text)["input_ids"]]


def two_pairs(**changes: Any) -> PromptPairs:
    given = {
        "clean": [[0, 5, 6], [0, 7, 6]],
        "corrupted": [[0, 7, 6], [0, 5, 6]],
        "answers": [8, 9],
        "distractors": [9, 8],
    }
    return PromptPairs.from_tokens(**{**given, **changes})


names = st.text(min_size=1, max_size=8)


@st.composite
def single_pairs(draw: st.DrawFn) -> dict[str, Any]:
    length = draw(st.integers(1, 6))
    prompt = st.lists(st.integers(0, 2), min_size=length, max_size=length).map(tuple)
    tokens = draw(st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True))
    cut = draw(st.integers(1, len(tokens)))
    place = st.integers(0, length - 1)
    return {
        "clean": draw(prompt),
        "corrupted": draw(prompt),
        "answers": tuple(tokens[:cut]),
        "distractors": tuple(tokens[cut:]),
        "position": draw(place),
        "roles": draw(st.dictionaries(names, place, max_size=3)),
        "clean_text": draw(st.none() | names),
        "corrupted_text": draw(st.none() | names),
    }


# What pairs are made of, not pairs: type checks of our own code draw at random, which a strategy must not.
drawn_pairs = st.fixed_dictionaries(
    {
        "pairs": st.lists(single_pairs(), min_size=1, max_size=8),
        "source": names,
        "seed": st.none() | st.integers(-(2**62), 2**62),
        "metric": names,
    }
)


def made(drawn: dict[str, Any]) -> PromptPairs:
    pairs = [Pair(**{**pair, "roles": Roles.from_mapping(pair["roles"])}) for pair in drawn["pairs"]]
    return PromptPairs.from_pairs(pairs, drawn["source"], drawn["seed"], drawn["metric"])


class TestValues:
    def test_position_is_the_last_token_unless_given(self) -> None:
        assert two_pairs().positions == (2, 2)
        assert two_pairs(positions=[1, 2]).positions == (1, 2)

    def test_lists_tensors_arrays_and_ragged_answers_give_the_same_pairs(self) -> None:
        pairs = two_pairs()
        clean, corrupted = torch.tensor(pairs.clean), np.array(pairs.corrupted)
        assert two_pairs(clean=clean, corrupted=corrupted, answers=torch.tensor([[8], [9]])) == pairs
        assert two_pairs(clean=list(clean), answers=[(8,), np.int64(9)], distractors=torch.tensor([9, 8])) == pairs
        assert two_pairs(answers=[8, [9, 4]]).answers == ((8,), (9, 4))

    def test_distractors_may_be_missing(self) -> None:
        assert two_pairs(distractors=None).distractors == ((), ())
        assert two_pairs(distractors=[[], 8]).distractors == ((), (8,))

    def test_prefix_counts_the_leading_tokens_that_agree(self) -> None:
        pairs = two_pairs(clean=[[1, 2, 3], [1, 2, 3]], corrupted=[[1, 9, 3], [1, 2, 3]])
        assert [pairs.prefix(0), pairs.prefix(1), pairs.prefix(-1)] == [1, 3, 3]

    def test_choosing_keeps_order_and_provenance(self) -> None:
        pairs = two_pairs(source="mine", seed=3)
        assert pairs[[1, 0, 1]].clean == (pairs.clean[1], pairs.clean[0], pairs.clean[1])
        assert pairs[::-1] == pairs[[1, 0]] == pairs[torch.tensor([1, 0])]
        assert pairs[[-1]] == pairs[1:]
        assert (pairs[[0]].source, pairs[[0]].seed, len(pairs[[0]])) == ("mine", 3, 1)

    def test_a_number_chooses_a_single_pair(self) -> None:
        pairs = two_pairs()
        assert pairs[-1] == pairs[1] == pairs[torch.tensor(1)] == pairs.pair(1)
        with pytest.raises(IndexError):
            pairs[2]

    @pytest.mark.parametrize("which", [True, torch.tensor([True, False]), torch.tensor([0.0])])
    def test_choosing_by_anything_else_is_refused(self, which: Any) -> None:
        with pytest.raises(PairsError, match="whole numbers"):
            two_pairs()[which]

    def test_choosing_nothing_is_refused(self) -> None:
        with pytest.raises(PairsError, match="no pairs"):
            two_pairs()[:0]

    @given(drawn_pairs)
    @settings(deadline=None, max_examples=30)
    def test_equal_pairs_have_equal_hashes_and_digests_also_after_pickling(self, drawn: dict[str, Any]) -> None:
        pairs = made(drawn)
        twin = pickle.loads(pickle.dumps(pairs))
        assert (twin, hash(twin), twin.digest()) == (pairs, hash(pairs), pairs.digest())
        assert PromptPairs.from_pairs(list(pairs), pairs.source, pairs.seed, pairs.metric) == pairs

    def test_digest_depends_on_what_the_model_is_asked_and_on_nothing_else(self) -> None:
        pairs = two_pairs(roles=[{"a": 1, "b": 2}, {}])
        asked = [pairs, two_pairs(), two_pairs(positions=[1, 2]), two_pairs(answers=[8, 7]), pairs[[1, 0]]]
        assert len({p.digest() for p in asked}) == len(asked)
        assert two_pairs(roles=[{"b": 2, "a": 1}, {}], source="x", seed=1, metric="y").digest() == pairs.digest()

    def test_roles_are_a_mapping(self) -> None:
        pair = two_pairs(roles=[{"IO": 1, "end": 2}, {}])[0]
        assert dict(pair.roles) == {"IO": 1, "end": 2} == pair.roles
        assert list(pair.roles) == ["IO", "end"]
        assert "S" not in pair.roles


class TestBatches:
    @given(drawn_pairs, st.integers(1, 5))
    @settings(deadline=None, max_examples=60)
    def test_every_pair_once_in_rows_of_its_own_length(self, drawn: dict[str, Any], batch_size: int) -> None:
        pairs = made(drawn)
        batches = list(pairs.batches(batch_size))
        assert sorted(i for batch in batches for i in batch.index.tolist()) == list(range(len(pairs)))
        for batch in batches:
            assert 1 <= len(batch) <= batch_size
            for row, i in enumerate(batch.index.tolist()):
                assert tuple(batch.clean[row].tolist()) == pairs.clean[i]
                assert tuple(batch.corrupted[row].tolist()) == pairs.corrupted[i]
                assert batch.position[row] == pairs.positions[i]
                assert tuple(batch.answers[row][batch.answers_mask[row]].tolist()) == pairs.answers[i]
                assert tuple(batch.distractors[row][batch.distractors_mask[row]].tolist()) == pairs.distractors[i]

    @given(drawn_pairs, st.integers(1, 5))
    @settings(deadline=None, max_examples=60)
    def test_prefix_is_the_longest_that_leaves_all_differences_and_positions(
        self, drawn: dict[str, Any], batch_size: int
    ) -> None:
        for batch in made(drawn).batches(batch_size):
            prefix = 0
            while (batch.clean[:, prefix] == batch.corrupted[:, prefix]).all() and prefix < batch.position.min():
                prefix += 1
            assert batch.prefix == prefix < batch.clean.shape[1]

    @given(drawn_pairs, st.integers(2, 5))
    @settings(deadline=None, max_examples=60)
    def test_the_order_does_not_depend_on_the_batch_size(self, drawn: dict[str, Any], batch_size: int) -> None:
        pairs = made(drawn)
        ones = [i for batch in pairs.batches(1) for i in batch.index.tolist()]
        assert [i for batch in pairs.batches(batch_size) for i in batch.index.tolist()] == ones
        assert ones == sorted(ones, key=lambda i: (len(pairs.clean[i]), pairs.prefix(i)))

    def test_nothing_to_fill_without_distractors(self) -> None:
        (batch,) = two_pairs(distractors=None).batches(2)
        assert batch.distractors.shape == batch.distractors_mask.shape == (2, 0)
        assert batch.distractors.dtype == torch.long

    def test_to_moves_every_tensor(self) -> None:
        (batch,) = two_pairs().batches(2)
        moved = batch.to("meta")
        assert {name for name, value in vars(moved).items() if isinstance(value, torch.Tensor) and value.is_meta} == {
            name for name, value in vars(batch).items() if isinstance(value, torch.Tensor)
        }
        assert (moved.prefix, len(moved)) == (batch.prefix, 2)

    @pytest.mark.parametrize("batch_size", [0, -1, True])
    def test_a_batch_holds_at_least_one(self, batch_size: int) -> None:
        with pytest.raises(PairsError, match=r"batch_size is .*at least 1"):
            two_pairs().batches(batch_size)


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"corrupted": [[0, 7, 6], [0, 5, 6, 1]]},
                "pair 1: clean has 3 tokens, corrupted 4; pairs must have equal",
            ),
            ({"corrupted": [[0, 7, 6]]}, "clean has 2 prompts, corrupted 1 entries"),
            ({"clean": [], "corrupted": [], "answers": [], "distractors": []}, "there are no pairs"),
            ({"clean": [[], [1]], "corrupted": [[], [1]]}, "pair 0: the prompts have no tokens"),
            ({"clean": [0, 5]}, "pair 0: clean is 0 (int); expected a list of token ids"),
            ({"clean": torch.tensor(3)}, "clean is 3 (int); expected a list with one entry a pair"),
            ({"clean": ["ab", "cd"]}, "pair 0: clean is 'ab' (str); expected a list of token ids"),
            ({"clean": torch.zeros(2, 3)}, "pair 0: clean, entry 0, is 0.0 (float); expected a whole number"),
            ({"clean": [[0, 5, 6], [0, True, 6]]}, "pair 1: clean, entry 1, is True (bool)"),
            ({"answers": torch.tensor([True, False])}, "pair 0: answers, entry 0, is True (bool)"),
            ({"answers": [8, -1]}, "pair 1: answers, entry 0, is -1; expected a whole number, counted from 0"),
            ({"answers": [8, float("nan")]}, "pair 1: answers, entry 0, is nan (float)"),
            ({"answers": [8, 10**5000]}, "pair 1: answers, entry 0, is a number of 16610 bits"),
            ({"answers": [8, None]}, "pair 1: answers, entry 0, is None (NoneType)"),
            ({"answers": [8, []]}, "pair 1: there is no answer"),
            ({"answers": [8, [9, 9]]}, "pair 1: token 9 occurs twice among the answers"),
            ({"distractors": [9, [4, 9]]}, "pair 1: token 9 is an answer and a distractor"),
            ({"positions": [2, 3]}, "pair 1: position 3 is outside the prompt; it has 3 tokens, so 0 to 2"),
            ({"positions": [2, -1]}, "pair 1: position is -1; expected a whole number, counted from 0"),
            ({"positions": [2]}, "positions 1 entries"),
            ({"roles": [{}, {"IO": 3}]}, "pair 1: role 'IO' is at 3, outside the prompt"),
            ({"roles": [{}, {"IO": "x"}]}, "pair 1: role 'IO' is 'x' (str)"),
            ({"roles": [{}, {"": 1}]}, "pair 1: a role's name is ''"),
            ({"roles": [{"\ud800": 1}, {}]}, "pair 0: a role's name is '\\ud800', with half a character"),
            ({"roles": [{}]}, "roles 1 entries"),
            ({"source": ""}, "source is ''; expected text"),
            ({"seed": True}, "seed is True"),
            ({"seed": 2**64}, "seed is a number of 65 bits"),
        ],
    )
    def test_the_message_says_where_and_what(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(PairsError, match=re.escape(message)):
            two_pairs(**changes)

    def test_lists_are_for_from_tokens(self) -> None:
        fields: Any = {**vars(two_pairs()), "answers": ([8], [9])}
        with pytest.raises(Exception, match=r"from_tokens|answers"):
            PromptPairs(**fields)

    def test_the_model_must_know_the_tokens_and_be_long_enough(self) -> None:
        two_pairs().validate_for(StandIn(d_vocab=10, n_ctx=3))
        with pytest.raises(PairsError, match="pair 0: distractors has token id 9; stand-in knows ids from 0 to 8"):
            two_pairs().validate_for(StandIn(d_vocab=9))
        with pytest.raises(PairsError, match="pair 0: the prompts have 3 tokens; stand-in reads at most 2"):
            two_pairs().validate_for(StandIn(n_ctx=2))


IDS = {"clean": [0, 5, 6], "corrupted": [0, 7, 6], "answers": [8], "distractors": [9]}
TEXT = {"clean": "When Mary", "corrupted": "When John", "answers": [" Mary"], "distractors": [" John"]}


def written(path: Path, *lines: dict[str, Any] | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


class TestFiles:
    @given(drawn_pairs)
    @settings(deadline=None, max_examples=60)
    def test_reading_what_was_written_gives_equal_pairs(self, tmp_path_factory: Any, drawn: dict[str, Any]) -> None:
        pairs, path = made(drawn), tmp_path_factory.getbasetemp() / "pairs.jsonl"
        pairs.to_jsonl(path)
        assert PromptPairs.from_jsonl(path) == pairs

    def test_text_is_encoded_with_bos_and_answers_without(self, tmp_path: Path) -> None:
        pairs = PromptPairs.from_jsonl(written(tmp_path / "text", TEXT, {**TEXT, "position": 1}), StandIn())
        assert pairs.clean == ((0, 1, 2),) * 2
        assert (pairs.answers[0], pairs.distractors[0], pairs.positions) == ((2,), (3,), (2, 1))
        assert pairs.texts[0] == ("When Mary", "When John")
        pairs.to_jsonl(tmp_path / "again")
        assert PromptPairs.from_jsonl(tmp_path / "again") == pairs

    def test_ids_need_no_tokenizer_and_defaults_are_filled_in(self, tmp_path: Path) -> None:
        path = written(tmp_path / "ids", {key: IDS[key] for key in ("clean", "corrupted", "answers")})
        pairs = PromptPairs.from_jsonl(path, StandIn(tokenizer=None))
        assert (pairs.positions, pairs.distractors, pairs.source, pairs.seed) == ((2,), ((),), str(path), None)
        assert pairs.metric == "logit_difference"

    def test_a_mark_empty_lines_and_carriage_returns_are_harmless(self, tmp_path: Path) -> None:
        line = json.dumps(IDS).encode()
        path = written(tmp_path / "windows", b"\xef\xbb\xbf" + line + b"\r", b"", b"  \r", line + b"\r", b"")
        assert len(PromptPairs.from_jsonl(path)) == 2

    def test_lines_of_two_runs_keep_what_they_share(self, tmp_path: Path) -> None:
        path = written(tmp_path / "both", {**IDS, "source": "a", "seed": 1}, {**IDS, "source": "b", "seed": 1})
        pairs = PromptPairs.from_jsonl(path)
        assert (pairs.source, pairs.seed) == (str(path), 1)

    def test_writing_replaces_and_leaves_nothing_else_behind(self, tmp_path: Path) -> None:
        two_pairs().to_jsonl(tmp_path / "pairs.jsonl")
        two_pairs()[[0]].to_jsonl(tmp_path / "pairs.jsonl")
        assert os.listdir(tmp_path) == ["pairs.jsonl"]
        assert len(PromptPairs.from_jsonl(tmp_path / "pairs.jsonl")) == 1

    @pytest.mark.parametrize("place", ["missing/pairs.jsonl", "", "nul\0"])
    def test_a_place_that_cannot_be_written_is_refused(self, tmp_path: Path, place: str) -> None:
        with pytest.raises(PairsError, match="cannot be written"):
            two_pairs().to_jsonl(tmp_path / place)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("place", ["missing", "", "nul\0"])
    def test_a_place_that_cannot_be_read_is_refused(self, tmp_path: Path, place: str) -> None:
        with pytest.raises(PairsError, match="cannot be read"):
            PromptPairs.from_jsonl(tmp_path / place)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ({**IDS, "corrupted": [0, 1]}, "clean has 3 tokens, corrupted 2"),
            ({**TEXT, "answers": [" Maryland"]}, "' Maryland' in answers is 9 tokens of stand-in (' ', 'M', 'a', "),
            ({**TEXT, "answers": [""]}, "an entry of answers is ''; expected text"),
            ({**TEXT, "clean": ""}, "clean is ''; expected text"),
            ({**TEXT, "clean": "\ud800"}, "half a character"),
            ({**TEXT, "clean_text": 3}, "clean_text is 3; expected text"),
            ({**IDS, "clean_text": 3}, "clean_text is 3; expected text"),
            ({**IDS, "position_": 1}, "unknown key 'position_'; did you mean 'position'?"),
            (
                {"clean": [0], "corrupted": [1], "answer": [8]},
                "unknown key 'answer'; did you mean 'answers'?",
            ),
            ({"clean": [0]}, "'answers' is missing; found only the keys clean"),
            ({}, "'clean' is missing; found only the keys (none)"),
            ({**IDS, "clean": 5}, "clean is 5 (int); expected text or a list of token ids"),
            ({**IDS, "clean": [0, "a", 1]}, "clean, entry 1, is 'a' (str)"),
            ({**IDS, "clean": [0, 1.0, 1]}, "clean, entry 1, is 1.0 (float)"),
            ({**IDS, "answers": None}, "answers is None (NoneType); expected a text, a token id, or a list of either"),
            ({**IDS, "answers": {"a": 1}}, "answers, entry 0, is {'a': 1} (dict)"),
            ({**IDS, "answers": "Mary"}, "'Mary' in answers is 4 tokens of stand-in"),
            ({**IDS, "answers": [True]}, "answers, entry 0, is True (bool)"),
            ({**IDS, "answers": [-8]}, "answers, entry 0, is -8"),
            ({**IDS, "answers": []}, "there is no answer"),
            ({**IDS, "answers": [9]}, "token 9 is an answer and a distractor"),
            ({**IDS, "answers": [100]}, "answers has token id 100; stand-in knows ids from 0 to 99"),
            ({**IDS, "clean": [0] * 9, "corrupted": [0] * 9}, "9 tokens; stand-in reads at most 8"),
            (
                {**IDS, "answers": [10**4000]},
                "a number of 13288 bits",
            ),
            ({**IDS, "position": 10**30}, "position is a number of 100 bits"),
            ({**IDS, "position": None}, "position is None (NoneType)"),
            ({**IDS, "position": 3}, "position 3 is outside the prompt"),
            ({**IDS, "roles": {"IO": 3}}, "role 'IO' is at 3, outside"),
            ({**IDS, "roles": ["IO"]}, "roles are ['IO']; expected names with token indices"),
            ({**IDS, "metric": 3}, "metric is 3; expected text"),
            ({**IDS, "seed": "x"}, "seed is 'x'"),
            ({**IDS, "metric": "kl"}, "metric is 'kl', but 'logit_difference' at"),
            (b"{", "not JSON: Expecting property name"),
            (b"[1, 2]", "found [1, 2] (list); expected an object"),
            (b"nul", "not JSON"),
            (b"\xff\xfe{}", "byte 1 is not UTF-8"),
            (b'{"clean": [NaN]}', "found NaN; expected token ids"),
            (b'{"clean": [-Infinity]}', "found -Infinity"),
            (b'{"clean": [1e999], "corrupted": [1], "answers": [1]}', "clean, entry 0, is inf (float)"),
            (b'{"clean": [1], "clean": [2]}', "key 'clean' occurs twice"),
            (b'{"clean": [' + b"9" * 5000 + b"]}", "Exceeds the limit"),
            (b'{"clean": ' + b"[" * 200_000, "nested too deeply"),
            (
                b'{"clean": [%s], "corrupted": [1], "answers": [1]}' % (b"[" * 900 + b"]" * 900),
                "clean, entry 0, is [[[[",
            ),
        ],
    )
    def test_the_message_names_the_line(self, tmp_path: Path, line: dict[str, Any] | bytes, message: str) -> None:
        path = written(tmp_path / "bad.jsonl", IDS, b"", line)
        with pytest.raises(PairsError, match=re.escape(message)) as refused:
            PromptPairs.from_jsonl(path, StandIn())
        assert str(refused.value).startswith(f"{path}, line 3: ")
        assert len(str(refused.value)) < 500 + len(str(path)) * 2

    @pytest.mark.parametrize("text", [b"", b"\n \n"])
    def test_an_empty_file_is_refused(self, tmp_path: Path, text: bytes) -> None:
        with pytest.raises(PairsError, match="has no pairs; expected one JSON object a line"):
            PromptPairs.from_jsonl(written(tmp_path / "empty", text))

    @pytest.mark.parametrize("model", [None, StandIn(tokenizer=None)])
    @pytest.mark.parametrize("line", [TEXT, {**IDS, "answers": [" Mary"]}])
    def test_text_without_a_tokenizer_is_refused(self, tmp_path: Path, model: Any, line: dict[str, Any]) -> None:
        with pytest.raises(PairsError, match=r"line 1: (clean|answers) has text, but .*; give token ids instead"):
            PromptPairs.from_jsonl(written(tmp_path / "text", line), model)

    @given(
        st.binary(max_size=60) | st.text(alphabet='{}[]",:0123456789eclanorupdswti.-\\ \n', max_size=60).map(str.encode)
    )
    @settings(deadline=None, max_examples=150)
    def test_no_file_makes_it_crash(self, tmp_path_factory: Any, content: bytes) -> None:
        with pytest.raises(PairsError):
            PromptPairs.from_jsonl(written(tmp_path_factory.getbasetemp() / "any", content), StandIn())
