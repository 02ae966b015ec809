"""Edge pruning from the command line: what is written and said, and what is refused."""

import json

import pytest

import circuits
from circuits import Circuit, PromptPairs, edge_pruning
from tests.command import GOLDEN, performed, run, write_pairs

CASE = "acdc_2l3h_ld"


def arguments(folder, *more):
    pairs = write_pairs(json.loads((GOLDEN / CASE / "case.json").read_text()), folder / "PAIRS.jsonl")
    given = [
        "discover", pairs, "--model", GOLDEN / CASE / "model", "--method", "edge-pruning", "--metric", "logit_difference",
        "--dtype", "float64", "--random-circuits", 1, "--out", folder / "RUN", *more,
    ]  # fmt: skip
    return [str(argument) for argument in given]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of edge pruning: what was printed, and its folder."""
    folder = tmp_path_factory.mktemp("pruned")
    more = ("--edges", 20, "--steps", 12, "--learning-rate", 0.4, "--seed", 3, "--batch-size", 4)
    return performed(*arguments(folder, *more))[0], folder


def test_a_run_prints_the_edges_requested_and_what_scores_are(finished):
    assert "edges requested" in finished[0]
    assert "log-odds of the mask" in finished[0]


def test_a_run_holds_the_circuit_of_the_library(finished):
    folder = finished[1]
    result = Circuit.from_json(folder / "RUN" / "circuit.json")
    model = circuits.load_model(GOLDEN / CASE / "model", dtype="float64")
    pairs = PromptPairs.from_jsonl(folder / "PAIRS.jsonl", model)
    wanted = edge_pruning(model, pairs, 20, steps=12, learning_rate=0.4, seed=3, batch_size=4)
    assert result == wanted
    assert result.score(result.edges[0]) == wanted.score(result.edges[0])


def test_a_run_records_its_options_and_is_tested_by_the_metric_of_the_run(finished):
    written = json.loads((finished[1] / "RUN" / "run.json").read_text())
    assert written["options"] == {
        "method": "edge-pruning", "edges": 20, "objective": "kl_divergence", "steps": 12, "learning_rate": 0.4,
        "absolute": False, "positions": "all", "destinations": False, "start": None, "start_scores": None, "seed": 3, "random_circuits": 1,
    }  # fmt: skip
    assert written["summary"]["metric"] == "logit_difference"
    assert written["provenance"]["metric"] == "kl_divergence"
    assert set(written["seconds"]) == {"training", "evaluation"}


def test_a_run_writes_the_files_of_a_circuit_without_scores(finished):
    files = {path.name for path in (finished[1] / "RUN").iterdir()}
    assert files == {"run.json", "config.toml", "pairs.jsonl", "circuit.json", "circuit.graphml", "circuit.html"}


def test_another_objective(monkeypatch, tmp_path):
    more = ("--edges", 10, "--steps", 2, "--objective", "logit_difference", "--absolute")
    assert run(monkeypatch, arguments(tmp_path, *more)) == 0
    written = json.loads((tmp_path / "RUN" / "run.json").read_text())
    assert written["provenance"]["metric"] == "logit_difference"
    assert written["options"]["absolute"] is True


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--edges", 0), "edges must be at least 1"),
        (("--edges", 9, "--steps", 0), "steps must be at least 1"),
        (("--edges", 9, "--learning-rate", "-1"), "learning-rate must be above 0"),
        (("--edges", 9, "--objective", "accuracy"), "objective must be one of logit_difference, probability"),
        (("--edges", 9, "--objective", "kl_divergenc"), "did you mean kl_divergence"),
        (("--threshold", 0.1), "no option 'threshold'"),
        (("--resume",), "keeps no record"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(more, message, monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, arguments(tmp_path, *more)) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
