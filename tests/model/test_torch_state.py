"""No result depends on torch's settings where it is computed, and none of the user's settings is changed."""

import threading
from contextlib import ExitStack, contextmanager
from functools import cache

import pytest
import torch

import circuits
import tasks
from circuits import Circuit, ModelError
from circuits.plain_torch import is_plain, plain_state
from tests.public_calls import CALLS, NOT_CALLED, Given, same
from tests.tiny_models import random_hf_model, random_pairs, tiny


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() is dtype
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
        assert torch.get_default_device().type == device
    finally:
        torch.set_default_device(None)


@contextmanager
def everything_at_once():
    both = default_dtype(torch.bfloat16), default_device("meta")
    with stack(*both, torch.autocast("cpu", torch.bfloat16), torch.inference_mode()):
        yield


STATES = {
    "everything at once": everything_at_once,
    "no grad, float64": lambda: stack(torch.no_grad(), default_dtype(torch.float64)),
}
"""What could go wrong in one of them alone is tried on a few methods, below."""
ALONE = {
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "default device meta": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@contextmanager
def stack(*contexts):
    with ExitStack() as entered:
        for context in contexts:
            entered.enter_context(context)
        yield


@cache
def given():
    return Given(tiny("llama", torch.float32), random_pairs(n=3, length=5, prefix=1)).ready()


@cache
def expected(name):
    return CALLS[name](given())


def test_every_public_function_is_called_here():
    functions = {name for name in circuits.__all__ if not isinstance(getattr(circuits, name), type)}
    functions -= {"Interaction"}
    assert functions <= CALLS.keys() | NOT_CALLED


@pytest.mark.parametrize("name", CALLS)
def test_the_same_numbers_come_out_whatever_the_state_of_torch(name):
    right = expected(name)
    with everything_at_once():
        result = CALLS[name](given())
    assert same(result, right)
    assert is_plain()


@pytest.mark.parametrize("state", {**STATES, **ALONE})
@pytest.mark.parametrize("name", ["coar", "exact_edge_effects", "activation_patching", "edge_attribution"])
def test_each_state_alone(name, state):
    right = expected(name)
    with {**STATES, **ALONE}[state]():
        result = CALLS[name](given())
    assert same(result, right)
    assert is_plain()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_a_model_loaded_in_any_state_works_in_any_other(name, state, tmp_path):
    pairs = random_pairs(n=3, length=5)
    made = random_hf_model(name, torch.float32)
    made.save_pretrained(tmp_path)
    plain = circuits.load_model(made)
    right = circuits.edge_attribution(plain, pairs)
    with STATES[state]():
        loaded = [circuits.load_model(each) for each in (made, tmp_path)]
        result, circuit = [circuits.edge_attribution(model, pairs) for model in loaded], Circuit.full(plain.graph)
    for model, scores in zip(loaded, result, strict=True):
        assert same(scores, right)
        assert same(circuits.edge_attribution(model, pairs), right)
        assert same(circuits.circuit_metric(model, pairs, circuit), circuits.circuit_metric(plain, pairs, circuit))
        few = scores.top(3)
        exact = [circuits.exact_edge_effects(one, pairs, few.edges, context=few) for one in (model, plain)]
        assert same(*exact)


def test_a_built_model_and_a_task_are_the_same_in_every_state():
    def work():
        model = circuits.load_model("compiled/induction")
        pairs = tasks.load("compiled/induction").pairs(model, n=4, seed=0)
        return [
            circuits.edge_attribution(model, pairs),
            circuits.check_task(model, tasks.load("compiled/induction"), n=4),
        ]

    right = work()
    for state in STATES.values():
        with state():
            result = work()
        assert same(result, right)


def test_results_made_from_inference_tensors_can_be_used_where_gradients_are_taken():
    g = given()
    with torch.inference_mode():
        mask = g.circuit.mask.clone()
        circuit = Circuit(g.model.graph, mask)
    assert mask.is_inference()
    assert not circuit.mask.is_inference()
    right = circuits.exact_edge_effects(g.model, g.pairs, circuit.edges[:2], context=g.circuit)
    assert same(circuits.exact_edge_effects(g.model, g.pairs, circuit.edges[:2], context=circuit), right)


def test_weights_made_under_inference_mode_are_refused_in_one_line():
    with torch.inference_mode():
        made = random_hf_model("gpt2")
        with pytest.raises(ModelError, match="inference_mode") as refused:
            circuits.load_model(made)
    assert "\n" not in str(refused.value)


def test_a_metric_of_the_users_own_sees_a_default_device_that_fits_its_logits():
    def metric(logits, targets):
        return logits[torch.arange(len(logits)), targets.answers[:, 0]] * torch.ones(len(logits))

    g = given()
    right = circuits.edge_attribution(g.model, g.pairs, metric=metric)
    with default_device("meta"):
        assert same(circuits.edge_attribution(g.model, g.pairs, metric=metric), right)


def test_threads_that_need_float32_give_the_users_default_dtype_back_when_the_last_is_done():
    inside, leave = threading.Barrier(2), threading.Event()

    def work(first):
        with plain_state():
            inside.wait(10)
            if not first:
                leave.wait(10)
            assert torch.get_default_dtype() is torch.float32

    with default_dtype(torch.float64):
        threads = [threading.Thread(target=work, args=(first,)) for first in (True, False)]
        for thread in threads:
            thread.start()
        threads[0].join()
        assert torch.get_default_dtype() is torch.float32
        leave.set()
        threads[1].join()
        assert torch.get_default_dtype() is torch.float64
