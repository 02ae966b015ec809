"""`circuits dissociate`: what is measured, written, resumed and refused."""

import json

import pytest

import circuits
from circuits.evaluation.dissociation import Plan
from circuits.runs.dissociation import DissociationOptions, dissociate_runs, read_tasks
from tests import command
from tests.command import GOLDEN_MODEL, discovered, run


@pytest.fixture
def runs(monkeypatch, tmp_path, capsys):
    made = [
        discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 10, "--random-circuits", 0),
        discovered(monkeypatch, tmp_path, "acdc", "acdc", "--threshold", 0.1, "--random-circuits", 0),
    ]
    capsys.readouterr()
    return made


@pytest.mark.filterwarnings("default::circuits.errors.DamageWarning")
def test_it_measures_writes_and_resumes(monkeypatch, tmp_path, capsys, runs):
    out = tmp_path / "out"
    given = ["dissociate", *runs, "--random-circuits", "3", "--out", str(out)]
    assert run(monkeypatch, given) == 0
    output, _ = capsys.readouterr()
    assert "share of each task lost without each circuit" in output
    assert "what the circuits share" in output
    written = json.loads((out / "dissociation.json").read_text())
    assert written["dissociation"]["names"] == ["eap", "acdc"]
    assert "Share of each task that is lost" in (out / "dissociation.html").read_text()
    measured = []
    real = Plan.measure
    monkeypatch.setattr(
        Plan, "measure", lambda plan, question, *more: measured.append(1) or real(plan, question, *more)
    )
    assert run(monkeypatch, given) == 0
    assert not measured
    (out / "measured" / "task-1-values.safetensors").write_bytes(b"cut short")
    capsys.readouterr()
    assert run(monkeypatch, [*given, "--json"]) == 0
    output, warned = capsys.readouterr()
    assert len(measured) == 1
    assert json.loads(output) == written
    assert "task-1-values.safetensors is damaged" in warned
    assert run(monkeypatch, [*given, "--core", "0.4"]) == 2
    assert "pieces of another question" in capsys.readouterr().err


class Here:
    """Workers that are this process."""

    number = 2

    def map(self, function, shared, units):
        for i, unit in reversed(list(enumerate(units))):
            yield i, function(shared, unit)


def test_workers_and_python_give_the_same(runs):
    tasks = read_tasks(runs)
    model = circuits.load_model(str(GOLDEN_MODEL), dtype="float64")
    options = DissociationOptions(n_random=2, seed=3)
    alone = dissociate_runs(tasks, model, options).to_dict()
    assert dissociate_runs(tasks, model, options, workers=Here()).to_dict() == alone
    given = {
        name: (circuits.PromptPairs.from_jsonl(run.path / "pairs.jsonl", model), next(iter(run.circuits.values())))
        for name, run in tasks.items()
    }
    metric = next(iter(tasks.values())).record["summary"]["metric"]
    assert circuits.dissociate(given, model, metric=metric, n_random=2, seed=3).to_dict() == alone


def test_runs_of_different_models_are_refused(monkeypatch, tmp_path, capsys, runs):
    monkeypatch.setattr(command, "CASE", "acdc_2l3h_ld")
    (tmp_path / "other").mkdir()
    other = discovered(monkeypatch, tmp_path / "other", "eap-other", "eap", "--edges", 10, "--random-circuits", 0)
    capsys.readouterr()
    assert run(monkeypatch, ["dissociate", runs[0], other]) == 2
    assert "the runs are of different models" in capsys.readouterr().err


def test_what_is_refused(monkeypatch, tmp_path, capsys, runs):
    nodes = discovered(monkeypatch, tmp_path, "atp", "attribution-patching")
    capsys.readouterr()
    for given, words in (
        (runs[:1], "at least two runs, each of one task, are compared; got 1"),
        ([runs[0], str(tmp_path)], "is not a run directory"),
        ([runs[0], nodes], "holds scores of nodes and no circuit"),
        ([*runs, "--n", "4"], "no new pairs can be drawn for eap"),
    ):
        assert run(monkeypatch, ["dissociate", *given]) == 2
        assert words in capsys.readouterr().err
