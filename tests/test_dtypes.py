"""Nothing assumes the CPU or float32. The `cuda` group runs where there is a CUDA device."""

import pytest
import torch

import circuits
from circuits import Circuit, activation_patching, circuit_metrics, edge_attribution, exact_edge_effects, path_patching
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
