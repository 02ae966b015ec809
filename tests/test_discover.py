"""The command from the outside, on a tiny checkpoint without a tokenizer."""

import json
from pathlib import Path

import networkx as nx
import pytest

from circuits import Circuit, EdgeScores, cli

GOLDEN = Path(__file__).parent / "golden" / "acdc_2l2h_kl"


@pytest.fixture
def pairs_file(tmp_path):
    case = json.loads((GOLDEN / "case.json").read_text())
    rows = zip(case["clean"], case["ablated"], case["answer"], case["distractor"], strict=True)
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps({"clean": c, "corrupted": x, "answers": [a], "distractors": [d]}) for c, x, a, d in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def command(monkeypatch, *arguments):
    """Runs `circuits …`; its exit code."""
    monkeypatch.setattr("sys.argv", ["circuits", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


def discover(monkeypatch, pairs_file, out, *more):
    options = ("--model", GOLDEN / "model", "--dtype", "float64", "--edges", 12, "--out", out)
    return command(monkeypatch, "discover", pairs_file, *options, *more)


def test_a_run_directory_holds_what_the_design_says(monkeypatch, pairs_file, tmp_path, capsys):
    out = tmp_path / "runs" / "one"
    assert discover(monkeypatch, pairs_file, out) == 0
    assert {path.name for path in out.iterdir()} == {
        "run.json", "pairs.jsonl", "scores.safetensors", "circuit.json", "circuit.graphml", "circuit.html"
    }  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == ["one"]
    run = json.loads((out / "run.json").read_text())
    circuit = Circuit.from_json(out / "circuit.json")
    scores = EdgeScores.load(out / "scores.safetensors")
    assert scores.top(12) == circuit
    assert run["summary"]["edges"] == len(circuit)
    assert run["provenance"]["metric"] == "logit_difference"
    assert nx.read_graphml(out / "circuit.graphml").number_of_nodes() == len(circuit.nodes)
    assert "faithfulness" in capsys.readouterr().out


def test_a_finished_run_is_replaced_only_when_told(monkeypatch, pairs_file, tmp_path, capsys):
    out = tmp_path / "one"
    assert discover(monkeypatch, pairs_file, out) == 0
    assert discover(monkeypatch, pairs_file, out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert discover(monkeypatch, pairs_file, out, "--overwrite", "--method", "eap") == 0
    assert json.loads((out / "run.json").read_text())["options"]["method"] == "eap"


def test_a_directory_that_is_no_run_is_never_touched(monkeypatch, pairs_file, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert discover(monkeypatch, pairs_file, tmp_path / "mine", "--overwrite") == 2
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--method", "acdx"), "no method"),
        (("--edges", 0), "between 1 and"),
        (("--edges", 10**9), "between 1 and"),
        (("--metric", "logit_diff"), "logit_difference"),
        (("--ablation", "zerro"), "zero"),
        (("--dtype", "float8"), "unknown dtype"),
        (("--by", "size"), "abs"),
        (("--method", "eap", "--metric", "kl_divergence"), "minimum"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(monkeypatch, pairs_file, tmp_path, capsys, more, said):
    assert discover(monkeypatch, pairs_file, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert said in error[-1]
    assert not (tmp_path / "out").exists()


def test_unknown_tasks_files_and_models_are_named(monkeypatch, pairs_file, tmp_path, capsys):
    for arguments, said in (
        (("discover", "ioj"), "'ioi'"),
        (("discover", "nowhere.jsonl"), "nowhere.jsonl"),
        (("discover", pairs_file, "--model", tmp_path / "no-model"), "no-model"),
    ):
        extra = ("--out", tmp_path / "out") if arguments[0] == "discover" else ()
        assert command(monkeypatch, *arguments, *extra) == 2
        assert said in capsys.readouterr().err
