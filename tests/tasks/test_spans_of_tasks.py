"""Every built-in task has a schema: the same spans in every pair, whatever the lengths, and they are where they should be."""

import re
from typing import Any

import pytest

import tasks
from circuits.errors import InputError
from circuits.prompts.pair import bounds
from circuits.prompts.pairs import PromptPairs
from tasks.ioi import IOI
from tests.tasks.conftest import Toy

TEXT = sorted(set(tasks.BUILT_IN) - set(tasks.COMPILED))
SCHEMAS = {
    "acronym": "start W1 W2 W3 L1 L2 end",
    "addition": "start shots a plus b b+ end",
    "antonym": "start x end",
    "capital": "start x end",
    "docstring": "start first first+ described described+ answer answer+ fourth fourth+ distractor distractor+ again again+ end",
    "gendered-pronoun": "start name name+ end",
    "greater-than": "start noun noun+ century year year+ end",
    "hypernym": "start x x+ end",
    "induction": "start before answer answer+ end",
    "ioi": "start name1 name1+ name2 name2+ S2 S2+ end",
    "ioi(order=ABBA)": "start IO IO+ S1 S1+ S2 S2+ end",
    "ioi(order=BABA)": "start S1 S1+ IO IO+ S2 S2+ end",
    "official-language": "start x end",
    "open-bracket": "start variable variable+ bracket bracket+ end",
    "past-tense": "start x x+ end",
    "sentiment": "start shots shots+ adjective adjective+ end",
    "subject-verb-agreement": "start subject subject+ attractor",
    "successor": "start first first+ second second+ third end",
    "compiled/and-gate": "start flag1 flag2 flag2+ end",
    "compiled/dyck": "start brackets end",
    "compiled/fraction": "start tokens end",
    "compiled/greater-than": "start digit end",
    "compiled/histogram": "start letters end",
    "compiled/induction": "start before answer answer+ end",
    "compiled/negative-head": "start answer answer+ end",
    "compiled/or-gate": "start flag1 flag2 flag2+ end",
    "compiled/reverse": "start answer answer+ bar repeated",
    "compiled/sort": "start numbers bar sorted",
    "trained/induction": "start before answer answer+ end",
}


def model_of(name: str, text_model: Any) -> Any:
    task: Any = tasks.load(name)
    return text_model if task.model is None else Toy(None, name, len(task.words), task.n_ctx)


def texts(pairs: PromptPairs, i: int, task: Any, model: Any) -> dict[str, str]:
    starts = [*pairs.span_starts(i), len(pairs.clean[i])]
    return {name: task.text(pairs.clean[i][starts[s] : starts[s + 1]], model) for s, name in enumerate(pairs.spans)}


def test_no_task_is_left_out() -> None:
    assert {name.partition("(")[0] for name in SCHEMAS} == set(tasks.BUILT_IN)


@pytest.mark.real_model
@pytest.mark.parametrize("name", SCHEMAS)
def test_every_task_has_a_schema_in_every_seed(smollm2_words: Any, name: str) -> None:
    model, task = model_of(name, smollm2_words), tasks.load(name)
    for seed in range(3):
        pairs = task.pairs(model, 32, seed)
        assert pairs.spans == tuple(SCHEMAS[name].split())
        for i, pair in enumerate(pairs):
            starts = pairs.span_starts(i)
            assert starts[0] == 0
            assert all(low < high for low, high in zip(starts, (*starts[1:], len(pair)), strict=True))


@pytest.mark.parametrize("digits", ["one", "two"])
@pytest.mark.parametrize("name", TEXT)
def test_schemas_hold_for_other_tokenizers(toy: Any, name: str, digits: str) -> None:
    pairs = tasks.load(name).pairs(toy(digits), 32, seed=1)
    assert pairs.spans == tuple(SCHEMAS[name].split())


def test_prompts_of_several_lengths_share_a_schema(toy: Any) -> None:
    pairs = IOI().pairs(toy(), 32)
    assert len({len(prompt) for prompt in pairs.clean}) > 3


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("acronym", r"(?P<start>.*The)(?P<W1> \w+)(?P<W2> \w+)(?P<W3> \w+)(?P<L1> \(\w)(?P<L2>\.\w)(?P<end>\.)"),
        ("addition", r"(?P<start><.*>)(?P<shots>(.*\n){3})(?P<a>\d)(?P<plus> \+)(?P<b> \d)(?P<_> =)(?P<end> )"),
        ("docstring", r"(?P<start>(?s:.*)\(self,)(?P<first> \w+),(?P<described> \w+),(?P<answer> \w+),(?P<fourth> \w+),(?P<distractor> \w+)\):\n.*\n\n +:param(?P<again> \w+): .*\n +:(?P<end>param)"),
        ("greater-than", r"(?P<start><.*>The)(?P<noun> \w+) lasted from the year(?P<century> \d\d)(?P<year>\d\d) to the year \d(?P<end>\d)"),
        ("induction", r"(?P<start>(?s:.*))(?P<before> \w+)(?P<answer> \w+)( \w+){13}(?P<end> \w+)"),
        ("ioi", r"(?P<start>.*?)(?P<name1> [A-Z]\w+) and(?P<name2> [A-Z]\w+).*(?P<S2> [A-Z]\w+)(?P<_>.*)(?P<end> to)"),
        ("open-bracket", r"(?P<start><.*>)(?P<variable>\w+) =(?P<bracket> [\[(])\w+, \w+,(?P<end> \w+)"),
        ("sentiment", r"(?P<start><.*>)(?P<shots>(Rev.*\n){2})Review: The movie was(?P<adjective> \w+)\. Sentiment(?P<end>:)"),
        ("subject-verb-agreement", r"(?P<start>.*The)(?P<subject> \w+)( \w+)+(?P<attractor> \w+)"),
        ("successor", r"(?P<start><.*>)(?P<first>\w+),(?P<second> \w+),(?P<third> \w+)(?P<end>,)"),
    ],
)  # fmt: skip
def test_spans_are_the_words_they_are_named_after(smollm2_words: Any, name: str, expected: str) -> None:
    task = tasks.load(name)
    pairs = task.pairs(smollm2_words, 20)
    for i, pair in enumerate(pairs):
        match = re.fullmatch(expected, task.text(pair.clean, smollm2_words))
        assert match is not None
        wanted = {name: text for name, text in match.groupdict().items() if name != "_"}
        assert {name: texts(pairs, i, task, smollm2_words)[name] for name in wanted} == wanted


def test_with_one_order_the_names_are_io_and_s1(toy: Any) -> None:
    model = toy()
    for order in ("ABBA", "BABA"):
        task = tasks.load("ioi", order=order)
        pairs = task.pairs(model, 20)
        assert pairs.source == f"ioi(order={order})"
        for i, pair in enumerate(pairs):
            result = texts(pairs, i, task, model)
            assert (result["IO"], result["S1"]) == (model.text(pair.answers), model.text(pair.distractors))
            assert (bounds(pair.roles["IO"]) < bounds(pair.roles["S1"])) == (order == "ABBA")
    with pytest.raises(InputError, match="no order 'AB'; expected one of both, ABBA, BABA"):
        IOI(order="AB")


def test_each_order_has_all_templates_in_turn(toy: Any) -> None:
    firsts = {str(pair.clean_text).split("{")[0][:18] for pair in IOI(order="ABBA").pairs(toy(), 8)}
    assert len(firsts) == 8


def test_a_task_is_loaded_by_the_name_that_its_pairs_record() -> None:
    for label in ("ioi(order=ABBA)", "ioi(counterfactual=abc, order=BABA)"):
        assert tasks.load(label).label == label
        assert tasks.load(label.replace(" ", "")) == tasks.load(label)
    assert tasks.load("ioi(order=ABBA)", order="BABA") == tasks.load("ioi", order="BABA")
    for name, message in [
        ("ioi(order=ABBA", "has no closing bracket"),
        ("ioi(ABBA)", "has the option 'ABBA'; write each once"),
        ("ioi(order=ABBA,order=BABA)", "write each once"),
        ("ioi(colour=red)", "no option 'colour'; it takes counterfactual, order"),
        ("ioj(order=ABBA)", "there is no task 'ioj'; did you mean 'ioi'"),
    ]:
        with pytest.raises(InputError, match=message):
            tasks.load(name)
