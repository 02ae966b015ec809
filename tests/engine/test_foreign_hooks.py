"""Hooks of the user's own are refused by name, or allowed and recorded; those of libraries belong to the model."""

import functools
import inspect
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from accelerate import dispatch_model
from torch.nn.modules.module import register_module_forward_hook
from transformer_lens.patching import layer_pos_patch_setter

import circuits
from circuits import Circuit, InputError
from circuits.engine.held import Held
from tests.public_calls import CALLS, Given
from tests.tiny_models import ALL, random_hf_model, random_pairs, tiny

PAIRS = random_pairs(n=3, length=5, prefix=2)
FUNCTIONS = [
    name
    for name in CALLS
    if name in circuits.__all__ and "model" in inspect.signature(getattr(circuits, name)).parameters
]


def doubled(value, hook):
    return 2 * value


def doubled_output(module, args, output):
    return 2 * output


class Halving:
    def __call__(self, module, args):
        return tuple(x / 2 for x in args)


def inner(model, name):
    return model.bridge.original_model.get_submodule(name)


KINDS = {
    "hook point": (lambda m: m.bridge.hook_dict["blocks.1.hook_mlp_out"].add_hook(doubled), "hook_mlp_out: forward .*doubled"),
    "permanent": (lambda m: m.bridge.hook_dict["blocks.0.attn.hook_z"].add_perma_hook(doubled), "attn.hook_z: forward"),
    "backward": (lambda m: m.bridge.hook_dict["blocks.0.attn.hook_z"].add_hook(doubled, dir="bwd"), "hook_z: backward"),
    "TransformerLens' own function": (lambda m: m.bridge.hook_dict["blocks.0.attn.hook_z"].add_hook(transformer_lens_zero()), "transformer_lens"),
    "block": (lambda m: m.bridge.blocks[1].register_forward_hook(lambda module, args, out: None), "blocks.1: forward .*lambda"),
    "module underneath": (lambda m: inner(m, "lm_head").register_forward_hook(doubled_output), "doubled_output"),
    "before a module": (lambda m: inner(m, "lm_head").register_forward_pre_hook(Halving()), "forward pre .*Halving"),
    "backward of a module": (lambda m: inner(m, "lm_head").register_full_backward_hook(lambda *a: None), "backward .*lambda"),
    "before backward": (lambda m: inner(m, "lm_head").register_full_backward_pre_hook(lambda *a: None), "backward pre"),
    "in place of forward": (lambda m: setattr(m.bridge.blocks[0], "forward", doubled), r"blocks\.0.*: in place of .*doubled"),
}  # fmt: skip


def transformer_lens_zero():
    return partial(layer_pos_patch_setter, index=[0, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_hook_is_refused_by_name(kind):
    model = circuits.load_model(random_hf_model("gpt2"))
    put_on, named = KINDS[kind]
    put_on(model)
    with pytest.raises(InputError, match=named) as refused:
        circuits.edge_attribution(model, PAIRS)
    assert "allow_hooks=True" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ALL)
def test_what_libraries_put_on_a_model_belongs_to_it(name):
    assert Held(tiny(name).bridge).foreign_hooks == ()


@pytest.fixture(scope="module")
def given():
    return Given(circuits.load_model(random_hf_model("gpt2", torch.float32)), PAIRS).ready()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_refuses_a_hooked_model(name, given):
    handle = given.model.bridge.hook_dict["blocks.0.attn.hook_z"].add_hook(doubled)
    try:
        with pytest.raises(InputError, match=r"attn\.hook_z: forward .*doubled"):
            CALLS[name](given)
    finally:
        handle.hook.remove()
    assert Held(given.model.bridge).foreign_hooks == ()


@contextmanager
def on_all_modules():
    handle = register_module_forward_hook(lambda module, args, output: None)
    try:
        yield
    finally:
        handle.remove()


def test_a_class_of_the_users_own_put_on_with_accelerate_is_refused():
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Double(ModelHook):
        def post_forward(self, module, output):
            return 2 * output

    hf = random_hf_model("llama")
    add_hook_to_module(hf.model.layers[1].mlp, Double())
    with pytest.raises(InputError, match="Double"):
        circuits.load_model(hf)
    hf = random_hf_model("llama")
    add_hook_to_module(hf.model.layers[1].mlp, ModelHook())
    add_hook_to_module(hf.model.layers[1].mlp, Double(), append=True)
    with pytest.raises(InputError, match="hooks that would change"):
        circuits.load_model(hf)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_forward_that_is_wrapped_around_the_models_own_is_refused(name):
    hf = random_hf_model(name)
    mlp = next(module for path, module in hf.named_modules() if path.endswith("mlp"))
    own = mlp.forward

    @functools.wraps(own)
    def patched(*args, **kwargs):
        return 2 * own(*args, **kwargs)

    mlp.forward = patched
    with pytest.raises(InputError, match="in place of"):
        circuits.load_model(hf)
    mlp.forward = own
    mlp.register_forward_hook(functools.wraps(torch.nn.utils.parameters_to_vector)(lambda *_: None))
    with pytest.raises(InputError, match="forward"):
        circuits.load_model(hf)


def test_a_decorator_hides_nobodys_function():
    """Libraries decorate their hooks with torch.no_grad and jaxtyping, and so may a user."""
    model = circuits.load_model(random_hf_model("gpt2"))
    handle = inner(model, "lm_head").register_forward_hook(torch.no_grad()(torch.nn.utils.parameters_to_vector))
    assert Held(model.bridge).foreign_hooks == ()
    handle.remove()
    inner(model, "lm_head").register_forward_hook(torch.no_grad()(doubled_output))
    (result,) = Held(model.bridge).foreign_hooks
    assert "doubled_output" in result


def test_hooks_on_all_modules_are_refused(given):
    with on_all_modules(), pytest.raises(InputError, match="all modules: forward"):
        circuits.edge_attribution(given.model, PAIRS)
    circuits.edge_attribution(given.model, PAIRS)


def test_a_hook_that_came_with_the_model_is_refused_at_loading():
    hf = random_hf_model("llama")
    hf.model.layers[1].mlp.register_forward_hook(doubled_output)
    with pytest.raises(InputError, match=r"layers\.1.*doubled_output|blocks\.1.*doubled_output"):
        circuits.load_model(hf)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("where", ["hook point", "module underneath"])
def test_allowed_hooks_change_results_as_they_change_the_model_and_are_recorded(name, where):
    model = circuits.load_model(random_hf_model(name), allow_hooks=True)
    plain = circuits.edge_attribution(model, PAIRS)
    assert "hooks" not in plain.provenance
    if where == "hook point":
        model.bridge.hook_dict["blocks.1.hook_mlp_out"].add_hook(doubled)
    else:
        inner(model, "lm_head").register_forward_hook(doubled_output)
    result = circuits.edge_attribution(model, PAIRS)
    (hook,) = result.provenance["hooks"]
    assert "doubled" in hook
    assert not result.provenance["prefix_shared"]
    assert result.top(5).provenance["hooks"] == [hook]
    with torch.no_grad():
        logits = model.bridge(torch.tensor(PAIRS.clean), return_type="logits")[:, -1]
    rows = torch.arange(3)
    right = logits[rows, torch.tensor(PAIRS.answers)[:, 0]] - logits[rows, torch.tensor(PAIRS.distractors)[:, 0]]
    assert torch.allclose(circuits.circuit_metric(model, PAIRS, Circuit.full(model.graph)), right.double(), atol=1e-4)
    search = circuits.acdc(model, PAIRS, float("-inf"))
    assert len(search) == model.graph.n_edges


def test_pieces_measured_with_and_without_a_hook_are_not_mixed(tmp_path):
    model = circuits.load_model(random_hf_model("gpt2"), allow_hooks=True)
    circuits.activation_patching(model, PAIRS, store=tmp_path)
    model.bridge.hook_dict["blocks.1.hook_mlp_out"].add_hook(doubled)
    with pytest.raises(InputError, match="another question"):
        circuits.activation_patching(model, PAIRS, store=tmp_path)


def test_an_accelerated_model_has_no_foreign_hooks():
    hf = dispatch_model(random_hf_model("llama"), {"": "cpu"}, force_hooks=True)
    circuits.edge_attribution(circuits.load_model(hf), PAIRS)
    hf(torch.tensor([[3, 4, 5]]), output_hidden_states=True, output_attentions=True)
    circuits.edge_attribution(circuits.load_model(hf), PAIRS)
