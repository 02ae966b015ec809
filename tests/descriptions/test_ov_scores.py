"""OV scores against the whole map from tokens to logits, written out."""

import pytest
import torch

import circuits
from circuits import InputError, ov_scores
from circuits.descriptions import ov_scores as module
from circuits.descriptions.ov_scores import token_rates
from tests.tiny_models import tiny


@pytest.mark.parametrize("name", ["gpt2", "llama", "native-attention-only"])
def test_rates_and_eigenvalues_are_those_of_the_whole_map(name, monkeypatch):
    monkeypatch.setattr("circuits.descriptions.ov_scores.CHUNK_BYTES", 2000)
    model = tiny(name)
    scores = ov_scores(model, ["a0.h1", "a1.h0", "a2.h2"], k=3, tokens=None)
    norm, d_vocab = model.architecture.final_norm, 40
    centre = torch.eye(24, dtype=torch.float64) - (1 / 24 if norm.kind == "layer" else 0)
    unembed = model.bridge.unembed.W_U if norm.weight is None else norm.weight[:, None] * model.bridge.unembed.W_U
    for i, (layer, head) in enumerate(((0, 1), (1, 0), (2, 2))):
        block = model.architecture.blocks[layer]
        group = model.graph.n_heads // model.graph.n_kv_heads
        with torch.no_grad():
            prompts = torch.tensor([[0, token] for token in range(d_vocab)])
            _, cache = model.bridge.run_with_cache(prompts)
            x = block.attn_norm(cache[f"blocks.{min(layer, 1)}.hook_in"][:, -1])
            through = block.projection("v")[head // group] @ block.output_projection[head] @ centre @ unembed
            logits = x @ through
            logits = logits - logits.mean(0)
            top = [token in logits[token].topk(3).indices for token in range(d_vocab)]
            low = [token in (-logits[token]).topk(3).indices for token in range(d_vocab)]
            assert float(scores.copying[i]) == pytest.approx(sum(top) / d_vocab)
            assert float(scores.suppression[i]) == pytest.approx(sum(low) / d_vocab)
            embedding = model.bridge.embed.W_E @ centre
            if norm.kind != "identity":
                embedding = embedding / (embedding.square().mean(1, keepdim=True) + block.attn_norm.eps).sqrt()
            weight = 1.0 if block.attn_norm.weight is None else block.attn_norm.weight
            values = torch.linalg.eigvals((embedding * weight) @ through)
            assert float(scores.eigenvalue[i]) == pytest.approx(float(values.real.sum() / values.abs().sum()), abs=1e-6)
    assert scores.chance == 3 / 40
    some = token_rates(model, ["a0.h1", "a1.h0"], range(d_vocab), k=3)
    assert list(some.values()) == list(zip(scores.copying.tolist(), scores.suppression.tolist(), strict=True))[:2]
    assert len(scores.to_pandas()) == 3


def test_the_compiled_heads_copy_and_suppress():
    model = circuits.load_model("compiled/negative-head")
    scores = ov_scores(model, ["a0.h1", "a1.h2"], k=1, tokens=None)
    assert scores.copying.tolist() == pytest.approx([1.0, 0.0], abs=0.2)
    assert scores.suppression.tolist() == pytest.approx([0.0, 1.0], abs=0.2)
    assert scores.eigenvalue[0] > 0.9
    assert scores.eigenvalue[1] < -0.9
    assert bool((scores.eigenvalue_p <= 0.05).all())


def test_refuses_numbers_below_one():
    with pytest.raises(InputError, match="k must be"):
        ov_scores(tiny("gpt2"), "heads", k=0)
    assert module.ROTATED == 39
