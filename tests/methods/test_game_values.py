"""Shapley, Banzhaf and Sobol values against enumeration of all sets of a few components."""

import itertools
import math

import pytest
import torch

import circuits
from circuits import InputError
from circuits.measure.component_samples import Sampler, in_blocks
from circuits.question.question import Question
from tests.tiny_models import random_pairs, tiny

NODES = ["a0.h1", "a1.h0", "m1", "a2.h2", "m2"]


@pytest.fixture(scope="module")
def game():
    """The worth of every set of five components of a tiny model: {kept: metric per prompt}."""
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    sampler = Sampler.for_question(Question.ask(model, pairs, None, "zero"), NODES)
    masks = torch.tensor(list(itertools.product([False, True], repeat=5)))
    result = sampler.measured("every set", in_blocks(masks))
    worth = {frozenset((~mask).nonzero()[:, 0].tolist()): out for mask, out in zip(masks, result.outcomes, strict=True)}
    return model, pairs, sampler.nodes, worth


def exact_shapley(worth, j, d=5):
    others = [i for i in range(d) if i != j]
    total = 0
    for size in range(d):
        share = math.factorial(size) * math.factorial(d - 1 - size) / math.factorial(d)
        for chosen in itertools.combinations(others, size):
            total = total + share * (worth[frozenset(chosen) | {j}] - worth[frozenset(chosen)])
    return total


def test_all_orders_give_shapley_values_and_any_orders_their_sum(game):
    model, pairs, nodes, worth = game
    result = circuits.shapley(model, pairs, nodes=NODES, orders=400)
    wanted = torch.stack([exact_shapley(worth, j) for j in range(5)])
    assert result.nodes == nodes
    spread = float(wanted.abs().max())
    assert float((result.per_prompt - wanted).abs().max()) < 0.1 * spread
    everything = worth[frozenset(range(5))] - worth[frozenset()]
    few = circuits.shapley(model, pairs, nodes=NODES, orders=2)
    torch.testing.assert_close(few.per_prompt.sum(0), everything)


@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_banzhaf_is_near_the_enumerated_value(game, alpha):
    model, pairs, _, worth = game
    result = circuits.banzhaf(model, pairs, nodes=NODES, samples=1600, alpha=alpha)
    for j in range(5):
        others = [i for i in range(5) if i != j]
        wanted = 0
        for size in range(5):
            share = (1 - alpha) ** size * alpha ** (4 - size)
            for kept in itertools.combinations(others, size):
                wanted = wanted + share * (worth[frozenset(kept) | {j}] - worth[frozenset(kept)])
        spread = float(torch.stack(list(worth.values())).std(0).max())
        assert float((result.per_prompt[j] - wanted).abs().max()) < 0.2 * spread


def test_sobol_indices_are_near_the_enumerated_ones(game):
    model, pairs, _, worth = game
    alpha = 0.3
    result = circuits.sobol(model, pairs, nodes=NODES, samples=600, alpha=alpha)
    chance = {kept: (1 - alpha) ** len(kept) * alpha ** (5 - len(kept)) for kept in worth}
    mean = sum(chance[kept] * worth[kept] for kept in worth)
    variance = sum(chance[kept] * (worth[kept] - mean) ** 2 for kept in worth)
    torch.testing.assert_close(result.variance, variance, rtol=0.25, atol=0)
    for j in range(5):
        within, between = 0, 0
        for kept in worth:
            if j not in kept:
                rest = chance[kept] / alpha
                within = within + rest * alpha * (1 - alpha) * (worth[kept | {j}] - worth[kept]) ** 2
        for there in (True, False):
            share = 1 - alpha if there else alpha
            here = sum(chance[k] / share * worth[k] for k in worth if (j in k) == there)
            between = between + share * (here - mean) ** 2
        assert float((result.total[j] - within / variance).abs().max()) < 0.12
        assert float((result.first[j] - between / variance).abs().max()) < 0.12
    assert bool((result.total >= result.first - 1e-9).all())


def test_additive_games_have_no_interaction():
    """The logit difference of a model without norms is linear in the last layer's components."""
    model, pairs = tiny("native-attention-only"), random_pairs(n=2)
    nodes = ["a2.h0", "a2.h1", "a2.h2"]
    alone = circuits.leave_one_out(model, pairs, nodes=nodes)
    torch.testing.assert_close(circuits.shapley(model, pairs, nodes=nodes, orders=2).per_prompt, alone.per_prompt)
    result = circuits.sobol(model, pairs, nodes=nodes, samples=48, alpha=0.5)
    assert float(result.interaction.abs().max()) < 1e-9
    assert len(result.strongest(2)) == 2


def test_what_cannot_be_drawn_is_refused():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    with pytest.raises(InputError, match="even"):
        circuits.shapley(model, pairs, orders=3)
    with pytest.raises(InputError, match="draw more"):
        circuits.banzhaf(model, pairs, samples=2, alpha=0.01)
    with pytest.raises(InputError, match="at least 2"):
        circuits.sobol(model, pairs, samples=1)
