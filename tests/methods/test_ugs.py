"""Uniform gradient sampling: its random masks against what they estimate, and the circuits that it finds."""

import json
from pathlib import Path

import pytest
import torch

import circuits
from circuits import Circuit, InputError, uniform_gradient_sampling
from circuits.results.random_circuits import random_circuit
from circuits.results.recorded import method_name
from circuits.stats.uniform_window import draw
from tests.concentrated import PAIRS, concentrated, divergence
from tests.tiny_models import random_pairs, tiny

THETAS = (-3.0, -0.5, 0.0, 1.0, 4.0)


def grid(n=200_001):
    """The middles of n equal pieces of (0, 1)."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@pytest.mark.parametrize("theta", THETAS)
def test_masks_are_one_zero_and_uniform_with_their_probabilities(theta):
    p = torch.tensor(theta, dtype=torch.float64).sigmoid()
    masks = draw(torch.full((200_001,), theta, dtype=torch.float64), grid())
    width = float(p * (1 - p))
    assert float((masks == 1).double().mean()) == pytest.approx(float(p) - width / 2, abs=1e-4)
    assert float((masks == 0).double().mean()) == pytest.approx(1 - float(p) - width / 2, abs=1e-4)
    between = masks[(masks > 0) & (masks < 1)].sort().values
    torch.testing.assert_close(between, grid(len(between)), atol=1e-2, rtol=0)
    assert float(masks.mean()) == pytest.approx(float(p), abs=1e-4)


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("loss", [lambda z: z**3 - z, lambda z: (5 * z).sin(), lambda z: 1 / (0.2 + z)])
def test_the_expected_gradient_is_that_of_a_mask_of_zero_or_one(theta, loss):
    parameters = torch.full((200_001,), theta, dtype=torch.float64, requires_grad=True)
    loss(draw(parameters, grid())).mean().backward()
    p = torch.tensor(theta, dtype=torch.float64).sigmoid()
    ends = loss(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert float(parameters.grad.sum()) == pytest.approx(float(p * (1 - p) * (ends[1] - ends[0])), abs=1e-4)


def test_the_gradients_of_two_masks_in_a_product_are_unbiased_too():
    thetas = torch.tensor([0.3, -1.0], dtype=torch.float64)
    u = grid(1001)
    first = torch.full((1001, 1), float(thetas[0]), dtype=torch.float64, requires_grad=True)
    second = torch.full((1, 1001), float(thetas[1]), dtype=torch.float64, requires_grad=True)
    (draw(first, u[:, None]) * draw(second, u[None])).mean().backward()
    p, q = thetas.sigmoid().tolist()
    assert float(first.grad.sum()) == pytest.approx(p * (1 - p) * q, rel=1e-2)
    assert float(second.grad.sum()) == pytest.approx(q * (1 - q) * p, rel=1e-2)


def test_a_sparse_circuit_is_found():
    model = concentrated()
    found = uniform_gradient_sampling(model, PAIRS, 14, steps=40)
    generator = torch.Generator().manual_seed(0)
    rivals = [random_circuit(model.graph, 14, generator) for _ in range(8)]
    mine, nothing, *random = divergence(found, Circuit.empty(model.graph), *rivals)
    assert mine < min(random) / 10
    assert mine < nothing / 20


@pytest.mark.parametrize("name", ["llama", "neox", "gemma2", "native-attention-only"])
def test_the_circuit_is_connected_and_within_the_budget_on_any_architecture(name):
    model, pairs = tiny(name), random_pairs(n=4, prefix=2)
    found = uniform_gradient_sampling(model, pairs, 25, steps=4, batch_size=2)
    assert len(found) <= 25
    assert found.pruned() == found
    assert method_name(found.provenance) == "UGS"


def test_it_starts_from_scores_and_draws_by_its_seed():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    own = circuits.edge_attribution(model, pairs)
    at_once = uniform_gradient_sampling(model, pairs, 15, steps=1, learning_rate=1e-6, start=own)
    assert at_once in (own.top(15, fill=True), own.top(15))
    one, two, other = (uniform_gradient_sampling(model, pairs, 15, steps=4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.scores, two.scores)
    assert not torch.equal(one.scores, other.scores)


def test_at_spans_every_edge_has_a_mask_at_every_place():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    found = uniform_gradient_sampling(model, pairs, 30, steps=3, positions="each")
    assert found.places is not None
    assert len(found) <= 30


def test_what_cannot_be_trained_is_refused():
    model, pairs = tiny("gpt2"), random_pairs(n=1)
    with pytest.raises(InputError, match="edges must be between 1 and"):
        uniform_gradient_sampling(model, pairs, 0)
    with pytest.raises(InputError, match="learning_rate"):
        uniform_gradient_sampling(model, pairs, 5, learning_rate=0.0)
    with pytest.raises(InputError, match="gradient"):
        uniform_gradient_sampling(model, pairs, 5, metric="rank")


def test_masks_and_gradients_are_the_authors():
    file = Path(__file__).parents[1] / "golden" / "optimal_ablation" / "values.json"
    case = {
        name: torch.tensor(value, dtype=torch.float64) for name, value in json.loads(file.read_text())["masks"].items()
    }
    theta = case["theta"].clone().requires_grad_()
    masks = draw(theta.expand_as(case["uniform"]), case["uniform"])
    torch.testing.assert_close(masks, case["masks"], rtol=1e-10, atol=1e-12)
    (masks * case["weights"]).sum().backward()
    p = case["theta"].sigmoid()
    # A sampled mask has the gradient p (1 - p) there, and 1 here ...
    torch.testing.assert_close(theta.grad * p * (1 - p), case["gradient, as sampled"], rtol=1e-8, atol=1e-10)
    # ... where their training divides it by how often the mask was sampled, and ours by the probability p (1 - p) of it.
    sampled = ((masks > 1e-3) & (masks < 1 - 1e-3)).double().mean(0)
    divided = torch.where(sampled > 0, theta.grad * p * (1 - p) / sampled, 0.0)
    torch.testing.assert_close(divided, case["gradient, divided"], rtol=1e-6, atol=1e-10)  # they divide in float32
