"""`circuits evaluate`: what is written, what is refused."""

import json

import pytest

from tests.test_acdc_cli import run
from tests.test_compare_cli import discovered


@pytest.fixture
def made(monkeypatch, tmp_path, capsys):
    found = discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 12, "--random-circuits", 0)
    capsys.readouterr()
    return found


def test_a_circuit_is_evaluated_into_its_run_directory(monkeypatch, tmp_path, capsys, made):
    assert run(monkeypatch, ["evaluate", made, "--random-circuits", "3", "--seed", "0"]) == 0
    said = capsys.readouterr().out
    for part in ("faithfulness of", "ratio of", "CPR (95%)", "equivalence", "complexity"):
        assert part in said
    told = json.loads((tmp_path / "eap" / "evaluation.json").read_text())
    least = [of["p"] == 1 / (1 + 3) for of in (*told["faithfulness"].values(), told["same_layers"])]
    assert said.count("(least)") == sum(least)
    assert any(least)
    assert list(told["faithfulness"]) == ["interchange", "zero", "mean", "mean_positional", "resample"]
    first = told["faithfulness"]["interchange"]
    summary = json.loads((tmp_path / "eap" / "run.json").read_text())["summary"]
    assert first["ratio_of_means"] == pytest.approx(summary["faithfulness"])
    assert "interchange ablation" in first["name"]
    assert len(told["minimality"]["effects"]) == told["n_edges"]
    assert {test["name"] for test in told["hypothesis"]["tests"]} >= {"equivalence", "minimality"}
    page = (tmp_path / "eap" / "evaluation.html").read_text()
    assert page.count("Plotly.newPlot") == 4
    # It stays a run: it can be evaluated and replaced again.
    assert run(monkeypatch, ["evaluate", made, "--parts", "completeness"]) == 0
    assert "faithfulness" not in json.loads((tmp_path / "eap" / "evaluation.json").read_text())["faithfulness"]
    assert discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 12, "--random-circuits", 0, "--overwrite")


def test_fresh_pairs_and_nodes(monkeypatch, tmp_path, capsys, made):
    given = ["evaluate", made, "--parts", "faithfulness,scores", "--ablations", "zero", "--random-circuits", "0"]
    assert run(monkeypatch, [*given, "--pairs", str(tmp_path / "PAIRS.jsonl"), "--n", "2"]) == 0
    told = json.loads((tmp_path / "eap" / "evaluation.json").read_text())
    assert (told["n_pairs"], told["fresh"], list(told["faithfulness"])) == (2, True, ["zero"])
    nodes = discovered(monkeypatch, tmp_path, "atp", "attribution-patching")
    assert run(monkeypatch, ["evaluate", nodes]) == 0
    told = json.loads((tmp_path / "atp" / "evaluation.json").read_text())
    assert told["n_edges"] is None
    assert told["complexity"] > 0


def test_what_cannot_be_evaluated_is_refused_in_one_line(monkeypatch, tmp_path, capsys, made):
    for given, said in (
        (["evaluate", str(tmp_path)], "no run directory"),
        (["evaluate", made, "--parts", "beauty"], "parts must be of"),
        (["evaluate", made, "--pairs", "nothing.jsonl"], "no file"),
    ):
        assert run(monkeypatch, given) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
