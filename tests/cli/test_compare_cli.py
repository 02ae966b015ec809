"""`circuits compare`: runs side by side, and what is refused."""

import json
from types import SimpleNamespace

import pytest

from circuits.runs import compare
from tests.command import discovered, discovered_in, performed, run

JUDGED = "32 random sets of 6 components at each α, zero ablation, 4 prompts"
CAUTION = (
    "Effects are those of different ablations, which need not agree: interchange ablation by EAP, EAP circuit, "
    "attribution patching, ACDC circuit; zero ablation by COAR; zero ablation of the fresh sets that they are judged by."
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Four runs compared once: what was printed, and the written files."""
    folder = tmp_path_factory.mktemp("compared")
    runs = [
        discovered_in(folder, "eap", "eap", "--edges", 10, "--random-circuits", 0),
        discovered_in(folder, "atp", "attribution-patching"),
        discovered_in(folder, "acdc", "acdc", "--threshold", 0.1, "--random-circuits", 0),
        discovered_in(folder, "coar", "coar", "--samples", 64),
    ]
    json_file, page = folder / "comparison.json", folder / "comparison.html"
    more = ("--samples", "32", "--alphas", "0.1,0.3", "--out", json_file, "--page", page)
    output, warned = performed("compare", *runs, *more)
    return SimpleNamespace(
        runs=runs, output=output, warned=warned, files=(json_file, page), written=json.loads(json_file.read_text()),
        page=page.read_text(),
    )  # fmt: skip


def test_the_command_prints_correlations_and_how_they_are_judged(compared):
    assert "rank correlation over 6 nodes" in compared.output
    assert "α = 0.3" in compared.output
    assert JUDGED in compared.output


def test_different_ablations_are_warned_about(compared):
    assert CAUTION in compared.warned
    assert compared.written["caution"] == CAUTION
    assert compared.page.count(CAUTION) == 1


def test_one_ablation_is_not_warned_about(compared):
    _, warned = performed(
        "compare", *compared.runs[:2], "--samples", "8", "--alphas", "0.3", "--ablation", "interchange"
    )
    assert "different ablations" not in warned


def test_the_command_names_the_files_that_it_wrote(compared):
    assert all(f"written to {path}" in compared.warned.replace("\n", "") for path in compared.files)


def test_the_json_has_all_results_and_the_judge(compared):
    written = compared.written
    assert written["judge"] == {"ablation": "zero", "samples": {"0.1": 32, "0.3": 32}}
    assert written["methods"] == ["EAP", "EAP circuit", "attribution patching", "ACDC circuit", "COAR"]
    assert written["rank_correlation"][0][2] == pytest.approx(1.0)
    assert len(written["counterfactual"]["COAR"]) == 2
    assert written["interactions"]["COAR"]


def test_the_json_has_faithfulness_of_circuits_alone(compared):
    assert [row["circuit"] for row in compared.written["circuits"]] == ["EAP circuit", "ACDC circuit"]
    assert set(compared.written["faithfulness"]) == {"EAP circuit", "ACDC circuit"}


def test_the_page_has_five_pictures_and_says_what_has_no_faithfulness(compared):
    assert compared.page.count("Plotly.newPlot") == 5
    assert "Do the scores predict ablations?" in compared.page
    assert compared.page.count(JUDGED) == 2
    assert "Scores alone have no faithfulness: EAP, attribution patching, COAR." in compared.page


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
