"""Answers of several tokens in pairs, files and tables."""

import json

import pytest

from circuits.errors import PairsError
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.sequences import ONE_TOKEN_METRICS, contexts, rows
from circuits.question.metrics import METRICS
from tests.small_tokenizers import Reader, tokenizer
from tests.tiny_models import tiny

CLEAN, CORRUPTED = [[1, 5, 6], [1, 5, 6, 8]], [[1, 7, 6], [1, 9, 6, 8]]


def several(**options):
    return PromptPairs.from_tokens(CLEAN, CORRUPTED, [[[10, 11], 12], [[13]]], [[14], [[15, 16, 17]]], **options)


def test_an_answer_is_an_id_or_several():
    pairs = several()
    assert pairs.answers == (((10, 11), 12), (13,))
    assert pairs.distractors == ((14,), ((15, 16, 17),))
    assert pairs.several_tokens
    assert [pair.forced for pair in pairs] == [1, 2]
    assert pairs.rows()[0]["answers"] == [[10, 11], 12]
    assert not pairs.first_token().several_tokens
    assert pairs.first_token().answers == ((10, 12), (13,))


def test_first_tokens_count_once_and_must_differ_between_answers_and_distractors():
    pairs = PromptPairs.from_tokens(CLEAN[:1], CORRUPTED[:1], [[[10, 11], [10, 12]]], [[[20, 11]]])
    assert pairs.first_token().answers == ((10,),)
    same = PromptPairs.from_tokens(CLEAN[:1], CORRUPTED[:1], [[[10, 11]]], [[[10, 12]]])
    with pytest.raises(PairsError, match="pair 0: token 10 is an answer and a distractor"):
        same.first_token()


def test_contexts_and_rows_are_their_definitions():
    answers = [(5, 6, 7), (5, 8), 9, (6, 5)]
    assert set(contexts(answers)) == {(), (5,), (5, 6), (6,)}
    assert rows(answers) == [(5, 6), (6,)]
    assert rows([1, 2]) == [()]


@pytest.mark.parametrize(
    ("answers", "distractors", "options", "message"),
    [
        ([[[5, 6], [5, 6]]], None, {}, r"pair 0: tokens \[5, 6\] occurs twice among the answers"),
        (
            [[[5, 6], 5]],
            None,
            {},
            r"pair 0: among the answers, token 5 begins tokens \[5, 6\], whose probability would count twice",
        ),
        ([[[5, 6]]], [[[5, 6], 7]], {}, r"pair 0: tokens \[5, 6\] is an answer and a distractor"),
        ([[[5, 6], []]], None, {}, "pair 0: answers, entry 1, has no tokens"),
        ([[[5, "6"]]], None, {}, "pair 0: answers, entry 0,.* is '6'"),
        ([[[5, [6]]]], None, {}, r"pair 0: answers, entry 0,.* is \[6\]"),
        (
            [[[5, 6]]],
            None,
            {"positions": [1]},
            "pair 0: an answer has several tokens and position is 1, not the last token 2",
        ),
    ],
)
def test_wrong_answers_are_refused(answers, distractors, options, message):
    with pytest.raises(PairsError, match=message):
        PromptPairs.from_tokens(CLEAN[:1], CORRUPTED[:1], answers, distractors, **options)


def test_a_prompt_and_its_answer_must_fit_the_model():
    model, answer = tiny("gpt2"), list(range(3, 34))
    with pytest.raises(PairsError, match=r"the prompts have 3 tokens and their answers 30 more; .* reads at most 32"):
        PromptPairs.from_tokens(CLEAN[:1], CORRUPTED[:1], [[answer]], model=model)
    with pytest.raises(PairsError, match=r"answers has token id 99; .* knows ids from 0 to 39"):
        PromptPairs.from_tokens(CLEAN[:1], CORRUPTED[:1], [[[5, 99]]], model=model)


def test_files_keep_answers_of_several_tokens(tmp_path):
    pairs, path = several(metric="log_probability"), tmp_path / "pairs.jsonl"
    pairs.to_jsonl(path)
    assert [json.loads(line)["answers"] for line in path.read_text().splitlines()] == [[[10, 11], 12], [13]]
    again = PromptPairs.from_jsonl(path)
    assert again == pairs
    assert again.digest() == pairs.digest() != pairs.first_token().digest()
    assert PromptPairs.from_jsonl(path, first_token=True) == pairs.first_token()


def test_single_tokens_have_the_digest_and_the_lines_that_they_always_had(tmp_path):
    pairs = PromptPairs.from_tokens(CLEAN, CORRUPTED, [[10, 12], [13]], [14, 15])
    assert pairs.digest() == "9abf19b47fa6098b1fab8e40e9438bb262b891e4d92066457cf579ff28b57bed"
    pairs.to_jsonl(tmp_path / "pairs.jsonl")
    first = '{"clean": [1, 5, 6], "corrupted": [1, 7, 6], "answers": [10, 12], "distractors": [14], "position": 2, '
    assert (tmp_path / "pairs.jsonl").read_text().startswith(first)
    assert PromptPairs.from_tokens(CLEAN, CORRUPTED, [[[10], 12], [[13]]], [[[14]], 15]) == pairs


def test_metrics_say_whether_they_take_answers_of_several_tokens():
    assert {name for name, metric in METRICS.items() if not metric.sequences} == set(ONE_TOKEN_METRICS)


ROW = {
    "clean": "When Mary went to",
    "corrupted": "When John went to",
    "answers": " drinkstore",
    "distractors": " gavethe",
}
MESSAGE = (
    r"2 tokens of .* \(' drink', 'store'\); logit_difference takes exactly one: use another word, or measure log_probability, .*"
    r"\(metric=…, --metric\), or keep only the first token of each answer \(first_token=True, --first-token\)"
)


@pytest.fixture(scope="module")
def model():
    return Reader(tokenizer("byte-level"))


def test_texts_of_several_tokens_are_answers_if_the_metric_takes_them(model):
    drink, store, gave, the = model.encode(" drink store gave the".replace(" store", "store").replace(" the", "the"))[
        1:
    ]
    for metric in ("log_probability", "probability_difference"):
        pairs = PromptPairs.from_records([ROW], model, metric=metric)
        assert pairs.answers == (((drink, store),),)
        assert pairs.distractors == (((gave, the),),)
        assert pairs.metric == metric
    assert PromptPairs.from_records([{**ROW, "metric": "log_probability"}], model) == PromptPairs.from_records(
        [ROW], model, metric="log_probability"
    )


def test_the_default_metric_refuses_them_and_names_both_ways_out(model):
    with pytest.raises(PairsError, match=MESSAGE):
        PromptPairs.from_records([ROW], model)
    pairs = PromptPairs.from_records([ROW, {**ROW, "answers": " Mary", "distractors": " John"}], model, skip_unfit=True)
    assert str(pairs.unfit) == "1 of 2 pairs used; 1 with an answer of several tokens"


def test_the_first_tokens_are_kept_on_demand(model):
    pairs = PromptPairs.from_records([ROW], model, first_token=True)
    assert pairs == PromptPairs.from_records([{**ROW, "answers": " drink", "distractors": " gave"}], model)


def test_a_files_metric_can_be_replaced_and_the_pairs_remember_it(model, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(ROW))
    with pytest.raises(PairsError, match=MESSAGE):
        PromptPairs.from_file(path, model)
    assert PromptPairs.from_file(path, model, metric="log_probability").metric == "log_probability"
    path.write_text(json.dumps({**ROW, "answers": " Mary", "distractors": " John"}))
    assert PromptPairs.from_file(path, model, metric="log_probability") == PromptPairs.from_file(path, model)
    path.write_text(json.dumps({**ROW, "clean": "<s>When Mary", "answers": "", "distractors": " John"}))
    with pytest.raises(PairsError, match="an entry of answers is ''; expected text"):
        PromptPairs.from_file(path, model, metric="log_probability")
