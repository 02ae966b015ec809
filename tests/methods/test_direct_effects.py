"""Direct effects against the metric they sum to, against a slow second computation, and against TransformerLens' own attribution."""

import pytest
import torch

import circuits
from circuits import InputError, Metric, NodeScores, PairsError, PromptPairs, direct_effects
from circuits.engine.capture import capture_writes, stack
from circuits.engine.hooks import TokenBatch, inference_state
from tests.tiny_models import ALL, FEW, atol, awkward_pairs, random_hf_model, random_pairs, tiny

EXACT = {name: max(atol(name) / 100, 1e-12) for name in ALL}


@pytest.mark.parametrize("name", ALL)
def test_effects_and_constant_sum_to_the_metric(name):
    model, pairs = tiny(name), awkward_pairs()
    effects = direct_effects(model, pairs)
    assert effects.nodes == model.graph.writer_names
    assert effects.clean is not None
    size = float(effects.clean.abs().max())
    assert effects.per_prompt.sum(0) + effects.constant == pytest.approx(effects.clean, abs=EXACT[name] * max(size, 1))
    assert float(effects.rest.abs().max()) <= EXACT[name] * max(size, 1)
    by_source = direct_effects(model, pairs, positions="roles")
    assert by_source.positions == ("a", "b", "end", "elsewhere")
    assert by_source.per_prompt.sum(1) == pytest.approx(effects.per_prompt, abs=EXACT[name] * max(size, 1))


@pytest.mark.parametrize("name", FEW)
def test_a_slow_second_computation_agrees(name):
    """One prompt and one write at a time: the write goes through the norm at the fixed scale, then to every logit."""
    model, pairs = tiny(name), awkward_pairs()
    effects = direct_effects(model, pairs)
    norm, unembed = model.architecture.final_norm, model.bridge.unembed
    with inference_state(model.bridge), torch.no_grad():
        for i, pair in enumerate(pairs):
            tokens = TokenBatch(torch.tensor([pair.clean]), torch.tensor([pair.position]))
            seen = []
            logits, writes = capture_writes(model.architecture, tokens, [(model.architecture.final, seen.append)])
            end = seen[0][0, pair.position]
            centred = end - end.mean() if norm.kind == "layer" else end
            scale = 1.0 if norm.kind == "identity" else 1 / (centred.square().mean() + norm.eps).sqrt()
            for w, write in enumerate(stack(model.architecture, writes, logits.dtype)[0, :, pair.position]):
                part = write - write.mean() if norm.kind == "layer" else write
                part = part * scale * (1.0 if norm.weight is None else norm.weight)
                raw = {
                    t: float(norm(end) @ unembed.W_U[:, t] + unembed.b_U[t]) for t in (*pair.answers, *pair.distractors)
                }
                own = {t: float(part @ unembed.W_U[:, t]) * float(logits[0, t]) / raw[t] for t in raw}
                right = sum(own[t] for t in pair.answers) / len(pair.answers)
                wrong = sum(own[t] for t in pair.distractors) / len(pair.distractors)
                size = max(1.0, float(effects.per_prompt.abs().max()))
                assert float(effects.per_prompt[w, i]) == pytest.approx(right - wrong, abs=10 * EXACT[name] * size)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_neurons_sum_to_their_mlp_without_its_output_bias(name):
    model, pairs = tiny(name), random_pairs(n=3)
    mlps, neurons = (direct_effects(model, pairs, nodes=nodes) for nodes in ("mlps", "neurons"))
    end = direct_effects(model, pairs)
    for layer in range(model.graph.n_layers):
        own = torch.tensor([int(node.split(".")[0][1:]) == layer for node in neurons.nodes])
        difference = mlps.per_prompt[layer] - neurons.per_prompt[own].sum(0)
        bias = getattr(model.bridge.blocks[layer].mlp, "b_out", None)
        if name in ("gpt2", "neox"):
            assert bias is not None
            assert float(difference.abs().max()) > 0
            continue
        assert difference == pytest.approx(torch.zeros(3), abs=EXACT[name] * max(1, float(end.per_prompt.abs().max())))


def test_sources_are_the_attention_times_the_values():
    model, pairs = tiny("native-attention-only"), random_pairs(n=3)
    by_source = direct_effects(model, pairs, positions="each")
    first = by_source.per_prompt[:, :-1].abs().sum((1, 2))
    assert float(first[0]) == 0  # `input` writes from the answer position
    assert bool((first[1:] > 0).all())


def test_agrees_with_transformer_lens():
    """Its attribution assumes folded norms and centred weights, so the model is loaded in compatibility mode."""
    bridge = circuits.load_model(random_hf_model("gpt2")).bridge
    bridge.enable_compatibility_mode()
    model, pairs = circuits.load_model(bridge), random_pairs(n=4)
    effects = direct_effects(model, pairs)
    tokens = torch.tensor(pairs.clean)
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(tokens)
        stacked, labels = cache.decompose_resid(layer=-1, pos_slice=-1, return_labels=True)
        answers, distractors = (torch.tensor([ids[0] for ids in row]) for row in (pairs.answers, pairs.distractors))
        theirs = cache.logit_attrs(stacked, tokens=answers, incorrect_tokens=distractors, pos_slice=-1)
        heads, names = cache.stack_head_results(layer=-1, pos_slice=-1, return_labels=True)
        heads = cache.logit_attrs(heads, tokens=answers, incorrect_tokens=distractors, pos_slice=-1)
    their_heads = dict(zip(names, heads, strict=True))
    theirs = {label: row for label, row in zip(labels, theirs, strict=True)}
    ours = dict(zip(effects.nodes, effects.per_prompt, strict=True))
    for layer in range(model.graph.n_layers):
        assert theirs[f"{layer}_mlp_out"] == pytest.approx(ours[f"m{layer}"], abs=1e-10)
        for head in range(model.graph.n_heads):
            assert their_heads[f"L{layer}H{head}"] == pytest.approx(ours[f"a{layer}.h{head}"], abs=1e-10)
    assert theirs["embed"] + theirs["pos_embed"] == pytest.approx(ours["input"], abs=1e-10)


def test_other_metrics_sum_too_and_the_sign_is_that_of_the_behaviour():
    model, pairs = tiny("llama"), awkward_pairs()
    for metric in ("probability", "log_probability", "cross_entropy", "probability_difference"):
        effects = direct_effects(model, pairs, metric=metric)
        assert effects.per_prompt.sum(0) + effects.constant == pytest.approx(effects.clean, abs=1e-5)
    up, down = (direct_effects(model, pairs, metric=metric) for metric in ("log_probability", "cross_entropy"))
    torch.testing.assert_close(up.per_prompt, down.per_prompt)


def test_the_batch_size_changes_nothing_and_corrupted_prompts_do_not_count():
    model, pairs = tiny("gpt2"), random_pairs(n=5)
    one, all_ = (direct_effects(model, pairs, batch_size=size).per_prompt for size in (1, 5))
    torch.testing.assert_close(one, all_)
    other = random_pairs(n=5, seed=3)
    swapped = PromptPairs.from_tokens(pairs.clean, other.clean, pairs.answers, pairs.distractors)
    assert torch.equal(direct_effects(model, swapped, batch_size=5).per_prompt, all_)


def test_files_keep_the_constant(tmp_path):
    effects = direct_effects(tiny("gpt2"), random_pairs(n=2))
    effects.save(tmp_path / "direct.safetensors")
    back = NodeScores.load(tmp_path / "direct.safetensors")
    assert isinstance(back, circuits.DirectEffects)
    assert torch.equal(back.constant, effects.constant)
    assert torch.equal(back.per_prompt, effects.per_prompt)
    assert back.quantity.label == "direct effect (logits)"


def test_refuses_what_has_no_direct_effect():
    model, pairs = tiny("gpt2"), awkward_pairs()
    for node in ("a0.h0<q>", "m0.W_out[3]", "a0.W_O[1]"):
        with pytest.raises(InputError, match="direct effects are of writers"):
            direct_effects(model, pairs, nodes=[node])
    with pytest.raises(InputError, match="minimum"):
        direct_effects(model, pairs, metric="kl_divergence")
    with pytest.raises(InputError, match="has none"):
        direct_effects(model, pairs, metric="accuracy")
    twice = PromptPairs.from_tokens([[3, 4, 5]], [[3, 4, 6]], [7], [8], roles=[{"x": 1, "y": 1}])
    with pytest.raises(PairsError, match="name the same token"):
        direct_effects(model, twice, positions=["x", "y"])
    assert direct_effects(model, twice, positions="roles").positions == ("x", "elsewhere")


def test_a_metric_of_ones_own():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    strength = Metric("answer", lambda logits, targets: logits.gather(1, targets.answers)[:, 0], unit="logits")
    effects = direct_effects(model, pairs, metric=strength)
    assert effects.per_prompt.sum(0) + effects.constant == pytest.approx(effects.clean, abs=1e-12)
