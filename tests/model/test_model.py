"""Loading: what is accepted, what is left alone, what is refused."""

import copy
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformer_lens import TransformerBridge, TransformerBridgeConfig
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

import circuits
from circuits import InputError, ModelError
from circuits.question.question import Question
from tests.command import GOLDEN_MODEL
from tests.tiny_models import CONFIGS, random_hf_model, random_pairs, tiny


def state(model):
    """What somebody would notice if it changed: modules, their modes and hooks, weights, and whether they train."""
    modules = {name: (type(m), m.training, len(m._forward_hooks)) for name, m in model.named_modules()}
    weights = {name: (p.clone(), p.requires_grad) for name, p in model.named_parameters()}
    return modules, weights


def assert_same_state(before, model):
    modules, weights = before
    now_modules, now_weights = state(model)
    assert now_modules == modules
    for name, (value, trainable) in weights.items():
        assert torch.equal(now_weights[name][0], value)
        assert now_weights[name][1] == trainable


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hugging_face_model_is_left_as_it_was_and_shares_its_weights(name):
    hf = random_hf_model(name, torch.float32).train()
    before, config = state(hf), copy.deepcopy(hf.config.to_dict())
    model = circuits.load_model(hf)
    assert_same_state(before, hf)
    assert hf.config.to_dict() == config
    pointers = {p.data_ptr() for p in hf.parameters()}
    assert model.bridge.original_model.get_input_embeddings().weight.data_ptr() in pointers


def test_a_bridge_is_left_as_it_was():
    hf = random_hf_model("gpt2")
    bridge = build_bridge_from_module(hf, "GPT2LMHeadModel", hf_config=hf.config)
    bridge.train()
    before = state(bridge)
    model = circuits.load_model(bridge)
    assert model.bridge is bridge
    assert_same_state(before, bridge)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_graph_has_the_models_shape(name):
    graph, config = tiny(name).graph, tiny(name).bridge.cfg
    assert (graph.n_layers, graph.n_heads) == (config.n_layers, config.n_heads)
    assert graph.parallel == (name in ("gpt-j", "neox", "phi", "falcon", "cohere", "codegen"))
    assert graph.grouped == (config.n_key_value_heads not in (None, config.n_heads))


def test_a_native_attention_only_model_has_no_mlps():
    config = TransformerBridgeConfig(
        d_model=16, d_head=8, n_layers=2, n_ctx=16, n_heads=2, d_vocab=30, act_fn="relu", normalization_type=None,
        attn_only=True, seed=0,
    )  # fmt: skip
    model = circuits.load_model(TransformerBridge.boot_native(config))
    assert model.graph.mlps == (False, False)
    assert model.report.none_kept < 1e-5


class Leaking(nn.Module):
    """Adds something to the residual stream that no head and no MLP wrote."""

    def __init__(self, layer_norm):
        super().__init__()
        self.inner = layer_norm

    def forward(self, *args, **kwargs):
        out = self.inner(*args, **kwargs)
        return (out[0] + 0.1 * out[0].square(), *out[1:]) if isinstance(out, tuple) else out + 0.1 * out.square()


def test_a_model_whose_writers_do_not_sum_to_its_residual_stream_is_refused_with_the_layer():
    hf = random_hf_model("gpt2")
    bridge = build_bridge_from_module(hf, "GPT2LMHeadModel", hf_config=hf.config)
    bridge.blocks[1].register_forward_hook(lambda m, args, out: Leaking(lambda x: x)(out))
    with pytest.raises(ModelError, match=r"layer 1 adds something.*"):
        circuits.load_model(bridge, allow_hooks=True)


def test_damaged_weights_are_refused():
    hf = random_hf_model("gpt2")
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_fc.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        circuits.load_model(hf)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("smollm2-135n", {}, "Did you mean 'smollm2-135m'"),
        ("gpt2", {"dtype": "float12"}, "unknown dtype"),
        ("gpt2", {"device": "gpu"}, "unknown device"),
        (nn.Linear(2, 2), {}, "has no config"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_the_reason(given, options, message):
    with pytest.raises(InputError, match=message):
        circuits.load_model(given, **options)


def test_text_without_a_tokenizer_is_refused():
    with pytest.raises(InputError, match="token ids"):
        tiny("gpt2").encode("hello")


def test_the_weights_hash_is_of_the_weights():
    one, same, other = (circuits.load_model(random_hf_model("gpt2", seed=seed)) for seed in (0, 0, 1))
    assert one.weights_hash == same.weights_hash != other.weights_hash


@pytest.mark.real_model
def test_the_default_model_is_exact_and_encodes_with_bos(smollm2):
    assert smollm2.graph.n_edges == 70_651
    assert smollm2.encode("Mary")[0] == 0
    assert smollm2.report.all_kept < 1e-5
    assert smollm2.report.prefix_exact


def test_a_checkpoint_that_lacks_tensors_is_refused(tmp_path):
    """transformers would fill them with random numbers."""
    shutil.copytree(GOLDEN_MODEL, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = {name: t for name, t in load_file(path).items() if "h.1.mlp" not in name}
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 4 of the model's tensors"):
        circuits.load_model(tmp_path / "model")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError):
        circuits.load_model(tmp_path / "model")


def test_a_model_switched_to_compatibility_mode_after_loading_is_refused():
    model = circuits.load_model(random_hf_model("gpt2", torch.float32))
    model.bridge.enable_compatibility_mode()
    with pytest.raises(InputError, match="load_model"):
        circuits.edge_attribution(model, random_pairs(n=1))
    again = circuits.load_model(model.bridge)
    assert circuits.edge_attribution(again, random_pairs(n=1)).values.any()


def test_positions_are_left_out_only_while_nobody_else_has_hooks_on():
    model, pairs = circuits.load_model(random_hf_model("gpt2"), allow_hooks=True), random_pairs(prefix=3)
    question = Question.ask(model, pairs)
    assert question.shares_prefix
    seen = []
    with model.bridge.hooks(fwd_hooks=[("blocks.1.hook_in", lambda x, hook: seen.append(x.shape[1]))]):
        assert not question.shares_prefix
        circuits.circuit_metric(model, pairs, circuits.Circuit.full(model.graph))
    assert set(seen) == {7}


def test_the_weights_hash_follows_the_weights():
    model = circuits.load_model(random_hf_model("gpt2"))
    before = model.weights_hash
    with torch.no_grad():
        next(model.bridge.original_model.parameters()).add_(1)
    assert model.weights_hash != before


def test_a_model_that_is_being_pruned_is_refused_in_one_line():
    from torch.nn.utils import prune

    hf = random_hf_model("llama")
    prune.l1_unstructured(hf.model.layers[0].mlp.down_proj, "weight", 0.5)
    with torch.enable_grad():
        hf(torch.tensor([[3, 4]]))
    with pytest.raises(InputError, match=r"cannot be copied.*prune\.remove") as refused:
        circuits.load_model(hf)
    assert "\n" not in str(refused.value)
