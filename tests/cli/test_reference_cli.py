"""`--reference`: a mean over the prompts of another file, in a run, its evaluation, a comparison and a study."""

import json
from functools import partial

import pytest
import torch

import circuits
from circuits import Ablation, EdgeScores, PromptPairs
from circuits.runs.discover import discover
from circuits.study import StudyDirectory, read_study, run_study
from tests.command import GOLDEN_MODEL, command, discovered, write_pairs

MEAN = ("--ablation", "mean")


def write_reference(path, seed=5):
    """Pairs that the golden model takes, as a file; and as they are read."""
    drawn = torch.randint(0, 20, (3, 4), generator=torch.Generator().manual_seed(seed)).tolist()
    path.write_text("".join(json.dumps({"clean": one, "corrupted": one, "answers": [1]}) + "\n" for one in drawn))
    return PromptPairs.from_jsonl(path)


@pytest.fixture
def golden():
    return circuits.load_model(str(GOLDEN_MODEL), dtype="float64")


def test_a_run_and_its_evaluation_use_the_pairs_of_the_reference(monkeypatch, tmp_path, golden):
    file = tmp_path / "others.jsonl"
    reference = write_reference(file)
    run = discovered(monkeypatch, tmp_path, "run", "eap", "--edges", "9", *MEAN, "--reference", str(file))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["provenance"]["ablation"] == record["summary"]["ablation"] == f"mean(over {reference.source})"
    assert record["provenance"]["reference_sha256"] == reference.digest()
    assert f'reference = "{file}"' in (tmp_path / "run" / "config.toml").read_text()
    pairs = PromptPairs.from_jsonl(tmp_path / "PAIRS.jsonl")
    over = Ablation("mean", reference=reference)
    scores = circuits.edge_attribution(golden, pairs, metric="logit_difference", ablation=over, gradient="clean")
    assert EdgeScores.load(tmp_path / "run" / "scores.safetensors").to_dict() == scores.to_dict()

    write_reference(file, seed=6)  # the run has its own copy
    command("evaluate", run, "--parts", "faithfulness", "--random-circuits", 0)
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    measured = evaluation["faithfulness"][f"mean(over {reference.source})"]
    direct = circuits.faithfulness(golden, pairs, scores.top(9), metric="logit_difference", ablation=over, n_random=0)
    assert measured["ratio_of_means"] == direct.value
    assert "mean" not in evaluation["faithfulness"]

    command("discover", "--config", tmp_path / "run" / "config.toml", "--out", tmp_path / "again")
    changed = json.loads((tmp_path / "again" / "run.json").read_text())
    assert changed["provenance"]["reference_sha256"] != reference.digest()


def test_circuits_under_ablations_with_options_are_compared(monkeypatch, tmp_path):
    """A comparison measures each circuit under its own ablation, options included."""
    write_reference(tmp_path / "others.jsonl")
    linear = discovered(monkeypatch, tmp_path, "linear", "coar", "--samples", "64", "--ablation", "zero")
    over = (*MEAN, "--reference", str(tmp_path / "others.jsonl"))
    mean = discovered(monkeypatch, tmp_path, "mean", "eap", "--edges", "9", "--random-circuits", "0", *over)
    drawn = discovered(monkeypatch, tmp_path, "drawn", "eap", "--edges", "9", "--ablation", "resample")
    command("compare", linear, mean, drawn, "--samples", 2)


def test_a_search_does_not_go_on_with_another_reference(tmp_path, golden, monkeypatch):
    discovered(monkeypatch, tmp_path, "any", "eap", "--edges", "9", "--random-circuits", "0")
    pairs = PromptPairs.from_jsonl(tmp_path / "PAIRS.jsonl")
    search = partial(
        discover, golden, pairs, method="acdc", threshold=0.1, ablation="mean", test=False, store=tmp_path / "s"
    )
    for seed in (5, 5):
        over = write_reference(tmp_path / "others.jsonl", seed)
        search(reference=over)
    over = write_reference(tmp_path / "others.jsonl", 6)
    with pytest.raises(circuits.InputError, match=r"another question .*reference_sha256"):
        search(reference=over)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "a reference belongs to the ablations mean, mean_positional, optimal, not to interchange"),
        (("--ablation", "gaussian"), "not to gaussian"),
        ((*MEAN, "--reference", "nowhere.jsonl"), "there is no file nowhere.jsonl"),
    ],
)
def test_a_reference_that_no_mean_uses_is_refused_in_one_line(monkeypatch, tmp_path, capsys, more, message):
    write_reference(tmp_path / "others.jsonl")
    command("discover", "ioi", "--reference", tmp_path / "others.jsonl", *more, "--out", tmp_path / "out", code=2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_study_uses_the_reference_for_its_means(monkeypatch, tmp_path):
    case = json.loads((GOLDEN_MODEL.parent / "case.json").read_text())
    write_pairs(case, tmp_path / "pairs.jsonl")
    reference = write_reference(tmp_path / "others.jsonl")
    (tmp_path / "study.toml").write_text(
        f'models = ["{GOLDEN_MODEL}"]\ntasks = ["pairs.jsonl"]\nmetrics = ["logit_difference"]\nreference = "others.jsonl"\n'
        'ablations = ["zero", "mean"]\n[methods.eap]\nedges = 9\n'
        '[evaluation]\nparts = ["faithfulness"]\nablations = ["zero"]\nrandom-circuits = 0\n'
    )
    out = StudyDirectory.begin(tmp_path / "out")
    assert run_study(read_study(tmp_path / "study.toml"), out).states == {"done": 2}
    labels = {
        json.loads((run / "run.json").read_text())["summary"]["ablation"]
        for run in (tmp_path / "out" / "runs").iterdir()
    }
    assert labels == {"zero", f"mean(over {reference.source})"}
    write_reference(tmp_path / "others.jsonl", seed=6)
    assert run_study(read_study(tmp_path / "study.toml"), out).made == 1
