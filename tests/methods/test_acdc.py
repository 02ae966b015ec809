"""ACDC step by step against one full ablated forward pass a test; its options, its records and its sweeps."""

import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch

from circuits import (
    Circuit,
    InputError,
    Metric,
    PromptPairs,
    acdc,
    acdc_of_size,
    acdc_sweep,
    circuit_metric,
    edge_attribution,
    load_model,
)  # fmt: skip
from circuits.engine.incremental.node_functions import NodeFunctions
from circuits.methods.acdc.record import STEPS_FILE, read_steps
from circuits.methods.acdc.search import Search
from tests.naive_acdc import check_same, naive_acdc
from tests.tiny_models import random_pairs, random_subset, tiny

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = ("acdc_2l2h_kl", "acdc_2l2h_zero", "acdc_2l3h_ld")
RUNS = [(case, run) for case in CASES for run in (0, 1)]


@cache
def loaded(case):
    return load_model(GOLDEN / case / "model", dtype="float64")


def golden(case, run):
    """(model, pairs, metric, ablation, the reference's run)."""
    data = json.loads((GOLDEN / case / "case.json").read_text())
    pairs = PromptPairs.from_tokens(data["clean"], data["ablated"], data["answer"], data["distractor"])
    return loaded(case), pairs, data["metric"].removeprefix("negative_"), data["ablation"], data["runs"][run]


def check_steps(steps, run):
    """Every test of the reference, with its decision and its change, and no other."""
    result = {(writer, reader): (change, kept) for writer, reader, change, kept in steps}
    assert len(result) == len(steps)
    for step in run["steps"]:
        change, kept = result.pop((step["writer"], step["reader"]), (None, False))
        assert (change is None) == (step["change"] is None)
        assert kept == step["kept"]
        assert change is None or change == pytest.approx(step["change"], abs=1e-9)
    assert not result


def search(model, pairs, threshold, tmp_path, **options):
    """(circuit, steps)."""
    circuit = acdc(model, pairs, threshold, store=tmp_path / "store", **options)
    return circuit, [tuple(step) for step in read_steps(tmp_path / "store" / STEPS_FILE)]


@pytest.mark.parametrize(("case", "run"), RUNS)
def test_the_naive_twin_is_the_reference(case, run):
    model, pairs, metric, ablation, wanted = golden(case, run)
    _, steps, final = naive_acdc(model, pairs, wanted["threshold"], metric, ablation)
    check_steps(steps, wanted)
    assert final == pytest.approx(wanted["final_metric"], abs=1e-9)


KINDS = {
    "llama": ("zero", 0.03),
    "neox": ("mean", 0.03),
    "gemma2": ("interchange", 0.03),
    "gemma3": ("zero", 0.03),
    "olmo2": ("interchange", 0.03),
    "bloom": ("interchange", 0.03),
    "gpt-j": ("zero", 0.03),
}
"""Ablations, and thresholds where tens of edges stay and no change is close, of the logit difference."""


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_step_by_step_the_naive_twin_on_other_architectures(name, kind, tmp_path):
    model, pairs = tiny(name), random_pairs(n=2, prefix=3)
    ablation, threshold = kind
    twin = naive_acdc(model, pairs, threshold, "logit_difference", ablation)
    circuit, steps = search(model, pairs, threshold, tmp_path, metric="logit_difference", ablation=ablation)
    check_same(circuit, steps, twin)
    assert 10 < len(circuit) < model.graph.n_edges / 2
    assert circuit.provenance["search"]["by_node"]


OPTIONS = {
    "absolute": {"absolute": True},
    "without reader tests": {"reader_tests": False, "start_layer": 1},
    "down to a layer": {"start_layer": 1},
    "logits only": {"start_layer": 3},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_step_by_step(options, tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2, prefix=3)
    twin = naive_acdc(model, pairs, 0.03, "logit_difference", **options)
    circuit, steps = search(model, pairs, 0.03, tmp_path, metric="logit_difference", **options)
    check_same(circuit, steps, twin)


def test_a_circuit_to_start_from_is_pruned_further_step_by_step(tmp_path):
    model, pairs = tiny("llama"), random_pairs(n=2, prefix=3)
    start = random_subset(model, 0.5)
    twin = naive_acdc(model, pairs, 0.002, "logit_difference", start=start.edges)
    circuit, steps = search(model, pairs, 0.002, tmp_path, metric="logit_difference", start=start)
    check_same(circuit, steps, twin)
    assert 5 < len(circuit) < len(start)
    assert circuit <= start


def test_edges_in_the_order_of_their_attribution(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2, prefix=3)
    scores = edge_attribution(model, pairs, gradient="clean")
    twin = naive_acdc(model, pairs, 0.03, "logit_difference", order=scores.to_dict())
    circuit, steps = search(model, pairs, 0.03, tmp_path, metric="logit_difference", order=scores)
    check_same(circuit, steps, twin)
    into_logits = [abs(scores[f"{writer}->{reader}"]) for writer, reader, *_ in steps if reader == "logits"]
    assert into_logits == sorted(into_logits)


def test_a_metric_of_ones_own_and_its_direction():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    less = Metric("less", lambda logits, targets: -logits.gather(1, targets.answers)[:, 0], higher_is_more=False)
    more = acdc(model, pairs, 0.1, metric=lambda logits, targets: logits.gather(1, targets.answers)[:, 0])
    assert acdc(model, pairs, 0.1, metric=less) == more
    assert acdc(model, pairs, 0.01, metric="cross_entropy") != more


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_accepted_changes_add_up_and_the_final_loss_is_the_circuits(name, tmp_path):
    model, pairs = tiny(name), random_pairs(n=3, prefix=3)
    circuit, steps = search(model, pairs, 0.03, tmp_path, metric="logit_difference")
    result = circuit.provenance["search"]
    removed = sum(change for _, _, change, kept in steps if not kept)
    assert result["final_loss"] - result["initial_loss"] == pytest.approx(removed, abs=1e-5)
    value = circuit_metric(model, pairs, circuit, metric="logit_difference").mean()
    assert result["final_loss"] == pytest.approx(-float(value), abs=1e-5)
    assert result["tests"] == len(steps)
    assert result["edges_kept"] == sum(kept for writer, _, _, kept in steps if writer)


def test_a_score_is_the_change_its_test_saw(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    circuit, steps = search(model, pairs, 0.02, tmp_path, metric="logit_difference")
    seen = {f"{writer}->{reader}": change for writer, reader, change, _ in steps if writer}
    assert len(circuit) > 5
    assert all(circuit.score(edge) == seen[edge] for edge in circuit)
    writer, reader, change, _ = steps[0]  # m2 -> logits, tested while all else was there
    without = Circuit.full(model.graph) - Circuit.from_edges(model.graph, [f"{writer}->{reader}"])
    value = float(circuit_metric(model, pairs, without, metric="logit_difference").mean())
    assert change == pytest.approx(-value - circuit.provenance["search"]["initial_loss"])


def test_the_run_does_not_depend_on_batches_or_speculation(tmp_path):
    model, pairs = tiny("llama"), random_pairs(n=4, prefix=2)
    runs = []
    for i, options in enumerate(({}, {"batch_size": 1}, {"batch_size": 3, "most_rows": 5})):
        runs.append(search(model, pairs, 0.003, tmp_path / str(i), metric="kl_divergence", **options))
    assert len(runs[0][0]) > 5
    for circuit, steps in runs[1:]:
        assert circuit == runs[0][0]
        assert [step[:2] + step[3:] for step in steps] == [step[:2] + step[3:] for step in runs[0][1]]
        assert [step[2] for step in steps] == pytest.approx([step[2] for step in runs[0][1]], abs=1e-6)


def test_equal_prompts_leave_nothing():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    equal = PromptPairs.from_tokens(pairs.clean, pairs.clean, [a[0] for a in pairs.answers], [1, 2])
    assert acdc(model, equal, 1e-9) == Circuit.empty(model.graph)


def test_whole_layers_where_nodes_are_not_described_find_the_same(tmp_path, monkeypatch):
    model, pairs = tiny("llama"), random_pairs(n=2, prefix=2)
    by_node, _ = search(model, pairs, 0.01, tmp_path / "a", metric="kl_divergence")
    monkeypatch.setattr(NodeFunctions, "agrees", lambda *arguments: False)
    by_layer, _ = search(model, pairs, 0.01, tmp_path / "b", metric="kl_divergence")
    assert by_node.provenance["search"]["by_node"]
    assert not by_layer.provenance["search"]["by_node"]
    assert by_node == by_layer


def test_float32_finds_what_float64_finds_where_no_change_is_close():
    wide, narrow = (
        acdc(tiny("gpt2", dtype), random_pairs(n=2), 0.01, metric="kl_divergence")
        for dtype in (torch.float64, torch.float32)
    )
    assert wide.provenance["search"]["closest"] > 1e-4
    assert wide == narrow


# --- sweeps ---------------------------------------------------------------------------------------------------------------


def test_a_sweep_begins_with_acdc_and_prunes_on():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    tight, loose, middle = acdc_sweep(model, pairs, [0.02, 0.001, 0.005], metric="kl_divergence")
    assert loose == acdc(model, pairs, 0.001, metric="kl_divergence")
    assert middle == acdc(model, pairs, 0.005, metric="kl_divergence", start=loose)
    assert tight <= middle <= loose
    assert len(tight) < len(middle) < len(loose)


def test_a_circuit_of_a_given_size_tells_its_rounds():
    edges = 40
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    result = acdc_of_size(model, pairs, edges, metric="kl_divergence", rounds=8)
    assert edges - 6 <= len(result) <= edges
    assert result.provenance["options"]["wanted"] == edges
    assert all(threshold > 0 for threshold, _ in result.provenance["rounds"])


# --- the record -----------------------------------------------------------------------------------------------------------


def test_finished_layers_are_not_tested_again(tmp_path, monkeypatch):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    whole, _ = search(model, pairs, 0.1, tmp_path)
    monkeypatch.setattr(Search, "_test", lambda *arguments: pytest.fail("tested again"))
    assert search(model, pairs, 0.1, tmp_path)[0] == whole


def test_a_record_of_another_question_is_refused(tmp_path):
    model = tiny("gpt2")
    search(model, random_pairs(n=2), 0.1, tmp_path)
    with pytest.raises(InputError, match="another question"):
        search(model, random_pairs(n=2), 0.2, tmp_path)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not a record"):
        acdc(model, random_pairs(n=2), 0.1, store=tmp_path / "foreign")


def test_what_cannot_be_followed_is_refused():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    with pytest.raises(InputError, match="start_layer"):
        acdc(model, pairs, 0.1, start_layer=4)
    with pytest.raises(InputError, match="another graph"):
        acdc(model, pairs, 0.1, start=Circuit.full(tiny("llama").graph))
    with pytest.raises(InputError, match="not a number"):
        acdc(model, pairs, math.nan)
    with pytest.raises(InputError, match="most_rows"):
        acdc(model, pairs, 0.1, most_rows=0)
    with pytest.raises(InputError, match="edges must be"):
        acdc_of_size(model, pairs, -1)
    with pytest.raises(InputError, match="at least one threshold"):
        acdc_sweep(model, pairs, [])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_thresholds_without_bound_keep_all_and_remove_all(name):
    model, pairs = tiny(name), random_pairs(n=2)
    assert acdc(model, pairs, -math.inf) == Circuit.full(model.graph)
    assert not acdc(model, pairs, math.inf).edges
