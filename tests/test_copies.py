"""Results survive pickling and copying, so that other processes can have them; models say that they do not."""

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

import circuits
from circuits import Circuit, InputError
from circuits.question.metrics import METRICS
from circuits.results.provenance import frozen, plain
from tests.public_calls import CALLS, COPIES, Given, same
from tests.tiny_models import random_pairs, tiny

COPIERS = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "oldest pickle": lambda x: pickle.loads(pickle.dumps(x, protocol=2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
GIVEN = Given(tiny("llama", torch.float32), random_pairs(n=3, length=5, prefix=1))


@pytest.mark.parametrize("name", [name for name in CALLS if name != "random_circuit" and "attention" not in name])
def test_every_result_survives(name):
    result = CALLS[name](GIVEN.ready())
    for copier in COPIERS.values():
        twin = copier(result)
        assert type(twin) is type(result)
        assert same(twin, result)
        if hasattr(result, "provenance"):
            assert plain(twin.provenance) == plain(result.provenance)
            with pytest.raises(TypeError):
                twin.provenance["seed"] = 1
        assert str(twin) == str(result)


@pytest.mark.parametrize("copier", COPIERS)
def test_what_a_question_is_made_of_survives(copier):
    twin = COPIERS[copier](GIVEN.pairs)
    assert twin.digest() == GIVEN.pairs.digest()
    assert same(circuits.edge_attribution(GIVEN.model, twin), GIVEN.edges)
    graph = COPIERS[copier](GIVEN.model.graph)
    assert graph == GIVEN.model.graph
    assert torch.equal(graph.edge_mask, GIVEN.model.graph.edge_mask)
    assert COPIERS[copier](COPIES).run([1, 2]) == COPIES.run([1, 2])
    for metric in METRICS.values():
        assert COPIERS[copier](metric).name == metric.name
    assert same(circuits.edge_attribution(GIVEN.model, GIVEN.pairs, metric=COPIERS[copier](METRICS["logit_difference"])),
                GIVEN.edges)  # fmt: skip


@pytest.mark.parametrize("copier", COPIERS)
def test_a_circuit_from_indices_survives_with_or_without_its_mask(copier):
    graph = GIVEN.model.graph
    for look in (False, True):
        circuit = Circuit.from_indices(graph, torch.tensor([0, 1]), torch.tensor([12, 20]), torch.tensor([1.0, 2.0]))
        if look:
            assert circuit.mask.any()
        twin = COPIERS[copier](circuit)
        assert twin == circuit
        assert twin.edges == circuit.edges
        assert torch.equal(twin.mask, circuit.mask)


def test_a_deep_copy_shares_no_tensor():
    scores = GIVEN.edges
    twin = copy.deepcopy(scores)
    twin.values.add_(1)
    assert not torch.equal(twin.values, scores.values)


def test_a_frozen_mapping_is_a_mapping():
    one = frozen({"a": 1, "b": (2, 3)})
    assert one == {"a": 1, "b": (2, 3)}
    assert dict(one | {"a": 4}) == {"a": 4, "b": (2, 3)} == {"b": (2, 3)} | {**one, "a": 4}
    assert {"a": 0} | one == dict(one)
    assert "a" in one
    assert not hasattr(one, "update")


@pytest.mark.parametrize("copier", ["pickle", "oldest pickle", "deepcopy"])
@pytest.mark.parametrize("given", ["name", "object"])
def test_a_model_says_that_it_cannot_be_copied(copier, given):
    model = tiny("gpt2") if given == "object" else circuits.load_model("compiled/induction")
    with pytest.raises(InputError, match=r"neither pickled nor deep-copied.*load") as refused:
        COPIERS[copier](model)
    assert "\n" not in str(refused.value)
    assert copy.copy(model).bridge is model.bridge


def total(scores):
    return float(scores.values.sum())


def test_results_go_to_another_process_and_come_back():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(total, GIVEN.edges).result() == total(GIVEN.edges)
