"""Quantised models are opened as ordinary ones with the same function, or refused.

The libraries that quantise are not installed here, so their classes are imitated, with the attributes that are read: tensors with
`dequantize()`, packed layers without, and 4-bit numbers that a function of the library opens. `benchmarks/quantised.py` does the same with the libraries themselves.
"""

import sys
import types

import pytest
import torch
from torch import nn

import circuits
from circuits import ModelError
from circuits.engine.dequantised import dequantise
from tests.tiny_models import D_VOCAB, random_pairs


class PackedTensor(torch.Tensor):
    """Looks like a float tensor and holds 8-bit numbers, as torchao's do."""

    __module__ = "torchao.imitated"
    act_quant_kwargs = None

    @staticmethod
    def __new__(cls, weight):
        return torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)

    def __init__(self, weight):
        self.scale = weight.abs().amax(1, keepdim=True) / 127
        self.numbers = (weight / self.scale).round().to(torch.int8)

    def dequantize(self):
        return self.numbers * self.scale

    def __deepcopy__(self, memo):
        return memo.setdefault(id(self), self)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return args[0]
        opened = [arg.dequantize() if isinstance(arg, PackedTensor) else arg for arg in args]
        return function(*opened, **(kwargs or {}))


class PackedLinear(nn.Module):
    """4-bit numbers in a buffer of another shape, as GPTQ's and AWQ's layers: only its outputs are known."""

    __module__ = "gptqmodel.imitated"

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.bias = linear.in_features, linear.bias
        scale = linear.weight.abs().amax(1) / 7
        self.register_buffer("scales", scale)
        numbers = (linear.weight / scale[:, None]).round().to(torch.int8) + 8
        self.register_buffer("qweight", (numbers[:, ::2] * 16 + numbers[:, 1::2]).to(torch.int16).T.contiguous())

    def dequantized(self):
        packed: torch.Tensor = self.qweight.T  # type: ignore[assignment]
        scales: torch.Tensor = self.scales  # type: ignore[assignment]
        return (torch.stack([packed // 16, packed % 16], 2).flatten(1).float() - 8) * scales[:, None]

    def forward(self, x):
        return nn.functional.linear(x, self.dequantized().to(x.dtype), self.bias)


class State:
    """How 4-bit numbers are to be read, as in bitsandbytes."""

    def __init__(self, weight):
        self.shape, self.scale = weight.shape, weight.abs().amax(1, keepdim=True) / 7


class Packed(nn.Parameter):
    """4-bit numbers of bitsandbytes."""

    __module__ = "bitsandbytes.imitated"
    quant_state: State

    def __deepcopy__(self, memo):
        return memo.setdefault(id(self), self)


def opened(numbers, state):
    return (numbers.float().view(state.shape) - 8) * state.scale


class FourBitLinear(nn.Module):
    """Numbers in one column, and a function of the library that opens them."""

    __module__ = "bitsandbytes.imitated"

    def __init__(self, linear):
        super().__init__()
        self.bias, state = linear.bias, State(linear.weight)
        numbers = ((linear.weight / state.scale).round() + 8).to(torch.uint8).view(-1, 1)
        self.weight = Packed(numbers, requires_grad=False)
        self.weight.quant_state = state

    def forward(self, x):
        return nn.functional.linear(x, opened(self.weight, self.weight.quant_state).to(x.dtype), self.bias)


@pytest.fixture(autouse=True)
def library(monkeypatch):
    functions = types.ModuleType("bitsandbytes.functional")
    vars(functions)["dequantize_4bit"] = opened
    monkeypatch.setitem(sys.modules, functions.__name__, functions)


def packed_in_place(linear):
    linear.weight = nn.Parameter(PackedTensor(linear.weight.detach()), requires_grad=False)
    return linear


KINDS = {"torchao PackedTensor": packed_in_place, "gptqmodel PackedLinear": PackedLinear, "bitsandbytes FourBitLinear": FourBitLinear}  # fmt: skip


@pytest.fixture
def plain():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=D_VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=32,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def with_layers(model, change):
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "lm_head" not in path:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, change(module))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_model_is_the_same_function(plain, kind):
    before = with_layers(plain, KINDS[kind])
    classes = [type(module) for module in before.modules()]
    loaded = circuits.load_model(before)
    assert loaded.dequantised == f"14 × {kind}"
    assert [type(module) for module in before.modules()] == classes  # the given model is as it was
    ids = torch.arange(12).view(2, 6) % D_VOCAB
    with torch.no_grad():
        torch.testing.assert_close(loaded.bridge(ids), before(ids).logits, rtol=1e-4, atol=1e-5)
    scores = circuits.edge_attribution(loaded, random_pairs(n=3))
    assert scores.provenance["dequantised"] == loaded.dequantised
    assert float(scores.values.abs().max()) > 0


def test_an_ordinary_model_says_nothing_of_it(plain):
    loaded = circuits.load_model(plain)
    assert loaded.dequantised is None
    assert "dequantised" not in circuits.edge_attribution(loaded, random_pairs(n=2)).provenance


def test_quantised_inputs_are_refused(plain):
    class Dynamic(PackedTensor):
        __module__ = "torchao.imitated"
        act_quant_kwargs = "per row"

    def change(linear):
        linear.weight = nn.Parameter(Dynamic(linear.weight.detach()), requires_grad=False)
        return linear

    with pytest.raises(ModelError, match=r"q_proj is quantised with its inputs \(torchao Dynamic\)"):
        circuits.load_model(with_layers(plain, change))


def test_eight_bits_of_bitsandbytes_round_their_inputs(plain):
    class Linear8bitLt(nn.Linear):
        __module__ = "bitsandbytes.imitated"

    plain.model.layers[1].mlp.up_proj = Linear8bitLt(32, 48, bias=False)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj is quantised with its inputs"):
        circuits.load_model(plain)


def test_weights_that_the_library_packed_are_refused(plain):
    packed = with_layers(plain, FourBitLinear)
    packed.model.layers[0].mlp.up_proj.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ModelError, match="load the model again"):
        circuits.load_model(packed)


def test_layers_that_compute_something_else_are_refused(plain):
    class Wrong(PackedTensor):
        __module__ = "torchao.imitated"

        def dequantize(self):
            return super().dequantize().flip(0)

        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.detach.default:
                return args[0]
            opened = [PackedTensor.dequantize(arg) if isinstance(arg, PackedTensor) else arg for arg in args]
            return function(*opened, **(kwargs or {}))

    def change(linear):
        linear.weight = nn.Parameter(Wrong(linear.weight.detach()), requires_grad=False)
        return linear

    with pytest.raises(ModelError, match="does not compute what its dequantised weights do"):
        dequantise(with_layers(plain, change), torch.float32, "model")


def test_layers_whose_weights_are_unknown_are_refused(plain):
    class Opaque(nn.Module):
        __module__ = "gptqmodel.imitated"

    plain.model.layers[0].mlp.up_proj = Opaque()
    with pytest.raises(ModelError, match="cannot be opened"):
        dequantise(plain, torch.float32, "model")
