"""Models spread over devices: real maps of accelerate on the processor, and pretended devices for what a map does to the engine."""

import warnings

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

import circuits
from circuits import InputError, ModelError, PromptPairs, edge_attribution
from tests.command import GOLDEN_MODEL
from tests.pretended_devices import pretended_devices
from tests.questions import LAYERS, QUESTIONS
from tests.tiny_models import random_hf_model, random_pairs

MAPS = {
    "llama": LAYERS,
    "gemma2": LAYERS | {"lm_head": "cpu:1"},  # tied to the embedding
    "gpt2": {
        "transformer.wte": "cpu:1",
        "transformer.wpe": "cpu:1",
        "transformer.h.0": "cpu:1",
        "transformer.h.1": "cpu:2",
        "transformer.h.2": "cpu:3",
        "transformer.ln_f": "cpu:3",
        "lm_head": "cpu:1",
    },
}


@pytest.fixture(scope="module")
def spread():
    """The same tiny models on one device and on three."""
    made = {}

    def both(name):
        if name not in made:
            whole = circuits.load_model(random_hf_model(name))
            with pretended_devices():
                made[name] = (
                    whole,
                    circuits.load_model(dispatch_model(random_hf_model(name), MAPS[name], main_device="cpu:1")),
                )
        return made[name]

    return both


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_model_over_three_devices_answers_as_on_one(spread, question):
    pairs = random_pairs(n=2, length=5, prefix=2)
    whole, over_three = spread("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", circuits.AttributionWarning)
        wanted = QUESTIONS[question](whole, pairs)
        with pretended_devices():
            got = QUESTIONS[question](over_three, pairs)
    assert type(got) is torch.Tensor
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_tied_embeddings_and_post_norms_over_three_devices(spread, name):
    """Without a common prefix, whose keys and values the first test has."""
    pairs = random_pairs(n=2, length=4)
    whole, over_three = spread(name)
    for question in ("EAP", "circuits"):
        wanted = QUESTIONS[question](whole, pairs)
        with pretended_devices():
            got = QUESTIONS[question](over_three, pairs)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_it_says_where_it_is(spread):
    _, over_three = spread("llama")
    assert repr(over_three).endswith("torch.float64, cpu:1, cpu:2, cpu:3)")
    with pretended_devices():
        assert over_three.device == torch.device("cpu:1")


def test_tensors_on_two_pretended_devices_do_not_meet():
    with pretended_devices():
        one, two = torch.ones(2, device="cpu:1"), torch.ones(2).to("cpu:2")
        with pytest.raises(RuntimeError, match="one device"):
            one + two
        with pytest.raises(RuntimeError, match="one device"):
            one + torch.ones(2)
        assert (one + two.to(one.device)).cpu().tolist() == [2.0, 2.0]
        one[:1] = two[:1]
        assert (one + torch.tensor(1.0)).device == torch.device("cpu:1")


@pytest.mark.parametrize(
    "device_map",
    ["auto", "balanced", "cpu", {"": "cpu"}, {"transformer": "cpu", "lm_head": "cpu"}],
    ids=str,
)
def test_a_map_onto_the_processor_is_as_good_as_none(device_map):
    pairs = PromptPairs.from_tokens([[3, 4, 5], [6, 7, 8]], [[3, 9, 5], [6, 10, 8]], [1, 2], [3, 4])
    scores = [
        edge_attribution(
            circuits.load_model(GOLDEN_MODEL, dtype="float64", device_map=given), pairs, check_sign=False
        ).values
        for given in (None, device_map)
    ]
    assert torch.equal(*scores)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (GOLDEN_MODEL, {"device_map": "disk"}, "offloads weights"),
        (GOLDEN_MODEL, {"device_map": {"transformer": "disk", "lm_head": "cpu"}}, "offloads weights"),
        (GOLDEN_MODEL, {"device_map": {"transformer": "mps", "lm_head": "cpu"}}, "on accelerators .* or all on 'cpu'"),
        (GOLDEN_MODEL, {"device_map": "meta"}, "offloads weights"),
        (GOLDEN_MODEL, {"device_map": {}}, "is empty"),
        (GOLDEN_MODEL, {"device_map": "everywhere"}, "'everywhere', which is not a device; one of auto"),
        (GOLDEN_MODEL, {"device_map": {"": "cuda:99"}}, "torch sees 0 CUDA devices"),
        (GOLDEN_MODEL, {"device_map": {"": 99}}, "torch sees 0 CUDA devices"),
        (GOLDEN_MODEL, {"device_map": {"": -1}}, "not a device"),
        (GOLDEN_MODEL, {"device_map": "cpu", "device": "cpu"}, "give one of them"),
        ("compiled/induction", {"device_map": "auto"}, "loaded from files"),
        (torch.nn.Linear(2, 2), {"device_map": "auto"}, "a Linear is not"),
    ],
)
def test_maps_that_cannot_be_followed_are_refused_with_the_reason(model, options, message):
    with pytest.raises(InputError, match=message):
        circuits.load_model(model, **options)


def test_a_map_that_leaves_a_module_out_is_refused():
    with pytest.raises(ModelError, match="does not give any device"):
        circuits.load_model(GOLDEN_MODEL, device_map={"transformer.wte": "cpu"})


def test_offloaded_weights_are_refused_and_a_map_that_works_is_told():
    hf = cpu_offload(random_hf_model("llama"), execution_device="cpu")
    with pytest.raises(ModelError, match=r"offloaded .* 'cpu'"):
        circuits.load_model(hf)


def test_a_bridge_of_the_users_own_over_devices_is_refused():
    with pretended_devices():
        hf = dispatch_model(random_hf_model("llama"), LAYERS, main_device="cpu:1")
        bridge = build_bridge_from_module(hf, "LlamaForCausalLM", hf_config=hf.config)
        with pytest.raises(ModelError, match="load its Hugging Face model instead"):
            circuits.load_model(bridge)


def test_a_model_that_accelerate_dispatched_is_left_as_it_was():
    with pretended_devices():
        hf = dispatch_model(random_hf_model("llama"), LAYERS, main_device="cpu:1")
        hooks = {name: (module.forward, getattr(module, "_hf_hook", None)) for name, module in hf.named_modules()}
        circuits.load_model(hf)
        assert {name: (m.forward, getattr(m, "_hf_hook", None)) for name, m in hf.named_modules()} == hooks
