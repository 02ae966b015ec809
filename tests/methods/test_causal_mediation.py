"""Total, direct and indirect effects against whole forward passes, and against activation patching's sweeps."""

import pytest
import torch

from circuits import InputError, PairsError, PromptPairs, activation_patching, causal_mediation
from circuits.graph.nodes import select_sites
from circuits.question.metrics import get_metric, targets_of
from circuits.stats.bootstrap import bootstrap_interval
from tests.tiny_models import ALL, FEW, atol, pairs_with_roles, random_pairs, tiny

SETS = (["a0.h1", "m0", "a1.h0"], ["a1.h0<q>", "a1.h2"])


def close(name):
    return {"abs": max(1e-5, atol(name)), "rel": 1e-4}


def present(model, nodes):
    return [node for node in nodes if "m" not in node or any(model.graph.mlps)]


def hook_names(model, sites):
    """TransformerLens' own names of the hook points."""
    points = {(site.layer, site.point): getattr(model.architecture.blocks[site.layer], site.point) for site in sites}
    return {key: point.name for key, point in points.items()}


def naive_metric(model, pair, tokens, sites=(), source=None, positions=None):
    """One whole forward pass through the bridge's public face, the sites' values taken from a pass on `source`."""
    names, stored = hook_names(model, sites), {}

    def keep(x, hook):
        stored[hook.name] = x.clone()

    def patch(x, hook):
        x = x.clone()
        for site in sites:
            if names[site.layer, site.point] == hook.name:
                at = slice(None) if positions is None else positions
                index = (slice(None), at) if site.index is None else (slice(None), at, site.index)
                x[index] = stored[hook.name][index]
        return x

    batch = next(iter(pair.batches(1)))
    with torch.no_grad():
        if source is not None:
            model.bridge.run_with_hooks(torch.tensor(source), fwd_hooks=[(name, keep) for name in names.values()])
        logits = model.bridge.run_with_hooks(
            torch.tensor(tokens), fwd_hooks=[(name, patch) for name in names.values()] if source is not None else []
        )
    return float(get_metric("logit_difference")(logits[torch.arange(1), batch.position], targets_of(batch)))


def naive_effects(model, pairs, sites, roles=None):
    """The definitions, prompt by prompt."""
    rows = []
    for i in range(len(pairs)):
        pair = pairs[[i]]
        at = None if roles is None else [pair.roles[0][role] for role in roles]
        clean, corrupted = naive_metric(model, pair, pair.clean), naive_metric(model, pair, pair.corrupted)
        blocked = naive_metric(model, pair, pair.clean, sites, pair.corrupted, at)
        restored = naive_metric(model, pair, pair.corrupted, sites, pair.clean, at)
        rows.append([clean - corrupted, clean - restored, clean - blocked])
    return dict(zip(("total", "direct", "indirect"), torch.tensor(rows).T.tolist(), strict=True))


@pytest.mark.parametrize(("name", "nodes"), [*((n, SETS[0]) for n in ALL), *((n, SETS[1]) for n in FEW)])
def test_the_effects_are_those_of_whole_forward_passes(name, nodes):
    model, pairs = tiny(name), random_pairs(n=2, prefix=2)
    result = causal_mediation(model, pairs, present(model, nodes))
    for effect, wanted in naive_effects(model, pairs, select_sites(model.graph, present(model, nodes))).items():
        assert result.per_prompt[effect].tolist() == pytest.approx(wanted, **close(name))
        assert result.to_dict()[effect] == getattr(result, effect)


def test_nodes_are_patched_together_at_all_the_roles_that_are_named():
    model, pairs = tiny("gpt2"), pairs_with_roles()
    nodes = ["a1.h1", "m0", "a0.h2<v>"]
    for positions, roles in (("subject", ["subject"]), ("roles", ["subject", "end"]), (["end"], ["end"])):
        result = causal_mediation(model, pairs, nodes, positions=positions)
        assert result.positions == tuple(roles)
        for effect, wanted in naive_effects(model, pairs, select_sites(model.graph, nodes), roles).items():
            assert result.per_prompt[effect].tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("ablation", ["interchange", "gaussian", "resample"])
def test_for_one_node_noising_is_the_indirect_effect_and_denoising_what_the_direct_one_leaves(name, ablation):
    model, pairs = tiny(name), random_pairs(n=3)
    options = {"nodes": "heads", "ablation": ablation}
    noising = activation_patching(model, pairs, direction="noising", **options)
    denoising = activation_patching(model, pairs, direction="denoising", **options)
    for i, node in list(enumerate(noising.nodes))[::4]:
        effects = causal_mediation(model, pairs, [node], ablation=ablation).per_prompt
        torch.testing.assert_close(effects["indirect"], noising.per_prompt[i], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(effects["total"] - effects["direct"], denoising.per_prompt[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_nothing_goes_around_the_set_of_all_nodes(name):
    model, pairs = tiny(name), random_pairs(n=3)
    nodes = "heads+mlps+input" if any(model.graph.mlps) else "heads+input"
    result = causal_mediation(model, pairs, nodes)
    assert result.per_prompt["direct"].tolist() == pytest.approx([0] * 3, **close(name))
    assert result.per_prompt["indirect"].tolist() == pytest.approx(result.per_prompt["total"].tolist(), **close(name))
    assert result.share == pytest.approx(1, abs=1e-3)
    assert abs(result.total) > 1e-3


@pytest.mark.parametrize("name", FEW)
def test_identical_prompts_have_no_effect(name):
    pairs = random_pairs(n=2)
    same = PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    result = causal_mediation(tiny(name), same, "heads+input")
    assert set(result.to_dict().values()) == {0.0}
    assert result.share != result.share


def test_a_node_that_nothing_differs_at_leaves_everything_direct():
    pairs = random_pairs(n=3, prefix=3)
    roles = [{"early": 1}] * 3
    pairs = PromptPairs.from_tokens(pairs.clean, pairs.corrupted, pairs.answers, pairs.distractors, roles=roles)
    result = causal_mediation(tiny("gpt2"), pairs, "heads+mlps+input", positions="early")
    assert not result.per_prompt["indirect"].any()
    assert torch.equal(result.per_prompt["direct"], result.per_prompt["total"])


def last_token_logits(logits, targets):
    """Linear in the logits, so additive where the model is."""
    return logits[:, 5]


def test_heads_that_only_write_to_the_logits_do_not_interact_in_a_model_without_norm():
    model, pairs = tiny("native-attention-only"), random_pairs(n=3)
    last = [f"a{model.graph.n_layers - 1}.h{i}" for i in range(3)]
    result = causal_mediation(model, pairs, last, metric=last_token_logits)
    assert result.per_prompt["interaction"].tolist() == pytest.approx([0] * 3, abs=1e-9)
    assert result.direct + result.indirect == pytest.approx(result.total, abs=1e-9)
    interacting = causal_mediation(model, pairs, ["a0.h0", "a0.h1"], metric=last_token_logits)
    assert float(interacting.per_prompt["interaction"].abs().max()) > 1e-3


def test_effects_do_not_depend_on_the_batch_size():
    model, pairs = tiny("gpt2"), random_pairs(n=5, prefix=1)
    one, five = (causal_mediation(model, pairs, SETS[0], batch_size=size) for size in (1, 5))
    for effect in one.per_prompt:
        torch.testing.assert_close(one.per_prompt[effect], five.per_prompt[effect])


def test_a_loss_is_signed_like_the_behaviour():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    gain, loss = (causal_mediation(model, pairs, SETS[0], metric=m) for m in ("log_probability", "cross_entropy"))
    for effect in gain.per_prompt:
        torch.testing.assert_close(gain.per_prompt[effect], loss.per_prompt[effect])


def test_the_result_says_where_it_comes_from_and_how_sure_it_is():
    model, pairs, calls = tiny("gpt2"), random_pairs(n=8), []
    result = causal_mediation(model, pairs, SETS[0], batch_size=3, progress=lambda *done: calls.append(done))
    assert calls == [(3, 8), (6, 8), (8, 8)]
    assert result.provenance["method"] == "causal_mediation"
    assert result.provenance["options"] == {"nodes": SETS[0], "positions": None}
    assert all(low <= result.to_dict()[name] <= high for name, (low, high) in result.interval().items())
    assert result.clean.dtype == torch.float64
    for word in ("a0.h1+m0+a1.h0", "direct", "indirect", "interaction", "logits", "8 prompts"):
        assert word in str(result)


@pytest.mark.parametrize(
    ("nodes", "options", "error", "message"),
    [
        (["a9.h9"], {}, InputError, "nearest"),
        ([], {}, InputError, "no nodes"),
        ("head", {}, InputError, "did you mean heads"),
        ("heads", {"ablation": "zero"}, InputError, "another run"),
        ("heads", {"positions": "each"}, InputError, "leave positions out"),
        ("heads", {"positions": "roles"}, PairsError, "name no roles"),
        ("heads", {"positions": ("S1",)}, PairsError, "no role 'S1'"),
    ],
)
def test_what_cannot_be_asked_is_refused(nodes, options, error, message):
    with pytest.raises(error, match=message):
        causal_mediation(tiny("gpt2"), random_pairs(n=1), nodes, **options)


def test_the_bootstrap_knows_the_standard_error_of_a_mean():
    values = torch.randn(2, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = bootstrap_interval(values, 0.95, 4000)
    wide = 2 * 1.96 * values.std(-1) / 400**0.5
    torch.testing.assert_close(high - low, wide, rtol=0.06, atol=0)
    torch.testing.assert_close(bootstrap_interval(values[0], 0.95, 4000)[0], low[0])
    for wrong in ({"level": 1.0}, {"resamples": 0}):
        with pytest.raises(InputError):
            bootstrap_interval(values, **wrong)
