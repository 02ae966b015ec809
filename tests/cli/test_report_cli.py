"""`circuits report`: what a page on runs holds."""

import re

from tests.command import discovered, run


def test_a_page_tells_the_task_the_methods_and_how_to_compute_it_again(monkeypatch, tmp_path, capsys):
    runs = [
        discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 12, "--random-circuits", 0),
        discovered(monkeypatch, tmp_path, "atp", "attribution-patching"),
    ]
    assert run(monkeypatch, ["evaluate", runs[0], "--parts", "faithfulness,minimality", "--ablations", "zero"]) == 0
    page = tmp_path / "report.html"
    assert run(monkeypatch, ["report", *runs, "--out", str(page)]) == 0
    text = page.read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings[:3] == ["Verdict: EAP", "What was found", "Task"]
    for part in ("Model and question", "EAP: options", "attribution patching: picture", "To compute it again"):
        assert part in headings
    assert re.search(r"<p>\d+ of \d+ edges, chosen by EAP, recover", text)
    assert "logit_difference" not in text.split("<pre>")[0].replace('metric = "logit_difference"', "")
    assert any(heading.startswith("EAP: faithfulness of") for heading in headings)
    assert any(heading.startswith("Comparison: rank correlation") for heading in headings)
    assert "circuits discover --config eap.toml --out eap" in text
    assert text.count("Plotly.newPlot") == 2  # minimality of the circuit, a heat map
    assert text.count('aria-label="circuit: ') == 1
    assert run(monkeypatch, ["report", runs[0], "--out", str(page)]) == 0
    assert "Comparison" not in page.read_text()


def test_what_cannot_be_reported_is_refused_in_one_line(monkeypatch, tmp_path, capsys):
    one = discovered(monkeypatch, tmp_path, "one", "attribution-patching")
    other = discovered(monkeypatch, tmp_path, "other", "attribution-patching", "--n", 2)
    for given, message in (([str(tmp_path)], "is not a run directory"), ([one, other], "different prompts")):
        assert run(monkeypatch, ["report", *given, "--out", str(tmp_path / "r.html")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()
