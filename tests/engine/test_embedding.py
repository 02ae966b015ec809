"""The size of embeddings where they enter the residual stream, against what each architecture's own code does to them."""

import pytest
import torch
import transformers

import circuits
from circuits import Circuit
from circuits.engine.embedding import embedding_std
from circuits.question.ablations import Gaussian
from circuits.question.question import Question
from tests.tiny_models import ALL, COMMON, GROUPED, random_hf_model, random_pairs, tiny

SCALED = ("gemma", "gemma2", "gemma3", "granite")


def scaled_model(name, dtype=torch.float64):
    """A Hugging Face model that multiplies its embedding, and by what."""
    if name != "granite":
        return random_hf_model(name, dtype), COMMON["hidden_size"] ** 0.5
    torch.manual_seed(0)
    config = transformers.GraniteConfig(**COMMON, **GROUPED, embedding_multiplier=12.0, residual_multiplier=0.5)
    return transformers.GraniteForCausalLM(config).eval().to(dtype), 12.0


def std_of(model):
    """What the engine measures on a loaded model."""
    return embedding_std(model.architecture)


@pytest.mark.parametrize("name", SCALED)
def test_a_multiplied_embedding_is_as_large_as_behind_its_factor(name):
    hf_model, factor = scaled_model(name)
    wanted = factor * float(hf_model.get_input_embeddings().weight.detach().std())
    assert std_of(circuits.load_model(hf_model)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in ALL if name not in (*SCALED, "bloom")])
def test_elsewhere_it_is_the_matrixs_own_to_the_bit(name):
    model = tiny(name)
    assert std_of(model) == float(model.bridge.W_E.detach().float().std())


def test_behind_a_norm_every_token_counts():
    hf_model = random_hf_model("bloom")
    inner = hf_model.transformer
    with torch.no_grad():
        wanted = float(inner.word_embeddings_layernorm(inner.word_embeddings.weight).std())
    assert std_of(circuits.load_model(hf_model)) == pytest.approx(wanted, rel=1e-9)


class CubedEmbedding(torch.nn.Embedding):
    """Not linear in its matrix."""

    def forward(self, tokens):
        return super().forward(tokens) ** 3


def test_behind_any_other_function_every_token_counts_and_position_embeddings_do_not():
    hf_model = random_hf_model("gpt2")
    inner = hf_model.transformer
    cubed = CubedEmbedding(*inner.wte.weight.shape).double()
    cubed.load_state_dict(inner.wte.state_dict())
    inner.wte = cubed
    with torch.no_grad():
        inner.wpe.weight.mul_(50)
    wanted = float((inner.wte.weight.detach() ** 3).std())
    assert std_of(circuits.load_model(hf_model)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("name", ["gemma2", "granite"])
def test_in_bfloat16_the_factor_is_known_to_its_rounding(name):
    hf_model, factor = scaled_model(name, torch.bfloat16)
    wanted = factor * float(hf_model.get_input_embeddings().weight.detach().float().std())
    assert std_of(circuits.load_model(hf_model)) == pytest.approx(wanted, rel=1e-2)


def with_noise(hf_model, factor, pairs, scale, seed):
    """Log probabilities with noise of `scale` standard deviations on the differing tokens, added to what enters the first
    layer, by a hook on the original model."""
    sigma = scale * factor * float(hf_model.model.embed_tokens.weight.detach().std())
    result = []
    for i, pair in enumerate(pairs):
        hit = [p for p, (a, b) in enumerate(zip(pair.clean, pair.corrupted, strict=True)) if a != b]
        drawn = torch.randn(
            len(hit), COMMON["hidden_size"], generator=torch.Generator().manual_seed(seed * 1_000_003 + i)
        )
        noise = torch.zeros(1, len(pair.clean), COMMON["hidden_size"], dtype=torch.float64)
        noise[0, hit] = sigma * drawn.double()
        handle = hf_model.model.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs, noise=noise: (
                ((args[0] + noise, *args[1:]), kwargs)
                if args
                else (args, {**kwargs, "hidden_states": kwargs["hidden_states"] + noise})
            ),
            with_kwargs=True,
        )
        with torch.no_grad():
            result.append(hf_model(torch.tensor([pair.clean])).logits[0, -1].log_softmax(-1))
        handle.remove()
    return torch.stack(result)


@pytest.mark.parametrize("name", SCALED)
def test_gaussian_noise_is_three_standard_deviations_of_what_enters_the_stream(name):
    hf_model, factor = scaled_model(name)
    pairs = random_pairs(n=3, prefix=2)
    noisy = with_noise(hf_model, factor, pairs, 3.0, seed=4)
    rows = torch.arange(3)
    wanted = noisy[rows, [ids[0] for ids in pairs.answers]] - noisy[rows, [ids[0] for ids in pairs.distractors]]
    model = circuits.load_model(hf_model)
    got = circuits.circuit_metric(model, pairs, Circuit.empty(model.graph), ablation=Gaussian(seed=4), batch_size=2)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=2e-4)
    patched = circuits.activation_patching(
        model, pairs, nodes=["input"], direction="noising", ablation=Gaussian(seed=4)
    )
    torch.testing.assert_close(patched.clean - patched.per_prompt[0], wanted, rtol=1e-4, atol=2e-4)
    attributed = circuits.attribution_patching(model, pairs, ablation=Gaussian(seed=4))
    torch.testing.assert_close(attributed.corrupted, wanted, rtol=1e-4, atol=2e-4)


def test_measuring_it_leaves_the_model_as_it_was():
    model, pairs = tiny("bloom"), random_pairs(n=2)
    before = circuits.circuit_metric(model, pairs, Circuit.full(model.graph))
    Question.ask(model, pairs, None, "gaussian")
    assert not any(point.fwd_hooks for point in model.bridge.hook_dict.values())
    assert torch.equal(circuits.circuit_metric(model, pairs, Circuit.full(model.graph)), before)
