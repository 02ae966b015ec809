"""Checkpoints as an axis of a study."""

import pytest

from circuits.errors import InputError
from circuits.study.spec import parse_study

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
