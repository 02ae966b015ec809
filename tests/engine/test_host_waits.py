"""How often the host waits for an accelerator, counted on a pretended device: never within the loops of a method.

The whole model is on `cpu:1` of `tests.pretended_devices`, on which tensors of the host are refused and every read of a value is
counted: numbers, lists, copies, and operations whose result's shape depends on values.
"""

import warnings

import pytest
import torch
from accelerate import dispatch_model

import circuits
from tests.pretended_devices import counted_waits, pretended_devices
from tests.questions import LAYERS, QUESTIONS
from tests.tiny_models import random_hf_model, random_pairs, random_subset

N_LAYERS = 3
MOST = {
    "EAP": 10,
    "IG": 5,
    "IG over activations": 5,
    "RelP": 5 + 2 * N_LAYERS + 1,  # the rule of every norm is tried
    "GIM": 8 + 2 * N_LAYERS + 1,
    "circuits": 6,
    "circuits, mean": 9,
    "circuits, gaussian": 16,
    "patching": 10,
    "AtP": 6,
    "AtP*": 10
    + 2 * N_LAYERS
    + 3 * N_LAYERS,  # whether scores give the attention; once a model: whether heads are apart
    "AtP*, each position": 10 + 5 * N_LAYERS,
    "COAR": 10,
    "path patching": 6,
    "exact effects": 3 + 2 * 7,  # two for each reader, whose effects are stored at once
    "ACDC": 5
    + 13 * N_LAYERS
    + 2 * 19,  # each batch of tests decides on the next; once a model: the formulas of its nodes
    "edge pruning": 35,
    "information flow": 3,
    "refined": 14,
    "mediation": 7,
    "gradient times parameter": 6,
    "neuron conductance": 10,
    "internal influence": 8,
}
"""The most waits of one batch (edge pruning: of two steps)."""
GROWING = {
    "IG": [lambda m, p, n=n: circuits.edge_attribution(m, p, gradient="ig", steps=n) for n in (2, 5)],
    "conductance": [lambda m, p, n=n: circuits.edge_attribution(m, p, gradient="conductance", steps=n) for n in (2, 4)],
    "patching": [lambda m, p, n=n: circuits.activation_patching(m, p, nodes=n) for n in ("mlps", "heads+mlps+q+k+v")],
    "AtP": [lambda m, p, n=n: circuits.attribution_patching(m, p, nodes=n) for n in ("mlps", "heads+mlps+q+k+v")],
    "AtP*": [
        lambda m, _, n=n: circuits.atp_star(m, random_pairs(n=2, length=n, prefix=2), positions="each") for n in (4, 8)
    ],
    "COAR": [lambda m, p, n=n: circuits.coar(m, p, samples=n) for n in (4, 12)],  # one piece of its record
    "path patching": [
        lambda m, p, n=n: circuits.path_patching(m, p, ["logits", "a2.h0<q>", "m1"][:n], together=True) for n in (1, 3)
    ],
    "exact effects": [
        lambda m, p, n=n: circuits.exact_edge_effects(m, p, [f"{w}->logits" for w in ("input", "m0", "m1", "m2")[:n]])
        for n in (1, 4)
    ],
    "circuits": [
        lambda m, p, n=n: circuits.circuit_metrics(m, p, [random_subset(m, 0.5, seed) for seed in range(n)])
        for n in (2, 6)
    ],
}
"""A smaller and a larger amount of the same work: the host waits as often."""


@pytest.fixture(scope="module")
def accelerated():
    """A tiny model on one pretended device."""
    with pretended_devices():
        hf = dispatch_model(
            random_hf_model("llama"), dict.fromkeys(LAYERS, "cpu:1"), main_device="cpu:1", force_hooks=True
        )
        model = circuits.load_model(hf)
        assert len(model.weights_hash) == 64  # reads all weights, once
        yield model


def waits(ask, model):
    with warnings.catch_warnings(), counted_waits() as counted:
        warnings.simplefilter("ignore", circuits.AttributionWarning)
        ask(model, random_pairs(n=2, length=5, prefix=2))
    return counted


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_method_runs_on_its_device_and_the_host_hardly_waits(accelerated, question):
    counted = waits(QUESTIONS[question], accelerated)
    assert 0 < sum(counted.values()) <= MOST[question], counted


@pytest.mark.parametrize("method", GROWING)
def test_more_work_in_a_loop_is_no_more_waiting(accelerated, method):
    waits(GROWING[method][0], accelerated)  # what is found out once for a model
    less, more = (waits(ask, accelerated) for ask in GROWING[method])
    assert less == more


def test_the_counter_sees_what_makes_a_host_wait():
    def positive(x):
        return x[x > 0]

    reads = (
        lambda x: x.sum().item(), lambda x: x.tolist(), lambda x: bool((x > 0).any()), lambda x: x.cpu(), positive,
        lambda x: x.nonzero(), lambda x: float(x[0]), lambda x: torch.equal(x, x), lambda x: x.to("cpu"),
        lambda x: x.unique(),
    )  # fmt: skip
    with pretended_devices():
        x = torch.ones(3).to("cpu:1")
        for read in reads:
            with counted_waits() as counted:
                read(x)
            assert sum(counted.values()) == 1
        with counted_waits() as counted:
            (x * 2 + x.sum())[torch.tensor([0, 1])] += torch.ones(2).to("cpu:1")
        assert not counted
