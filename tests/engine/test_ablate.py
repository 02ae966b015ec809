"""Ablated logits against a node-by-node GPT-2, and against what must hold on any architecture."""

import pytest
import torch

from circuits import Circuit, InputError, circuit_metric, circuit_metrics, random_circuit
from circuits.engine.ablate import ablated_logits
from circuits.engine.capture import capture_writes, stack
from circuits.engine.hooks import TokenBatch
from circuits.engine.prefix import split
from circuits.graph.paths import live_nodes
from circuits.question.ablations import Zero
from circuits.question.metrics import get_metric, targets_of
from tests.naive_gpt2 import NaiveGPT2, replacement_of
from tests.naive_llama import NaiveLlama
from tests.tiny_models import ALL, atol, random_hf_model, random_pairs, random_subset, tiny


def plain_logits(model, tokens):
    with torch.no_grad():
        return model.bridge(torch.tensor(tokens))[:, -1]


NAIVE = {"gpt2": NaiveGPT2, "llama": NaiveLlama}


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_any_circuit_gives_what_the_naive_forward_gives(name, share, ablation):
    model, naive = tiny(name), NAIVE[name](random_hf_model(name))
    pairs, circuit = random_pairs(n=3), random_subset(model, share)
    got = circuit_metric(model, pairs, circuit, ablation=ablation)
    kept = set(circuit.edges)
    with torch.no_grad():
        for i, pair in enumerate(pairs):
            replacement = replacement_of(naive, pair, ablation)
            logits, _ = naive.run(torch.tensor(pair.clean), kept, replacement)
            wanted = logits[-1, pair.answers[0]] - logits[-1, pair.distractors[0]]
            assert got[i] == pytest.approx(float(wanted), abs=atol(name))


def test_captured_writers_are_the_naive_ones():
    model, naive = tiny("gpt2"), NaiveGPT2(random_hf_model("gpt2"))
    tokens = torch.tensor(random_pairs(n=2).clean)
    _, writes = capture_writes(model.architecture, TokenBatch(tokens, torch.tensor([6, 6])))
    stacked = stack(model.architecture, writes, torch.float64)
    for i, row in enumerate(tokens):
        _, wanted = naive.run(row)
        assert tuple(wanted) == model.graph.writers
        torch.testing.assert_close(stacked[i], torch.stack(list(wanted.values())).detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_all_edges_kept_are_the_model_and_none_kept_the_corrupted_prompt(name):
    model, pairs = tiny(name), random_pairs()
    full, empty = circuit_metrics(model, pairs, [Circuit.full(model.graph), Circuit.empty(model.graph)])
    for got, tokens in ((full, pairs.clean), (empty, pairs.corrupted)):
        logits = plain_logits(model, tokens)
        batch = next(iter(pairs.batches(len(pairs))))
        wanted = get_metric("logit_difference")(logits[batch.index], targets_of(batch))
        torch.testing.assert_close(got[batch.index], wanted.double(), rtol=0, atol=atol(name))


@pytest.mark.parametrize("name", ALL)
def test_a_circuit_for_each_prompt_is_the_same_as_one_after_the_other(name):
    model, pairs = tiny(name), random_pairs(n=3)
    batch = next(iter(pairs.batches(3)))
    suffix = split(model.bridge, batch, share=False)
    _, replacement = capture_writes(model.architecture, TokenBatch(batch.corrupted, batch.position))
    masks = torch.stack([random_subset(model, 0.5, seed).mask for seed in range(3)])
    together = ablated_logits(model.architecture, suffix, replacement, masks)
    for i in range(3):
        alone = ablated_logits(model.architecture, suffix, replacement, masks[i])
        torch.testing.assert_close(together[i], alone[i], rtol=0, atol=atol(name))


@pytest.mark.parametrize("name", ALL)
def test_a_cached_prefix_changes_nothing(name):
    model, pairs = tiny(name), random_pairs(prefix=4)
    if not model.report.prefix_exact:
        assert name.startswith("native")  # they take no cache, and so get none
        return
    batch = next(iter(pairs.batches(len(pairs))))
    assert batch.prefix >= 4
    circuit = random_subset(model, 0.5)
    logits = []
    for share in (False, True):
        suffix = split(model.bridge, batch, share)
        assert (suffix.start > 0) == share
        _, replacement = capture_writes(model.architecture, suffix.corrupted_tokens)
        logits.append(ablated_logits(model.architecture, suffix, replacement, circuit.mask))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=atol(name))


@pytest.mark.parametrize("name", ALL)
def test_what_dead_nodes_compute_makes_no_difference(name):
    model, pairs = tiny(name), random_pairs()
    circuit = random_subset(model, 0.05, seed=3)
    live = live_nodes(model.graph, circuit.mask)
    if not model.architecture.blocks[0].linear_heads:
        return  # heads that share a post-norm all count
    dead_readers = [
        not any(node in live for node in model.graph.nodes_fed_by(r) or ("logits",)) for r in model.graph.reader_nodes
    ]
    assert any(dead_readers)
    more = Circuit(model.graph, circuit.mask | (model.graph.edge_mask & torch.tensor(dead_readers)))
    few, many = circuit_metrics(model, pairs, [circuit, more])
    torch.testing.assert_close(few, many, rtol=0, atol=atol(name))


def test_zero_ablation_of_everything_leaves_the_constants():
    """Attention output biases belong to no writer, so they stay; nothing else does."""
    model, pairs = tiny("gpt2"), random_pairs()
    hf = random_hf_model("gpt2")
    got = circuit_metric(model, pairs, Circuit.empty(model.graph), ablation=Zero())
    constants = sum(block.attn.c_proj.bias for block in hf.transformer.h)
    with torch.no_grad():
        logits = hf.lm_head(hf.transformer.ln_f(constants))
    wanted = [float(logits[a[0]] - logits[d[0]]) for a, d in zip(pairs.answers, pairs.distractors, strict=True)]
    assert got.tolist() == pytest.approx(wanted, abs=1e-10)


def test_hooks_come_off_and_the_model_stays_as_it_was_also_when_a_pass_fails():
    model, pairs = tiny("gpt2"), random_pairs()
    before = {name: len(point._forward_hooks) for name, point in model.bridge.hook_dict.items()}
    with pytest.raises(InputError, match="on purpose"):
        circuit_metric(model, pairs, Circuit.full(model.graph), metric=fail)
    assert {name: len(point._forward_hooks) for name, point in model.bridge.hook_dict.items()} == before
    assert all(not point.fwd_hooks for point in model.bridge.hook_dict.values())


def fail(logits, targets):
    raise RuntimeError("on purpose")


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_small_circuits_under_zero_ablation_are_right_in_float32(name):
    """Nearly everything cancels there: summed naively, rounding errors are blown up by the norms to 1e-2."""
    pairs, wide, narrow = random_pairs(), tiny(name), tiny(name, torch.float32)
    for seed in range(4):
        circuit = random_circuit(wide.graph, 4 + 4 * seed, torch.Generator().manual_seed(seed))
        values = [circuit_metric(model, pairs, circuit, ablation="zero") for model in (wide, narrow)]
        torch.testing.assert_close(values[0], values[1], rtol=1e-3, atol=2e-3)
