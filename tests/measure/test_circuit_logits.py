"""Circuits that share a forward pass have the metrics that they have alone."""

import pytest
import torch

import circuits
from circuits import Circuit, PromptPairs
from circuits.measure import circuit_logits
from tests.tiny_models import D_VOCAB, atol, random_subset, tiny


def awkward_pairs(several: bool = False) -> PromptPairs:
    """Pairs of two lengths, some with a common prefix, read before the end, with several answers."""
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, D_VOCAB, (2, length), generator=generator).tolist() for length in (6, 6, 8, 8, 8)]
    for clean, corrupted in prompts[2:]:
        corrupted[:3] = clean[:3]
    return PromptPairs.from_tokens(
        clean=[clean for clean, _ in prompts],
        corrupted=[corrupted for _, corrupted in prompts],
        answers=[[(4, 5), 6] if several else [4, 6]] * 5,
        distractors=[[7], [8, 9], [7], [8], [9]],
        positions=None if several else [5, 4, 7, 6, 5],
    )


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
@pytest.mark.parametrize("ablation", ["interchange", "mean"])
def test_circuits_in_one_pass_have_the_metrics_that_they_have_alone(name, ablation, monkeypatch):
    model, pairs = tiny(name), awkward_pairs()
    asked = [
        Circuit.full(model.graph),
        *(random_subset(model, share, seed) for seed, share in enumerate((0.1, 0.5, 0.9))),
    ]
    asked.insert(2, Circuit.empty(model.graph))
    together = circuits.circuit_metrics(model, pairs, asked, ablation=ablation)
    monkeypatch.setattr(circuit_logits, "PASS_TOKENS", 0)
    alone = [circuits.circuit_metric(model, pairs, circuit, ablation=ablation) for circuit in asked]
    torch.testing.assert_close(together, torch.stack(alone), atol=10 * atol(name), rtol=0)


def test_answers_of_several_tokens_share_passes_too(monkeypatch):
    model, pairs = tiny("llama"), awkward_pairs(several=True)
    asked = [random_subset(model, share, seed) for seed, share in enumerate((0.2, 0.5, 0.8))]
    options = {"metric": "log_probability_difference"}
    together = circuits.circuit_metrics(model, pairs, asked, **options)
    monkeypatch.setattr(circuit_logits, "PASS_TOKENS", 0)
    alone = [circuits.circuit_metric(model, pairs, circuit, **options) for circuit in asked]
    torch.testing.assert_close(together, torch.stack(alone), atol=10 * atol("llama"), rtol=0)


def test_small_batches_make_fewer_passes(monkeypatch):
    model, pairs = tiny("llama"), awkward_pairs()
    asked = [random_subset(model, 0.5, seed) for seed in range(4)]
    passes, run = [], circuit_logits.run
    monkeypatch.setattr(circuit_logits, "run", lambda *args: passes.append(1) or run(*args))
    circuits.circuit_metrics(model, pairs, asked)
    assert len(passes) == len(list(pairs.batches(64)))
