"""The memory that edge attribution is predicted to need."""

import builtins
import json

import pytest
import torch
import transformers

import circuits
from circuits import InputError, ModelError, memory_need
from circuits.cli.models import memory
from circuits.methods.edge_memory import read_config, saved_by_autograd, without_weights
from circuits.question.question import Question
from tests.command import GOLDEN_MODEL
from tests.tiny_models import CONFIGS, config_class, random_hf_model, random_pairs, tiny

LLAMA_8B = transformers.LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=128256,
)  # fmt: skip


def test_llama_8b_is_not_built_and_has_its_size():
    need = memory_need(LLAMA_8B, tokens=20, dtype=torch.bfloat16)
    assert need.n_parameters == 8_030_261_248
    assert need.graph.n_edges == 805_681
    assert need.weights == 2 * need.n_parameters
    writers = need.graph.n_writers * 20 * 4096 * 4
    assert need.batch_size == 1
    # All writers written out at all positions would be more than everything together but the weights.
    assert need.contraction < 1.2 * writers
    assert need.peak < 16.7e9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autograd_saves_on_no_device_what_it_saves_on_the_processor(dtype):
    real = random_hf_model("llama", dtype).requires_grad_(False)
    on_no_device = without_weights(real.config, dtype)
    saved = saved_by_autograd(real, 2, 7, 24)
    assert saved == saved_by_autograd(on_no_device, 2, 7, 24)
    # At least the three layers' gated units, twice before and once behind the product.
    assert saved > 3 * 3 * 2 * 7 * 32 * dtype.itemsize


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2", "qwen3"])
def test_it_knows_the_graph_and_the_batch_of_the_loaded_model(name):
    kind, options = CONFIGS[name]
    need = memory_need(getattr(transformers, config_class(kind))(**options), tokens=7, n=1000)
    model = tiny(name, torch.float32)
    assert (need.graph.n_writers, need.graph.n_readers) == (model.graph.n_writers, model.graph.n_readers)
    assert need.batch_size == Question.ask(model, random_pairs()).batch_size
    assert need.n_parameters == sum(parameter.numel() for parameter in random_hf_model(name).parameters())


@pytest.mark.parametrize("more", [{"tokens": 40}, {"batch_size": 2}, {"n": 128}, {"dtype": torch.float64}], ids=str)
def test_more_takes_more(more):
    asked = {"tokens": 20, "n": 32, "batch_size": 1}
    assert memory_need(LLAMA_8B, **asked | more).peak > memory_need(LLAMA_8B, **asked).peak


def test_a_thousand_pairs_take_what_a_few_hundred_take():
    assert memory_need(LLAMA_8B, tokens=20, n=1000).peak == memory_need(LLAMA_8B, tokens=20, n=300).peak


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"n": 0}, {"batch_size": 0}], ids=str)
def test_numbers_below_one_are_refused(wrong):
    with pytest.raises(InputError, match="at least 1, got 0"):
        memory_need(LLAMA_8B, **{"tokens": 3} | wrong)


def test_what_is_no_causal_language_model_is_refused():
    with pytest.raises(ModelError, match="T5Config"):
        memory_need(transformers.T5Config(), tokens=3)


@pytest.mark.parametrize("name", ["opt", "bloom"])
def test_a_model_that_looks_at_numbers_is_refused(name):
    kind, options = CONFIGS[name]
    with pytest.raises(ModelError, match="without numbers"):
        memory_need(getattr(transformers, config_class(kind))(**options), tokens=7)


def test_the_command_prints_it(capsys):
    memory(str(GOLDEN_MODEL), tokens=5, n=64, batch_size=None, dtype="float64", revision=None, json=True)
    record = json.loads(capsys.readouterr().out)
    need = memory_need(read_config(str(GOLDEN_MODEL)), tokens=5, dtype=torch.float64)
    assert record == need.to_dict()
    assert record["edges"] == circuits.load_model(GOLDEN_MODEL).graph.n_edges
    assert need.peak == need.weights + max(need.passes, need.contraction) + need.scores
    memory(str(GOLDEN_MODEL), tokens=5, n=64, batch_size=None, dtype="float64", revision=None, json=False)
    assert "predicted" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nowhere/to-be-found", "bad\0name", "", str(GOLDEN_MODEL.parent)])
def test_a_configuration_that_is_not_there_is_told(name):
    with pytest.raises(ModelError, match="cannot read the configuration"):
        read_config(name)


SIZES = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 9}
LYING = {
    "a text": {"num_hidden_layers": "x"},
    "a layer too many": {"num_hidden_layers": 10**9},
    "no heads": {"num_attention_heads": 0},
    "heads that are a list": {"num_attention_heads": [2]},
    "a width below nothing": {"hidden_size": -8},
    "a padding that there is not": {"pad_token_id": 10},
    "a vocabulary below nothing": {"vocab_size": -1},
    "a vocabulary beyond counting": {"vocab_size": 10**30},
    "an activation that there is not": {"hidden_act": ["x"]},
    "a kind of model that is a list": {"model_type": ["llama"]},
    "a type that there is not": {"dtype": "nloat32"},
    "a rope of no kind": {"rope_parameters": "x"},
}


@pytest.mark.parametrize("changed", LYING.values(), ids=LYING)
def test_a_configuration_that_lies_is_told(changed, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"} | SIZES | changed))
    with pytest.raises(ModelError):
        memory_need(read_config(str(tmp_path)), tokens=2, n=1)
    with pytest.raises(ModelError):
        circuits.load_model(tmp_path)


@pytest.mark.parametrize("known", [True, False])
def test_no_code_of_a_directory_is_run(known, tmp_path, monkeypatch):
    """Nobody is asked either: whoever pipes an answer into the command has not named it."""
    result = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    kind = "llama" if known else "unheard-of"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": result} | SIZES))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("the user was asked"))
    if known:
        assert memory_need(read_config(str(tmp_path)), tokens=2, n=1).graph.n_layers == 2
    else:
        with pytest.raises(ModelError, match="cannot read the configuration"):
            read_config(str(tmp_path))
    assert not (tmp_path / "ran").exists()
