"""Few columns of the unembedding where a metric names its tokens: the same results, and no whole unembedding in loops."""

from dataclasses import replace

import pytest
import torch
from transformer_lens.model_bridge.generalized_components.unembedding import UnembeddingBridge

import circuits
from circuits import PromptPairs
from circuits.engine.check import check
from circuits.engine.hooks import TokenBatch, inference_state, run
from circuits.question.metrics import METRICS
from circuits.question.question import Question
from tests.tiny_models import ALL, atol, random_pairs, random_subset, tiny

ALL_LOGITS = replace(METRICS["logit_difference"], name="difference of all logits", answers_only=False)
"""The naive twin of `logit_difference`: the same function, of the logits of the whole vocabulary."""


@pytest.mark.parametrize("name", ALL)
def test_chosen_logits_are_the_models_own(name):
    model = tiny(name)
    assert model.report.columns_exact
    tokens, chosen = torch.tensor([[5, 6, 7, 8], [9, 3, 4, 11]]), torch.tensor([3, 20, 39])
    batch = TokenBatch(tokens, torch.tensor([3, 1]))
    with inference_state(model.bridge), torch.no_grad():
        wanted, got = run(model.architecture, batch), run(model.architecture, batch, tokens=chosen)
        none = run(model.architecture, batch, tokens=chosen[:0])
    assert float((got - wanted[:, chosen]).abs().max()) <= max(1.0, float(wanted.abs().max())) * atol(name)
    assert none.shape == (2, 0)


@pytest.fixture
def rows(monkeypatch):
    """The rows of every whole unembedding."""
    counted: list[int] = []
    forward = UnembeddingBridge.forward

    def counting(self, *args, **kwargs):
        logits = forward(self, *args, **kwargs)
        counted.append(logits.shape[:-1].numel())
        return logits

    monkeypatch.setattr(UnembeddingBridge, "forward", counting)
    return counted


def uneven_pairs():
    """Several answers, positions that are not the last, a common prefix."""
    pairs = random_pairs(n=4, prefix=2)
    answers = [[ids[0], 1] for i, ids in enumerate(pairs.answers)]
    distractors = [[ids[0], 2][: 1 + i % 2] for i, ids in enumerate(pairs.distractors)]
    positions = [len(ids) - 1 - i % 2 for i, ids in enumerate(pairs.clean)]
    return PromptPairs.from_tokens(pairs.clean, pairs.corrupted, answers, distractors, positions)


def some_circuits(model, pairs, metric):
    asked = [random_subset(model, 0.5), circuits.Circuit.empty(model.graph)]
    return circuits.circuit_metrics(model, pairs, asked, metric=metric)


def pruned(model, pairs, metric):
    result = circuits.edge_pruning(model, pairs, 20, steps=2, metric=metric)
    return torch.tensor([result.provenance["training"][name] for name in ("metric", "range", "masked_metric")])


def searched(model, pairs, metric):
    result = circuits.acdc(model, pairs, 0.05, metric=metric, start_layer=2)
    return torch.stack([result.mask.double(), result.scores.nan_to_num()])


METHODS = {
    "denoising": (lambda *a, **k: circuits.activation_patching(*a, **k).values, 0),
    "noising": (lambda *a, **k: circuits.activation_patching(*a, direction="noising", **k).values, 0),
    "attribution patching": (lambda *a, **k: circuits.attribution_patching(*a, **k).values, 0),
    "AtP*": (lambda *a, **k: circuits.atp_star(*a, **k).values, 0),
    "EAP": (lambda *a, **k: circuits.edge_attribution(*a, gradient="clean", **k).values, 0),
    "EAP-IG": (lambda *a, **k: circuits.edge_attribution(*a, gradient="ig", steps=2, **k).values, 0),
    "exact edges": (
        lambda m, p, **k: circuits.exact_edge_effects(m, p, m.graph.edges[-9:], **k).per_prompt,
        4,
    ),
    "path patching": (lambda m, p, **k: circuits.path_patching(m, p, ["logits"], **k).values, 0),
    "causal mediation": (lambda *a, **k: circuits.causal_mediation(*a, nodes="heads", **k).clean_patched, 0),
    "COAR": (lambda *a, **k: circuits.coar(*a, samples=30, **k).values, 0),
    "edge pruning": (lambda m, p, metric: pruned(m, p, metric), 4),
    "circuits": (lambda m, p, metric: some_circuits(m, p, metric), 8),
    "ACDC": (lambda m, p, metric: searched(m, p, metric), 4),
}
"""Name -> the method, and the largest number of rows for which it computes all logits: those of clean runs, and of nothing kept."""


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_metric_of_few_tokens_gives_what_it_gives_with_all_logits(rows, name, method):
    model, pairs = tiny(name), uneven_pairs()
    function, most = METHODS[method]
    wanted = function(model, pairs, metric=ALL_LOGITS)
    rows.clear()
    got = function(model, pairs, metric="logit_difference")
    assert sum(rows) <= most
    assert float((got - wanted).abs().max()) <= max(1.0, float(wanted.abs().max())) * atol(name)
    assert float(got.abs().max()) > 0


def test_a_metric_names_its_tokens_and_counts_among_them():
    question = Question.ask(tiny("gpt2"), uneven_pairs(), "logit_difference")
    (batch,) = question.batches()
    wanted = sorted({t for side in (question.pairs.answers, question.pairs.distractors) for ids in side for t in ids})
    assert set(wanted) <= set(batch.tokens.tolist()) <= {0, *wanted}  # 0 fills the shorter lists
    logits = torch.randn(4, 40, dtype=torch.float64)
    few = question.metric(logits[:, batch.tokens], batch.targets_read)
    assert torch.equal(few, question.metric(logits, batch.targets))
    for metric in ("kl_divergence", "cross_entropy", "probability", "rank", ALL_LOGITS):
        assert next(iter(Question.ask(tiny("gpt2"), uneven_pairs(), metric).batches())).tokens is None


def test_all_logits_are_computed_where_few_would_not_be_the_models_own(monkeypatch):
    model = tiny("gpt2")
    monkeypatch.setattr(model.bridge.adapter, "apply_output_logits_transform", lambda logits: logits / 2)
    with inference_state(model.bridge):
        assert not check(model.architecture, "another rule").columns_exact


def test_hooks_of_the_user_on_the_logits_are_respected(monkeypatch):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    monkeypatch.setitem(vars(model), "allow_hooks", True)
    point = model.bridge.unembed.hook_out
    point.add_hook(lambda value, hook: value * 3)
    try:
        got = circuits.activation_patching(model, pairs).values
    finally:
        point.remove_hooks()
    torch.testing.assert_close(got, 3 * circuits.activation_patching(model, pairs).values)


def test_answers_are_seen_in_clean_runs_that_compute_few_logits():
    from circuits.question.answers import watched

    model, pairs = tiny("gemma2"), uneven_pairs()
    seen = []
    for metric in (ALL_LOGITS, "logit_difference"):
        with watched(len(pairs), model.d_vocab) as answers:
            circuits.attribution_patching(model, pairs, metric=metric)
        assert answers.complete
        seen.append(torch.stack([answers.ranks, answers.right, answers.first.double()]))
    assert torch.equal(*seen)
