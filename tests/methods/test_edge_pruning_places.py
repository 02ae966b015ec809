"""Soft masks at places against hard ablation, finite differences and masks without places; and circuits trained with them."""

import pytest
import torch

from circuits import Circuit, InputError, circuit_metric, edge_pruning
from circuits.engine.ablate_places import ablated_at_places
from circuits.engine.hooks import inference_state
from circuits.engine.soft_masks import masked_logits
from circuits.question.places import covering_axis
from circuits.question.question import Question
from tests.placed_pairs import placed_pairs
from tests.tiny_models import atol, tiny


class Setting:
    """A model, one batch and the graph over its spans."""

    def __init__(self, name, destinations=False):
        self.model, self.pairs = tiny(name), placed_pairs(n=2, prefix=1)
        self.question = Question.ask(self.model, self.pairs)
        axis = covering_axis(self.model.graph, self.pairs, "spans", destinations)
        self.graph = axis.graph
        with inference_state(self.model.bridge):
            (self.batch,) = self.question.batches()
            _, clean = self.question.clean_run(self.batch.suffix)
            self.replacement = self.question.replacement(self.batch.suffix, clean)
        self.spans = axis.table.of_tokens(self.batch)

    def logits(self, mask, placed=True, closed_stay=False):
        with inference_state(self.model.bridge):
            return masked_logits(
                self.model.architecture, self.batch.suffix, self.replacement, mask, closed_stay=closed_stay,
                placed=(self.graph, self.spans) if placed else None,
            )  # fmt: skip

    def gradient(self, mask, placed=True):
        mask = mask.detach().requires_grad_()
        metric = self.question.metric(self.logits(mask, placed), self.batch.targets).mean()
        return torch.autograd.grad(metric, mask)[0]

    def drawn(self, graph, seed=0):
        return torch.rand(graph.edge_mask.shape, generator=torch.Generator().manual_seed(seed), dtype=self.model.dtype)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
@pytest.mark.parametrize(("share", "destinations"), [(0.03, False), (0.5, False), (0.03, True), (0.5, True)])
def test_masks_of_zero_and_one_are_hard_ablation_at_places(name, share, destinations):
    s = Setting(name, destinations)
    keep = (s.drawn(s.graph) < share) & s.graph.edge_mask
    wanted = ablated_at_places(s.model.architecture, s.batch.suffix, s.replacement, s.graph, keep, s.spans)
    for closed_stay in (False, True):
        got = s.logits(keep.to(s.model.dtype), closed_stay=closed_stay)
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=atol(name))


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("destinations", [False, True])
def test_masks_that_are_equal_at_all_places_are_masks_without_and_their_gradients_add_up(name, destinations):
    s = Setting(name, destinations)
    plain = s.drawn(s.model.graph)
    readers = torch.tensor([r for r, _ in s.graph.columns])
    torch.testing.assert_close(s.logits(plain[:, readers]), s.logits(plain, placed=False), rtol=1e-6, atol=atol(name))
    wanted = s.gradient(plain, placed=False)
    summed = torch.zeros_like(wanted).index_add_(1, readers, s.gradient(plain[:, readers]))
    torch.testing.assert_close(summed, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize(("name", "destinations"), [("gpt2", False), ("gpt2", True), ("native", True)])
def test_gradients_are_finite_differences(name, destinations):
    s = Setting(name, destinations)
    mask, step = s.drawn(s.graph), 1e-5
    gradient = s.gradient(mask)
    for w, column in s.graph.edge_mask.nonzero()[:: 149 if destinations else 61].tolist():
        ends = []
        for sign in (1, -1):
            moved = mask.clone()
            moved[w, column] += sign * step
            ends.append(float(s.question.metric(s.logits(moved), s.batch.targets).mean()))
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(gradient[w, column]), abs=1e-7)


@pytest.mark.parametrize("destinations", [False, True])
def test_trained_masks_give_a_circuit_over_places_better_than_chance(destinations):
    model, pairs = tiny("gpt2"), placed_pairs(n=4)
    options = {"positions": "spans", "destinations": destinations, "steps": 40}
    result = edge_pruning(model, pairs, 60, **options)
    assert result.places == pairs.spans
    assert result.graph.places.destinations is destinations
    assert result == result.pruned()
    assert len(result) <= 60
    values = circuit_metric(model, pairs, result, metric="kl_divergence")
    nothing = circuit_metric(model, pairs, Circuit.empty(result.graph), metric="kl_divergence")
    assert float(values.mean()) < 0.8 * float(nothing.mean())
    assert result.provenance["training"]["metric"] == pytest.approx(float(values.mean()), abs=1e-6)
    if not destinations:
        assert edge_pruning(model, pairs, 60, **options) == result


def test_masks_elsewhere_are_refused():
    model, pairs = tiny("gpt2"), placed_pairs(n=1)
    with pytest.raises(InputError, match="'spans' or 'each'"):
        edge_pruning(model, pairs, 60, positions="roles")
    with pytest.raises(InputError, match="destinations=True needs positions"):
        edge_pruning(model, pairs, 60, destinations=True)
