"""`circuits report`: what a page on runs holds."""

import re

import pytest

from tests.command import command, discovered, discovered_in, run


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Two runs, the first evaluated, and their report."""
    folder = tmp_path_factory.mktemp("reported")
    runs = [
        discovered_in(folder, "eap", "eap", "--edges", 12, "--random-circuits", 0),
        discovered_in(folder, "atp", "attribution-patching"),
    ]
    command("evaluate", runs[0], "--parts", "faithfulness,minimality", "--ablations", "zero")
    command("report", *runs, "--out", folder / "report.html")
    return runs, (folder / "report.html").read_text()


def headings_of(text):
    return re.findall(r"<h2>(.*?)</h2>", text)


def test_a_report_has_a_section_for_each_part_and_run(reported):
    headings = headings_of(reported[1])
    assert headings[:3] == ["Verdict: EAP", "What was found", "Task"]
    for part in ("Model and question", "EAP: options", "attribution patching: picture", "To compute it again"):
        assert part in headings
    assert any(heading.startswith("EAP: faithfulness of") for heading in headings)
    assert any(heading.startswith("Comparison: rank correlation") for heading in headings)


def test_a_report_says_what_was_found_and_how_to_compute_it_again(reported):
    text = reported[1]
    assert re.search(r"<p>\d+ of \d+ edges, chosen by EAP, recover", text)
    assert "logit_difference" not in text.split("<pre>")[0].replace('metric = "logit_difference"', "")
    assert "circuits discover --config eap.toml --out eap" in text


def test_a_report_has_pictures_of_the_circuit_the_nodes_and_minimality(reported):
    assert reported[1].count("Plotly.newPlot") == 2
    assert reported[1].count('aria-label="circuit: ') == 1


def test_a_report_of_one_run_compares_nothing(reported, tmp_path):
    command("report", reported[0][0], "--out", tmp_path / "report.html")
    assert "Comparison" not in (tmp_path / "report.html").read_text()


def test_what_cannot_be_reported_is_refused_in_one_line(monkeypatch, tmp_path, capsys):
    one = discovered(monkeypatch, tmp_path, "one", "attribution-patching")
    other = discovered(monkeypatch, tmp_path, "other", "attribution-patching", "--n", 2)
    for given, message in (([str(tmp_path)], "is not a run directory"), ([one, other], "different prompts")):
        assert run(monkeypatch, ["report", *given, "--out", str(tmp_path / "r.html")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()
