"""A key/value head for every query head: the same function, more edges."""

import pytest
import torch

import circuits
from circuits import InputError
from tests.tiny_models import random_hf_model, tiny


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "qwen3", "mixtral"])
def test_the_function_is_the_same(name):
    given = random_hf_model(name, torch.float32)
    before = {key: value.clone() for key, value in given.state_dict().items()}
    model = circuits.load_model(given, ungrouped=True)
    tokens = torch.randint(3, 40, (2, 6), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.bridge(tokens), given(tokens).logits, atol=1e-4, rtol=1e-4)
    assert (model.graph.n_kv_heads, model.grouped_graph.n_kv_heads, given.config.num_key_value_heads) == (4, 2, 2)
    assert all(torch.equal(value, before[key]) for key, value in given.state_dict().items())


def test_without_groups_nothing_changes():
    model = circuits.load_model(random_hf_model("gpt2"), ungrouped=True)
    assert model.graph == model.grouped_graph == tiny("gpt2").graph


@pytest.mark.parametrize("name", ["phi3", "falcon"])
def test_other_projections_are_refused(name):
    with pytest.raises(InputError, match="cannot be copied out to 4 query heads"):
        circuits.load_model(random_hf_model(name, torch.float32), ungrouped=True)


def test_a_directory_and_what_workers_load(tmp_path):
    random_hf_model("llama", torch.float32).save_pretrained(tmp_path)
    model = circuits.load_model(tmp_path, ungrouped=True)
    from circuits.measure.divided import ModelSource

    again = ModelSource.from_model(model).load()
    assert (again.graph, again.weights_hash) == (model.graph, model.weights_hash)
