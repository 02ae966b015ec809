"""MIB's rows become its pairs: answers, filters, splits and counterfactuals."""

import csv
import json

import datasets
import pytest

import circuits
from circuits import InputError, PairsError
from circuits.export.mib_names import TASKS
from tests.mib.rows import IOI, MCQA, SUM, model, tokenizer


def read(rows, task="ioi", tmp_path=None, bos="<s>", **options):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return circuits.mib_pairs(model(bos=bos), task, data=path, **options)


def test_ioi(tmp_path):
    pairs = read([IOI], tmp_path=tmp_path)
    tokens = tokenizer()
    assert tokens.decode(pairs.clean[0]).split() == ["<s>", *IOI["prompt"].split()]
    assert tokens.decode(pairs.corrupted[0]).split() == ["<s>", *IOI["s2_io_flip_counterfactual"]["prompt"].split()]
    assert [tokens.decode(list(answers[0])) for answers in (pairs.answers, pairs.distractors)] == ["Mary", "John"]
    assert (pairs.source, pairs.metric) == ("mib/ioi/train", "logit_difference")


def test_another_counterfactual(tmp_path):
    pairs = read([IOI], tmp_path=tmp_path, counterfactual="abc_counterfactual")
    assert tokenizer().decode(pairs.corrupted[0]).split()[1:] == IOI["abc_counterfactual"]["prompt"].split()
    with pytest.raises(
        PairsError, match=r"no x\.prompt .*its counterfactuals are s2_io_flip_counterfactual, abc_counterfactual"
    ):
        read([IOI], tmp_path=tmp_path, counterfactual="x")


def test_names_of_unequal_length_are_left_out(tmp_path):
    long = {**IOI, "metadata": {**IOI["metadata"], "random_c": "Anna Mary"}}
    assert len(read([long, IOI, long], tmp_path=tmp_path)) == 1
    with pytest.raises(PairsError, match="of 1 rows, 1 were left out"):
        read([long], tmp_path=tmp_path)


def test_choices(tmp_path):
    for task in ("mcqa", "arc_easy", "arc_challenge"):
        pairs = read([MCQA], task, tmp_path)
        assert [tokenizer().decode(list(a[0])) for a in (pairs.answers, pairs.distractors)] == ["B", "D"]
    letters = read([MCQA], "mcqa", tmp_path, counterfactual="randomLetter_counterfactual")
    assert tokenizer().decode(list(letters.distractors[0])) == "C"
    with pytest.raises(PairsError, match="answerKey is 7; expected an index"):
        read([{**MCQA, "answerKey": 7}], "mcqa", tmp_path)


def test_sums(tmp_path):
    minus = {**SUM, "prompt": "5 - 2 =", "operator": "-", "random_counterfactual": {"prompt": "5 - 4 =", "label": 1}}
    two = {**SUM, "label": "1 2"}
    none = {**SUM, "random_counterfactual": None}
    bare = {**SUM, "random_counterfactual": {"prompt": None, "label": 5}}
    rows = [minus, two, none, bare, SUM]
    added, subtracted = read(rows, "arithmetic_addition", tmp_path), read(rows, "arithmetic_subtraction", tmp_path)
    assert tokenizer().decode(added.clean[0]).split() == ["<s>", "1", "+", "2", "="]
    assert tokenizer().decode(subtracted.clean[0]).split() == ["<s>", "5", "-", "2", "="]
    assert [tokenizer().decode(list(a[0])) for a in (added.answers, added.distractors)] == ["3", "5"]
    assert (len(added), len(subtracted)) == (1, 1)


def test_the_first_rows_that_fit(tmp_path):
    others = [{**IOI, "prompt": IOI["prompt"].replace("went", word)} for word in ("gave", "to", "A")]
    long = {**IOI, "metadata": {**IOI["metadata"], "subject": "John Mary"}}
    pairs = read([long, *others], tmp_path=tmp_path, n=2)
    assert [tokenizer().decode(ids).split()[5] for ids in pairs.clean] == ["gave", "to"]


def test_prompts_of_unequal_length_are_left_out_and_counted(tmp_path):
    longer = {**IOI, "s2_io_flip_counterfactual": {"prompt": IOI["prompt"] + " A"}}
    pairs = read([longer, IOI], tmp_path=tmp_path)
    assert (len(pairs), pairs.unfit.left_out) == (1, 1)


def test_without_a_beginning_of_text_the_end_of_text_is_put_first(tmp_path):
    """As TransformerLens 2 does for Qwen2.5."""
    assert read([IOI], tmp_path=tmp_path, bos=None).clean[0][0] == tokenizer(None).eos_token_id


def test_files_of_every_kind_and_folders_of_splits(tmp_path):
    import pyarrow
    from pyarrow import parquet

    expected = read([IOI, IOI], tmp_path=tmp_path)
    (tmp_path / "data").mkdir()
    for number in range(2):
        table = pyarrow.Table.from_pylist([IOI])
        parquet.write_table(table, tmp_path / f"data/validation-0000{number}-of-00002.parquet")
    (tmp_path / "rows.json").write_text(json.dumps([IOI, IOI]))
    nested = {
        name: json.dumps(cell) if isinstance(cell, dict) else cell for name, cell in IOI.items() if name != "metadata"
    }
    flat = nested | {f"metadata.{name}": cell for name, cell in IOI["metadata"].items()}
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, flat)
        writer.writeheader()
        writer.writerows([flat, flat])
    for data in ("rows.json", "rows.csv", "."):
        result = circuits.mib_pairs(model(), "ioi", split="validation", data=tmp_path / data)
        assert (result.clean, result.corrupted, result.answers) == (
            expected.clean,
            expected.corrupted,
            expected.answers,
        )
    with pytest.raises(InputError, match="has no file of the split test"):
        circuits.mib_pairs(model(), "ioi", split="test", data=tmp_path)


def test_the_hub_is_asked_for_mibs_data_sets(monkeypatch):
    asked = []

    def load_dataset(*names, split):
        asked.append((*names, split))
        if len(asked) > len(TASKS):
            raise ConnectionError("no network")
        row = {"names": IOI, "choices": MCQA, "sums": SUM}[TASKS[list(TASKS)[len(asked) - 1]].form]
        minus = {"operator": "-"} if names[0].endswith("subtraction") else {}
        return datasets.Dataset.from_list([{**row, **minus}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [len(circuits.mib_pairs(model(), task, split="test")) for task in TASKS] == [1] * len(TASKS)
    assert asked[:2] == [("mib-bench/ioi", "test"), ("mib-bench/copycolors_mcqa", "4_answer_choices", "test")]
    with pytest.raises(InputError, match=r"mib-bench/ioi cannot be loaded from the hub \(no network\); give its files"):
        circuits.mib_pairs(model(), "ioi")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(PairsError, match=r"ioi, row 0: there is no metadata\.subject"):
        read([{**IOI, "metadata": {"indirect_object": "Mary"}}], tmp_path=tmp_path)
    with pytest.raises(InputError, match="no split 'tests'; did you mean 'test'"):
        circuits.mib_pairs(model(), "ioi", split="tests", data=tmp_path)
    with pytest.raises(InputError, match="no task 'iois'; did you mean 'ioi'"):
        circuits.mib_pairs(model(), "iois", data=tmp_path)
