"""Nothing assumes the CPU or float32. The `cuda` group runs where there is a CUDA device."""

import copy
import warnings

import pytest
import torch

import circuits
from circuits import (
    Circuit,
    activation_patching,
    atp_star,
    attribution_patching,
    circuit_metrics,
    coar,
    edge_attribution,
    exact_edge_effects,
    gradient_times_parameter,
    path_patching,
)
from circuits.engine.capture import stack
from circuits.engine.placement import rounds_to_tf32
from circuits.measure.contraction import Contraction
from circuits.question.question import Question
from tests.questions import QUESTIONS
from tests.tiny_models import FEW, random_hf_model, random_native_bridge, random_pairs, random_subset

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def load(name, dtype, device):
    make = random_native_bridge if name.startswith("native") else random_hf_model
    return circuits.load_model(make(name, dtype).to(device))


@pytest.mark.parametrize("name", [name for name in FEW if name != "native-attention-only"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_summed_in_float32_whatever_the_model_computes_in(name, dtype):
    """Half precision is coarse, so only that it runs, is finite, and points the same way as float32."""
    pairs = random_pairs(n=4)
    half, single = (load(name, kind, "cpu") for kind in (dtype, torch.float32))
    scores = [edge_attribution(model, pairs, gradient="clean") for model in (half, single)]
    assert scores[0].values.dtype == torch.float64
    assert bool(scores[0].values.isfinite().all())
    mask = half.graph.edge_mask
    alike = torch.corrcoef(torch.stack([scores[0].values[mask], scores[1].values[mask]]))[0, 1]
    assert float(alike) > 0.8
    assert circuit_metrics(half, pairs, [random_subset(half, 0.5)]).isfinite().all()
    assert activation_patching(half, pairs).values.isfinite().all()


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@pytest.mark.parametrize(
    ("ask", "least"),
    [
        (lambda m, p: edge_attribution(m, p, gradient="clean").values, 0.97),
        (lambda m, p: edge_attribution(m, p, gradient="ig", steps=3).values, 0.97),
        (lambda m, p: attribution_patching(m, p, nodes="heads+mlps+q+k+v").values, 0.97),
        (lambda m, p: atp_star(m, p).values, 0.97),
        (lambda m, p: coar(m, p, samples=60).values, 0.97),
        (lambda m, p: gradient_times_parameter(m, p).values, 0.97),
    ],
    ids=["EAP", "EAP-IG", "AtP", "AtP*", "COAR", "gradient times parameter"],
)
def test_bfloat16_scores_are_those_of_float32_to_its_precision(ask, least):
    """Weights rounded to bfloat16 in both, so that only what the model computes differs."""
    pairs = random_pairs(n=16)
    hf = random_hf_model("gpt2", torch.float32).to(torch.bfloat16)
    half, single = circuits.load_model(hf), circuits.load_model(copy.deepcopy(hf).float())
    assert correlation(ask(half, pairs), ask(single, pairs)) > least


def test_a_mean_over_thousands_of_prompts_is_not_rounded_to_bfloat16():
    """Summed in bfloat16, 4,096 equal numbers would stop growing at 256 of them."""
    model, few = load("gpt2", torch.bfloat16, "cpu"), random_pairs(n=1, length=4)[[0] * 512]
    many = few[[0] * 4096]
    for ask in (
        lambda p: edge_attribution(model, p, gradient="clean", batch_size=512, check_sign=False).values,
        lambda p: circuit_metrics(model, p, [random_subset(model, 0.5)], batch_size=512).mean(1),
    ):
        torch.testing.assert_close(ask(many).double(), ask(few).double(), rtol=1e-5, atol=1e-7)


def test_writers_of_a_bfloat16_model_are_subtracted_and_written_out_in_float32():
    """Against the same forward passes' numbers, taken to float64 first."""
    model, pairs = load("llama", torch.bfloat16, "cpu"), random_pairs(n=2)
    question = Question.ask(model, pairs)
    batch = next(iter(question.batches(share_prefix=False)))
    contraction = Contraction(question, batch)
    clean, replacement = contraction.clean_and_replacement()
    got = stack(model.architecture, contraction.difference(clean, replacement), question.sum_dtype)
    assert got.dtype == torch.float32
    for block in model.architecture.blocks:
        z = clean.heads[block.layer].double() - replacement.heads[block.layer].double()
        wanted = torch.einsum("bphe,hed->bhpd", z, block.output_projection.detach().double())
        heads = got[:, model.graph.head_writers(block.layer)].double()
        torch.testing.assert_close(heads, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_tf32_is_noticed(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert rounds_to_tf32(torch.device("cuda"))
    assert not rounds_to_tf32(torch.device("cpu"))
    monkeypatch.undo()
    assert not rounds_to_tf32(torch.device("cuda"))


@needs_cuda
@pytest.mark.cuda
@pytest.mark.parametrize("question", QUESTIONS)
def test_every_method_gives_on_cuda_what_it_gives_on_the_cpu(question):
    pairs = random_pairs(n=2, length=5, prefix=2)
    cpu, gpu = (load("llama", torch.float64, device) for device in ("cpu", "cuda"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", circuits.AttributionWarning)
        torch.testing.assert_close(
            QUESTIONS[question](gpu, pairs), QUESTIONS[question](cpu, pairs), rtol=1e-5, atol=1e-5
        )


@needs_cuda
@pytest.mark.cuda
def test_a_budget_bounds_allocated_memory_on_cuda():
    model = circuits.load_model(random_hf_model("llama", torch.float32).to("cuda"), memory="1MB")
    pairs = random_pairs(n=64, length=30)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    edge_attribution(model, pairs, gradient="clean", check_sign=False)
    assert torch.cuda.max_memory_allocated() - before < 8e6


@needs_cuda
@pytest.mark.cuda
@pytest.mark.parametrize("name", FEW)
def test_cuda_gives_what_the_cpu_gives(name):
    pairs = random_pairs(n=4, prefix=2)
    cpu, gpu = (load(name, torch.float32, device) for device in ("cpu", "cuda"))
    last = cpu.graph.n_layers - 1
    for ask in (
        lambda m: edge_attribution(m, pairs, positions="each").by_position,
        lambda m: circuit_metrics(m, pairs, [Circuit.full(m.graph), random_subset(m, 0.3)]),
        lambda m: circuit_metrics(m, pairs, [random_subset(m, 0.3)], ablation="mean"),
        lambda m: circuit_metrics(m, pairs, [random_subset(m, 0.3)], ablation="gaussian"),
        lambda m: activation_patching(m, pairs, nodes="heads+q+k+v", positions="each").per_prompt,
        lambda m: path_patching(m, pairs, ["logits", f"a{last}.h0<q>"]).per_prompt,
        lambda m: exact_edge_effects(m, pairs, m.graph.edges[::11]).per_prompt,
    ):
        on_gpu, on_cpu = ask(gpu), ask(cpu)
        assert on_gpu.device.type == "cpu"
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)
