"""The command from the outside, on a tiny checkpoint without a tokenizer."""

import json
from pathlib import Path

import networkx as nx
import pytest

import circuits
from circuits import Circuit, EdgeScores, cli
from circuits.discover import discover as run_discovery
from circuits.discover import write_run

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


def test_a_directory_with_a_foreign_run_json_is_not_ours_to_replace(monkeypatch, pairs_file, tmp_path):
    for name, files in (("a", {"run.json": '{"mine": 1}'}), ("b", {"run.json": "{}", "thesis.tex": "x"})):
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        assert discover(monkeypatch, pairs_file, tmp_path / name, "--overwrite") == 2
        assert {path.name for path in (tmp_path / name).iterdir()} == set(files)


def test_the_second_of_two_runs_into_one_directory_is_refused(monkeypatch, pairs_file, tmp_path):
    """Also if the first finishes while the second is at work."""
    out = tmp_path / "one"
    model = circuits.load_model(GOLDEN / "model", dtype="float64")
    pairs = circuits.PromptPairs.from_jsonl(pairs_file, model)
    found = run_discovery(model, pairs, edges=5, n_random=0)
    write_run(found, pairs, out)
    with pytest.raises(circuits.InputError, match="finished run"):
        write_run(found, pairs, out)
    run = json.loads((out / "run.json").read_text())
    assert run["summary"]["random_faithfulness"] is None
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("out", ["/proc/no/such", "x" * 300])
def test_places_that_cannot_be_written_are_refused_before_any_work(monkeypatch, pairs_file, capsys, out):
    assert discover(monkeypatch, pairs_file, out) == 2
    assert "cannot write" in capsys.readouterr().err


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
