"""What `circuits evaluate` measures by running the method again, or from a circuit that is known: against direct calls."""

import json
from dataclasses import replace

import pytest
import torch

import circuits
import tasks
from circuits import Circuit, InputError
from circuits.pages.evaluation import evaluation_sections
from circuits.plugins import KnowsCircuits
from circuits.runs import evaluate
from circuits.runs.again import RunRequest, ablation_called, what_was_asked
from circuits.runs.directory import RunDirectory
from circuits.runs.discover import discover
from circuits.runs.evaluate import evaluate_run
from circuits.runs.read import read_run
from circuits.runs.variations import OWN, changes
from tasks import compiled
from tests.command import discovered, run

TASK = "compiled/induction"
AGAIN = ("stability", "randomisation")


@pytest.fixture(scope="module")
def model():
    return circuits.load_model(TASK)


@pytest.fixture(scope="module")
def pairs(model):
    return tasks.load(TASK).pairs(model, n=4)


def evaluated(model, pairs, folder, method, parts=("recovery", *AGAIN), **options):
    """The evaluation of a new run, and the run."""
    made = RunDirectory(folder / "run", overwrite=True).write(discover(model, pairs, method=method, **options), pairs)
    read = read_run(made)
    return evaluate_run(read, model, pairs, parts=parts), read


@pytest.fixture(scope="module")
def of_edges(model, pairs, tmp_path_factory):
    """The evaluation of a run of EAP-IG as JSON, the run, and its scores computed directly."""
    result, read = evaluated(model, pairs, tmp_path_factory.mktemp("edges"), "eap-ig", edges=10, random_circuits=0)
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    return record, read, circuits.edge_attribution(model, pairs, gradient="ig")


def test_recovery_of_edges_is_as_by_hand(model, pairs, of_edges):
    record, read, scores = of_edges
    truth = compiled.active_edges(model, pairs)
    assert record["recovery"]["truths"] == {"active, jointly active": list(truth)}
    for row in record["recovery"]["scores"]:
        direct = circuits.recovery(scores, truth, level=row["level"], negligible=1e-6)
        assert (row["auroc"], row["average_precision"]) == (direct.auroc, direct.average_precision)
        corners = torch.tensor(row["roc"], dtype=torch.float64)
        assert float(torch.trapezoid(corners[:, 1], corners[:, 0])) == pytest.approx(direct.auroc)
    chosen = next(row for row in record["recovery"]["circuit"] if row["level"] == "edges")
    circuit = set(read.circuits["run circuit"].edges)
    assert chosen["precision"] == pytest.approx(len(circuit & set(truth)) / len(circuit))
    assert chosen["recall"] == pytest.approx(len(circuit & set(truth)) / len(truth))


def test_stability_of_edges_is_as_by_hand(model, pairs, of_edges):
    record, _, scores = of_edges
    stable = record["stability"]
    assert list(stable["by"]) == ["pairs", "steps", "ablation", "metric"]
    others = {
        OWN: scores,
        "zero": circuits.edge_attribution(model, pairs, gradient="ig", ablation="zero"),
        "10 steps": circuits.edge_attribution(model, pairs, gradient="ig", steps=10),
        "probability": circuits.edge_attribution(model, pairs, gradient="ig", metric="probability"),
        "other pairs, 1": circuits.edge_attribution(model, tasks.load(TASK).pairs(model, n=4, seed=1), gradient="ig"),
    }
    direct = circuits.stability(others, stable["k"])
    rows = [stable["runs"].index(name) for name in others]
    for mine, by_hand in ((stable["jaccard"], direct.jaccard), (stable["rank"], direct.rank)):
        torch.testing.assert_close(torch.tensor(mine, dtype=torch.float64)[rows][:, rows], by_hand)
    assert set(stable["always"]) <= set(direct.always)


def test_randomisation_of_edges_is_as_by_hand(model, pairs, of_edges):
    record = of_edges[0]
    shuffled = circuits.randomisation(
        model, lambda model: circuits.edge_attribution(model, pairs, gradient="ig"), k=record["randomisation"]["k"]
    )
    assert record["randomisation"]["layers"] == [1, 2]
    assert record["randomisation"]["rank"] == pytest.approx(shuffled.rank)
    assert record["randomisation"]["jaccard"] == pytest.approx(shuffled.jaccard)


def test_circuits_without_scores_are_compared_by_what_they_share(model, pairs, tmp_path):
    result, _ = evaluated(model, pairs, tmp_path, "acdc", threshold=0.01, random_circuits=0)
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    own = circuits.acdc(model, pairs, 0.01)
    other = circuits.acdc(model, pairs, 0.01, ablation="zero")
    stable = record["stability"]
    assert stable["k"] is None
    at = stable["runs"].index("zero")
    assert stable["jaccard"][0][at] == pytest.approx(len(own & other) / len(own | other))
    assert record["skipped"]["stability, other metrics"] == "the threshold is in the unit of the metric"
    assert record["recovery"]["scores"] == []
    direct = circuits.randomisation(model, lambda model: circuits.acdc(model, pairs, 0.01))
    assert record["randomisation"]["jaccard"] == pytest.approx(direct.jaccard)
    assert record["randomisation"]["rank"] == [None, None]
    assert "Jaccard" in str(direct)


def test_nodes_with_positions_and_without(model, pairs, tmp_path):
    result, _ = evaluated(model, pairs, tmp_path, "atp-star")
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert record["stability"]["of"] == "nodes"
    assert [row["level"] for row in record["recovery"]["scores"]] == ["nodes"]
    assert "another run" in record["skipped"]["stability, ablation zero"]
    assert "its minimum" in record["skipped"]["stability, metric kl_divergence"]
    result, _ = evaluated(model, pairs, tmp_path, "coar", samples=40)
    record = result.to_dict()
    assert list(record["stability"]["by"]) == ["pairs", "seed", "alpha", "ablation", "metric"]
    direct = circuits.coar(model, pairs, samples=40, alpha=0.2)
    own = circuits.coar(model, pairs, samples=40)
    at = record["stability"]["runs"].index("α = 0.2")
    expected = circuits.stability({"a": own, "b": direct}, record["stability"]["k"])
    assert record["stability"]["jaccard"][0][at] == pytest.approx(expected.mean_jaccard)
    assert record["stability"]["rank"][0][at] == pytest.approx(expected.mean_rank)
    with pytest.raises(InputError, match="different nodes"):
        circuits.stability({"a": own, "b": circuits.coar(model, pairs, samples=40, nodes="heads")}, 2)
    with pytest.raises(InputError, match="one or the other"):
        circuits.stability({"a": own, "b": Circuit.full(model.graph)}, 2)


def test_two_meanings_of_true_are_told_apart_and_drawn(tmp_path):
    model = circuits.load_model("compiled/or-gate")
    pairs = tasks.load("compiled/or-gate").pairs(model, n=4)
    result, _ = evaluated(model, pairs, tmp_path, "eap", ("recovery",), edges=8, random_circuits=0)
    outcome = result.to_dict()
    assert {name: len(edges) for name, edges in outcome["recovery"]["truths"].items()} == {
        "active": 1,
        "jointly active": 5,
    }
    headings = [section.heading for section in evaluation_sections(outcome)]
    assert "Recovery of the known circuit" in headings


def test_a_task_says_what_it_knows_and_of_other_models_nothing(model, pairs):
    task = tasks.load(TASK)
    assert isinstance(task, KnowsCircuits)
    assert not isinstance(tasks.load("trained/induction"), KnowsCircuits)
    known = task.known_circuits(model, pairs, ablation="zero", metric=None)
    assert known["active"].edges == compiled.active_edges(model, pairs, "zero")
    assert tasks.load("compiled/sort").known_circuits(model, pairs, ablation="zero", metric=None) == {}


def test_what_a_run_was_asked_is_asked_again(model, pairs, tmp_path):
    cases = (
        ("eap-ig", {"steps": 3, "edges": 5}, {"steps": 3}),
        ("acdc", {"threshold": float("inf")}, {"threshold": float("inf")}),
        ("edge-pruning", {"edges": 6, "steps": 2}, {"edges": 6, "steps": 2}),
        ("path-patching", {"receivers": ["logits"]}, {"receivers": ["logits"]}),
        ("information-flow", {"edges": 5}, {}),
    )
    for method, options, kept in cases:
        made = discover(model, pairs, method=method, ablation="resample", seed=3, **options)
        read = read_run(RunDirectory(tmp_path / "run", overwrite=True).write(made, pairs))
        asked = what_was_asked(read)
        assert kept.items() <= asked.options.items()
        assert (asked.method, asked.metric) == (method, "logit_difference")
        if method == "information-flow":
            assert "metric" not in changes(asked)
            continue
        assert asked.ablation.label == "resample(seed=3)"
        again = asked.again(model, pairs)
        own = read.results.get("run", read.results.get("run circuit"))
        assert own is not None
        if isinstance(again, Circuit):
            assert again == own
        else:
            torch.testing.assert_close(again.values, own.values)  # type: ignore[union-attr]


def test_what_varies_depends_on_the_method():
    def axes(method, ablation="interchange", **options):
        asked = RunRequest(method, "cross_entropy", ablation_called(ablation), options, 0, 1.0)
        return {axis: [change.name for change in some] for axis, some in changes(asked).items()}

    assert list(axes("eap")) == ["pairs", "ablation", "metric"]
    assert axes("edge-attribution", gradient="ig-activations", steps=4)["steps"] == ["8 steps"]
    assert "steps" not in axes("edge-attribution", gradient="clean")
    assert axes("acdc", "resample(seed=2)")["seed"] == ["seed 1", "seed 2"]
    assert axes("coar", alpha=0.6)["alpha"] == ["α = 0.3"]
    assert "log_probability" not in axes("eap")["metric"]  # minus the cross entropy
    assert "kl_divergence" not in axes("edge-pruning")["metric"]  # its objective
    assert list(axes("information-flow")) == ["pairs"]


@pytest.mark.parametrize(
    "label", ["zero", "resample(seed=7)", "optimal(steps=9, seed=2)", "gaussian(tokens=s1+s2, scale=3, seed=5)"]
)
def test_an_ablation_is_known_by_its_label(label):
    assert ablation_called(label).label == label


@pytest.mark.parametrize("label", ["gaussian(tokens=a)", "resample(seed=x)", "mean(over b.jsonl)", "", "None"])
def test_labels_that_say_too_little_are_refused(label):
    with pytest.raises(InputError, match="there is no ablation"):
        ablation_called(label)


def test_what_would_take_long_is_left_out_unless_it_is_asked_for(monkeypatch, tmp_path, capsys):
    made = discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 12, "--random-circuits", 0)
    monkeypatch.setattr(evaluate, "hypothesis_tests_of", lambda *given, **options: None)  # slow, and tested elsewhere

    def took(seconds):
        monkeypatch.setattr(evaluate, "what_was_asked", lambda run: replace(what_was_asked(run), seconds=seconds))

    took(70.0)
    assert run(monkeypatch, ["evaluate", made, "--random-circuits", "0", "--ablations", "zero"]) == 0
    measured = json.loads((tmp_path / "eap" / "evaluation.json").read_text())
    assert list(measured["stability"]["by"]) == ["ablation"]  # the ablations fit in, the metrics do not
    assert "--parts stability" in measured["skipped"]["stability, other metrics"]
    assert "no other pairs can be drawn" in measured["skipped"]["stability, other pairs"]
    assert "randomisation" in measured
    assert "recovery" not in measured
    took(400.0)
    assert run(monkeypatch, ["evaluate", made, "--parts", "stability,randomisation"]) == 0
    forced = json.loads((tmp_path / "eap" / "evaluation.json").read_text())
    assert list(forced["stability"]["by"]) == ["ablation", "metric"]
    assert "randomisation" in forced


def test_old_evaluations_are_still_shown(model, pairs, tmp_path):
    result, _ = evaluated(model, pairs, tmp_path, "eap", ("stability",), random_circuits=0)
    outcome = result.to_dict()
    old = {**outcome, "schema": 1, "stability": outcome["stability"]["prompts"]}
    verdict, stability, *_ = evaluation_sections(old)
    assert verdict.heading == "Verdict"
    assert stability.heading.startswith("Stability")


def test_an_interrupt_keeps_what_was_measured(model, pairs, tmp_path, monkeypatch):
    _, read = evaluated(model, pairs, tmp_path, "eap", ("scores",), random_circuits=0)

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "completeness_of", stop)
    kept = []
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(read, model, pairs, n_random=0, ablations=["zero"], interrupted=kept.append)
    assert list(kept[0].faithfulness) == ["zero"]
    assert kept[0].skipped["curves"] == "interrupted"
    assert kept[0].skipped["completeness"] == "interrupted"
    assert "faithfulness" not in kept[0].skipped


def test_ctrl_c_writes_what_is_there_and_nothing_is_touched_before(monkeypatch, tmp_path, capsys):
    made = discovered(monkeypatch, tmp_path, "eap", "eap", "--edges", 12, "--random-circuits", 0)
    written = tmp_path / "eap" / "evaluation.json"
    written.write_text("{}")
    files = sorted(path.name for path in (tmp_path / "eap").iterdir())

    def stop(*arguments, **options):
        # A process killed here leaves this.
        assert written.read_text() == "{}"
        assert sorted(path.name for path in (tmp_path / "eap").iterdir()) == files
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "minimality_of", stop)
    capsys.readouterr()
    assert run(monkeypatch, ["evaluate", made, "--parts", "completeness,minimality,curves"]) == 130
    record = json.loads(written.read_text())
    assert "completeness" in record
    assert record["skipped"] == {"minimality": "interrupted", "curves": "interrupted"}
    assert "what was measured is in" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "eap" / "evaluation.html").is_file()
    monkeypatch.setattr(evaluate, "completeness_of", stop)
    written.write_text("{}")
    files = sorted(path.name for path in (tmp_path / "eap").iterdir())
    assert run(monkeypatch, ["evaluate", made, "--parts", "completeness"]) == 130
    assert written.read_text() == "{}"  # nothing was measured
