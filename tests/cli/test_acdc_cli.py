"""ACDC from the command line: the golden cases step by step, a killed run continued, what is refused, what is said."""

import json
import os
import subprocess
import sys

import pytest

from circuits import Circuit
from circuits.methods.acdc.record import read_steps
from tests.command import GOLDEN, run, write_pairs

CASES = ("acdc_2l2h_kl", "acdc_2l2h_zero", "acdc_2l3h_ld")


def arguments(case, folder, *more):
    """`discover …` of a golden case into `folder`/RUN, and the case."""
    data = json.loads((GOLDEN / case / "case.json").read_text())
    pairs = write_pairs(data, folder / "PAIRS.jsonl")
    metric = data["metric"].removeprefix("negative_")
    given = [
        "discover", pairs, "--model", GOLDEN / case / "model", "--method", "acdc", "--metric", metric,
        "--ablation", data["ablation"], "--dtype", "float64", "--random-circuits", 0, "--out", folder / "RUN", *more,
    ]  # fmt: skip
    return [str(argument) for argument in given], data


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_every_step_of_the_reference_from_the_command_line(case, number, monkeypatch, tmp_path):
    threshold = json.loads((GOLDEN / case / "case.json").read_text())["runs"][number]["threshold"]
    given, data = arguments(case, tmp_path, "--threshold", threshold)
    assert run(monkeypatch, given) == 0
    made = {(step.writer, step.reader): step for step in read_steps(tmp_path / "RUN" / "steps.jsonl")}
    tested = [step for step in data["runs"][number]["steps"] if step["change"] is not None]
    assert len(made) == len(tested)
    for step in tested:
        mine = made[step["writer"], step["reader"]]
        assert mine.kept == step["kept"]
        assert mine.change == pytest.approx(step["change"], abs=1e-6)
    circuit = Circuit.from_json(tmp_path / "RUN" / "circuit.json")
    kept = {f"{step['writer']}->{step['reader']}" for step in tested if step["kept"] and step["writer"]}
    assert set(circuit.edges) == kept
    assert {path.name for path in tmp_path.iterdir()} == {"PAIRS.jsonl", "RUN"}


@pytest.mark.slow
def test_the_search_is_the_same_for_every_hash_seed(tmp_path):
    result = []
    for seed in ("0", "12345"):
        folder = tmp_path / seed
        folder.mkdir()
        given, _ = arguments("acdc_2l3h_ld", folder, "--threshold", "0.05")
        subprocess.run(
            [sys.executable, "-c", "from circuits import cli; cli.main()", *given],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=True,
        )
        circuit = Circuit.from_json(folder / "RUN" / "circuit.json")
        result.append(((folder / "RUN" / "steps.jsonl").read_bytes(), circuit.edges))
    assert result[0] == result[1]


def test_a_number_of_edges_instead_of_a_threshold_and_the_other_options(monkeypatch, tmp_path):
    given, _ = arguments("acdc_2l3h_ld", tmp_path, "--edges", 20, "--no-reader-tests", "--absolute")
    assert run(monkeypatch, given) == 0
    circuit = Circuit.from_json(tmp_path / "RUN" / "circuit.json")
    assert 14 <= len(circuit) <= 20
    start = ("--start-circuit", tmp_path / "RUN" / "circuit.json", "--overwrite")
    given, _ = arguments("acdc_2l3h_ld", tmp_path, "--threshold", 0.2, "--order", "eap", "--start-layer", 1, *start)
    assert run(monkeypatch, given) == 0
    assert Circuit.from_json(tmp_path / "RUN" / "circuit.json") <= circuit
    options = json.loads((tmp_path / "RUN" / "run.json").read_text())["options"]
    assert (options["order"], options["start_layer"], options["threshold"]) == ("eap", 1, 0.2)


def test_a_circuit_past_the_model_is_told(monkeypatch, tmp_path, capsys):
    """The signed rule removes what hurts the logit difference: -6.8 falls to -9.1."""
    given, _ = arguments("acdc_2l3h_ld", tmp_path, "--threshold", 0.15)
    assert run(monkeypatch, given) == 0
    assert "improved, not faithful" in capsys.readouterr().out
    summary = json.loads((tmp_path / "RUN" / "run.json").read_text())["summary"]
    assert summary["faithfulness"] > 1.1
    assert sum("improved, not faithful" in note for note in summary["notes"]) == 1
    assert run(monkeypatch, arguments("acdc_2l2h_kl", tmp_path, "--threshold", "inf", "--overwrite")[0]) == 0
    assert "improved" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "needs the option threshold or edges"),
        (("--threshold", 0.1, "--edges", 5), "not both"),
        (("--threshold", 0.1, "--order", "size"), "eap-ig"),
        (("--threshold", 0.1, "--steps", 5), "no option 'steps'"),
        (("--edges", 5, "--resume"), "no record"),
        (("--edges", 5, "--start-circuit", "nowhere.json"), "nowhere.json"),
        (("--threshold", 0.1, "--start-layer", 7), "start_layer"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(more, message, monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, arguments("acdc_2l2h_kl", tmp_path, *more)[0]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
