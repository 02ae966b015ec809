"""`circuits mib` from rows to a submission, and what it refuses before torch is imported."""

import json
from itertools import permutations

import pytest

from circuits import Graph, read_importances
from circuits.cli import app
from tests.mib.rows import NAMES, tokenizer
from tests.mib.shapes import hf_model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model directory, and rows of IOI for two splits."""
    out = tmp_path_factory.mktemp("mib")
    hf_model("llama").save_pretrained(out / "llama")
    tokenizer().save_pretrained(out / "llama")
    rows = []
    for right, wrong in permutations(NAMES, 2):
        (third,) = set(NAMES) - {right, wrong}
        rows.append({
            "prompt": f"When {right} and {wrong} went , {wrong} gave to",
            "metadata": {"indirect_object": right, "subject": wrong, "random_c": third},
            "s2_io_flip_counterfactual": {"prompt": f"When {right} and {wrong} went , {right} gave to"},
        })  # fmt: skip
    (out / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (out / "validation.jsonl").write_text("\n".join(map(json.dumps, rows[:4])))
    return out


def call(*words):
    return app(list(map(str, words)), standalone_mode=False)


def test_discover_evaluate_submit(place, tmp_path, capsys):
    model = ("--model", place / "llama", "--data", place, "--device", "cpu")
    call("mib", "discover", "ioi", *model, "--out", tmp_path, "--method", "eap-ig", "--steps", "2", "--n", "5")
    file = tmp_path / "ioi_llama/importances.json"
    result = read_importances(file)
    assert (result.provenance["options"]["steps"], result.provenance["n_pairs"]) == (2, 5)
    assert result.provenance["task"] == "mib/ioi/train"
    call("mib", "evaluate", tmp_path / "ioi_llama", *model, "--out", tmp_path / "found.json")
    output = capsys.readouterr().out
    assert "MIB's count: one k and v edge per query head: CPR" in output
    assert "our count: one k and v edge per key/value head: CPR" in output
    written = json.loads((tmp_path / "found.json").read_text())
    assert (written["mib"]["parts"], written["ours"]["parts"]) == (262, Graph(3, 4, 2, (True,) * 3).n_edges)
    assert (written["task"], written["pairs"], len(written["mib"]["signed"]["faithfulness"])) == ("ioi", 4, 10)
    call("mib", "submit", tmp_path / "ioi_llama", "--out", tmp_path / "sub", "--as-circuits")
    assert "no cell for ioi and llama" in capsys.readouterr().out
    call("mib", "evaluate", tmp_path / "sub/abs-False/ioi_llama", *model, "--json")
    circuits = json.loads(capsys.readouterr().out)
    assert circuits["mib"]["signed"]["faithfulness"] == pytest.approx(
        written["mib"]["signed"]["faithfulness"], abs=1e-4
    )


def test_nodes(place, tmp_path, capsys):
    model = ("--model", place / "llama", "--data", place, "--device", "cpu")
    call("mib", "discover", "ioi", *model, "--out", tmp_path, "--level", "node", "--method", "attribution-patching")
    call("mib", "evaluate", tmp_path / "ioi_llama", *model)
    assert "share of 16 nodes" in capsys.readouterr().out
