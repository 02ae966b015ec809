"""`circuits evaluate`: what is written, what is refused."""

import json

import pytest

from tests.command import CASE, GOLDEN, discovered, discovered_in, performed, run, write_pairs


@pytest.fixture
def made(monkeypatch, tmp_path, capsys):
    result = discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 12, "--random-circuits", 0)
    capsys.readouterr()
    return result


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run evaluated once: its directory, what was printed, and the evaluation."""
    folder = tmp_path_factory.mktemp("evaluated")
    made = discovered_in(folder, "eap", "eap", "--edges", 12, "--random-circuits", 0)
    output, _ = performed("evaluate", made, "--random-circuits", "3", "--seed", "0")
    return folder / "eap", output, json.loads((folder / "eap" / "evaluation.json").read_text())


def test_an_evaluation_prints_every_part_and_marks_the_least_p_values(evaluated):
    _, output, record = evaluated
    for part in ("faithfulness of", "ratio of", "CPR (95%)", "equivalence", "complexity"):
        assert part in output
    least = [test["p"] == 1 / (1 + 3) for test in (*record["faithfulness"].values(), record["same_layers"])]
    assert output.count("(least)") == sum(least)
    assert any(least)


def test_an_evaluation_has_faithfulness_under_each_ablation(evaluated):
    place, _, record = evaluated
    assert list(record["faithfulness"]) == ["interchange", "zero", "mean", "mean_positional", "resample"]
    first = record["faithfulness"]["interchange"]
    summary = json.loads((place / "run.json").read_text())["summary"]
    assert first["ratio_of_means"] == pytest.approx(summary["faithfulness"])
    assert "interchange ablation" in first["name"]


def test_an_evaluation_has_minimality_hypotheses_and_a_page(evaluated):
    place, _, record = evaluated
    assert len(record["minimality"]["effects"]) == record["n_edges"]
    assert {test["name"] for test in record["hypothesis"]["tests"]} >= {"equivalence", "minimality"}
    assert (place / "evaluation.html").read_text().count("Plotly.newPlot") == 4


def test_an_evaluated_run_can_be_evaluated_and_replaced_again(monkeypatch, tmp_path, made):
    for _ in range(2):
        assert run(monkeypatch, ["evaluate", made, "--parts", "completeness"]) == 0
    assert json.loads((tmp_path / "eap" / "evaluation.json").read_text())["faithfulness"] == {}
    assert discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 12, "--random-circuits", 0, "--overwrite")


def test_fresh_pairs_and_nodes(monkeypatch, tmp_path, capsys, made):
    given = ["evaluate", made, "--parts", "faithfulness,scores", "--ablations", "zero", "--random-circuits", "0"]
    assert run(monkeypatch, [*given, "--pairs", str(tmp_path / "PAIRS.jsonl"), "--n", "2"]) == 0
    record = json.loads((tmp_path / "eap" / "evaluation.json").read_text())
    assert (record["n_pairs"], record["fresh"], list(record["faithfulness"])) == (2, True, ["zero"])
    nodes = discovered(monkeypatch, tmp_path, "atp", "attribution-patching")
    assert run(monkeypatch, ["evaluate", nodes]) == 0
    record = json.loads((tmp_path / "atp" / "evaluation.json").read_text())
    assert record["n_edges"] is None
    assert record["complexity"] > 0


def test_what_cannot_be_evaluated_is_refused_in_one_line(monkeypatch, tmp_path, capsys, made):
    for given, message in (
        (["evaluate", str(tmp_path)], "is not a run directory"),
        (["evaluate", made, "--parts", "beauty"], "parts must be of"),
        (["evaluate", made, "--pairs", "nothing.jsonl"], "no file"),
    ):
        assert run(monkeypatch, given) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error


@pytest.fixture(scope="module")
def on_identical(tmp_path_factory):
    """A run evaluated on prompts that are the same: what was printed, the evaluation and its page."""
    folder = tmp_path_factory.mktemp("identical")
    made = discovered_in(folder, "eap", "eap", "--edges", 12, "--random-circuits", 0)
    output, _ = performed("evaluate", made, "--pairs", identical(folder), "--random-circuits", "2")
    place = folder / "eap"
    record = json.loads((place / "evaluation.json").read_text())
    return " ".join(output.split()), record, (place / "evaluation.html").read_text()


def test_identical_prompts_have_no_faithfulness_under_interchange(on_identical):
    record = on_identical[1]
    under = record["faithfulness"]["interchange"]
    assert (under["ratio_of_means"], under["mean_of_ratios"], under["random_faithfulness"]) == (None, None, None)
    assert "rounding" in under["undefined"]
    assert record["faithfulness"]["zero"]["undefined"] is None
    assert record["completeness"]["value"] is None


def test_identical_prompts_are_the_reason_for_what_is_not_measured(on_identical):
    output, record, page = on_identical
    for name in ("faithfulness under interchange", "completeness", "curves"):
        assert f"not measured: {name}: the metric is" in output
        assert "rounding" in record["skipped"][name]
    assert "there is nothing to test" in output
    assert "there is nothing to test" in page
    assert all(test["supports"] is None for test in record["hypothesis"]["tests"])


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
    output = " ".join(capsys.readouterr().out.split())
    summary = json.loads((tmp_path / "same" / "run.json").read_text())["summary"]
    assert summary["faithfulness"] is None
    assert "rounding" in summary["faithfulness_undefined"]
    assert "note: faithfulness: the metric is" in output
    assert "ask for more edges" not in output
    assert "faithfulness is undefined" in (tmp_path / "same" / "circuit.html").read_text()


def identical(folder):
    """The golden case's pairs, each with its clean prompt twice."""
    case = json.loads((GOLDEN / CASE / "case.json").read_text())
    return write_pairs(case | {"ablated": case["clean"]}, folder / "SAME.jsonl")
