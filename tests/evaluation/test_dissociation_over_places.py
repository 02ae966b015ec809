"""Circuits over places: ablated at their places where the prompts have them, at all tokens where they do not."""

import pytest
import torch

import circuits
from circuits import Circuit, InputError
from circuits.evaluation.dissociation import all_but, shared_core
from tests.naive_gpt2 import NaiveGPT2
from tests.naive_places import logits_at_places
from tests.placed_pairs import placed_pairs, random_placed, spans_of
from tests.tiny_models import random_hf_model, random_pairs, random_subset, tiny


def two_tasks(destinations=False):
    """A task with spans and a circuit over them, and a task without spans whose circuit has no places."""
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    placed = random_placed(model, pairs, 0.2, destinations)
    return model, {"spans": (pairs, placed), "plain": (random_pairs(n=2, seed=9), random_subset(model, 0.2, 1))}


def naive_metrics(model, pairs, kept):
    """Metric per prompt with the edges outside `kept` ablated, token by token."""
    naive, values = NaiveGPT2(random_hf_model("gpt2")), []
    with torch.no_grad():
        for i, pair in enumerate(pairs):
            _, replacement = naive.run(torch.tensor(pair.corrupted))
            spans = spans_of(pairs, i) if pairs.roles[i] else ["any"] * len(pair.clean)
            names = kept if pairs.roles[i] else {f"{edge}@any" for edge in kept}
            logits = logits_at_places(naive, torch.tensor(pair.clean), names, replacement, spans)
            values.append(float(logits[pair.answers[0]] - logits[pair.distractors[0]]))
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("destinations", [False, True])
def test_effects_are_those_of_a_naive_pass(destinations):
    model, tasks = two_tasks(destinations)
    result = circuits.dissociate(tasks, model, n_random=0)
    (pairs, placed), (others, plain) = tasks.values()
    core = {edge for edge in plain.edges if edge in placed.without_places().edges}
    assert set(result.core.edges) == core
    everything, nowhere = set(model.graph.edges), {edge.partition("@")[0] for edge in placed.edges}
    at_places = set(Circuit.full(placed.graph).edges)
    everywhere = {edge for edge in at_places if edge.partition("@")[0] in plain.edges}
    in_core = {edge for edge in at_places if edge.partition("@")[0] in core}
    gone = {  # (part, circuit, task): names of the edges that are ablated
        ("whole", 0, 0): set(placed.edges), ("whole", 0, 1): nowhere,
        ("whole", 1, 0): everywhere, ("whole", 1, 1): set(plain.edges),
        ("specific", 0, 0): set(placed.edges) - in_core, ("specific", 0, 1): nowhere - core,
        ("specific", 1, 0): everywhere - in_core, ("specific", 1, 1): set(plain.edges) - core,
    }  # fmt: skip
    for (part, i, j), removed in gone.items():
        asked, whole = (pairs, at_places) if j == 0 else (others, everything)
        clean, none, left = (naive_metrics(model, asked, kept).mean() for kept in (whole, set(), whole - removed))
        assert float(getattr(result, part).effect[i, j]) == pytest.approx(
            float((clean - left) / (clean - none)), abs=1e-9
        )


def test_circuits_of_one_set_of_places_have_a_core_and_chance_over_places():
    model, pairs = tiny("llama"), placed_pairs(n=2)
    first, second = (random_placed(model, pairs, 0.3, False, seed) for seed in (0, 1))
    assert shared_core([first, second]) == first & second
    result = circuits.dissociate({"a": (pairs, first), "b": (placed_pairs(n=3, seed=5), second)}, model, n_random=2)
    assert result.core.places == first.places
    assert result.sizes == (len(first), len(second))
    assert not result.chance.isnan().any()
    shared = circuits.sharing({"a": first, "b": second}, draws=5)
    assert float(shared.edges[0, 1]) == pytest.approx(len(first & second) / len(first | second))
    plain = random_subset(model, 0.3, 2)
    mixed = circuits.sharing({"a": first, "b": plain}, draws=5)
    collapsed = first.without_places()
    assert float(mixed.edges[0, 1]) == pytest.approx(len(collapsed & plain) / len(collapsed | plain))


def test_prompts_with_other_spans_are_ablated_at_all_tokens():
    model, tasks = two_tasks()
    pairs, placed = tasks["spans"]
    assert all_but(placed, pairs) == ~placed
    assert all_but(placed, tasks["plain"][0]) == ~placed.without_places()
    other = circuits.Graph(1, 2, 2, (True,))
    with pytest.raises(InputError, match="another graph"):
        circuits.dissociate({**tasks, "c": (pairs, Circuit.full(other))}, model)
