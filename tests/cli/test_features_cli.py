"""Dictionaries on the command line: --dictionary, and what evaluate, view, export and compare do with such runs."""

import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import circuits
from circuits import FeatureCircuit, PromptPairs, read_attribution_graph
from tests.command import GOLDEN, run, write_pairs

MODEL = GOLDEN / "acdc_2l2h_kl" / "model"


def write_dictionary(path, d_model: int, seed: int, n: int = 12):
    """A file as Gemma Scope has them, with random weights."""
    draw = np.random.default_rng(seed)
    shapes = {"W_enc": (d_model, n), "b_enc": (n,), "W_dec": (n, d_model), "b_dec": (d_model,)}
    np.savez(
        path,
        threshold=np.zeros(n, np.float32),
        **{k: draw.normal(size=s).astype(np.float32) for k, s in shapes.items()},
    )
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with two dictionaries, scored with heads and MLPs, and one of heads and MLPs alone."""
    folder = tmp_path_factory.mktemp("features")
    case = json.loads((GOLDEN / "acdc_2l2h_kl" / "case.json").read_text())
    d_model = int(circuits.load_model(MODEL).bridge.cfg.d_model)
    given = [
        f"{site}={write_dictionary(folder / f'{site}.npz', d_model, i)}"
        for i, site in enumerate(("mlp_out.0", "transcoder.1"))
    ]
    base = [
        "discover", write_pairs(case, folder / "PAIRS.jsonl"), "--model", MODEL, "--metric", "logit_difference", "-m", "attribution-patching",
        "--dtype", "float64",
    ]  # fmt: skip
    features = [
        "--nodes",
        "features+heads+mlps+input",
        "--dictionary",
        given[0],
        "--dictionary",
        given[1],
        "--circuit-nodes",
        9,
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name, more in (("features", features), ("heads", ["--nodes", "heads+mlps+input"])):
            assert run(patch, [str(one) for one in [*base, *more, "--out", folder / name]]) == 0
    return folder


def test_a_run_holds_a_circuit_of_features_and_its_three_numbers(runs):
    record = json.loads((runs / "features" / "run.json").read_text())
    names = [f"{site}={runs / site}.npz" for site in ("mlp_out.0", "transcoder.1")]
    assert record["options"]["dictionary"] == names
    circuit = FeatureCircuit.from_json(runs / "features" / "features.json")
    assert len(circuit) == 9
    model = circuits.load_model(MODEL, dtype="float64")
    pairs = PromptPairs.from_jsonl(runs / "features" / "pairs.jsonl", model)
    dictionaries = [circuits.load_dictionary(name.partition("=")[2], name.partition("=")[0]) for name in names]
    wanted = circuits.feature_faithfulness(
        model,
        pairs,
        circuit.nodes,
        dictionaries=dictionaries,
        among="features+heads+mlps+input",
        metric="logit_difference",
    )
    measured = record["summary"]["features"]["faithfulness"]
    assert measured["faithfulness"] == pytest.approx(wanted.value)
    assert measured["with_errors"] == pytest.approx(wanted.with_errors)
    assert measured["without_errors"] == pytest.approx(wanted.without_errors)
    scores = circuits.attribution_patching(
        model, pairs, nodes="features+heads+mlps+input", dictionaries=dictionaries, metric="logit_difference"
    )
    whole = {name for name, *_ in scores.strongest(len(scores)) if name not in ("m0", "m1")}
    assert set(circuit.nodes) <= whole
    assert {"config.toml", "circuit.html", "heatmap.html"} <= {path.name for path in (runs / "features").iterdir()}


def test_a_run_can_be_repeated_from_its_own_options(runs, monkeypatch, tmp_path):
    arguments = [
        "discover",
        "--config",
        runs / "features" / "config.toml",
        "--out",
        tmp_path / "again",
        runs / "PAIRS.jsonl",
    ]
    assert run(monkeypatch, [str(one) for one in arguments]) == 0
    files = [(folder / "features.json").read_text() for folder in (runs / "features", tmp_path / "again")]
    assert files[0] == files[1]


def test_the_page_shows_what_features_promote_and_where_they_are_active(runs, monkeypatch, tmp_path):
    labels = tmp_path / "labels.json"
    circuit = FeatureCircuit.from_json(runs / "features" / "features.json")
    feature = next(node for node in circuit.nodes if node.startswith("f:"))
    labels.write_text(json.dumps({"labels": {feature: "a </script> label"}}))
    page = tmp_path / "page.html"
    assert run(monkeypatch, ["view", str(runs / "features"), "--out", str(page), "--labels", str(labels)]) == 0
    text = page.read_text()
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert data["naming"]["labels"] == {feature: "a </script> label"}
    rows = dict(data["nodes"])
    assert set(circuit.nodes) <= set(rows)
    assert {data["rows"][str(row)] for row in rows.values()} >= {"logits"}
    model = circuits.load_model(MODEL, dtype="float64")
    pairs = PromptPairs.from_jsonl(runs / "features" / "pairs.jsonl", model)
    place, index = feature[2:].split(".")
    dictionary = circuits.load_dictionary(
        runs / f"{'mlp_out.0' if place == 'm0' else 'transcoder.1'}.npz",
        "mlp_out.0" if place == "m0" else "transcoder.1",
    )
    most = []
    for prompt in pairs.clean:
        hook = "blocks.0.hook_mlp_out" if place == "m0" else "blocks.1.mlp.hook_in"
        read = model.bridge.run_with_cache(torch.tensor([list(prompt)]))[1][hook][0]
        most.append(float(dictionary.encode(read.float())[:, int(index)].max()))
    facts = data["features"][feature]
    assert facts["active"] == sum(value > 0 for value in most)
    assert [one["pair"] for one in facts["examples"]] == sorted(
        (i for i, value in enumerate(most) if value > 0), key=lambda i: -most[i]
    )[: len(facts["examples"])]
    assert max(facts["examples"][0]["activations"]) == pytest.approx(max(most), rel=1e-3)
    norm, unembed = model.bridge.ln_final, model.bridge.unembed.W_U
    row = dictionary.W_dec[int(index)].double()
    logits = ((row - row.mean()) * norm.weight) @ unembed
    assert facts["promotes"][:3] == [str(i) for i in logits.topk(3).indices.tolist()]


@pytest.fixture
def copied(runs, tmp_path):
    """A copy of the run with dictionaries."""
    return shutil.copytree(runs / "features", tmp_path / "features")


def test_evaluation_measures_features_under_every_ablation(copied, monkeypatch, capsys):
    assert run(monkeypatch, ["evaluate", str(copied), "--parts", "features,scores", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert set(measured["features"]) == {"interchange", "zero", "mean"}
    assert all({"faithfulness", "with_errors", "without_errors"} <= set(one) for one in measured["features"].values())


def test_a_circuit_of_features_is_exported(copied, monkeypatch, tmp_path):
    for name, form in (("g.json", "neuronpedia"), ("c.json", "json"), ("c.graphml", "graphml")):
        assert run(monkeypatch, ["export", str(copied), "--out", str(tmp_path / name), "--to", form]) == 0
    circuit = FeatureCircuit.from_json(copied / "features.json")
    assert FeatureCircuit.from_json(tmp_path / "c.json") == circuit
    assert set(read_attribution_graph(tmp_path / "g.json").nodes) >= set(circuit.nodes)
    assert ElementTree.parse(tmp_path / "c.graphml") is not None
    assert run(monkeypatch, ["export", str(copied), "--out", str(tmp_path / "c.tex"), "--to", "tikz"]) == 2


def test_features_are_compared_with_heads_at_equal_numbers_of_nodes(copied, runs, monkeypatch, capsys):
    assert run(monkeypatch, ["compare", str(copied), str(runs / "heads"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["caution"] is None
    features, heads = result["runs"].values()
    assert [one["nodes"] for one in heads["at"]] == [1, 2, 5]
    assert features["among"] == "features+heads+mlps+input"
    for one in (*features["at"], *heads["at"]):
        assert one["clean"] == pytest.approx(features["at"][0]["clean"])
        assert one["ablated"] == pytest.approx(heads["at"][0]["ablated"])


@pytest.mark.parametrize(("given", "message"), [
    ("mlp_out.0", "SITE=PATH"), ("nowhere.0=x", "there is no site"), ("mlp_out.0=missing", "missing"),
    ("mlp_out.7=DICTIONARY", "has 2 layers"),
])  # fmt: skip
def test_what_is_no_dictionary_is_refused_in_one_line(given, message, runs, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(runs / "mlp_out.0.npz", tmp_path / "a.npz")
    arguments = [
        "discover",
        runs / "PAIRS.jsonl",
        "--model",
        MODEL,
        "-m",
        "coar",
        "--dictionary",
        given.replace("DICTIONARY", "a.npz"),
        "--out",
        "o",
    ]
    assert run(monkeypatch, [str(one) for one in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert (
        run(monkeypatch, ["discover", str(runs / "PAIRS.jsonl"), "-m", "eap", "--dictionary", "mlp_out.0=a.npz"]) == 2
    )
    assert "has no option 'dictionary'" in capsys.readouterr().err


def test_a_dictionary_that_has_changed_is_refused(runs, monkeypatch, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(runs / "features", copy)
    place = runs / "mlp_out.0.npz"
    old = place.read_bytes()
    try:
        write_dictionary(place, int(np.load(place)["b_dec"].shape[0]), 99)
        assert run(monkeypatch, ["evaluate", str(copy), "--parts", "features"]) == 2
        assert "is not that of the run: its weights differ" in capsys.readouterr().err
    finally:
        place.write_bytes(old)
