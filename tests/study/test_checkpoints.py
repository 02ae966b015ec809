"""Checkpoints as an axis of a study."""

import json

import pytest
import torch

import circuits
from circuits.errors import InputError
from circuits.runs.read import read_run
from circuits.study import StudyDirectory, run_study, table
from circuits.study.spec import parse_study
from tests.tiny_models import random_hf_model, random_pairs

STUDY = """
models = {models}
tasks = ["ioi"]
checkpoints = ["step-1", "step-2"]
{more}
[methods.eap]
"""


def requests(tmp_path, models, more=""):
    return parse_study(STUDY.format(models=models, more=more), base=tmp_path).requests


def test_directories_of_a_model_are_its_checkpoints(tmp_path):
    for name in ("step-1", "step-2"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "config.json").write_text("{}")
    made = requests(tmp_path, '["mine"]')
    assert [request.model_source for request in made] == [
        str(tmp_path / "mine" / name) for name in ("step-1", "step-2")
    ]
    assert [request.model_shown for request in made] == ["mine/step-1", "mine/step-2"]
    assert {request.revision for request in made} == {None}
    assert requests(tmp_path, '["mine"]', "seeds = [0, 1]\nleave-out = []")[3].seed == 1


def test_checkpoints_of_other_models_are_revisions(tmp_path):
    made = requests(tmp_path, '["someone/model"]')
    assert [(request.model, request.revision, request.model_shown) for request in made] == [
        ("someone/model", "step-1", "someone/model@step-1"), ("someone/model", "step-2", "someone/model@step-2"),
    ]  # fmt: skip
    assert "someone/model@step-2" in str(made[1])


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match="revision and checkpoints exclude each other"):
        requests(tmp_path, '["someone/model"]', 'revision = "main"')
    with pytest.raises(InputError, match="checkpoints of smollm2-135m do not exist"):
        requests(tmp_path, '["smollm2-135m"]')


def test_a_study_runs_on_each_checkpoint(tmp_path):
    """Two stages of a model on disk: a run each, with the scores of that stage; the same again computes nothing."""
    for seed, name in enumerate(("step-1", "step-2")):
        random_hf_model("gpt2", torch.float32, seed).save_pretrained(tmp_path / "mine" / name)
    pairs = random_pairs(n=4)
    rows = zip(pairs.clean, pairs.corrupted, pairs.answers, pairs.distractors, strict=True)
    lines = [dict(zip(("clean", "corrupted", "answers", "distractors"), map(list, row), strict=True)) for row in rows]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = STUDY.format(models='["mine"]', more="n = 4").replace('"ioi"', '"pairs.jsonl"')
    study = parse_study(text, base=tmp_path)
    out = StudyDirectory.begin(tmp_path / "out")
    assert run_study(study, out).states == {"done": 2}
    rows = table(study, out)
    assert [row["model"] for row in rows] == ["mine/step-1", "mine/step-2"]
    for row, seed in zip(rows, (0, 1), strict=True):
        run = read_run(out.path / "runs" / row["address"])
        scores = next(one for one in run.results.values() if isinstance(one, circuits.EdgeScores))
        model = circuits.load_model(random_hf_model("gpt2", torch.float32, seed))
        torch.testing.assert_close(scores.values, circuits.edge_attribution(model, pairs, gradient="clean").values)
        assert run.provenance["weights_sha256"] == model.weights_hash
    assert rows[0]["clean"] != rows[1]["clean"]
    assert run_study(study, out).made == 0
    random_hf_model("gpt2", torch.float32, 2).save_pretrained(tmp_path / "mine" / "step-3")
    later = parse_study(text.replace('"step-2"]', '"step-2", "step-3"]'), base=tmp_path)
    assert run_study(later, out).made == 1
