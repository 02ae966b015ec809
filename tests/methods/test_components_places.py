"""Components at spans: COAR, its baseline and the values of games, against patching by hand."""

import itertools
import math

import pytest
import torch

import circuits
from circuits import InputError
from circuits.engine.hooks import inference_state, run
from circuits.engine.inserted import hook_point
from circuits.evaluation.circuit_predictions import predict_circuits
from circuits.graph.nodes import select_sites
from circuits.measure.component_samples import Sampler, in_blocks
from circuits.methods.coar_edit import plan_edit
from circuits.question.question import Question
from circuits.results.node_scores import NodeScores
from tests.placed_pairs import placed_pairs, spans_of
from tests.tiny_models import atol, tiny


def by_hand(model, pairs, ablated, ablation):
    """The metric of each prompt alone with these components (`a1.h0@S`) replaced token by token, in loops."""
    architecture, outcomes = model.architecture, []
    question = Question.ask(model, pairs, None, ablation, 1)
    for batch in question.batches(share_prefix=False):
        spans = spans_of(pairs, int(batch.index[0]))
        values = {}
        sites = {name: select_sites(model.graph, [name.split("@")[0]], model.widths)[0] for name in ablated}

        def change(x, name, site, source, spans=spans):
            x = x.clone()
            for token, span in enumerate(spans):
                if span == name.split("@")[1]:
                    where = (0, token) if site.index is None else (0, token, site.index)
                    x[where] = 0.0 if source is None else source[where]
            return x

        with inference_state(model.bridge), torch.no_grad():
            if ablation == "interchange":
                keep = [
                    (
                        hook_point(architecture, s.layer, s.point),
                        lambda x, name=name, values=values: values.__setitem__(name, x),
                    )
                    for name, s in sites.items()
                ]
                run(architecture, batch.suffix.corrupted_tokens, keep)
            hooks = [
                (hook_point(architecture, s.layer, s.point),
                 lambda x, name=name, s=s, values=values: change(x, name, s, values.get(name)))
                for name, s in sites.items()
            ]  # fmt: skip
            logits = run(architecture, batch.suffix.clean_tokens, hooks)
        outcomes.append(question.metric(logits, batch.targets) * question.metric.sign)
    return torch.cat(outcomes).double()


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
@pytest.mark.parametrize("ablation", ["zero", "interchange"])
def test_sets_of_components_at_spans_are_patched_by_hand(name, ablation):
    model, pairs = tiny(name), placed_pairs(n=3, prefix=2)
    sampler = Sampler.for_question(
        Question.ask(model, pairs, None, ablation), ["a0.h1", "m0", "a1.h0<q>", "a1.h0"], positions="spans"
    )
    assert sampler.nodes[:4] == tuple(f"a0.h1@{span}" for span in pairs.spans)
    masks = torch.rand(6, len(sampler.nodes), generator=torch.Generator().manual_seed(0)) < 0.4
    result = sampler.measured("some", in_blocks(masks))
    for mask, outcome in zip(masks, result.outcomes, strict=True):
        ablated = [node for node, out in zip(sampler.nodes, mask.tolist(), strict=True) if out]
        torch.testing.assert_close(
            outcome, by_hand(model, pairs, ablated, ablation), rtol=0, atol=max(atol(name), 1e-9)
        )


@pytest.mark.parametrize("ablation", ["zero", "interchange"])
def test_a_node_at_all_spans_is_the_node(ablation):
    model, pairs = tiny("gpt2"), placed_pairs(n=3)
    placed, plain = (
        Sampler.for_question(Question.ask(model, pairs, None, ablation), "heads", positions=where)
        for where in ("spans", None)
    )
    masks = torch.rand(5, len(plain.nodes), generator=torch.Generator().manual_seed(0)) < 0.4
    wide = masks.repeat_interleave(len(pairs.spans), 1)
    both = placed.measured("some", in_blocks(wide)).outcomes, plain.measured("some", in_blocks(masks)).outcomes
    assert torch.equal(*both)


NODES = ["a0.h1", "m2"]
SPANS = ("S", "end")


@pytest.fixture(scope="module")
def game():
    """The worth of every set of two nodes at two spans, by hand."""
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    names = [f"{node}@{span}" for node in NODES for span in SPANS]
    worth = {
        frozenset(kept): by_hand(model, pairs, [name for name in names if name not in kept], "zero")
        for size in range(5)
        for kept in itertools.combinations(names, size)
    }
    return model, pairs, names, worth


def mean_gain(names, worth, name, share):
    """Σ over sets of the others of share(size) · the gain of `name`."""
    others = [other for other in names if other != name]
    gains = [
        share(size) * (worth[frozenset((*kept, name))] - worth[frozenset(kept)])
        for size in range(4)
        for kept in itertools.combinations(others, size)
    ]
    return torch.stack(gains).sum(0)


def test_shapley_banzhaf_and_coar_are_those_of_the_enumerated_game(game):
    model, pairs, names, worth = game
    shapley = torch.stack([
        mean_gain(names, worth, name, lambda size: math.factorial(size) * math.factorial(3 - size) / 24) for name in names
    ])  # fmt: skip
    banzhaf = torch.stack([mean_gain(names, worth, name, lambda size: 1 / 8) for name in names])
    spread = float(shapley.abs().max())
    options = {"nodes": NODES, "positions": SPANS}
    result = circuits.shapley(model, pairs, orders=200, **options)
    assert (result.nodes, result.positions) == (("a0.h1", "m2"), SPANS)
    assert float((result.per_prompt.flatten(0, 1) - shapley).abs().max()) < 0.1 * spread
    torch.testing.assert_close(result.per_prompt.sum((0, 1)), worth[frozenset(names)] - worth[frozenset()])
    for estimate in (
        circuits.banzhaf(model, pairs, samples=800, **options),
        circuits.coar(model, pairs, samples=400, alpha=0.5, **options),
    ):
        assert float((estimate.per_prompt.flatten(0, 1) - banzhaf).abs().max()) < 0.15 * spread
    alone = circuits.leave_one_out(model, pairs, **options)
    wanted = [worth[frozenset(names)] - worth[frozenset(set(names) - {name})] for name in names]
    torch.testing.assert_close(alone.per_prompt.flatten(0, 1), torch.stack(wanted))
    indices = circuits.sobol(model, pairs, samples=16, alpha=0.5, **options)
    assert indices.nodes == tuple(names)


def test_attributions_of_components_at_spans_predict_and_survive_their_file(tmp_path):
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    result = circuits.coar(model, pairs, nodes=NODES, positions="spans", samples=64, alpha=0.3, store=tmp_path / "s")
    again = circuits.coar(model, pairs, nodes=NODES, positions="spans", samples=64, alpha=0.3, store=tmp_path / "s")
    assert torch.equal(result.per_prompt, again.per_prompt)
    assert set(result.to_dict()) == {"a0.h1", "m2"}
    assert len(result.to_dict()["m2"]) == len(pairs.spans)
    assert {name for name, _, _ in result.strongest(8)} == {f"{node}@{span}" for node in NODES for span in pairs.spans}
    kept = torch.ones(1, 8)
    torch.testing.assert_close(result.predict(kept)[0], result.bias + result.per_prompt.sum((0, 1)))
    assert result.plot() is not None
    result.save(tmp_path / "coar.safetensors")
    read = NodeScores.load(tmp_path / "coar.safetensors")
    for name in ("per_prompt", "weight_stderr", "mean_weight_stderr"):
        assert torch.equal(getattr(read, name), getattr(result, name))
    assert read.positions == pairs.spans
    with pytest.raises(InputError, match="another question"):
        circuits.coar(model, pairs, nodes=NODES, samples=64, alpha=0.3, store=tmp_path / "s")
    with pytest.raises(InputError, match="without positions"):
        plan_edit(result, result)
    with pytest.raises(InputError, match="without positions"):
        predict_circuits(model, pairs, result, {})
