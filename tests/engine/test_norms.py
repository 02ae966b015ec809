import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from circuits.engine.norms import Norm, describe_norm


class Bridged:
    """Stands for TransformerLens' component around a norm."""

    def __init__(self, module, uses_weight_offset=False):
        self.original_component, self.uses_weight_offset = module, uses_weight_offset
        self.config = type("Config", (), {"eps": 1e-5, "d_model": 12})()


class Offset(nn.Module):
    """Gemma's RMSNorm: scale 1 + weight."""

    def __init__(self):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.randn(12).double()), 1e-6

    def forward(self, x):
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * (1 + self.weight)


class Strange(nn.Module):
    """Neither LayerNorm nor RMSNorm."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12).double())

    def forward(self, x):
        return x / x.abs().mean(-1, keepdim=True) * self.weight


def layer_norm():
    module = nn.LayerNorm(12).double()
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    return module


def rms_norm():
    module = nn.RMSNorm(12, eps=1e-6).double()
    nn.init.normal_(module.weight)
    return module


CASES = [
    (layer_norm, False, "layer"),
    (rms_norm, False, "rms"),
    (Offset, True, "rms"),
    (lambda: LlamaRMSNorm(12), False, "rms"),
    (Strange, False, "other"),
    (nn.Identity, False, "identity"),
    (lambda: nn.LayerNorm(12, elementwise_affine=False).double(), False, "layer"),
]


@pytest.mark.parametrize(("make", "offset", "kind"), CASES)
def test_output_and_vector_jacobian_product_are_autograds(make, offset, kind):
    torch.manual_seed(0)
    norm = describe_norm(Bridged(make(), offset))
    assert norm.kind == kind
    dtype = next((p.dtype for p in norm.module.parameters()), torch.float64)
    x = torch.randn(2, 3, 12, dtype=dtype) + 0.5
    g = torch.randn(4, 2, 3, 12, dtype=dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(norm(x), norm.module(x), rtol=0, atol=tolerance)
    for slot in range(4):
        y = x.clone().requires_grad_()
        wanted = torch.autograd.grad(norm.module(y), y, g[slot])[0]
        torch.testing.assert_close(norm.vjp(x, g.clone())[slot], wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("make", "offset", "kind"), [case for case in CASES if case[2] != "other"])
def test_frozen_parts_add_up_to_the_output(make, offset, kind):
    torch.manual_seed(0)
    norm = describe_norm(Bridged(make(), offset))
    dtype = next((p.dtype for p in norm.module.parameters()), torch.float64)
    parts = torch.randn(2, 3, 5, 12, dtype=dtype)
    x = parts.sum(2)
    bias = 0 if norm.bias is None else norm.bias
    torch.testing.assert_close(norm.frozen(x, parts).sum(2) + bias, norm.module(x), rtol=0, atol=1e-5)


def test_no_norm_is_the_identity():
    assert describe_norm(None).kind == "identity"


def test_the_scale_of_an_unknown_norm_cannot_be_frozen():
    norm = Norm(Strange(), "other")
    with pytest.raises(NotImplementedError):
        norm.frozen(torch.randn(1, 2, 12), torch.randn(1, 2, 12))
