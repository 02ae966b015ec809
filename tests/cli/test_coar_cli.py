"""COAR from the command line: what is written and said, a killed run continued."""

import json

import pytest

from circuits.results.node_scores import NodeScores
from tests.command import GOLDEN, run, write_pairs

CASE = "acdc_2l2h_kl"


def arguments(folder, *more):
    case = json.loads((GOLDEN / CASE / "case.json").read_text())
    pairs = write_pairs(case, folder / "PAIRS.jsonl")
    given = [
        "discover", pairs, "--model", GOLDEN / CASE / "model", "--method", "coar", "--metric", "logit_difference",
        "--dtype", "float64", "--samples", 100, "--out", folder / "RUN", *more,
    ]  # fmt: skip
    return [str(argument) for argument in given]


def test_a_run_says_what_the_fit_is_worth(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, arguments(tmp_path)) == 0
    written = json.loads((tmp_path / "RUN" / "run.json").read_text())
    assert written["provenance"]["ablation"] == "zero"
    assert written["summary"]["fit"]["samples"] == 100
    assert written["summary"]["fit"]["held_out"] > 0.3
    scores = NodeScores.load(tmp_path / "RUN" / "scores.safetensors")
    assert scores.nodes == ("a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1")
    output = capsys.readouterr().out
    assert "correlation on samples left out" in output
    assert "samples" in output
    assert "alpha" in output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--alpha", "1.5"), "alpha must be between"),
        (("--fit", "ols"), "fit must be one of"),
        (("--edges", "20"), "no option 'edges'"),
        (("--nodes", "haeds"), "did you mean heads"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(more, message, monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, arguments(tmp_path, *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
