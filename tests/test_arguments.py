"""Arguments of another kind, or in another order, are one clear error; tasks are found by `circuits.load_task`."""

import subprocess
import sys

import pytest

import circuits
from circuits import Circuit, InputError
from tests.tiny_models import random_hf_model, random_pairs

PAIRS = random_pairs(n=3, length=5, prefix=1)


@pytest.fixture(scope="module")
def model():
    return circuits.load_model(random_hf_model("gpt2"))


def test_arguments_in_another_order_are_refused_by_name(model):
    circuit = Circuit.full(model.graph)
    with pytest.raises(
        InputError, match=r"faithfulness\(model, pairs, circuit\): pairs must be a circuits.PromptPairs, not a Circuit"
    ):
        circuits.faithfulness(model, circuit, PAIRS)
    with pytest.raises(InputError, match=r"model must be a circuits.Model, not a str; circuits.load_model"):
        circuits.edge_attribution("gpt2", PAIRS)


def test_arguments_of_another_kind_are_refused_by_name(model):
    scores = circuits.edge_attribution(model, PAIRS)
    with pytest.raises(InputError, match=r"pairs must be a circuits.PromptPairs, not a list"):
        circuits.acdc(model, [pair for pair in PAIRS], 0.1)
    with pytest.raises(InputError, match=r"circuit must be a circuits.Circuit, not a EdgeScores"):
        circuits.completeness(model, PAIRS, circuit=scores)
    with pytest.raises(InputError, match=r"scores must be a circuits.EdgeScores, not a Circuit"):
        circuits.refine(model, PAIRS, scores.top(3), 2)
    with pytest.raises(
        InputError, match=r"result must be a circuits.EdgeScores or circuits.NodeScores or circuits.Circuit"
    ):
        circuits.recovery(["a0.h0->logits"], scores.top(3))


def test_tasks_load_beside_a_file_of_the_users_called_tasks(tmp_path):
    (tmp_path / "tasks.py").write_text("MINE = 1\n")
    code = (
        "import tasks; assert tasks.MINE; import circuits; print(circuits.load_task('ioi', counterfactual='abc').label)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "ioi(counterfactual=abc)\n", done.stderr


@pytest.mark.parametrize("call", [
    lambda model: circuits.edge_attribution(model, PAIRS, progress=True),
    lambda model: circuits.acdc(model, PAIRS, 0.5, progress=True),
    lambda model: circuits.edge_pruning(model, PAIRS, 5, steps=2, progress=True),
])  # fmt: skip
def test_progress_true_shows_a_bar_on_the_error_stream(model, call, capsys):
    call(model)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert call.__code__.co_names[1] in shown.err


def test_a_bar_in_a_notebook_is_tqdms(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    circuits.edge_attribution(model, PAIRS, progress=True)
    assert "3/3" in capsys.readouterr().err
