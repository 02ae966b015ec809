"""`circuits evaluate`: what is written, what is refused."""

import json

import pytest

from tests.command import CASE, GOLDEN, discovered, run, write_pairs


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
        (["evaluate", str(tmp_path)], "is not a run directory"),
        (["evaluate", made, "--parts", "beauty"], "parts must be of"),
        (["evaluate", made, "--pairs", "nothing.jsonl"], "no file"),
    ):
        assert run(monkeypatch, given) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error


def test_identical_prompts_have_no_faithfulness_and_the_reason_is_shown_everywhere(monkeypatch, tmp_path, capsys, made):
    assert run(monkeypatch, ["evaluate", made, "--pairs", str(identical(tmp_path)), "--random-circuits", "2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    told = json.loads((tmp_path / "eap" / "evaluation.json").read_text())
    page = (tmp_path / "eap" / "evaluation.html").read_text()
    under = told["faithfulness"]["interchange"]
    assert (under["ratio_of_means"], under["mean_of_ratios"], under["random_faithfulness"]) == (None, None, None)
    assert "rounding" in under["undefined"]
    assert told["faithfulness"]["zero"]["undefined"] is None
    assert told["completeness"]["value"] is None
    for name in ("faithfulness under interchange", "completeness", "curves"):
        assert f"not measured: {name}: the metric is" in said
        assert "rounding" in told["skipped"][name]
    assert "there is nothing to test" in said
    assert "there is nothing to test" in page
    assert all(test["supports"] is None for test in told["hypothesis"]["tests"])


def test_a_discovered_circuit_of_identical_prompts_says_why_it_has_no_faithfulness(monkeypatch, tmp_path, capsys):
    given = [
        "discover", identical(tmp_path), "--model", GOLDEN / CASE / "model", "--method", "eap", "--edges", 12, "--metric",
        "logit_difference", "--ablation", "zero", "--out", tmp_path / "zero",
    ]  # fmt: skip
    assert run(monkeypatch, list(map(str, given))) == 0
    assert json.loads((tmp_path / "zero" / "run.json").read_text())["summary"]["faithfulness_undefined"] is None
    capsys.readouterr()
    given[given.index("zero")], given[-1] = "interchange", tmp_path / "same"
    assert run(monkeypatch, list(map(str, given))) == 0
    said = " ".join(capsys.readouterr().out.split())
    summary = json.loads((tmp_path / "same" / "run.json").read_text())["summary"]
    assert summary["faithfulness"] is None
    assert "rounding" in summary["faithfulness_undefined"]
    assert "note: faithfulness: the metric is" in said
    assert "ask for more edges" not in said
    assert "faithfulness is undefined" in (tmp_path / "same" / "circuit.html").read_text()


def identical(folder):
    """The golden case's pairs, each with its clean prompt twice."""
    case = json.loads((GOLDEN / CASE / "case.json").read_text())
    return write_pairs(case | {"ablated": case["clean"]}, folder / "SAME.jsonl")
