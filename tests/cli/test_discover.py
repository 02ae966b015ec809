"""The command from the outside, on a tiny checkpoint without a tokenizer."""

import json
import sys

import networkx as nx
import pytest

import circuits
import circuits.model
from circuits import Circuit, EdgeScores, NodeScores, cli
from circuits.measure.sign_check import SignCheck
from circuits.methods.catalogue import METHODS
from circuits.question.ablations import ABLATIONS
from circuits.runs.directory import RunDirectory
from circuits.runs.discover import discover as run_discovery
from tests.command import CASE
from tests.command import GOLDEN as GOLDEN_CASES

GOLDEN = GOLDEN_CASES / CASE


@pytest.fixture
def pairs_file(tmp_path):
    case = json.loads((GOLDEN / "case.json").read_text())
    rows = zip(case["clean"], case["ablated"], case["answer"], case["distractor"], strict=True)
    path = tmp_path / "pairs.jsonl"
    lines = [
        json.dumps({"clean": c, "corrupted": x, "answers": [a], "distractors": [d], "roles": {"first": 1, "last": 5}})
        for c, x, a, d in rows
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def command(monkeypatch, *arguments):
    """Runs `circuits …`; its exit code."""
    monkeypatch.setattr(sys, "argv", ["circuits", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("discover",), "Missing argument"),
        (("discover", "ioi", "--edgs", "3"), "No such option: --edgs"),
        (("discover", "ioi", "--n", "0"), "Invalid value for '--n'"),
        (("discover", "ioi", "--seed", "x"), "Invalid value for '--seed'"),
        (("studdy",), "No such command 'studdy'"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(monkeypatch, capsys, typed, message):
    assert command(monkeypatch, *typed) == 2
    out, error = capsys.readouterr()
    assert error.startswith(f"circuits: {message}")
    assert error.count("\n") == 1
    assert error.endswith(" --help shows all options)\n")
    assert not out


def test_a_command_alone_shows_its_help(monkeypatch, capsys):
    for typed in ((), ("study",)):
        assert command(monkeypatch, *typed) == 2
        out, error = capsys.readouterr()
        assert "Usage: circuits" in out + error
        assert "circuits:" not in error


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--metric", "logit_differense"), "no metric 'logit_differense'; did you mean logit_difference"),
        (("--method", "atp-star", "--nodes", "hads"), "unknown group of nodes 'hads'"),
        (("--method", "edge-pruning", "--learning-rate", "-1"), "learning-rate must be above 0, not -1"),
        (("--method", "edge-pruning", "--objective", "rank"), "objective must be one of logit_difference"),
    ],
)
def test_what_no_model_could_make_right_is_refused_before_one_is_loaded(
    more, words, pairs_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(circuits.model, "load_model", None)
    assert score(monkeypatch, pairs_file, tmp_path / "run", *more) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def discover(monkeypatch, pairs_file, out, *more):
    return score(monkeypatch, pairs_file, out, "--edges", 12, *more)


def score(monkeypatch, pairs_file, out, *more):
    options = ("--model", GOLDEN / "model", "--dtype", "float64", "--out", out)
    return command(monkeypatch, "discover", pairs_file, *options, *more)


@pytest.mark.parametrize("more", [("--method", "eap"), ("--method", "acdc")])
def test_an_empty_circuit_is_told(monkeypatch, pairs_file, tmp_path, capsys, more):
    asked = ("--metric", "logit_difference", "--threshold", 10**6, *more)
    assert score(monkeypatch, pairs_file, tmp_path / "out", *asked) == 0
    result = "the circuit is empty: ask for more edges, or take a smaller threshold"
    assert result in capsys.readouterr().out
    assert result in json.loads((tmp_path / "out" / "run.json").read_text())["summary"]["notes"][-1]


def test_fewer_pairs_than_asked_for_are_told(monkeypatch, pairs_file, tmp_path, capsys):
    there = len(pairs_file.read_text().splitlines())
    for n, result in ((there, False), (there + 1, True)):
        assert discover(monkeypatch, pairs_file, tmp_path / f"out-{n}", "--n", n) == 0
        assert (f"has {there} pairs, not {n}" in capsys.readouterr().err) == result


def test_a_run_directory_holds_what_the_design_says(monkeypatch, pairs_file, tmp_path, capsys):
    out = tmp_path / "runs" / "one"
    assert discover(monkeypatch, pairs_file, out) == 0
    assert {path.name for path in out.iterdir()} == {
        "run.json", "config.toml", "pairs.jsonl", "scores.safetensors", "circuit.json", "circuit.graphml", "circuit.html"
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
    result = run_discovery(model, pairs, edges=5, random_circuits=0)
    RunDirectory(out).write(result, pairs)
    with pytest.raises(circuits.InputError, match="finished run"):
        RunDirectory(out).write(result, pairs)
    run = json.loads((out / "run.json").read_text())
    assert run["summary"]["random_faithfulness"] is None
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("out", ["/proc/no/such", "x" * 300])
def test_places_that_cannot_be_written_are_refused_before_any_work(monkeypatch, pairs_file, capsys, out):
    assert discover(monkeypatch, pairs_file, out) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--method", "acdx"), "no method"),
        (("--edges", 0), "edges must be at least 1"),
        (("--edges", 10**9), "between 1 and"),
        (("--metric", "logit_diff"), "logit_difference"),
        (("--ablation", "zerro"), "zero"),
        (("--dtype", "float8"), "unknown dtype"),
        (("--by", "size"), "abs"),
        (("--method", "eap", "--metric", "kl_divergence"), "minimum"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(monkeypatch, pairs_file, tmp_path, capsys, more, message):
    assert discover(monkeypatch, pairs_file, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert not (tmp_path / "out").exists()


def test_unknown_tasks_files_and_models_are_named(monkeypatch, pairs_file, tmp_path, capsys):
    for arguments, message in (
        (("discover", "ioj"), "'ioi'"),
        (("discover", "nowhere.jsonl"), "nowhere.jsonl"),
        (("discover", pairs_file, "--model", tmp_path / "no-model"), "no-model"),
    ):
        extra = ("--out", tmp_path / "out") if arguments[0] == "discover" else ()
        assert command(monkeypatch, *arguments, *extra) == 2
        assert message in capsys.readouterr().err


PATHS = ("--method", "path-patching", "--receivers", "logits, a1.h0<q>")
NODES = ("--method", "activation-patching")
EDGES = ("--method", "edge-attribution")
NODE_FILES = {"run.json", "config.toml", "pairs.jsonl", "scores.safetensors", "heatmap.html"}


@pytest.mark.parametrize(
    ("more", "nodes", "positions", "options"),
    [
        (NODES, 6, None, {"direction": "denoising", "window": 1}),
        ((*NODES, "--nodes", "heads+q", "--direction", "noising"), 8, None, {"direction": "noising"}),
        ((*NODES, "--nodes", "m1, a0.h1", "--window", 2), 2, None, {"nodes": ["m1", "a0.h1"], "window": 2}),
        ((*NODES, "--nodes", "m1", "--positions", "roles"), 1, ("first", "last"), {}),
        ((*NODES, "--positions", "each"), 6, ("0", "1", "2", "3", "4", "5"), {}),
        ((*NODES, "--positions", "last", "--metric", "kl_divergence"), 6, ("last",), {}),
        ((*NODES, "--ablation", "gaussian", "--noise-tokens", "first", "--seed", 3), 6, None, {}),
        (PATHS, 6, None, {"receivers": ["logits", "a1.h0<q>"], "mlps": "frozen", "together": False}),
        ((*PATHS, "--senders", "a0.h0", "--mlps", "live"), 1, None, {"senders": ["a0.h0"], "mlps": "live"}),
        ((*PATHS, "--senders", "heads+input", "--together"), 1, None, {"together": True}),
        ((*PATHS, "--ablation", "resample"), 6, None, {}),
        (("--method", "attribution-patching"), 6, None, {"nodes": "heads+mlps", "positions": "all"}),
        (("--method", "attribution-patching", "--nodes", "q", "--positions", "roles"), 4, ("first", "last"), {}),
        (("--method", "atp-star"), 18, ("0", "1", "2", "3", "4", "5"), {"qk_fix": True, "grad_drop": True}),
        (
            ("--method", "atp-star", "--positions", "all", "--no-qk-fix", "--no-grad-drop"),
            18,
            None,
            {"positions": "all", "qk_fix": False, "grad_drop": False},
        ),
    ],
)
def test_patching_writes_node_scores_and_a_heat_map(
    monkeypatch, pairs_file, tmp_path, capsys, more, nodes, positions, options
):
    out = tmp_path / "one"
    assert score(monkeypatch, pairs_file, out, *more) == 0
    assert {path.name for path in out.iterdir()} == NODE_FILES
    scores = NodeScores.load(out / "scores.safetensors")
    run = json.loads((out / "run.json").read_text())
    assert (len(scores), scores.positions, run["summary"]["nodes"]) == (nodes, positions, nodes)
    assert run["options"] | options | {"method": more[1]} == run["options"]
    best = run["summary"]["strongest"][0]
    assert best["effect"] == scores.strongest(1)[0][1]
    assert best["interval"][0] <= best["effect"] <= best["interval"][1]
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("95% interval", "corrupted"))
    assert "Plotly.newPlot" in (out / "heatmap.html").read_text()
    if "gaussian" in more:
        assert run["provenance"]["ablation"] == "gaussian(tokens=first, scale=3, seed=3)"


def test_the_summary_is_the_metric_itself_where_lower_is_more(monkeypatch, pairs_file, tmp_path):
    assert score(monkeypatch, pairs_file, tmp_path / "one", *NODES, "--metric", "cross_entropy") == 0
    summary = json.loads((tmp_path / "one" / "run.json").read_text())["summary"]
    assert 0 < summary["clean"] < 20


def test_a_single_pair_has_no_interval(monkeypatch, pairs_file, tmp_path, capsys):
    assert score(monkeypatch, pairs_file, tmp_path / "one", *NODES, "--n", 1) == 0
    assert json.loads((tmp_path / "one" / "run.json").read_text())["summary"]["strongest"][0]["interval"] is None
    assert "–" in capsys.readouterr().out


def test_runs_of_both_kinds_replace_each_other_only_when_told(monkeypatch, pairs_file, tmp_path):
    out = tmp_path / "one"
    assert discover(monkeypatch, pairs_file, out) == 0
    assert score(monkeypatch, pairs_file, out, *NODES) == 2
    assert score(monkeypatch, pairs_file, out, *NODES, "--overwrite") == 0
    assert {path.name for path in out.iterdir()} == NODE_FILES
    assert score(monkeypatch, pairs_file, out, *PATHS) == 2
    assert discover(monkeypatch, pairs_file, out, "--overwrite") == 0
    (out / "notes.txt").write_text("x")
    assert score(monkeypatch, pairs_file, out, *NODES, "--overwrite") == 2
    assert (out / "circuit.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((*NODES, "--edges", 5), "method activation-patching has no option 'edges'; its options: nodes, positions"),
        ((*NODES, "--random-circuits", 5), "no option 'random-circuits'"),
        ((*NODES, "--receivers", "logits"), "no option 'receivers'"),
        ((*PATHS, "--window", 1), "method path-patching has no option 'window'; its options: receivers, senders"),
        (("--method", "eap", "--steps", 5), "method eap has no option 'steps'; its options: edges, threshold"),
        (("--method", "eap", "--gradient", "ig"), "method eap has no option 'gradient'"),
        ((*EDGES, "--gradient", "clan"), "clean-corrupted"),
        ((*EDGES, "--select", "best"), "there is no selection rule 'best'"),
        ((*EDGES, "--select", "positive-share", "--by", "abs"), "no option 'by'; its options: share, fill"),
        ((*EDGES, "--by", "size"), "'abs' or 'signed'"),
        ((*EDGES, "--threshold", 0.1, "--edges", 3), "a threshold cannot be combined with edges"),
        ((*EDGES, "--refine", "twice"), "node, exact"),
        ((*EDGES, "--refine-top", 3), "refine-top needs the option refine"),
        ((*EDGES, "--edges", 0), "edges must be at least 1"),
        ((*EDGES, "--gradient", "clean", "--metric", "kl_divergence"), "minimum"),
        (("--method", "information-flow", "--by", "abs"), "has no option 'by'"),
        (("--method", "atp-star", "--metric", "kl_divergence"), "minimum"),
        (("--method", "attribution-patching", "--no-qk-fix"), "no option 'qk-fix'"),
        (("--together",), "method eap-ig has no option 'together'"),
        (("--method", "path-patching"), "needs the option 'receivers'"),
        (("--method", "path-patching", "--receivers", " , "), "needs the option 'receivers'"),
        (("--method", "path-patching", "--receivers", "a1.h9<q>"), "a1.h9<q>"),
        ((*PATHS, "--senders", "q"), "senders are writers"),
        ((*PATHS, "--mlps", "warm"), "mlps must be one of frozen, live"),
        ((*NODES, "--nodes", "haeds"), "did you mean heads"),
        ((*NODES, "--nodes", "a0.h9"), "nearest"),
        ((*NODES, "--nodes", ","), "no nodes chosen"),
        ((*NODES, "--positions", "S7"), "no role 'S7'"),
        ((*NODES, "--positions", ","), "role"),
        ((*NODES, "--direction", "up"), "denoising, noising"),
        ((*NODES, "--window", 0), "window must be at least 1"),
        ((*NODES, "--ablation", "zero"), "which zero ablation does not have"),
        ((*NODES, "--noise-tokens", "first"), "belong to gaussian"),
        ((*NODES, "--ablation", "gaussian", "--noise-tokens", "IO"), "no role 'IO'"),
        ((*NODES, "--ablation", "gaussian", "--seed", 2**62), "seeds below"),
    ],
)
def test_options_that_do_not_fit_the_method_are_refused(monkeypatch, pairs_file, tmp_path, capsys, more, message):
    assert score(monkeypatch, pairs_file, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err.strip()
    assert message in " ".join(error.split())
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_edges_can_be_scored_under_every_ablation(monkeypatch, pairs_file, tmp_path, ablation):
    assert discover(monkeypatch, pairs_file, tmp_path / "one", "--ablation", ablation, "--random-circuits", 1) == 0


def test_the_help_names_every_method_and_ablation(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    assert command(monkeypatch, "discover", "--help") == 0
    shown = capsys.readouterr().out
    for name in (*METHODS, *ABLATIONS):
        assert name in shown


def test_the_same_in_one_call_from_a_notebook(pairs_file):
    model = circuits.load_model(GOLDEN / "model", dtype="float64")
    pairs = circuits.PromptPairs.from_jsonl(pairs_file, model)
    result = run_discovery(model, pairs, method="activation-patching", nodes="mlps", positions="each")
    # Tokens differ between these prompts, so positions are numbered, and named where a role is always there.
    assert result.tokens == ("0", "1 (first)", "2", "3", "4", "5 (last)")
    with pytest.raises(circuits.InputError, match="no option 'edges'"):
        run_discovery(model, pairs, method="path-patching", receivers=["logits"], edges=3)


@pytest.mark.parametrize(
    ("more", "options"),
    [
        ((), {"gradient": "ig", "select": "top", "edges": 46}),
        (("--gradient", "relp", "--attention", "detached"), {"gradient": "relp", "attention": "detached"}),
        (("--gradient", "conductance", "--steps", 2, "--quadrature", "left"), {"steps": 2, "quadrature": "left"}),
        (("--select", "greedy", "--by", "signed", "--edges", 12), {"select": "greedy", "by": "signed", "edges": 12}),
        (("--select", "positive-share", "--share", 0.8, "--fill"), {"share": 0.8, "fill": True}),
        (("--select", "optimal", "--edges", 9), {"select": "optimal"}),
        (("--threshold", 0.001, "--by", "signed"), {"threshold": 0.001, "edges": None}),
        (("--gradient", "clean", "--refine", "exact", "--refine-top", 5), {"refine": "exact", "refine_top": 5}),
    ],
)
def test_every_gradient_and_every_rule_of_choice_is_on_the_command_line(
    monkeypatch, pairs_file, tmp_path, more, options
):
    out = tmp_path / "out"
    assert score(monkeypatch, pairs_file, out, *EDGES, "--random-circuits", 0, *more) == 0
    run = json.loads((out / "run.json").read_text())
    assert options.items() <= run["options"].items()
    selection = circuits.Circuit.from_json(out / "circuit.json").provenance["selection"]
    assert selection["rule"] == (
        options.get("select") or ("threshold" if "threshold" in options else selection["rule"])
    )
    assert run["summary"]["edges"] == selection["kept"]


def test_information_flow_is_on_the_command_line(monkeypatch, pairs_file, tmp_path):
    out = tmp_path / "out"
    assert score(monkeypatch, pairs_file, out, "--method", "information-flow", "--edges", 20) == 0
    scores = circuits.EdgeScores.load(out / "scores.safetensors")
    assert scores.provenance["method"] == "information_flow"
    assert float(scores.values.min()) >= 0


def test_what_a_method_warns_of_is_a_note_of_the_run(monkeypatch, pairs_file, tmp_path):
    monkeypatch.setattr(SignCheck, "verdict", lambda self, scores: "input->m0 has the wrong sign")
    out = tmp_path / "out"
    assert score(monkeypatch, pairs_file, out, "--method", "eap", "--random-circuits", 0) == 0
    assert json.loads((out / "run.json").read_text())["summary"]["notes"] == ["input->m0 has the wrong sign"]
