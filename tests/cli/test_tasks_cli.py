"""`circuits tasks show`, and spans in `circuits pairs show`."""

import json
from typing import Any

import pytest

from circuits.cli.terminal_spans import span_lines
from tests.command import run


def test_a_task_is_shown_with_its_spans_under_the_tokens(monkeypatch: Any, capsys: Any) -> None:
    assert run(monkeypatch, ["tasks", "show", "compiled/induction", "--n", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Induction, with decoys (compiled/induction)"
    assert "source: compiled by hand; metric: logit_difference; options: counterfactual=random" in lines
    assert sum(line.startswith("      clean: BOS ") for line in lines) == 2
    spans = next(line for line in lines if line.startswith("start"))
    tokens = lines[lines.index(spans) - 1]
    assert [name.strip() for name in spans.split("│")] == ["start", "before", "answer", "answer+", "end"]
    answer = next(line for line in lines if "answers: " in line).split(": ")[1]
    assert tokens.split("│")[2].strip() == answer
    assert [i for i, letter in enumerate(spans) if letter == "│"] == [
        i for i, letter in enumerate(tokens) if letter == "│"
    ]


def test_a_task_is_shown_as_json_with_its_options(monkeypatch: Any, capsys: Any) -> None:
    typed = ["tasks", "show", "compiled/induction(counterfactual=answer)", "--n", "1", "--json"]
    assert run(monkeypatch, typed) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["options"] == {"counterfactual": "answer"}
    (example,) = shown["examples"]
    assert list(example["spans"]) == shown["spans"] == ["start", "before", "answer", "answer+", "end"]
    assert example["spans"]["answer"] == example["answers"][0]
    assert example["span_starts"] == [0, 5, 6, 7, 11]
    joined = " ".join(example["spans"].values())
    assert joined == example["clean"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["tasks", "show", "ioj"], "there is no task 'ioj'; did you mean 'ioi'"),
        (["tasks", "show", "compiled/induction", "--model", "./none"], "no such directory: ./none"),
        (["tasks", "show", "compiled/induction(order=x)"], "no option 'order'; it takes counterfactual"),
    ],
)
def test_what_does_not_exist_is_refused(monkeypatch: Any, capsys: Any, typed: list[str], message: str) -> None:
    assert run(monkeypatch, typed) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_spans_are_drawn_in_blocks_that_fit_the_width() -> None:
    texts, names = ["aa", "bbbb", "c", "dd"], ["s", "t", "uuu", "v"]
    assert span_lines(texts, names, 12) == ["aa │ bbbb", "s  │ t", "", "c   │ dd", "uuu │ v"]
    assert span_lines(texts, names, 100) == ["aa │ bbbb │ c   │ dd", "s  │ t    │ uuu │ v"]
    assert span_lines(["a" * 9], ["b"], 4) == ["a" * 9, "b"]


def test_spans_of_a_file_are_drawn(monkeypatch: Any, capsys: Any, tmp_path: Any) -> None:
    pair = {"clean": [0, 5, 6, 7, 8], "corrupted": [0, 5, 9, 7, 8], "answers": [9], "roles": {"x": [1, 3]}}
    path = tmp_path / "pairs.jsonl"
    show = ["pairs", "show", str(path), "--model", "compiled/induction"]
    path.write_text(json.dumps(pair) + "\n")
    assert run(monkeypatch, show) == 0
    shown = capsys.readouterr().out
    assert "x: 1 to 2 5 6" in shown
    assert shown.splitlines()[-2:] == ["0     │ 5 6 │ 7  │ 8", "start │ x   │ x+ │ end"]
    path.write_text(json.dumps({**pair, "roles": {"x": [1, 3], "y": 2}}) + "\n")
    assert run(monkeypatch, show) == 0
    assert "no spans: pair 0: roles 'x' and 'y' overlap at token 2" in capsys.readouterr().out
    path.write_text(json.dumps({**pair, "spans": {"y": 2}}) + "\n")
    assert run(monkeypatch, show) == 0
    shown = capsys.readouterr().out
    assert "start: 0 to 1 0 5" in shown
    assert shown.splitlines()[-1] == "start │ y │ y+ │ end"
