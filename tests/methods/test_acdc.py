"""ACDC against the published reference's steps, a naive twin, and what must hold at its ends."""

import json
from pathlib import Path

import pytest
import torch

import circuits
from circuits import Circuit, PromptPairs, acdc, acdc_of_size, acdc_sweep
from tests.naive_acdc import naive_acdc
from tests.tiny_models import FEW, random_pairs, random_subset, tiny

GOLDEN = Path(__file__).parents[1] / "golden"
METRICS = {"kl_divergence": "kl_divergence", "negative_logit_difference": "logit_difference"}


def golden_runs():
    for case in ("acdc_2l2h_kl", "acdc_2l2h_zero", "acdc_2l3h_ld"):
        for number in range(len(json.loads((GOLDEN / case / "case.json").read_text())["runs"])):
            yield case, number


def steps_of(directory):
    return [json.loads(line) for line in (directory / "steps.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("name", "number"), list(golden_runs()))
@pytest.mark.parametrize("most_rows", [1, 32])
def test_every_step_is_the_references(name, number, most_rows, tmp_path):
    case = json.loads((GOLDEN / name / "case.json").read_text())
    model = circuits.load_model(GOLDEN / name / "model", dtype="float64")
    pairs = PromptPairs.from_tokens(case["clean"], case["ablated"], case["answer"], case["distractor"])
    run = case["runs"][number]
    circuit = acdc(
        model, pairs, run["threshold"], metric=METRICS[case["metric"]], ablation=case["ablation"],
        most_rows=most_rows, store=tmp_path,
    )  # fmt: skip
    wanted = {(s["writer"], s["reader"]): s for s in run["steps"] if s["change"] is not None}
    made = {(s["writer"], s["reader"]): s for s in steps_of(tmp_path)}
    assert made.keys() == wanted.keys()
    for key, step in made.items():
        assert step["kept"] == wanted[key]["kept"], key
        assert step["change"] == pytest.approx(wanted[key]["change"], abs=1e-6), key
    search = circuit.provenance["search"]
    assert search["closest"] == pytest.approx(run["min_margin"], abs=1e-6)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize(
    "options",
    [{}, {"absolute": True}, {"reader_tests": False, "start_layer": 1}, {"ablation": "zero"}, {"ablation": "mean"}],
    ids=str,
)
def test_it_is_one_forward_pass_a_test(name, options, tmp_path):
    model, pairs = tiny(name), random_pairs(n=2, length=5, prefix=1)
    threshold = 0.3
    kept, steps, _ = naive_acdc(model, pairs, threshold, "logit_difference", **options)
    circuit = acdc(model, pairs, threshold, metric="logit_difference", store=tmp_path, **options)
    made = steps_of(tmp_path)
    assert [(s["writer"], s["reader"], s["kept"]) for s in made] == [(w, r, stays) for w, r, _, stays in steps]
    changes = torch.tensor([[s["change"], step[2]] for s, step in zip(made, steps, strict=True)])
    torch.testing.assert_close(changes[:, 0], changes[:, 1], rtol=1e-3, atol=1e-3)
    assert set(circuit.edges) == kept


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_thresholds_without_bound_keep_and_remove_all(name):
    model, pairs = tiny(name), random_pairs(n=2)
    assert acdc(model, pairs, float("-inf")) == Circuit.full(model.graph)
    assert not acdc(model, pairs, float("inf")).edges


def test_the_accepted_changes_add_up_to_the_change_of_the_loss(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    search = acdc(model, pairs, 0.2, store=tmp_path).provenance["search"]
    accepted = sum(step["change"] for step in steps_of(tmp_path) if not step["kept"])
    assert accepted == pytest.approx(search["final_loss"] - search["initial_loss"], abs=1e-8)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.77, 1.0])
def test_a_killed_search_goes_on_and_ends_with_the_same_file(share, tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    whole = acdc(model, pairs, 0.2, store=tmp_path / "whole")
    text = (tmp_path / "whole" / "steps.jsonl").read_bytes()
    acdc(model, pairs, 0.2, store=tmp_path / "killed")
    (tmp_path / "killed" / "steps.jsonl").write_bytes(text[: int(share * len(text))])
    assert acdc(model, pairs, 0.2, store=tmp_path / "killed") == whole
    assert (tmp_path / "killed" / "steps.jsonl").read_bytes() == text


def test_a_start_circuit_is_pruned_further():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    start = random_subset(model, 0.6)
    kept, _, _ = naive_acdc(model, pairs, 0.2, "logit_difference", start=start.edges)
    assert set(acdc(model, pairs, 0.2, metric="logit_difference", start=start).edges) == kept


def test_a_sweep_is_nested_and_begins_with_acdc():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    tight, loose = acdc_sweep(model, pairs, [0.5, 0.05])
    assert loose == acdc(model, pairs, 0.05)
    assert tight <= loose


def test_a_number_of_edges_is_not_exceeded():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    found = acdc_of_size(model, pairs, 30)
    assert 0 < len(found) <= 30
