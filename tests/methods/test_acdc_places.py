"""ACDC over places, step by step, against one full pass for each test; and its engine against whole passes."""

import math

import pytest
import torch

from circuits import Circuit, InputError, acdc, acdc_of_size, acdc_sweep, circuit_metric, edge_attribution
from circuits.engine.incremental.node_functions import NodeFunctions
from circuits.methods.acdc.loss import Loss
from circuits.methods.acdc.record import STEPS_FILE, read_steps
from circuits.question.places import covering_axis
from circuits.question.question import Question
from tests.naive_acdc import check_same
from tests.naive_acdc_places import naive_acdc_places
from tests.placed_pairs import placed_pairs, spans_of
from tests.tiny_models import atol, tiny


def numbers(pairs):
    return [[pairs.spans.index(span) for span in spans_of(pairs, i)] for i in range(len(pairs))]


CASES = {
    "gpt2": ("interchange", 0.025, 3),
    "llama": ("zero", 0.05, 0),
    "neox": ("mean", 0.05, 0),
    "gemma2": ("interchange", 0.05, 0),
}
"""Ablation, a threshold that no change is close to, and the length of a common prefix."""


@pytest.mark.parametrize("name", CASES)
def test_step_by_step_the_naive_twin(name, tmp_path):
    ablation, threshold, prefix = CASES[name]
    model, pairs = tiny(name), placed_pairs(n=2, prefix=prefix)
    twin = naive_acdc_places(model, pairs, threshold, numbers(pairs), ablation=ablation)
    circuit = acdc(
        model, pairs, threshold, positions="spans", metric="logit_difference", ablation=ablation, store=tmp_path / "s"
    )
    steps = [tuple(step) for step in read_steps(tmp_path / "s" / STEPS_FILE)]
    check_same(circuit, steps, twin)
    assert circuit.places == pairs.spans
    assert 10 < len(circuit) < circuit.graph.n_edges / 2
    assert circuit.provenance["search"]["by_node"]
    value = circuit_metric(model, pairs, circuit, metric="logit_difference", ablation=ablation).mean()
    assert circuit.provenance["search"]["final_loss"] == pytest.approx(-float(value), abs=1e-5)


@pytest.mark.parametrize(("name", "threshold"), [("gpt2", 0.02), ("gemma2", 0.03)])
def test_with_destinations_step_by_step_the_naive_twin_from_another_circuit(name, threshold, tmp_path):
    model, pairs = tiny(name), placed_pairs(n=1)
    options = {"metric": "logit_difference", "positions": "spans", "destinations": True}
    first = edge_attribution(model, pairs, positions="spans", destinations=True).top(120, places=True)
    circuit = acdc(model, pairs, threshold, start=first, store=tmp_path / "s", **options)
    steps = [tuple(step) for step in read_steps(tmp_path / "s" / STEPS_FILE)]
    twin = naive_acdc_places(model, pairs, threshold, numbers(pairs), destinations=True, start=set(first.edges))
    check_same(circuit, steps, twin)
    assert circuit.provenance["search"]["by_node"]
    assert circuit.graph.places.destinations
    assert 3 < len(circuit) < len(first) / 2
    assert any("=>" in edge for edge in circuit.edges)


def test_whole_passes_find_the_same(monkeypatch):
    model, pairs = tiny("gemma2"), placed_pairs(n=2)
    by_node = acdc(model, pairs, 0.05, positions="spans", metric="logit_difference")
    monkeypatch.setattr(NodeFunctions, "agrees", lambda *arguments: False)
    by_passes = acdc(model, pairs, 0.05, positions="spans", metric="logit_difference")
    assert by_node.provenance["search"]["by_node"]
    assert not by_passes.provenance["search"]["by_node"]
    assert by_node == by_passes


@pytest.mark.parametrize("destinations", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "native", "gemma2", "olmo2"])
def test_the_logits_of_any_sequence_of_circuits_are_those_of_whole_passes(name, destinations):
    """Switches to and fro, in trials of several rows, from random circuits."""
    model, pairs = tiny(name), placed_pairs(n=3, prefix=2)
    question = Question.ask(model, pairs, "logit_difference", batch_size=2)
    axis = covering_axis(model.graph, pairs, "spans", destinations)
    graph, draw = axis.graph, torch.Generator().manual_seed(0)
    with torch.no_grad():
        loss = Loss(question, axis)
        assert loss.by_node
        for share in (0.1, 0.6, 0.95):
            mask = (torch.rand(graph.edge_mask.shape, generator=draw) < share) & graph.edge_mask
            loss.reset(mask)
            for _ in range(3):
                chosen = torch.randperm(graph.n_edges, generator=draw)[:9].tolist()
                edges = [tuple(edge) for edge in graph.edge_mask.nonzero()[chosen].tolist()]
                switches = [edges[:4], edges[4:5], edges[5:8], edges[8:]]
                trial, wanted = loss.trial(switches), mask.clone()
                for row, switched in enumerate(switches):
                    for edge in switched:
                        wanted[edge] ^= True
                    value = -circuit_metric(model, pairs, Circuit(graph, wanted), metric="logit_difference").mean()
                    assert trial.value(row) == pytest.approx(float(value), abs=atol(name))
                    if row == 2:
                        mask = wanted.clone()
                trial.accept(2)


def test_where_all_prompts_are_one_span_the_search_is_the_one_without_places():
    model = tiny("gpt2")
    pairs = placed_pairs(n=2)
    one = type(pairs).from_tokens(
        pairs.clean, pairs.corrupted, pairs.answers, pairs.distractors, roles=[{"end": (0, 7)}] * 2
    )
    placed, plain = (acdc(model, one, 0.02, positions=where, metric="kl_divergence") for where in ("spans", None))
    assert placed.places == ("end",)
    assert placed.without_places() == plain
    assert placed.provenance["search"]["tests"] == plain.provenance["search"]["tests"]


def test_sweeps_sizes_orders_and_starts():
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    loose, tight = acdc_sweep(model, pairs, [0.002, 0.02], positions="spans", metric="kl_divergence")
    assert tight <= loose
    assert loose == acdc(model, pairs, 0.002, positions="spans", metric="kl_divergence")
    small = acdc_of_size(model, pairs, 40, positions="spans", metric="kl_divergence", rounds=4)
    assert len(small) <= 40
    assert small.places == pairs.spans
    order = edge_attribution(model, pairs, gradient="clean", positions="spans", check_sign=False)
    ordered = acdc(model, pairs, 0.02, positions="spans", order=order)
    plain = acdc(model, pairs, 0.02)
    further = acdc(model, pairs, 0.02, positions="spans", start=plain)
    assert ordered.places == further.places == pairs.spans
    assert further.without_places() <= plain
    each = acdc(model, pairs, math.inf, positions="each")
    assert not each.edges


def test_what_cannot_be_followed_is_refused():
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    with pytest.raises(InputError, match="'spans' or 'each'"):
        acdc(model, pairs, 0.1, positions="roles")
    with pytest.raises(InputError, match="no places"):
        acdc(model, pairs, 0.1, positions="spans", order=edge_attribution(model, pairs, check_sign=False))
    scores = edge_attribution(model, pairs, positions="spans", destinations=True)
    with pytest.raises(InputError, match="have destinations"):
        acdc(model, pairs, 0.1, positions="spans", start=scores.top(20, places=True))
    with pytest.raises(InputError, match="another graph"):
        acdc(model, pairs, 0.1, start=scores.top(20, places=True))
