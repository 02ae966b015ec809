"""Threads on one set of weights wait for each other; where waiting would never end they say so."""

import asyncio
import os
import queue
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from multiprocessing.pool import ThreadPool

import pytest
import torch

import circuits
from circuits import InputError
from circuits.engine import exclusive
from circuits.engine.exclusive import EXCLUSIVE, Exclusive
from circuits.model_calls import using
from tests.public_calls import CALLS, Given, same
from tests.tiny_models import random_hf_model, random_pairs

PAIRS = random_pairs(n=3, length=5, prefix=1)
NAMES = (
    "edge_attribution", "activation_patching", "acdc", "coar", "circuit_metric", "randomisation", "attribution_patching",
    "exact_edge_effects", "edge_pruning", "path_patching",
)  # fmt: skip


def models(shared):
    hf = random_hf_model("gpt2", torch.float32)
    one = circuits.load_model(hf)
    if shared == "one model":
        return one, one
    return one, circuits.load_model(one.bridge if shared == "one bridge" else hf)


@pytest.mark.parametrize("shared", ["one model", "one bridge", "one Hugging Face object"])
def test_two_threads_get_what_one_gets(shared):
    givens = [Given(model, PAIRS).ready() for model in models(shared)]
    right = {name: CALLS[name](givens[0]) for name in NAMES}
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            result = [
                (name, pool.submit(CALLS[name], givens[i % 2])) for i in range(2) for name in NAMES for _ in range(2)
            ]
            for name, future in result:
                assert same(future.result(), right[name])
    finally:
        sys.setswitchinterval(before)
    assert not EXCLUSIVE.owners
    assert not EXCLUSIVE.waiting


def test_models_with_weights_of_their_own_do_not_wait_for_each_other():
    one, other = (Given(circuits.load_model(random_hf_model("gpt2", seed=seed)), PAIRS) for seed in (0, 1))
    with using(one.model), ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: circuits.edge_attribution(other.model, PAIRS)).result(60) is not None


def test_methods_call_one_another_and_may_be_called_from_a_progress_function():
    model = circuits.load_model(random_hf_model("gpt2"))
    inner = []
    circuits.activation_patching(
        model, PAIRS, progress=lambda done, total: inner.append(circuits.circuit_metric(model, PAIRS, circuits.Circuit.full(model.graph)))
    )  # fmt: skip
    assert inner


def in_thread(work):
    """Starts it; the list gets its error."""
    problems = []

    def run():
        try:
            work()
        except InputError as problem:
            problems.append(str(problem))

    thread = threading.Thread(target=run, name="second")
    thread.start()
    return thread, problems


def test_a_call_whose_progress_function_waits_for_a_thread_on_the_same_model_ends_in_an_error():
    model = circuits.load_model(random_hf_model("gpt2"))
    messages = []

    def progress(done, total):
        thread, problems = in_thread(lambda: circuits.edge_attribution(model, PAIRS))
        thread.join()
        messages.extend(problems)

    circuits.attribution_patching(model, PAIRS, progress=progress)
    assert messages
    assert "which waits for this one" in messages[0]
    assert "\n" not in messages[0]


@pytest.mark.parametrize("how", ["result", "wait", "with", "map"])
def test_a_pool_on_the_same_model_ends_in_an_error(how):
    model = circuits.load_model(random_hf_model("gpt2"))

    def work(_):
        with pytest.raises(InputError, match="waits for this one"):
            circuits.edge_attribution(model, PAIRS)
        return True

    with using(model):
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(work, None)] if how != "map" else []
            if how == "result":
                futures[0].result()
            elif how == "wait":
                wait(futures)
            elif how == "map":
                assert list(pool.map(work, [1, 2])) == [True, True]
        assert all(future.result() for future in futures)


def by_event(work):
    done = threading.Event()

    def run():
        try:
            work()
        finally:
            done.set()

    threading.Thread(target=run).start()
    done.wait()


def by_queue(work):
    answers = queue.Queue()
    threading.Thread(target=lambda: (work(), answers.put(1))).start()
    answers.get()


def by_process_pool_of_threads(work):
    with ThreadPool(1) as pool:
        pool.apply(work)


def by_event_loop(work):
    asyncio.run(asyncio.to_thread(work))


@pytest.mark.parametrize("wait_for", [by_event, by_queue, by_process_pool_of_threads, by_event_loop])
def test_a_thread_that_holds_the_model_and_only_waits_is_not_waited_for(wait_for, monkeypatch):
    monkeypatch.setattr(exclusive, "PATIENCE", 0.5)
    model, message = circuits.load_model(random_hf_model("gpt2")), []

    def work():
        try:
            circuits.edge_attribution(model, PAIRS)
        except InputError as problem:
            message.append(str(problem))

    with using(model):
        wait_for(work)
    assert "has done nothing but wait for 0.5 seconds" in message[0]


def test_two_threads_that_wait_for_each_others_models_end_in_an_error():
    one, other = (circuits.load_model(random_hf_model("gpt2", seed=seed)) for seed in (0, 1))
    both = threading.Barrier(2)
    problems = []

    def work(first, second):
        with using(first):
            both.wait(60)
            try:
                with using(second):
                    pass
            except InputError as problem:
                problems.append(str(problem))

    threads = [threading.Thread(target=work, args=order) for order in ((one, other), (other, one))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(problems) == 1


def test_threads_are_served_in_turn():
    lock, order = Exclusive(), []
    started = []

    def work(i):
        started.append(i)
        with lock.hold(frozenset({1}), "it"):
            order.append(i)

    with lock.hold(frozenset({1, 2}), "it"):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for i, thread in enumerate(threads):
            thread.start()
            while len(lock.waiting) <= i:
                time.sleep(0.001)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2]


def test_a_call_that_fails_lets_the_next_one_in():
    model = circuits.load_model(random_hf_model("gpt2"))
    with pytest.raises(InputError):
        circuits.edge_attribution(model, PAIRS, metric=lambda logits, targets: logits)
    thread, problems = in_thread(lambda: circuits.edge_attribution(model, PAIRS))
    thread.join(60)
    assert not problems
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_is_not_kept_out_by_a_thread_that_it_does_not_have():
    lock = Exclusive()
    with lock.hold(frozenset({1}), "it"):
        done = []
        thread = threading.Thread(target=lambda: (lock.after_fork(), done.append(dict(lock.owners))))
        thread.start()
        thread.join()
    assert done == [{}]


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="the system has no clock for each thread")
def test_the_stack_of_a_thread_that_computes_is_not_read(monkeypatch):
    lock, reads = Exclusive(), []
    monkeypatch.setattr(exclusive, "_current_frames", lambda: reads.append(1) or {})
    with lock.hold(frozenset({1}), "it"):
        waiting = threading.Thread(target=lambda: lock.hold(frozenset({1}), "it").__enter__())
        waiting.start()
        end = time.monotonic() + 4 * exclusive.LOOK_EVERY
        while time.monotonic() < end:
            pass
    waiting.join(60)
    assert not waiting.is_alive()
    assert not reads


def test_a_thread_that_waited_once_and_computes_since_is_waited_for(monkeypatch):
    monkeypatch.setattr(exclusive, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(exclusive, "PATIENCE", 0.5)
    lock, problems = Exclusive(), []

    def second():
        try:
            with lock.hold(frozenset({1}), "it"):
                pass
        except InputError as problem:
            problems.append(str(problem))

    with lock.hold(frozenset({1}), "it"):
        waiting = threading.Thread(target=second)
        waiting.start()
        threading.Event().wait(0.3)
        end = time.thread_time() + 1.0
        while time.thread_time() < end:
            pass
    waiting.join(60)
    assert not problems
