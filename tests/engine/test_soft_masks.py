"""Soft masks against hard ablation, a node-by-node GPT-2, finite differences, and first-order scores."""

from functools import partial

import pytest
import torch

from circuits import edge_attribution
from circuits.engine.ablate import ablated_logits
from circuits.engine.hooks import inference_state
from circuits.engine.soft_masks import masked_logits
from circuits.question.question import Question
from tests.naive_gpt2 import NaiveGPT2, replacement_of
from tests.tiny_models import ALL, FEW, atol, random_hf_model, random_pairs, random_subset, tiny


class Setting:
    """A model and one batch: logits and metric under masks."""

    def __init__(self, name, prefix=0, ablation="interchange", n=3):
        self.model, self.pairs = tiny(name), random_pairs(n=n, prefix=prefix)
        self.question = Question.ask(self.model, self.pairs, ablation=ablation)
        with inference_state(self.model.bridge):
            self.batch = next(iter(self.question.batches()))
            _, clean = self.question.clean_run(self.batch.suffix)
            self.replacement = self.question.replacement(self.batch.suffix, clean)
        self.shape = self.model.graph.edge_mask.shape

    def logits(self, mask, function=masked_logits):
        with inference_state(self.model.bridge):
            return function(self.model.architecture, self.batch.suffix, self.replacement, mask)

    def metric(self, mask, function=masked_logits):
        return self.question.metric(self.logits(mask, function), self.batch.targets).mean()

    def random_mask(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(self.shape, generator=generator, dtype=self.model.dtype)

    def gradient(self, mask, function=masked_logits):
        mask = mask.detach().requires_grad_()
        with inference_state(self.model.bridge):
            return torch.autograd.grad(self.metric(mask, function), mask)[0]


@pytest.mark.parametrize(("name", "share"), [*((name, 0.4) for name in ALL), *((name, 0.02) for name in FEW),
                                             *((name, 1.0) for name in FEW), *((name, 0.0) for name in FEW)])  # fmt: skip
def test_masks_of_zero_and_one_are_hard_ablation(name, share):
    setting, keep = Setting(name, prefix=2), random_subset(tiny(name), share).mask
    wanted = setting.logits(keep, ablated_logits)
    torch.testing.assert_close(setting.logits(keep.to(wanted.dtype)), wanted, rtol=1e-6, atol=atol(name))


class SoftGPT2(NaiveGPT2):
    """GPT-2 in which an edge carries a share of its current value."""

    def masked(self, tokens, mask, replacement):
        def carried(edge, writer, value):
            return mask[edge] * value + (1 - mask[edge]) * replacement[writer]

        return self.walk(tokens, carried)[0]


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_soft_masks_and_their_gradients_are_the_naive_ones(ablation):
    setting, naive = Setting("gpt2", prefix=1, ablation=ablation), SoftGPT2(random_hf_model("gpt2"))
    graph, mask = setting.model.graph, setting.random_mask()
    leaves = dict(zip(graph.edges, mask[graph.edge_mask].unbind(), strict=True))
    leaves = {edge: leaf.clone().requires_grad_() for edge, leaf in leaves.items()}
    got, total = setting.logits(mask), 0
    for row, index in enumerate(setting.batch.suffix.batch.index.tolist()):
        pair = setting.pairs.pair(index)
        replacement = replacement_of(naive, pair, ablation)
        logits = naive.masked(torch.tensor(pair.clean), leaves, replacement)[-1]
        torch.testing.assert_close(got[row], logits.detach(), rtol=0, atol=1e-10)
        total = total + (logits[pair.answers[0]] - logits[pair.distractors[0]]) / len(setting.pairs)
    wanted = torch.stack(torch.autograd.grad(total, list(leaves.values())))
    result = setting.gradient(mask)
    torch.testing.assert_close(result[graph.edge_mask], wanted, rtol=0, atol=1e-10)
    assert not result[~graph.edge_mask].any()


@pytest.mark.parametrize("name", ["gpt2", "native", "native-no-norm", "native-attention-only"])
def test_gradients_are_finite_differences(name):
    setting = Setting(name, n=2)
    mask, step = setting.random_mask(), 1e-5
    gradient = setting.gradient(mask)
    directions = [setting.random_mask(seed) - 0.5 for seed in (1, 2)]
    for w, r in setting.model.graph.edge_mask.nonzero()[:: setting.model.graph.n_edges // 5].tolist():
        directions.append(torch.zeros_like(mask))
        directions[-1][w, r] = 1
    for direction in directions:
        ends = [float(setting.metric(mask + sign * step * direction)) for sign in (1, -1)]
        assert float((gradient * direction).sum()) == pytest.approx(
            (ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-6
        )


@pytest.mark.parametrize("name", FEW)
def test_with_all_edges_kept_the_gradient_is_edge_attributions_score_at_the_clean_run(name):
    setting = Setting(name, prefix=2)
    scores = edge_attribution(setting.model, setting.pairs, gradient="clean", check_sign=False)
    result = setting.gradient(torch.ones(setting.shape, dtype=setting.model.dtype)).double()
    scale = float(scores.values.abs().max())
    torch.testing.assert_close(result, scores.values, rtol=1e-6, atol=scale * (1e-10 if atol(name) < 1e-8 else 1e-5))


@pytest.mark.parametrize(("name", "share"), [*((name, 0.03) for name in FEW), ("gpt2", 0.0)])
def test_masks_that_stay_closed_change_no_logit_and_no_other_gradient(name, share):
    setting, kept = Setting(name, prefix=2), random_subset(tiny(name), share).mask
    mask = setting.random_mask() * kept
    leave = partial(masked_logits, closed_stay=True)
    torch.testing.assert_close(setting.logits(mask, leave), setting.logits(mask), rtol=0, atol=atol(name))
    wanted, result = setting.gradient(mask), setting.gradient(mask, leave)
    scale = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(result[kept], wanted[kept], rtol=0, atol=atol(name) * scale)
    skipped = (result == 0) & (wanted != 0)
    assert not skipped[kept].any()
    assert skipped.any()


def test_a_second_backward_pass_gives_the_same_again():
    setting = Setting("llama")
    mask = setting.random_mask().requires_grad_()
    with inference_state(setting.model.bridge):
        value = setting.metric(mask)
        first, second = (torch.autograd.grad(value, mask, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_the_model_is_left_as_it_was_and_masks_without_gradients_make_no_graph():
    setting = Setting("gpt2")
    assert not setting.logits(setting.random_mask()).requires_grad
    assert setting.logits(setting.random_mask().requires_grad_()).requires_grad
    assert not any(point.fwd_hooks for point in setting.model.bridge.hook_dict.values())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in setting.model.bridge.parameters())
