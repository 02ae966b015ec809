"""Ensembles on the command line: of gradients and of runs, and not of runs in a study."""

import json

import pytest
import torch

from circuits import EdgeScores, InputError, ensemble
from circuits.results.recorded import method_name
from circuits.study import read_study
from tests.command import CASE, GOLDEN, GOLDEN_MODEL, exit_code, write_pairs


@pytest.fixture
def pairs_file(tmp_path):
    return write_pairs(json.loads((GOLDEN / CASE / "case.json").read_text()), tmp_path / "pairs.jsonl")


def discovered(pairs, out, *more):
    common = ("--model", GOLDEN_MODEL, "--dtype", "float64", "--out", out, "--edges", 10, "--random-circuits", 0)
    assert exit_code("discover", pairs, *common, *more) == 0
    return EdgeScores.load(out / "scores.safetensors"), json.loads((out / "run.json").read_text())


def test_runs_and_gradients_are_combined(pairs_file, tmp_path, capsys):
    ig, _ = discovered(pairs_file, tmp_path / "ig", "--method", "eap-ig")
    gim, record = discovered(pairs_file, tmp_path / "gim", "--method", "gim", "--no-freeze-norm", "--q-scale", 0.5)
    assert record["provenance"]["options"]["q_scale"] == 0.5
    assert record["provenance"]["options"]["freeze_norm"] is False
    runs = ("--runs", f"{tmp_path / 'ig'},{tmp_path / 'gim'}")
    both, record = discovered(pairs_file, tmp_path / "both", "--method", "ensemble", *runs, "--how", "rank-mean")
    assert torch.equal(both.values, ensemble([ig, gim], "rank-mean").values)
    assert method_name(record["provenance"]) == "rank-mean of EAP-IG and GIM"
    capsys.readouterr()
    assert exit_code("discover", pairs_file, "--method", "ensemble") == 2
    assert "needs the option gradients or runs" in capsys.readouterr().err


def test_a_study_takes_gradients_and_no_runs(tmp_path):
    file = tmp_path / "study.toml"
    text = 'models = ["compiled/induction"]\ntasks = ["compiled/induction"]\n[methods.ensemble]\n'
    file.write_text(text + 'gradients = ["ig", "gim"]\n')
    assert len(read_study(file).requests) == 1
    file.write_text(text + 'runs = ["a", "b"]\n')
    with pytest.raises(InputError, match="is not for studies"):
        read_study(file)
