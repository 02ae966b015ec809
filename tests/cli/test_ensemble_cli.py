"""Ensembles on the command line: of gradients and of runs, and not of runs in a study."""

import json
from pathlib import Path

import pytest
import torch

from circuits import EdgeScores, InputError, ensemble
from circuits.results.recorded import method_name
from circuits.study import read_study
from tests.command import discovered, exit_code


def scored(monkeypatch, folder, name, method, *more):
    out = Path(discovered(monkeypatch, folder, name, method, "--edges", 10, "--random-circuits", 0, *more))
    return EdgeScores.load(out / "scores.safetensors"), json.loads((out / "run.json").read_text())["provenance"]


def test_runs_and_gradients_are_combined(monkeypatch, tmp_path, capsys):
    ig, _ = scored(monkeypatch, tmp_path, "ig", "eap-ig")
    gim, origin = scored(monkeypatch, tmp_path, "gim", "gim", "--no-freeze-norm", "--q-scale", 0.5)
    assert (origin["options"]["q_scale"], origin["options"]["freeze_norm"]) == (0.5, False)
    runs = f"{tmp_path / 'ig'},{tmp_path / 'gim'}"
    both, origin = scored(monkeypatch, tmp_path, "both", "ensemble", "--runs", runs, "--how", "rank-mean")
    assert torch.equal(both.values, ensemble([ig, gim], "rank-mean").values)
    assert method_name(origin) == "rank-mean of EAP-IG and GIM"
    capsys.readouterr()
    assert exit_code("discover", tmp_path / "PAIRS.jsonl", "--method", "ensemble") == 2
    assert "needs the option gradients or runs" in capsys.readouterr().err


def test_a_study_takes_gradients_and_no_runs(tmp_path):
    file = tmp_path / "study.toml"
    text = 'models = ["compiled/induction"]\ntasks = ["compiled/induction"]\n[methods.ensemble]\n'
    file.write_text(text + 'gradients = ["ig", "gim"]\n')
    assert len(read_study(file).requests) == 1
    file.write_text(text + 'runs = ["a", "b"]\n')
    with pytest.raises(InputError, match="is not for studies"):
        read_study(file)
