"""Sweeps against one hooked forward pass a patch, on every architecture."""

import pytest
import torch

from circuits import InputError, PairsError, PromptPairs, activation_patching
from circuits.engine.hooks import TokenBatch, run
from circuits.engine.resume import base_run, resume
from circuits.graph.nodes import select_sites
from circuits.question.ablations import Gaussian
from circuits.question.metrics import get_metric, targets_of
from tests.tiny_models import ALL, FEW, atol, pairs_with_roles, random_pairs, tiny


def naive_patched(model, pairs, direction, sites, position=None):
    """One whole forward pass for one intervention, prompt by prompt."""
    return [naive_patched_prompt(model, pairs[[i]], direction, sites, position) for i in range(len(pairs))]


def naive_patched_prompt(model, pair, direction, sites, position):
    batch = next(iter(pair.batches(1)))
    base, source = (batch.corrupted, batch.clean) if direction == "denoising" else (batch.clean, batch.corrupted)
    stored, hooks = {}, []
    points = {(site.layer, site.point) for site in sites}
    for layer, point in points:
        hook_point = getattr(model.architecture.blocks[layer], point)
        hooks.append((hook_point, lambda x, key=(layer, point): stored.__setitem__(key, x.clone())))
    with torch.no_grad():
        run(model.architecture, TokenBatch(source, batch.position), hooks)
    hooks = []
    for site in sites:

        def patch(x, site=site):
            x = x.clone()
            at = slice(None) if position is None else position
            if site.index is None:
                x[:, at] = stored[site.layer, site.point][:, at]
            else:
                x[:, at, site.index] = stored[site.layer, site.point][:, at, site.index]
            return x

        hooks.append((getattr(model.architecture.blocks[site.layer], site.point), patch))
    with torch.no_grad():
        logits = run(model.architecture, TokenBatch(base, batch.position), hooks)
    return float(get_metric("logit_difference")(logits, targets_of(batch)))


def naive_effects(model, pairs, direction, sites, position=None):
    patched = torch.tensor(naive_patched(model, pairs, direction, sites, position))
    untouched = torch.tensor(naive_patched(model, pairs, direction, [], position))
    return (patched - untouched if direction == "denoising" else untouched - patched).tolist()


def assert_patched_forward_passes(name, direction, every):
    model, pairs = tiny(name), random_pairs(n=2, prefix=2)
    scores = activation_patching(model, pairs, direction=direction)
    for row, site in list(enumerate(select_sites(model.graph, "heads+mlps")))[::every]:
        wanted = naive_effects(model, pairs, direction, [site])
        assert scores.per_prompt[row].tolist() == pytest.approx(wanted, abs=max(1e-5, atol(name)), rel=1e-4)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_every_head_and_mlp_is_one_patched_forward_pass(name, direction):
    assert_patched_forward_passes(name, direction, every=1)


@pytest.mark.parametrize("name", sorted({*ALL} - {*FEW}))
def test_heads_and_mlps_of_any_architecture_are_patched_forward_passes(name):
    assert_patched_forward_passes(name, "noising", every=4)


@pytest.mark.parametrize("name", FEW)
def test_queries_keys_values_and_neurons_at_each_position(name):
    model, pairs = tiny(name), random_pairs(n=2, length=5, prefix=2)
    groups = "q+k+v+neurons" if model.n_neurons else "q+k+v"
    scores = activation_patching(model, pairs, nodes=groups, positions="each")
    sites = select_sites(model.graph, groups, model.widths)
    assert scores.positions == ("0", "1", "2", "3", "4")
    for row in torch.randperm(len(sites), generator=torch.Generator().manual_seed(0))[:6].tolist():
        for position in range(5):
            wanted = naive_effects(model, pairs, "denoising", [sites[row]], position)
            assert scores.per_prompt[row, position].tolist() == pytest.approx(
                wanted, abs=max(1e-5, atol(name)), rel=1e-4
            )
    assert not scores.per_prompt[:, :2].any()  # nothing differs there


@pytest.mark.parametrize("window", [2, 3])
def test_a_window_patches_neighbouring_layers_together(window):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    scores = activation_patching(model, pairs, nodes="mlps", window=window)
    sites = select_sites(model.graph, "mlps")
    for i, site in enumerate(sites):
        first = site.layer - (window - 1) // 2
        together = [other for other in sites if first <= other.layer < first + window]
        assert scores.per_prompt[i].tolist() == pytest.approx(
            naive_effects(model, pairs, "denoising", together), abs=1e-5
        )
    assert scores.provenance["options"]["window"] == window


LAYERS = 3


def naive_window(model, name, window):
    """The node and its neighbours by name, whichever of them exist."""
    kind, layer, rest = name[0], int(name[1]), name[2:]
    first = layer - (window - 1) // 2
    names = [f"{kind}{i}{rest}" for i in range(first, first + window) if 0 <= i < LAYERS]
    return list(select_sites(model.graph, names, model.widths))


@pytest.mark.parametrize(
    ("name", "window", "direction"),
    [("gpt2", 2, "denoising"), ("llama", 3, "noising"), ("neox", 7, "denoising"), ("gemma2", 3, "denoising")],
)
def test_a_window_reaches_over_layers_that_were_not_asked_for(name, window, direction):
    model, pairs = tiny(name), random_pairs(n=2)
    kv = "kv" if model.graph.grouped else "h"
    asked = ["m1", "a2.h0", "a0.h1<q>", f"a1.{kv}1<v>", "m2.n3"]
    scores = activation_patching(model, pairs, nodes=asked, window=window, direction=direction)
    for row, node in enumerate(scores.nodes):
        wanted = naive_effects(model, pairs, direction, naive_window(model, node, window))
        assert scores.per_prompt[row].tolist() == pytest.approx(wanted, abs=max(1e-5, atol(name)), rel=1e-4)
    alone = activation_patching(model, pairs, nodes=asked, direction=direction)
    assert (alone.per_prompt - scores.per_prompt).abs()[:2].min() > 1e-6  # of layers with a neighbour above


def test_a_window_of_a_subset_is_that_of_all_nodes_at_each_position_too_and_the_input_has_none():
    model, pairs = tiny("gpt2"), random_pairs(n=2, length=5)
    whole = activation_patching(model, pairs, positions="each", window=3)
    some = activation_patching(model, pairs, nodes=["input", "m1", "a0.h2"], positions="each", window=3)
    for node in ("m1", "a0.h2"):
        torch.testing.assert_close(
            some.per_prompt[some.nodes.index(node)], whole.per_prompt[whole.nodes.index(node)], rtol=1e-9, atol=1e-9
        )
    single = activation_patching(model, pairs, nodes=["input"], positions="each")
    torch.testing.assert_close(some.per_prompt[0], single.per_prompt[0])


def test_a_store_of_a_window_is_that_of_its_patches(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    options = {"nodes": ["m1"], "window": 3, "store": tmp_path / "store"}
    first, again = (activation_patching(model, pairs, **options) for _ in range(2))
    assert torch.equal(first.per_prompt, again.per_prompt)
    with pytest.raises(InputError, match="another question"):
        activation_patching(model, pairs, **{**options, "window": 2})


def test_roles_name_the_positions_also_where_prompts_differ_in_length():
    model, pairs = tiny("gpt2"), pairs_with_roles()
    scores = activation_patching(model, pairs, nodes=["a1.h1", "m0"], positions="roles")
    assert scores.positions == ("subject", "end")
    for n, node in enumerate(scores.nodes):
        site = select_sites(model.graph, [node])
        for p, role in enumerate(scores.positions):
            for i in range(3):
                wanted = naive_effects(model, pairs[[i]], "denoising", site, pairs.roles[i][role])
                assert float(scores.per_prompt[n, p, i]) == pytest.approx(wanted[0], abs=1e-5)


@pytest.mark.parametrize("name", FEW)
def test_patching_the_input_gives_the_other_run(name):
    model, pairs = tiny(name), random_pairs(n=3)
    denoised = activation_patching(model, pairs, nodes=["input"])
    torch.testing.assert_close(denoised.per_prompt[0], denoised.clean - denoised.corrupted, rtol=1e-4, atol=1e-4)
    assert denoised.normalised().tolist() == pytest.approx([1.0], abs=1e-4)


@pytest.mark.parametrize("name", FEW)
def test_identical_prompts_have_no_effect(name):
    pairs = random_pairs(n=2)
    same = PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    assert not activation_patching(tiny(name), same, nodes="heads+mlps+q+k+v").per_prompt.any()


@pytest.mark.parametrize("ablation", ["gaussian", "resample"])
def test_other_corruptions_are_runs_too(ablation):
    model, pairs = tiny("gpt2"), random_pairs(n=4)
    scores = activation_patching(model, pairs, nodes="input+heads", ablation=ablation, batch_size=3)
    torch.testing.assert_close(scores.per_prompt[0], scores.clean - scores.corrupted)
    assert (scores.clean - scores.corrupted).abs().min() > 0


def test_scores_do_not_depend_on_the_batch_size():
    model, pairs = tiny("gpt2"), random_pairs(n=5, prefix=1)
    one, five = (activation_patching(model, pairs, batch_size=size).per_prompt for size in (1, 5))
    torch.testing.assert_close(one, five)


def test_a_loss_is_signed_like_the_behaviour():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    gain, loss = (
        activation_patching(model, pairs, metric=name).per_prompt for name in ("log_probability", "cross_entropy")
    )
    torch.testing.assert_close(gain, loss)


@pytest.mark.parametrize("name", ALL)
def test_passes_can_begin_at_any_layer(name):
    model, pairs = tiny(name), random_pairs(n=2, prefix=3)
    batch = next(iter(pairs.batches(2)))
    assert model.report.resume_exact
    base = base_run(model.architecture, TokenBatch(batch.clean, batch.position))
    for layer in range(model.graph.n_layers):
        for tiles in (1, 2):
            got = resume(model.architecture, base, layer, [], tiles).reshape(tiles, *base.logits.shape)
            torch.testing.assert_close(got, base.logits.expand_as(got), rtol=1e-4, atol=1e-4)
    assert all("forward" not in block.module.__dict__ for block in model.architecture.blocks)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"nodes": "head"}, InputError, "did you mean heads"),
        ({"nodes": ["a9.h9"]}, InputError, "nearest"),
        ({"nodes": ["m0.n99999"]}, InputError, "no neuron"),
        ({"nodes": []}, InputError, "no nodes"),
        ({"direction": "both"}, InputError, "denoising, noising"),
        ({"window": 0}, InputError, "window"),
        ({"ablation": "zero"}, InputError, "another run"),
        ({"positions": "roles"}, PairsError, "name no roles"),
        ({"positions": ("S1",)}, PairsError, "no role 'S1'"),
    ],
)
def test_what_cannot_be_asked_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        activation_patching(tiny("gpt2"), random_pairs(n=1), **options)


def test_intervals_contain_the_mean_and_shrink_with_the_level():
    scores = activation_patching(tiny("gpt2"), random_pairs(n=8))
    low, high = scores.interval(0.95)
    low50, high50 = scores.interval(0.5)
    assert bool((low <= scores.values).all())
    assert bool((scores.values <= high).all())
    assert float((high50 - low50).sum()) < float((high - low).sum())
    assert Gaussian().label.startswith("gaussian")
