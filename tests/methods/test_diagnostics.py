"""Random subsets on models, against one hooked forward pass a subset and the enumeration of all subsets."""

import itertools

import pytest
import torch

import circuits.measure.subsets as subsets
from circuits import Diagnosis, InputError, PairsError, PromptPairs, activation_patching, diagnose
from circuits.engine.hooks import TokenBatch, run
from circuits.graph.nodes import find_site
from circuits.measure.subsets import draw_subsets
from circuits.question.metrics import get_metric, targets_of
from tests.tiny_models import FEW, atol, random_pairs, tiny


def naive_outcome(model, pair, names):
    """metric(clean) - metric(clean with these nodes' corrupted values), by two whole passes."""
    batch = next(iter(pair.batches(1)))
    metric, targets = get_metric("logit_difference"), targets_of(batch)

    def logits(tokens, hooks):
        with torch.no_grad():
            return run(model.architecture, TokenBatch(tokens, batch.position), hooks)

    record, patch, stored = [], [], {}
    for name in names:
        node, _, label = name.partition("@")
        site = find_site(model.graph, node)
        at = slice(None) if not label else pair.roles[0].get(label, int(label) if label.isdecimal() else None)
        point = getattr(model.architecture.blocks[site.layer], site.point)
        record.append((point, lambda x, key=(site.layer, site.point): stored.__setitem__(key, x.clone())))

        def replace(x, site=site, at=at):
            x = x.clone()
            which = (slice(None), at) if site.index is None else (slice(None), at, site.index)
            x[which] = stored[site.layer, site.point][which]
            return x

        patch.append((point, replace))
    logits(batch.corrupted, record)
    return float(metric(logits(batch.clean, []), targets) - metric(logits(batch.clean, patch), targets))


def naive_outcomes(model, pairs, result):
    chosen = [
        [node for node, inside in zip(result.nodes, row, strict=True) if inside] for row in result.included.tolist()
    ]
    return torch.tensor(
        [[naive_outcome(model, pairs[[i]], names) for i in range(len(pairs))] for names in chosen], dtype=torch.float64
    )


@pytest.mark.parametrize("name", FEW)
def test_an_outcome_is_one_patched_forward_pass(name):
    model, pairs = tiny(name), random_pairs(n=2, prefix=2)
    result = diagnose(model, pairs, samples=8, share=0.25, seed=3)
    assert 0 < result.included.double().mean() < 0.5
    torch.testing.assert_close(
        result.outcomes, naive_outcomes(model, pairs, result), rtol=1e-4, atol=max(1e-5, atol(name))
    )


def test_positions_and_roles_are_nodes_of_their_own():
    model, plain = tiny("llama"), random_pairs(n=2, prefix=1)
    roles = [{"subject": 2, "end": 6}, {"subject": 4, "end": 6}]
    pairs = PromptPairs.from_tokens(plain.clean, plain.corrupted, [3, 4], [30, 31], roles=roles)
    names = ["a0.h1<q>@subject", "a1.kv0<k>@3", "m1", "a2.h3"]
    result = diagnose(model, pairs, nodes=names, positions=["end", "subject"], samples=6, share=0.5)
    assert result.nodes == (*names[:2], "m1@end", "m1@subject", "a2.h3@end", "a2.h3@subject")
    torch.testing.assert_close(result.outcomes, naive_outcomes(model, pairs, result), rtol=1e-4, atol=1e-5)
    each = diagnose(model, plain, positions="each", samples=2)
    assert len(each.nodes) == 7 * (12 + 6 + 6 + 12 + 3)
    with pytest.raises(PairsError, match="no role 'verb'"):
        diagnose(model, pairs, nodes=["m1@verb"], samples=2)
    with pytest.raises(PairsError, match="no role '7'"):
        diagnose(model, pairs, nodes=["m1@7"], samples=2)


SIX = ("a0.h0<q>", "a0.h0", "m0", "a1.kv0<v>", "a2.h3", "m2")


@pytest.mark.parametrize("share", [0.125, 0.5])
def test_intervals_cover_the_average_effect_over_all_subsets(share):
    model, pairs = tiny("llama"), random_pairs(n=2, seed=5)
    table = {
        row: sum(naive_outcome(model, pairs[[i]], [n for n, inside in zip(SIX, row, strict=True) if inside]) for i in (0, 1)) / 2
        for row in itertools.product((False, True), repeat=6)
    }  # fmt: skip
    wanted = []
    for node in range(6):
        total = 0.0
        for row, outcome in table.items():
            others = [share if inside else 1 - share for j, inside in enumerate(row) if j != node]
            total += (1 if row[node] else -1) * outcome * float(torch.tensor(others).prod())
        wanted.append(total)
    wanted = torch.tensor(wanted, dtype=torch.float64)
    result = diagnose(model, pairs, nodes=SIX, samples=128, share=share, confidence=0.999)
    low, high = result.interval()
    assert bool(((low <= wanted) & (wanted <= high)).all())
    assert result.bound >= float(wanted.abs().max())
    alone = torch.tensor([table[tuple(i == node for i in range(6))] for node in range(6)])
    assert (wanted - alone).abs().max() > 0.1 * alone.abs().max()  # effects interact in this model
    covered, bounded = [], []
    for seed in range(150):
        included = draw_subsets(6, 64, share, seed)
        outcomes = torch.tensor([[table[tuple(row)]] for row in included.tolist()], dtype=torch.float64)
        drawn = Diagnosis(SIX, included, outcomes)
        low, high = drawn.interval()
        covered.append(((low <= wanted) & (wanted <= high)).double().mean())
        bounded.append(drawn.bound >= float(wanted.abs().max()))
    assert sum(covered) / 150 > 0.92
    assert sum(bounded) / 150 > 0.91


def test_a_subset_of_one_node_is_activation_patching():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    exact = activation_patching(model, pairs, nodes=["m1"], direction="noising").per_prompt[0]
    result = diagnose(model, pairs, nodes=["m1"], samples=8, share=0.5)
    for inside, outcome in zip(result.included[:, 0].tolist(), result.outcomes, strict=True):
        torch.testing.assert_close(outcome, exact if inside else torch.zeros_like(exact))
    assert result.estimates.tolist() == pytest.approx([float(exact.mean())])
    assert result.bound == pytest.approx(abs(float(exact.mean())))


def test_identical_prompts_have_no_effects_and_metrics_are_signed():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    same = PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    result = diagnose(model, same, samples=32, share=0.5)
    assert not result.outcomes.any()
    assert result.bound == 0
    more, less = (diagnose(model, pairs, samples=4, metric=m) for m in ("log_probability", "cross_entropy"))
    torch.testing.assert_close(more.outcomes, less.outcomes)


def test_results_do_not_depend_on_batches_and_name_what_was_asked():
    model, pairs = tiny("gpt2"), random_pairs(n=5, prefix=1)
    one, all_of_them = (diagnose(model, pairs, samples=40, batch_size=size) for size in (1, 5))
    torch.testing.assert_close(one.outcomes, all_of_them.outcomes, rtol=1e-6, atol=1e-9)
    assert torch.equal(one.included, all_of_them.included)
    left = diagnose(model, pairs, excluding=["m0", "a0.h0<k>"], samples=2)
    assert set(one.nodes) - set(left.nodes) == {"m0", "a0.h0<k>"}
    options = left.provenance["options"]
    assert (options["nodes"], options["excluded"], options["samples"], options["share"]) == (37, 2, 2, 0.0625)
    assert left.provenance["method"] == "diagnose"


def test_a_stopped_diagnosis_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    model, pairs = tiny("llama"), random_pairs(n=4)
    asked = {"samples": 80, "batch_size": 2, "seed": 2}
    whole = diagnose(model, pairs, **asked)
    real, calls = subsets.PatchRuns.metrics, []

    def stop_at_the_fifth(runs, interventions):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(runs, interventions)

    monkeypatch.setattr(subsets.PatchRuns, "metrics", stop_at_the_fifth)
    store = tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        diagnose(model, pairs, store=store, **asked)
    assert len(list(store.glob("*.safetensors"))) == 4
    again = diagnose(model, pairs, store=store, **asked)
    assert len(calls) == 5 + 6
    assert torch.equal(again.outcomes, whole.outcomes)
    assert again.to_dict() == whole.to_dict()
    more = diagnose(model, pairs, store=store, **{**asked, "samples": 100})
    assert len(calls) == 5 + 6 + 2  # the last piece of both batches, which was not whole
    assert torch.equal(more.first(80).included, whole.included)
    torch.testing.assert_close(more.first(80).outcomes, whole.outcomes)
    diagnose(model, pairs, store=store, **{**asked, "samples": 40}, confidence=0.9, size="contribution")
    assert len(calls) == 13
    for other in ({"seed": 3}, {"share": 0.25}, {"nodes": "heads"}, {"metric": "probability"}):
        with pytest.raises(InputError, match="another question"):
            diagnose(model, pairs, store=store, **{**asked, **other})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"nodes": ["a9.h9"]}, r"no node 'a9\.h9'"),
        ({"nodes": ["m0", "m0"]}, "node m0 is given twice"),
        ({"nodes": []}, "no nodes are given"),
        ({"nodes": ["m0"], "excluding": ["m0"]}, "all 1 nodes are excluded"),
        ({"samples": 1}, "samples must be at least 2, got 1"),
        ({"share": 1.5}, r"share must be between 0 and 1, got 1\.5"),
        ({"confidence": 0.3}, "confidence must be between"),
        ({"size": "max"}, "size must be one of"),
        ({"ablation": "zero"}, "another run"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(asked, message):
    with pytest.raises(InputError, match=message):
        diagnose(tiny("gpt2"), random_pairs(n=1), **asked)
