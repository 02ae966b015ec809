"""`circuits compare`: runs side by side, and what is refused."""

import json

import pytest

from circuits.runs import compare
from tests.command import discovered, run


def test_runs_are_compared_and_written(monkeypatch, tmp_path, capsys):
    runs = [
        discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 10, "--random-circuits", 0),
        discovered(monkeypatch, tmp_path, "atp", "attribution-patching"),
        discovered(monkeypatch, tmp_path, "acdc", "acdc", "--threshold", 0.1, "--random-circuits", 0),
        discovered(monkeypatch, tmp_path, "coar", "coar", "--samples", 64),
    ]
    capsys.readouterr()
    out, page = tmp_path / "comparison.json", tmp_path / "comparison.html"
    assert (
        run(
            monkeypatch,
            ["compare", *runs, "--samples", "32", "--alphas", "0.1,0.3", "--out", str(out), "--page", str(page)],
        )
        == 0
    )
    output, warned = capsys.readouterr()
    assert "rank correlation over 6 nodes" in output
    assert "α = 0.3" in output
    judged = "32 random sets of 6 components at each α, zero ablation, 4 prompts"
    assert judged in output
    caution = (
        "Effects are those of different ablations, which need not agree: interchange ablation by EAP, EAP circuit, "
        "attribution patching, ACDC circuit; zero ablation by COAR; zero ablation of the fresh sets that they are judged by."
    )
    assert caution in warned
    assert all(f"written to {path}" in warned.replace("\n", "") for path in (out, page))
    written = json.loads(out.read_text())
    assert written["caution"] == caution
    assert written["judge"] == {"ablation": "zero", "samples": {"0.1": 32, "0.3": 32}}
    assert written["methods"] == ["EAP", "EAP circuit", "attribution patching", "ACDC circuit", "COAR"]
    assert written["rank_correlation"][0][2] == pytest.approx(1.0)
    assert len(written["counterfactual"]["COAR"]) == 2
    assert [row["circuit"] for row in written["circuits"]] == ["EAP circuit", "ACDC circuit"]
    assert set(written["faithfulness"]) == {"EAP circuit", "ACDC circuit"}
    assert written["interactions"]["COAR"]
    text = page.read_text()
    assert text.count("Plotly.newPlot") == 5
    assert "Do the scores predict ablations?" in text
    assert text.count(judged) == 2
    assert text.count(caution) == 1
    assert "Scores alone have no faithfulness: EAP, attribution patching, COAR." in text
    assert (
        run(monkeypatch, ["compare", *runs[:2], "--samples", "8", "--alphas", "0.3", "--ablation", "interchange"]) == 0
    )
    assert "different ablations" not in capsys.readouterr().err


def test_what_cannot_be_compared_is_refused_in_one_line(monkeypatch, tmp_path, capsys):
    one = discovered(monkeypatch, tmp_path, "one", "attribution-patching")
    other = discovered(monkeypatch, tmp_path, "other", "attribution-patching", "--n", 2)
    for given, message in (
        ([one], "at least two"),
        ([one, str(tmp_path)], "is not a run directory"),
        ([one, other], "different prompts"),
        ([one, one], "two runs are called attribution patching (one)"),
        ([one, other, "--alphas", "a"], "alphas must be numbers"),
    ):
        assert run(monkeypatch, ["compare", *given, "--samples", "0"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error


def test_what_cannot_be_compared_is_refused_before_anything_is_computed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compare, "counterfactuals", None)
    methods = ("attribution-patching", "atp-star")
    runs = [discovered(monkeypatch, tmp_path, name, name, "--positions", "each") for name in methods]
    assert run(monkeypatch, ["compare", *runs]) == 2
    assert "scores split by position cannot be compared" in capsys.readouterr().err
