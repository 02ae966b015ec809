"""Masks trained by gradient: against exact effects on a model with few strong edges, and what must hold anywhere."""

import json
from itertools import pairwise

import pytest
import torch

from circuits import (
    Circuit,
    EdgeScores,
    InputError,
    Metric,
    edge_pruning,
    exact_edge_effects,
)
from circuits.results.provenance import plain
from circuits.results.random_circuits import random_circuit
from circuits.stats.hard_concrete import chance_open, draw
from tests.concentrated import PAIRS, concentrated, divergence
from tests.tiny_models import random_pairs, tiny


@pytest.mark.parametrize(("edges", "steps"), [(6, 100), (14, 40)])
def test_a_sparse_circuit_is_found(edges, steps):
    model = concentrated()
    result = edge_pruning(model, PAIRS, edges, steps=steps)
    exact = exact_edge_effects(model, PAIRS, metric="kl_divergence").to_scores().top(edges, fill=True)
    generator = torch.Generator().manual_seed(0)
    rivals = [random_circuit(model.graph, edges, generator) for _ in range(8)]
    mine, best, nothing, *random = divergence(result, exact, Circuit.empty(model.graph), *rivals)
    assert mine < min(random) / 10
    assert mine - best < 0.01 * nothing
    assert len(result & exact) >= 0.7 * edges


@pytest.mark.parametrize("name", ["llama", "neox", "gemma2", "native-attention-only"])
def test_the_circuit_is_connected_and_within_the_budget_on_any_architecture(name):
    model, pairs = tiny(name), random_pairs(n=4, prefix=2)
    for edges in (1, 25):
        result = edge_pruning(model, pairs, edges, steps=5, batch_size=2)
        assert len(result) <= edges
        assert result.pruned() == result
        assert result.provenance["selection"]["n"] == edges
        assert result.provenance["selection"]["kept"] == len(result)


def test_the_same_seed_gives_the_same_and_another_one_other_masks():
    model, pairs = tiny("gpt2"), random_pairs(n=5)
    state = torch.get_rng_state()
    one, two, other = (edge_pruning(model, pairs, 30, steps=4, batch_size=2, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert one == two
    assert torch.equal(one.scores, two.scores)
    assert not torch.equal(one.scores, other.scores)


def test_progress_tells_how_the_allowed_edges_fall_to_the_budget():
    messages = []
    result = edge_pruning(concentrated(), PAIRS, 10, steps=50, progress=messages.append)
    assert [step.done for step in messages] == list(range(1, 51))
    assert all(a.allowed > b.allowed for a, b in pairwise(messages[:40]))
    assert all(step.allowed == pytest.approx(10) for step in messages[40:])
    assert messages[0].expected > 0.9 * result.graph.n_edges
    assert result.provenance["training"]["expected"] < 20
    ends = divergence(Circuit.full(result.graph), Circuit.empty(result.graph))
    assert result.provenance["training"]["range"] == pytest.approx(ends[1] - ends[0])
    last = [step.metric for step in messages[-5:]]
    assert result.provenance["training"]["masked_metric"] == pytest.approx(sum(last) / 5)
    assert result.provenance["training"]["masked_steps"] == 5


@pytest.mark.parametrize(("edges", "steps"), [(10, 10), (40, 10), (40, 30)])
def test_of_three_choices_the_one_with_the_lowest_loss_on_the_pairs_is_taken(edges, steps):
    result = edge_pruning(concentrated(), PAIRS, edges, steps=steps)
    graph = result.graph
    values = torch.where(graph.edge_mask, result.scores, 0)
    scores = EdgeScores(graph, values, torch.zeros_like(values), 8)
    often = EdgeScores(graph, values, torch.zeros_like(values), 8, kept=graph.edge_mask & (chance_open(values) >= 0.5))
    candidates = {
        "filled": scores.top(edges, by="signed", fill=True),
        "first": scores.top(edges, by="signed"),
        "open": often.top(edges, by="signed", fill=True),
    }
    metrics = dict(zip(candidates, divergence(*candidates.values()), strict=True))
    training = result.provenance["training"]
    assert result == candidates[training["chosen"]]
    assert training["metric"] == pytest.approx(min(metrics.values()))
    assert metrics[training["chosen"]] == pytest.approx(min(metrics.values()))


def test_provenance_can_be_written_and_a_circuit_read_again(tmp_path):
    result = edge_pruning(tiny("gpt2"), random_pairs(n=2), 20, steps=3, learning_rate=0.5, seed=7)
    assert result.provenance["method"] == "edge_pruning"
    assert result.provenance["metric"] == "kl_divergence"
    assert result.provenance["options"] == {
        "edges": 20, "steps": 3, "learning_rate": 0.5, "absolute": False, "seed": 7, "batch_size": 8
    }  # fmt: skip
    json.dumps(plain(result.provenance), allow_nan=False)
    result.to_json(tmp_path / "circuit.json")
    again = Circuit.from_json(tmp_path / "circuit.json")
    assert again == result
    assert again.score(result.edges[0]) == result.score(result.edges[0])


def test_another_metric_is_pushed_past_the_model_unless_absolute():
    model = concentrated()
    kept = [
        edge_pruning(model, PAIRS, 14, steps=30, metric="logit_difference", absolute=absolute)
        for absolute in (False, True)
    ]
    clean, more, near = divergence(Circuit.full(model.graph), *kept, metric="logit_difference")
    assert more > clean
    assert abs(near - clean) < 0.5 * (more - clean)


def test_a_metric_of_ones_own_and_another_ablation():
    def answer(logits, targets):
        return logits.gather(1, targets.answers)[:, 0]

    result = edge_pruning(tiny("gpt2"), random_pairs(n=2), 10, steps=4, metric=answer, ablation="zero")
    assert (result.provenance["metric"], result.provenance["ablation"]) == ("answer", "zero")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_starts_out_like_float32(dtype):
    half, single = (
        edge_pruning(tiny("llama", kind), random_pairs(n=3, prefix=2), 20, steps=2) for kind in (dtype, torch.float32)
    )
    assert half.scores.dtype == torch.float64
    for name in ("range", "masked_metric", "expected"):
        wanted = single.provenance["training"][name]
        assert half.provenance["training"][name] == pytest.approx(wanted, rel=0.05)


def test_where_nothing_is_to_be_kept_it_still_ends():
    pairs = random_pairs(n=2, length=4, prefix=4)
    result = edge_pruning(tiny("gpt2"), pairs, 10, steps=3)
    assert len(result) <= 10
    assert result.provenance["training"]["metric"] == pytest.approx(0, abs=1e-12)


def broken(logits, targets):
    return logits[:, 0] / (logits[:, 0] - logits[:, 0].detach())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"edges": 0}, InputError, "edges must be between 1 and the graph's 172, got 0"),
        ({"edges": 173}, InputError, "172, got 173"),
        ({"steps": 0}, InputError, "steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, InputError, "learning_rate must be a positive number, got 0"),
        ({"learning_rate": float("nan")}, InputError, "learning_rate must be a positive number, got nan"),
        ({"metric": "accuracy"}, InputError, "edge pruning needs a gradient, and accuracy has none"),
        ({"metric": lambda logits, targets: logits.argmax(-1).double()}, InputError, "gave values without a gradient"),
        ({"metric": Metric("broken", broken)}, InputError, "metric broken is infinite"),
        ({"metric": "nothing"}, InputError, "no metric 'nothing'"),
        ({"batch_size": 0}, InputError, "batch_size"),
    ],
)
def test_what_cannot_be_used_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        edge_pruning(tiny("gpt2"), random_pairs(n=2), **{"edges": 10, "steps": 2, **options})


def test_hard_concrete_masks_are_open_as_often_as_said():
    generator = torch.Generator().manual_seed(0)
    log_alpha = torch.tensor([-4.0, -1.0, 0.0, 2.0], dtype=torch.float64)
    z = draw(log_alpha.expand(100_000, 4), torch.rand(100_000, 4, generator=generator, dtype=torch.float64))
    torch.testing.assert_close((z > 0).double().mean(0), chance_open(log_alpha), rtol=0, atol=0.006)
    assert float((z == 1).double().mean()) > 0.1
    assert (float(z.min()), float(z.max())) == (0, 1)


def test_hard_concrete_gradients_are_finite_differences_and_nothing_at_the_ends():
    uniform = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    log_alpha = torch.full((19,), 0.3, dtype=torch.float64, requires_grad=True)
    z = draw(log_alpha, uniform)
    (gradient,) = torch.autograd.grad(z.sum(), log_alpha)
    with torch.no_grad():
        wanted = (draw(log_alpha + 1e-6, uniform) - draw(log_alpha - 1e-6, uniform)) / 2e-6
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-8)
    assert not gradient[(z == 0) | (z == 1)].any()
