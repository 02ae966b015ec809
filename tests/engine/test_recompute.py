"""Blocks that are computed again give the same values and gradients, to the last bit, and keep less."""

import pytest
import torch

from circuits import InputError, atp_star, attribution_patching, edge_attribution
from circuits.engine.recompute import recomputed, saved_by
from circuits.memory_budget import free_memory, parse_memory
from circuits.question import batch_memory
from circuits.question.batch_memory import BatchMemory
from circuits.question.question import Question
from tests.tiny_models import ALL, awkward_pairs, random_pairs, tiny

METHODS = {
    "EAP": lambda m, p: edge_attribution(m, p, gradient="clean", check_sign=False).values,
    "EAP-IG": lambda m, p: edge_attribution(m, p, gradient="ig", steps=2).values,
    "AtP": lambda m, p: attribution_patching(m, p, nodes="heads+mlps+q+k+v", positions="roles").values,
    "AtP*": lambda m, p: atp_star(m, p, positions="roles").values,
}


@pytest.fixture
def always(monkeypatch):
    def switch(on):
        monkeypatch.setattr("circuits.question.question.recomputes", lambda *given: on)

    return switch


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_the_same_on_every_architecture(name, always):
    model, pairs = tiny(name), random_pairs(n=2, length=6, prefix=2)
    got = []
    for on in (False, True):
        always(on)
        got.append(METHODS["EAP"](model, pairs))
    torch.testing.assert_close(*got, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_methods_give_the_same_bits(method, always):
    got = []
    for on in (False, True):
        always(on)
        got.append(METHODS[method](tiny("llama"), awkward_pairs()))
    assert torch.equal(*got)


def test_less_is_kept_and_the_model_is_left_as_it_was():
    model = tiny("llama")
    question = Question.ask(model, random_pairs(n=2, length=30))
    (batch,) = question.batches(share_prefix=False)
    before = [dict(block.module.__dict__) for block in model.architecture.blocks]
    saved = []
    for on in (False, True):
        with recomputed(model.architecture, on):
            saved.append(saved_by(lambda: question.live_run(batch, [])))
    assert saved[1] < 0.6 * saved[0]  # the first of three layers is kept
    for block, was in zip(model.architecture.blocks, before, strict=True):
        assert block.module.__dict__.keys() == was.keys()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_the_estimate_covers_what_autograd_saves(name):
    """Without the weights, which autograd refers to."""
    model = tiny(name)
    question = Question.ask(model, random_pairs(n=2, length=30))
    (batch,) = question.batches(share_prefix=False)
    weights = sum(p.numel() * p.element_size() for p in model.bridge.original_model.parameters())
    one = BatchMemory.for_model(model, 30)
    saved = saved_by(lambda: question.live_run(batch, []))
    assert saved - weights < one.need(2) < 5 * saved


def test_a_budget_bounds_batches_then_blocks_are_computed_again():
    model = tiny("llama")
    one = BatchMemory.for_model(model, 20)
    assert one.need(1, True) < one.need(1) < one.need(2)
    for budget in (one.need(1, True), one.need(1), one.need(3), one.need(7) + 1):
        rows = one.rows(budget)
        again = one.recompute(rows, budget)
        assert one.need(rows, again) <= budget
        assert one.need(rows + 1, again) > budget
    assert one.rows(1) == 1


def test_the_users_budget_reaches_the_question(monkeypatch):
    import dataclasses

    model, pairs = tiny("llama"), random_pairs(n=8, length=30)
    monkeypatch.setattr(batch_memory, "SMALL", 0)
    need = BatchMemory.for_model(model, 30).need
    small = dataclasses.replace(model, memory=need(3))
    assert Question.ask(small, pairs).batch_size == 3
    assert Question.ask(dataclasses.replace(model, memory=need(100)), pairs).batch_size >= 8
    assert Question.ask(small, pairs, batch_size=5).batch_size == 5
    alone = dataclasses.replace(model, memory=need(1, True))
    assert Question.ask(alone, pairs).batch_size == 1
    torch.testing.assert_close(METHODS["EAP-IG"](alone, pairs), METHODS["EAP-IG"](model, pairs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("text", "n"), [("4GB", 4 * 10**9), ("500 mb", 5 * 10**8), ("2GiB", 2**31), (10**7, 10**7)])
def test_memory_is_read(text, n):
    assert parse_memory(text) == n


@pytest.mark.parametrize("text", ["", "4 apples", "-1GB", "nan", "1KB", "4GBB", "1e9GB", "inf", "4IB"])
def test_what_is_no_memory_is_refused(text):
    with pytest.raises(InputError, match="memory must be"):
        parse_memory(text)


def test_free_memory_is_known_here():
    free = free_memory(torch.device("cpu"))
    assert free is None or 10**7 < free < 10**14
    assert free_memory(torch.device("meta")) is None
