"""Prompts of other forms on the command line: runs on them, what is recorded, and `circuits pairs`."""

import csv
import json

import pytest

from tests.command import GOLDEN, run

CASE = "acdc_2l2h_kl"


@pytest.fixture
def table(tmp_path):
    """EAP-IG's columns with ids throughout, as the model has no tokenizer; the third of four rows does not fit."""
    case = json.loads((GOLDEN / CASE / "case.json").read_text())
    rows = [*zip(case["clean"], case["ablated"], case["answer"], case["distractor"], strict=True)][:4]
    records = [{"prompt": c, "other": x, "right": a, "wrong": d, "number": i} for i, (c, x, a, d) in enumerate(rows)]
    records[2]["other"] = records[2]["other"][:-1]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(records))
    return path


COLUMNS = ("--columns", "clean=prompt,corrupted=other,answers=right,distractors=wrong")


def asked(table, *more):
    model = ["--model", str(GOLDEN / CASE / "model"), "--dtype", "float64", "--method", "eap", "--edges", "9", "--random-circuits", "0"]  # fmt: skip
    return ["discover", str(table), *model, *COLUMNS, *more, "--out", str(table.parent / "run")]


@pytest.fixture
def skipped(monkeypatch, table, capsys):
    """A run that left out the pair that does not fit: its directory, and the note about it."""
    assert run(monkeypatch, asked(table, "--skip-unfit")) == 0
    return table.parent / "run", capsys.readouterr().err


def test_unfit_pairs_are_refused_by_their_place_in_the_file(monkeypatch, table, capsys):
    assert run(monkeypatch, asked(table)) == 2
    error = capsys.readouterr().err
    assert f"{table}, entry 2: clean has" in error
    assert "--skip-unfit" in error


def test_skipped_pairs_are_counted_and_recorded(skipped):
    place, note = skipped
    assert "3 of 4 pairs used; 1 of unequal length" in note
    record = json.loads((place / "run.json").read_text())
    assert (record["pairs"]["used"], record["pairs"]["left_out"]) == (3, {"of unequal length": 1})
    lines = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    assert [line["metadata"]["number"] for line in lines] == [0, 1, 3]


def test_a_run_with_skipped_pairs_is_repeated_evaluated_and_reported(monkeypatch, table, skipped):
    place, again = skipped[0], table.parent / "again"
    assert run(monkeypatch, ["discover", "--config", str(place / "config.toml"), "--out", str(again)]) == 0
    one, other = (json.loads((path / "run.json").read_text())["summary"] for path in (place, again))
    assert one == other
    measured = ["evaluate", str(place), "--pairs", str(table), *COLUMNS, "--skip-unfit", "--parts", "faithfulness", "--random-circuits", "1"]  # fmt: skip
    assert run(monkeypatch, measured) == 0
    assert run(monkeypatch, ["report", str(place), "--out", str(table.parent / "report.html")]) == 0


def test_n_pairs_are_used_whatever_follows(monkeypatch, table):
    assert run(monkeypatch, asked(table, "--n", "2")) == 0
    assert "pairs" not in json.loads((table.parent / "run" / "run.json").read_text())


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["discover", "ioi", "--skip-unfit"], "are for files of prompts, not for a task"),
        (["discover", "FILE", "--columns", "answer=x"], "the field 'answer', which pairs do not have"),
        (["discover", "none.csv"], "there is no file none.csv"),
        (["pairs", "show", "FILE"], "'clean' is missing; found only the keys prompt, other"),
        (["pairs", "convert", "FILE", "out.csv"], "must end in .jsonl"),
        (["pairs", "convert", "FILE", "FILEl"], "already exists"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(monkeypatch, table, capsys, typed, message):
    (table.parent / "mine.jsonl").touch()
    typed = [part.replace("FILE", str(table)) for part in typed]
    if typed[0] == "discover":
        typed += ["--model", str(GOLDEN / CASE / "model")]
    assert run(monkeypatch, typed) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_pairs_are_shown_and_converted(monkeypatch, table, capsys, tmp_path):
    assert run(monkeypatch, ["pairs", "show", str(table), *COLUMNS, "--n", "2"]) == 0
    shown = capsys.readouterr().out
    assert "2 pairs, columns as given" in shown
    assert "number: 1" in shown
    assert run(monkeypatch, ["pairs", "show", str(table), *COLUMNS, "--n", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][1]["metadata"] == {"number": 1}
    out = tmp_path / "out.jsonl"
    model = ["--model", str(GOLDEN / CASE / "model")]
    assert run(monkeypatch, ["pairs", "convert", str(table), str(out), *COLUMNS, *model, "--skip-unfit"]) == 0
    assert len(out.read_text().splitlines()) == 3
    with (tmp_path / "text.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("clean", "corrupted", "answers"), ("a, b", "a, c", " d")])
    assert run(monkeypatch, ["pairs", "convert", str(tmp_path / "text.csv"), str(out), "--overwrite"]) == 0
    assert json.loads(out.read_text())["clean"] == "a, b"


def test_show_lists_what_does_not_fit_and_the_pairs_that_do(monkeypatch, table, capsys):
    model = ["--model", str(GOLDEN / CASE / "model")]
    assert run(monkeypatch, ["pairs", "show", str(table), *COLUMNS, *model, "--rows", "2"]) == 0
    shown = capsys.readouterr()
    assert "left out: 1 of unequal length, the first at entry 2" in shown.err
    assert "other commands refuse this file without --skip-unfit" in shown.err
    assert "the first 2 pairs" in shown.out
    assert "pair 0, corrupted:" in shown.out


def test_show_with_skip_unfit_does_not_advise_it(monkeypatch, table, capsys):
    model = ["--model", str(GOLDEN / CASE / "model")]
    assert run(monkeypatch, ["pairs", "show", str(table), *COLUMNS, *model, "--skip-unfit"]) == 0
    assert "without --skip-unfit" not in capsys.readouterr().err
