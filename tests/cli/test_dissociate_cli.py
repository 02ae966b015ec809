"""`circuits dissociate`: what is measured, written, resumed and refused."""

import json

import pytest

import circuits
from circuits.evaluation.dissociation import Plan
from circuits.runs.dissociation import DissociationOptions, dissociate_runs, read_tasks
from tests import command
from tests.command import GOLDEN_MODEL, discovered, discovered_in, run


@pytest.fixture
def runs(monkeypatch, tmp_path, capsys):
    made = [
        discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 10, "--random-circuits", 0),
        discovered(monkeypatch, tmp_path, "acdc", "acdc", "--threshold", 0.1, "--random-circuits", 0),
    ]
    capsys.readouterr()
    return made


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two runs compared once: the command, what it printed, and its directory."""
    folder = tmp_path_factory.mktemp("dissociated")
    runs = [
        discovered_in(folder, "eap", "eap", "--edges", 10, "--random-circuits", 0),
        discovered_in(folder, "acdc", "acdc", "--threshold", 0.1, "--random-circuits", 0),
    ]
    given = ["dissociate", *runs, "--random-circuits", "3", "--out", str(folder / "out")]
    return given, command.performed(*given)[0], folder / "out"


@pytest.fixture
def tasks_measured(monkeypatch):
    """A list that gets an entry for each task that is measured."""
    entries, real = [], Plan.measure
    monkeypatch.setattr(Plan, "measure", lambda plan, question, *more: entries.append(1) or real(plan, question, *more))
    return entries


def test_it_prints_and_writes_what_each_task_loses(measured):
    _, output, out = measured
    assert "share of each task lost without each circuit" in output
    assert "what the circuits share" in output
    assert json.loads((out / "dissociation.json").read_text())["dissociation"]["names"] == ["eap", "acdc"]
    assert "Share of each task that is lost" in (out / "dissociation.html").read_text()


def test_finished_tasks_are_not_measured_again(measured, tasks_measured):
    command.performed(*measured[0])
    assert tasks_measured == []


@pytest.mark.filterwarnings("default::circuits.errors.DamageWarning")
def test_a_damaged_task_is_measured_again_and_gives_the_same(measured, tasks_measured):
    given, _, out = measured
    written = json.loads((out / "dissociation.json").read_text())
    (out / "measured" / "task-1-values.safetensors").write_bytes(b"cut short")
    output, warned = command.performed(*given, "--json")
    assert len(tasks_measured) == 1
    assert json.loads(output) == written
    assert "task-1-values.safetensors is damaged" in warned


def test_pieces_of_another_question_are_refused(measured):
    _, error = command.performed(*measured[0], "--core", "0.4", code=2)
    assert "pieces of another question" in error


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
