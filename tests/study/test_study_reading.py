"""Study files say how files of pairs are read, as the options of `circuits discover` do."""

import json

import pytest

import circuits
from circuits import InputError, PairsError
from circuits.prompts.reading import Reading
from circuits.study import parse_study
from circuits.study.address import request_key
from circuits.study.request import reading_of

STUDY = """
models = ["compiled/or-gate"]
tasks = ["pairs.jsonl", "compiled/or-gate"]
{}
[methods.eap]
"""
GIVEN = """
columns = "clean=asked,corrupted=other,answers=answer"
skip-unfit = true
trust_ids = true
bos = false
"""


@pytest.fixture
def place(tmp_path):
    rows = [{"asked": [1, 2], "other": [1, 3], "answer": 1}, {"asked": [1, 2, 3], "other": [1, 3], "answer": 2}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture(scope="module")
def model():
    return circuits.load_model("compiled/or-gate")


def test_files_are_read_with_the_options_of_the_study_and_tasks_are_not(place, model):
    file, task = parse_study(STUDY.format(GIVEN), base=place).requests
    assert (file.task, task.task) == ("pairs.jsonl", "compiled/or-gate")
    columns = {"clean": "asked", "corrupted": "other", "answers": "answer"}
    assert reading_of(file.reading) == Reading(columns, skip_unfit=True, trust_ids=True, bos=False)
    assert task.reading == {}
    pairs = file.pairs(model)
    assert pairs.clean == ((1, 2),)


def test_without_the_options_the_same_file_is_refused(place, model):
    plain = parse_study(STUDY.format(""), base=place).requests[0]
    with pytest.raises(PairsError, match="unknown key 'answer'"):
        plain.pairs(model)


def test_another_way_of_reading_is_another_run_and_a_default_is_not(place):
    keys = [
        request_key(parse_study(STUDY.format(given), base=place).requests[0])
        for given in ("", "bos = true\nskip-unfit = false", "bos = false", GIVEN)
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{}", "bos = 1", "bos must be true or false, not a whole number"),
        ("{}", "skip-unfit = 'yes'", "skip-unfit must be true or false"),
        ("{}", "columns = 3", "columns must be text, not a whole number"),
        ("{}", "columns = 'clean'", "columns cannot be used: .*clean=COLUMN"),
        ("{}", "columns = 'claen=a'", "columns cannot be used: .*clean"),
        ("{}", "trust-idds = true", "trust-idds is not known; did you mean trust-ids"),
        ('"pairs.jsonl", ', "trust-ids = true", "trust-ids is for files of prompts, and no task is a file"),
        ("{}", "reference = 'none.jsonl'\nablations = ['mean']", "reference names no file: .*none.jsonl"),
        ("{}", "reference = 'pairs.jsonl'", "reference belongs to the ablations .*, not to interchange"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(place, old, new, message):
    text = STUDY.replace(old, "") if old != "{}" else STUDY
    with pytest.raises(InputError, match=message):
        parse_study(text.format(new), base=place)
