import pytest
import torch

from circuits import Circuit, Graph, InputError, circuit_metric, circuit_metrics, faithfulness
from tests.tiny_models import random_pairs, random_subset, tiny


def test_the_full_circuit_is_entirely_faithful_and_the_empty_one_not_at_all():
    model, pairs = tiny("gpt2"), random_pairs()
    assert faithfulness(model, pairs, Circuit.full(model.graph), n_random=0).value == pytest.approx(1)
    assert faithfulness(model, pairs, Circuit.empty(model.graph), n_random=0).value == pytest.approx(0)


def test_the_value_is_the_ratio_of_dataset_means():
    model, pairs, circuit = tiny("gpt2"), random_pairs(), random_subset(tiny("gpt2"), 0.7)
    result = faithfulness(model, pairs, circuit, n_random=3, seed=4)
    clean, ablated, kept = (
        circuit_metric(model, pairs, c) for c in (Circuit.full(model.graph), Circuit.empty(model.graph), circuit)
    )
    torch.testing.assert_close(result.circuit, kept)
    torch.testing.assert_close(result.clean, clean)
    torch.testing.assert_close(result.ablated, ablated)
    assert result.value == pytest.approx(float((kept.mean() - ablated.mean()) / (clean.mean() - ablated.mean())))
    assert len(result.random) == 3
    again = faithfulness(model, pairs, circuit, n_random=3, seed=4)
    torch.testing.assert_close(result.random, again.random)


def test_values_come_back_in_the_order_of_the_pairs_whatever_the_batches():
    model, pairs = tiny("gpt2"), random_pairs(n=6)
    circuit = random_subset(model, 0.5)
    alone = torch.stack([circuit_metric(model, pairs[[i]], circuit)[0] for i in range(6)])
    for batch_size in (1, 4, 6):
        together = circuit_metric(model, pairs, circuit, batch_size=batch_size)
        torch.testing.assert_close(together, alone)


def test_a_circuit_of_another_graph_is_refused():
    with pytest.raises(InputError, match="another graph"):
        circuit_metrics(tiny("gpt2"), random_pairs(), [Circuit.empty(Graph(1, 1, 1, (True,)))])
