"""Models spread over devices: real maps of accelerate on the processor, and pretended devices for what a map does to the engine."""

import warnings

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

import circuits
from circuits import Circuit, InputError, ModelError, PromptPairs, edge_attribution
from tests.command import GOLDEN_MODEL
from tests.pretended_devices import pretended_devices
from tests.tiny_models import random_hf_model, random_pairs, random_subset

LAYERS = {
    "model.embed_tokens": "cpu:1",
    "model.rotary_emb": "cpu:1",
    "model.layers.0": "cpu:1",
    "model.layers.1": "cpu:2",
    "model.layers.2": "cpu:3",
    "model.norm": "cpu:3",
    "lm_head": "cpu:3",
}
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
QUESTIONS = {
    "EAP": lambda m, p: edge_attribution(m, p, gradient="clean", positions="each", check_sign=True).by_position,
    "IG": lambda m, p: edge_attribution(m, p, gradient="ig", steps=2).values,
    "IG over activations": lambda m, p: edge_attribution(m, p, gradient="ig-activations", steps=1).values,
    "RelP": lambda m, p: edge_attribution(m, p, gradient="relp").values,
    "GIM": lambda m, p: edge_attribution(m, p, gradient="gim").values,
    "circuits": lambda m, p: circuits.circuit_metrics(m, p, [Circuit.full(m.graph), random_subset(m, 0.3)]),
    "circuits, mean": lambda m, p: circuits.circuit_metrics(m, p, [random_subset(m, 0.3)], ablation="mean"),
    "circuits, gaussian": lambda m, p: circuits.circuit_metrics(m, p, [random_subset(m, 0.3)], ablation="gaussian"),
    "patching": lambda m, p: circuits.activation_patching(m, p, nodes="mlps+q", positions="each").per_prompt,
    "AtP": lambda m, p: circuits.attribution_patching(m, p, nodes="heads+mlps+q+k+v+input").per_prompt,
    "AtP*": lambda m, p: circuits.atp_star(m, p).per_prompt,
    "AtP*, each position": lambda m, p: circuits.atp_star(m, p, positions="each").per_prompt,
    "COAR": lambda m, p: circuits.coar(m, p, samples=30).values,
    "path patching": lambda m, p: circuits.path_patching(m, p, ["logits"]).per_prompt,
    "exact effects": lambda m, p: circuits.exact_edge_effects(m, p, m.graph.edges[::29]).per_prompt,
    "ACDC": lambda m, p: circuits.acdc(m, p, threshold=1.0, metric="logit_difference").mask.double(),
    "edge pruning": lambda m, p: circuits.edge_pruning(m, p, edges=40, steps=2).mask.double(),
    "information flow": lambda m, p: circuits.information_flow(m, p).values,
    "refined": lambda m, p: circuits.refine(m, p, edge_attribution(m, p), top=3).values,
    "mediation": lambda m, p: torch.as_tensor(circuits.causal_mediation(m, p, ["a1.h0"]).total),
    "gradient times parameter": lambda m, p: circuits.gradient_times_parameter(m, p).values,
    "neuron conductance": lambda m, p: circuits.neuron_conductance(m, p, steps=1).values,
    "internal influence": lambda m, p: circuits.internal_influence(m, p, steps=1).values,
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
