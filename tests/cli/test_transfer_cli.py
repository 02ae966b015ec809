"""`circuits transfer`: a run's circuit in another model."""

import json

import torch
import transformers

from tests.command import GOLDEN_MODEL, discovered, run


def test_a_circuit_is_tested_in_a_changed_model(monkeypatch, tmp_path, capsys):
    own = discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 10, "--random-circuits", 0)
    changed = transformers.AutoModelForCausalLM.from_pretrained(GOLDEN_MODEL)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    changed.save_pretrained(tmp_path / "changed")
    capsys.readouterr()
    # Four prompts: too few to show that an edge changed.
    assert run(monkeypatch, ["transfer", own, "--model", str(tmp_path / "changed"), "--dtype", "float64"]) == 0
    assert "4 prompts are too few" in capsys.readouterr().out
    many = tmp_path / "many"
    many.mkdir()
    lines = (tmp_path / "PAIRS.jsonl").read_text()
    (many / "PAIRS.jsonl").write_text(lines * 3)
    given = ["discover", str(many / "PAIRS.jsonl"), "--model", str(GOLDEN_MODEL), "--method", "eap", "--edges", "10",
             "--metric", "logit_difference", "--dtype", "float64", "--random-circuits", "0", "--out", str(many / "run")]  # fmt: skip
    assert run(monkeypatch, given) == 0
    capsys.readouterr()
    asked = ["transfer", str(many / "run"), "--model", str(tmp_path / "changed"), "--dtype", "float64"]
    assert run(monkeypatch, [*asked, "--random-circuits", "2", "--out", str(tmp_path / "out.json")]) == 0
    output = capsys.readouterr().out
    assert "faithfulness of the circuit" in output
    assert "heads by function" in output
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["faithfulness"]["ratio_of_means"] != written["before"]["ratio_of_means"]
    assert written["changed"] is not None


def test_what_is_refused(monkeypatch, tmp_path, capsys):
    nodes = discovered(monkeypatch, tmp_path, "atp", "attribution-patching")
    capsys.readouterr()
    for given, words in (
        ([str(tmp_path), "--model", str(GOLDEN_MODEL)], "is not a run directory"),
        ([nodes, "--model", "./nowhere"], "nowhere"),
        ([nodes, "--model", str(GOLDEN_MODEL), "--dtype", "float64"], "holds scores of nodes and no circuit"),
    ):
        assert run(monkeypatch, ["transfer", *given]) == 2
        assert words in capsys.readouterr().err
