"""Exact effects against one ablated forward pass an edge."""

import json

import pytest
import torch

import circuits.methods.exact_edges as exact_edges
from circuits import Circuit, InputError, circuit_metrics, edge_attribution, exact_edge_effects
from circuits.errors import DamageWarning
from tests.tiny_models import ALL, FEW, atol, random_pairs, random_subset, tiny


def naive(model, pairs, edges, context, ablation="interchange"):
    base = Circuit.full(model.graph) if context is None else context
    switched = [base ^ Circuit.from_edges(model.graph, [edge]) for edge in edges]
    values = circuit_metrics(model, pairs, [base, *switched], ablation=ablation)
    signs = torch.tensor([1.0 if edge in base else -1.0 for edge in edges], dtype=torch.float64)
    return (values[0] - values[1:]) * signs[:, None]


@pytest.mark.parametrize(("name", "in_circuit"), [*((name, True) for name in ALL), *((name, False) for name in FEW)])
def test_every_edge_alone_is_one_ablated_forward_pass(name, in_circuit):
    model, pairs = tiny(name), random_pairs(n=2, prefix=1)
    context = random_subset(model, 0.6) if in_circuit else None
    edges = model.graph.edges[:: max(1, len(model.graph.edges) // (15 if name in FEW else 7))]
    result = exact_edge_effects(model, pairs, edges, context=context)
    assert result.edges == tuple(edges)
    wanted = naive(model, pairs, edges, context)
    torch.testing.assert_close(result.per_prompt, wanted, rtol=1e-4, atol=max(1e-5, atol(name)))


@pytest.mark.parametrize("share", [0.02, 0.98])
def test_nearly_full_and_nearly_empty_contexts(share):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    context = random_subset(model, share)
    edges = model.graph.edges[::5]
    result = exact_edge_effects(model, pairs, edges, context=context)
    torch.testing.assert_close(result.per_prompt, naive(model, pairs, edges, context), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_other_ablations(ablation):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    edges = model.graph.edges[::9]
    result = exact_edge_effects(model, pairs, edges, ablation=ablation)
    torch.testing.assert_close(result.per_prompt, naive(model, pairs, edges, None, ablation), rtol=1e-4, atol=1e-8)


def test_all_edges_make_scores_and_do_not_depend_on_the_batch_size():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    one, three = (exact_edge_effects(model, pairs, batch_size=size) for size in (1, 3))
    torch.testing.assert_close(one.per_prompt, three.per_prompt)
    scores = three.to_scores()
    assert scores.to_dict() == pytest.approx(three.to_dict())
    alike = torch.corrcoef(torch.stack([scores.values[model.graph.edge_mask],
        edge_attribution(model, pairs).values[model.graph.edge_mask]]))  # fmt: skip
    assert float(alike[0, 1]) > 0.2
    with pytest.raises(InputError, match="all of them"):
        exact_edge_effects(model, pairs, model.graph.edges[:3]).to_scores()


@pytest.mark.parametrize("name", FEW)
def test_a_stopped_sweep_goes_on_and_ends_the_same(name, tmp_path, monkeypatch):
    model, pairs = tiny(name), random_pairs(n=4)
    edges = model.graph.edges[::7]
    whole = exact_edge_effects(model, pairs, edges, batch_size=2)
    real, calls = exact_edges.edge_effects, []

    def stop_after_some(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(exact_edges, "edge_effects", stop_after_some)
    with pytest.raises(KeyboardInterrupt):
        exact_edge_effects(model, pairs, edges, batch_size=2, store=tmp_path / "s")
    kept = len(list((tmp_path / "s").glob("*.safetensors")))
    assert kept == 5
    again = exact_edge_effects(model, pairs, edges, batch_size=2, store=tmp_path / "s")
    assert torch.equal(again.per_prompt, whole.per_prompt)
    damaged = next((tmp_path / "s").glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    monkeypatch.setattr(exact_edges, "edge_effects", real)
    with pytest.warns(DamageWarning, match=damaged.name):
        again = exact_edge_effects(model, pairs, edges, batch_size=2, store=tmp_path / "s")
    assert torch.equal(again.per_prompt, whole.per_prompt)


def test_a_store_of_another_question_is_refused(tmp_path):
    model = tiny("gpt2")
    exact_edge_effects(model, random_pairs(n=1), model.graph.edges[:2], store=tmp_path / "s")
    with pytest.raises(InputError, match="another question"):
        exact_edge_effects(model, random_pairs(n=1, seed=1), model.graph.edges[:2], store=tmp_path / "s")
    (tmp_path / "s" / "manifest.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(InputError, match="not written by mech-circuits"):
        exact_edge_effects(model, random_pairs(n=1), model.graph.edges[:2], store=tmp_path / "s")


def test_unknown_edges_and_foreign_contexts_are_refused():
    model = tiny("gpt2")
    with pytest.raises(InputError, match="no writer"):
        exact_edge_effects(model, random_pairs(n=1), ["a9.h9->logits"])
    with pytest.raises(InputError, match="another graph"):
        exact_edge_effects(model, random_pairs(n=1), context=Circuit.full(tiny("llama").graph))
