"""Features as nodes: against naive loops, and the identities that make them exact."""

from dataclasses import replace

import pytest
import torch

import circuits
from circuits import (
    Dictionary,
    InputError,
    activation_patching,
    attribution_patching,
    feature_faithfulness,
    feature_metric,
)
from circuits.dictionaries.insert import with_dictionaries
from tests.dictionaries.naive import Naive, random_dictionary
from tests.tiny_models import atol, random_pairs, tiny

CASES = {
    "gpt2": [("mlp_out.1", {}), ("attn_out.2", {"activation": "topk", "k": 4}), ("resid_pre.1", {"activation": "gated"})],
    "llama": [("transcoder.1", {"skip": True}), ("resid_post.0", {"activation": "jumprelu"}), ("hook_z.2", {})],
    "neox": [("transcoder.0", {"activation": "topk", "k": 3}), ("resid_post.2", {})],
    "gemma2": [("mlp_normalized.1->mlp_out.1", {"activation": "jumprelu"}), ("mlp_out.2", {})],
    "native": [("resid_mid.1->mlp_out.1", {"skip": True}), ("mlp_out.0", {"activation": "batchtopk", "threshold": 0.5}), ("hook_z.1", {})],
}  # fmt: skip
EACH = [(name, site, options) for name, cases in CASES.items() for site, options in cases]
WHOLE = {"mlp_out": ("m{}",), "attn_out": None, "hook_z": None}


def setting(name, site, options, n=1):
    model, pairs = tiny(name), random_pairs(n=n, length=5, prefix=1)
    return model, pairs, random_dictionary(model, site, **options)


def suffix(name: str, place: str) -> str:
    """`f:m1.3` -> `f3`, `e:m1` -> `e`: the names of the naive twin."""
    return name.replace(f":{place}", "").replace(".", "")


@pytest.mark.parametrize(("name", "site", "options"), EACH)
def test_atp_and_exact_patching_are_those_of_naive_loops(name, site, options):
    model, pairs, dictionary = setting(name, site, options)
    place = dictionary.site.place
    naive, close = Naive(model, pairs, dictionary), atol(name)
    given = {"nodes": "features", "dictionaries": [dictionary]}
    estimates = attribution_patching(model, pairs, **given)
    noised = activation_patching(model, pairs, direction="noising", **given)
    denoised = activation_patching(model, pairs, direction="denoising", **given)
    assert estimates.nodes == noised.nodes == denoised.nodes
    seen = set()
    for i in range(len(pairs)):
        gradient, clean = naive.gradient(i)
        own, _ = naive.run(pairs.clean[i])
        other, corrupted = naive.run(pairs.corrupted[i])
        seen |= {part for part in clean if part[0] == "f" and (clean[part][1:].any() or corrupted[part][1:].any())}
        for node in range(len(estimates.nodes)):
            part = suffix(estimates.nodes[node], place)
            rows = dictionary.W_dec[int(part[1:])] if part[0] == "f" else None
            difference = clean[part] - corrupted[part]
            written = difference if rows is None else difference[:, None] * rows
            assert float(estimates.per_prompt[node, i]) == pytest.approx(
                float((written * gradient).sum()), abs=close, rel=1e-5
            )
            changed, _ = naive.run(pairs.clean[i], {part: corrupted[part]})
            effect = naive.value(i, own) - naive.value(i, changed)
            assert float(noised.per_prompt[node, i]) == pytest.approx(effect, abs=close, rel=1e-5)
            restored, _ = naive.run(pairs.corrupted[i], {part: clean[part]})
            effect = naive.value(i, restored) - naive.value(i, other)
            assert float(denoised.per_prompt[node, i]) == pytest.approx(effect, abs=close, rel=1e-5)
    listed = {suffix(node, place) for node in estimates.nodes}
    assert listed == seen | {"e"} | ({"s"} if dictionary.skip is not None else set())
    assert len(seen) > 1


@pytest.mark.parametrize(("name", "site", "options"), EACH)
def test_features_and_error_sum_to_the_whole(name, site, options):
    """AtP of the parts adds up to that of the whole; patching all parts at once is patching the whole."""
    model, pairs, dictionary = setting(name, site, options, n=2)
    place, close = dictionary.site.place, atol(name)
    parts = attribution_patching(model, pairs, nodes="features", dictionaries=[dictionary]).per_prompt.sum(0)
    everything = [f"f:{place}.{i}" for i in range(dictionary.n_features)] + [f"e:{place}"]
    everything += [f"s:{place}"] if dictionary.skip is not None else []
    gone = feature_metric(model, pairs, [], dictionaries=[dictionary])
    naive = Naive(model, pairs, dictionary)
    for i in range(len(pairs)):
        gradient, clean = naive.gradient(i)
        corrupted = naive.run(pairs.corrupted[i])[1]
        assert float(parts[i]) == pytest.approx(
            float(((clean["whole"] - corrupted["whole"]) * gradient).sum()), abs=close, rel=1e-5
        )
        assert float(gone[i]) == pytest.approx(
            naive.value(i, naive.run(pairs.clean[i], held=corrupted["whole"])[0]), abs=close
        )
    kept = feature_metric(model, pairs, everything, dictionaries=[dictionary])
    assert torch.equal(kept, feature_metric(model, pairs, everything, dictionaries=[dictionary], errors="all"))
    torch.testing.assert_close(kept, attribution_patching(model, pairs).clean, atol=1e-12, rtol=0)
    if dictionary.site.writes == "mlp_out":
        whole = attribution_patching(model, pairs, nodes=[place])
        torch.testing.assert_close(parts, whole.per_prompt[0], atol=close, rtol=1e-5)
        patched = activation_patching(model, pairs, nodes=[place], direction="noising")
        torch.testing.assert_close(patched.clean - gone, patched.per_prompt[0], atol=close, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_without_a_dictionary_nothing_changes_and_with_one_the_other_nodes_do_not(name):
    model, pairs = tiny(name), random_pairs(n=3)
    dictionaries = [random_dictionary(model, site, **options) for site, options in CASES[name]]
    assert with_dictionaries(model, []) is model
    for method in (attribution_patching, activation_patching):
        plain = method(model, pairs, nodes="heads+mlps")
        assert torch.equal(plain.per_prompt, method(model, pairs, nodes="heads+mlps", dictionaries=[]).per_prompt)
        assert torch.equal(
            plain.per_prompt, method(model, pairs, nodes="heads+mlps", dictionaries=dictionaries).per_prompt
        )
    assert not model.architecture.inserted
    assert not any(point.fwd_hooks for point in model.bridge.hook_dict.values())
    with pytest.raises(InputError, match="need a dictionary"):
        attribution_patching(model, pairs, nodes="features")


def test_several_dictionaries_positions_and_batches():
    model, pairs = tiny("gpt2"), random_pairs(n=3, prefix=2)
    dictionaries = [
        random_dictionary(model, site, seed=i) for i, site in enumerate(("mlp_out.0", "transcoder.2", "resid_pre.2"))
    ]
    given = {"nodes": "features", "dictionaries": dictionaries}
    for method, options in (
        (attribution_patching, {}),
        (activation_patching, {}),
        (attribution_patching, {"gradient": "ig-activations"}),
    ):
        whole = method(model, pairs, **given, **options)
        torch.testing.assert_close(whole.per_prompt, method(model, pairs, **given, **options, batch_size=2).per_prompt)
    split = attribution_patching(model, pairs, positions="each", **given)
    torch.testing.assert_close(split.per_prompt.sum(1), attribution_patching(model, pairs, **given).per_prompt)
    assert not split.per_prompt[:, :2].any()
    kept = [node for node, *_ in whole.strongest(9)]
    values = feature_metric(model, pairs, kept, dictionaries=dictionaries)
    torch.testing.assert_close(values, feature_metric(model, pairs, kept, dictionaries=dictionaries, batch_size=2))


def test_integrated_gradients_are_those_of_naive_loops_and_complete(tmp_path):
    model, pairs, steps = tiny("gpt2"), random_pairs(n=2, length=5), 3
    dictionary = random_dictionary(model, "transcoder.1", skip=True)
    naive = Naive(model, pairs, dictionary)
    given = {"nodes": "features", "dictionaries": [dictionary], "gradient": "ig-activations"}
    scores = attribution_patching(model, pairs, steps=steps, **given)
    for i in range(len(pairs)):
        clean, corrupted = naive.run(pairs.clean[i])[1], naive.run(pairs.corrupted[i])[1]
        points = [(k + 0.5) / steps for k in range(steps)]
        gradient = sum(naive.gradient(i, torch.lerp(corrupted["whole"], clean["whole"], a))[0] for a in points) / steps
        for node, value in zip(scores.nodes, scores.per_prompt[:, i], strict=True):
            part = suffix(node, "m1")
            rows = dictionary.W_dec[int(part[1:])] if part[0] == "f" else None
            difference = clean[part] - corrupted[part]
            written = difference if rows is None else difference[:, None] * rows
            assert float(value) == pytest.approx(float((written * gradient).sum()), abs=1e-10)
    fine = attribution_patching(model, pairs, steps=40, **given).per_prompt.sum(0)
    exact = activation_patching(model, pairs, nodes=["m1"], direction="noising").per_prompt[0]
    torch.testing.assert_close(fine, exact, atol=2e-3, rtol=1e-3)
    scores.save(tmp_path / "scores.safetensors")
    again = circuits.NodeScores.load(tmp_path / "scores.safetensors")
    assert again.nodes == scores.nodes
    assert (
        again.provenance["dictionaries"][0]["sha256"]
        == with_dictionaries(model, [dictionary]).architecture.inserted["m1"].coder.digest
    )


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_integrated_gradients_of_nodes_are_the_sums_over_their_edges(name):
    """`ig` takes the same gradients as EAP-IG, for nodes of every kind."""
    model, pairs = tiny(name), random_pairs(n=3, prefix=1)
    edges = circuits.edge_attribution(model, pairs, gradient="ig", steps=3, quadrature="left").values.sum(1)
    dictionary = random_dictionary(model, "mlp_out.1")
    options = {"gradient": "ig", "steps": 3, "quadrature": "left"}
    nodes = attribution_patching(model, pairs, nodes="input+heads+mlps", **options).to_dict()
    for node, value in nodes.items():
        assert value == pytest.approx(float(edges[model.graph.writer_index(node)]), abs=atol(name), rel=1e-4)
    features = attribution_patching(model, pairs, nodes="features", dictionaries=[dictionary], **options)
    assert float(features.values.sum()) == pytest.approx(nodes["m1"], abs=atol(name), rel=1e-4)


@pytest.mark.parametrize("ablation", ["zero", "mean", "interchange"])
@pytest.mark.parametrize(("name", "site", "options"), [EACH[0], EACH[3], EACH[-2]])
def test_kept_and_ablated_features_are_those_of_naive_loops(name, site, options, ablation):
    model, pairs, dictionary = setting(name, site, options, n=3)
    place, naive = dictionary.site.place, Naive(model, pairs, dictionary)
    own = [naive.run(tokens)[1] for tokens in pairs.clean]
    other = [naive.run(tokens)[1] for tokens in pairs.corrupted]
    kept = [f"f:{place}.{i}" for i in (1, 4, 7)] + [f"e:{place}"]
    for errors, with_error in (("chosen", True), ("all", True), ("none", False)):
        values = feature_metric(model, pairs, kept, dictionaries=[dictionary], ablation=ablation, errors=errors)
        for i, tokens in enumerate(pairs.clean):
            replaced = {}
            for part in [f"f{j}" for j in range(dictionary.n_features)] + ["e", "s"]:
                if part not in own[i] or part in ("f1", "f4", "f7") or (part == "e" and with_error):
                    continue
                mean = torch.stack([one[part] for one in own]).mean((0, 1))
                new = {"zero": 0 * mean, "mean": mean, "interchange": other[i][part]}[ablation]
                replaced[part] = new.expand_as(own[i][part])
            assert float(values[i]) == pytest.approx(
                naive.value(i, naive.run(tokens, replaced)[0]), abs=atol(name), rel=1e-5
            )
    result = feature_faithfulness(model, pairs, kept, dictionaries=[dictionary], ablation=ablation)
    ends = (result.clean.mean(), result.ablated.mean())
    for value, metric in (
        (result.value, result.chosen),
        (result.with_errors, result.all_errors),
        (result.without_errors, result.no_errors),
    ):
        assert value == pytest.approx(float((metric.mean() - ends[1]) / (ends[0] - ends[1])))
    assert torch.equal(result.chosen, result.all_errors)
    assert "without errors" in repr(result)


def test_parts_of_several_groups_are_kept_together():
    """With all heads, MLPs and the input kept too, only features are missing; with none, the corrupted prompt is left."""
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    dictionary = random_dictionary(model, "mlp_out.1")
    everything = "features+heads+mlps+input"
    others = [*(f"a{i}.h{j}" for i in range(3) for j in range(3)), "m0", "m2", "input"]
    some = ["f:m1.0", "e:m1"]
    together = feature_metric(model, pairs, [*others, *some], dictionaries=[dictionary], among=everything)
    torch.testing.assert_close(together, feature_metric(model, pairs, some, dictionaries=[dictionary]))
    ends = attribution_patching(model, pairs)
    torch.testing.assert_close(
        feature_metric(model, pairs, [], dictionaries=[dictionary], among=everything), ends.corrupted
    )
    with pytest.raises(InputError, match="not one of the parts"):
        feature_metric(model, pairs, ["m1"], dictionaries=[dictionary], among=everything)
    with pytest.raises(InputError, match="two descriptions of the same"):
        feature_metric(model, pairs, [], dictionaries=[random_dictionary(model, "attn_out.1")], among=everything)


def test_coar_over_chosen_features():
    """Every drawn set gives the metric of the naive run; leave-one-out is exact patching."""
    model, pairs = tiny("gpt2"), random_pairs(n=2, length=5)
    dictionary = random_dictionary(model, "transcoder.1", skip=True)
    chosen = ["f:m1.0", "f:m1.3", "f:m1.5", "e:m1", "s:m1", "a2.h0"]
    given = {"nodes": chosen, "dictionaries": [dictionary]}
    alone = circuits.leave_one_out(model, pairs, ablation="interchange", **given)
    exact = activation_patching(model, pairs, direction="noising", **given)
    torch.testing.assert_close(alone.per_prompt, exact.per_prompt)
    linear = circuits.coar(model, pairs, samples=64, alpha=0.3, nodes=chosen[:5], dictionaries=[dictionary])
    assert linear.nodes == ("e:m1", "s:m1", "f:m1.0", "f:m1.3", "f:m1.5")
    with pytest.raises(InputError, match="a part of it, cannot both be components"):
        circuits.coar(model, pairs, samples=4, nodes=["m1", "f:m1.0"], dictionaries=[dictionary])


def test_the_sets_that_coar_draws_are_measured_as_naive_runs(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2, length=5)
    dictionary = random_dictionary(model, "mlp_out.1")
    naive, chosen = Naive(model, pairs, dictionary), ["f:m1.0", "f:m1.3", "f:m1.5", "e:m1"]
    samples = circuits.draw_samples(
        model, pairs, tmp_path / "store", samples=16, alpha=0.5, nodes=chosen, dictionaries=[dictionary]
    )
    for mask, outcomes in zip(samples.ablated.tolist(), samples.outcomes, strict=True):
        for i, tokens in enumerate(pairs.clean):
            own = naive.run(tokens)[1]
            gone = [suffix(node, "m1") for node, ablated in zip(samples.nodes, mask, strict=True) if ablated]
            logits = naive.run(tokens, {part: torch.zeros_like(own[part]) for part in gone})[0]
            assert float(outcomes[i]) == pytest.approx(naive.value(i, logits), abs=1e-10)


def test_a_dictionary_made_by_hand_has_known_answers():
    """Features are the positive and negative parts of each entry: there is no error, and f and -f add up to the entry."""
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    eye = torch.eye(24, dtype=torch.float64)
    weights = (
        torch.cat([eye, -eye], 1),
        torch.zeros(48, dtype=torch.float64),
        torch.cat([eye, -eye]),
        torch.zeros(24, dtype=torch.float64),
    )
    dictionary = Dictionary.from_weights("mlp_out.1", *weights)
    scores = attribution_patching(model, pairs, nodes="features", dictionaries=[dictionary]).to_dict()
    rows = attribution_patching(model, pairs, nodes=[f"m1.W_out[{i}]" for i in range(24)]).to_dict()
    for i in range(24):
        assert scores.get(f"f:m1.{i}", 0) + scores.get(f"f:m1.{24 + i}", 0) == pytest.approx(
            rows[f"m1.W_out[{i}]"], abs=1e-12
        )
    assert scores["e:m1"] == pytest.approx(0, abs=1e-12)
    result = feature_faithfulness(model, pairs, [f"f:m1.{i}" for i in range(48)], dictionaries=[dictionary])
    assert result.without_errors == pytest.approx(1) == result.with_errors


def test_a_dictionary_that_does_not_fit_is_refused():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    fits = random_dictionary(model, "mlp_out.1")

    def refused(message, *dictionaries, on=model):
        with pytest.raises(InputError, match=message) as caught:
            attribution_patching(on, pairs, nodes="features", dictionaries=dictionaries)
        assert "\n" not in str(caught.value)

    refused("was trained on org/other-7b", replace(fits, model="org/other-7b"))
    refused("for layer 9, and .* has 3 layers", random_dictionary(model, "mlp_out.9"))
    refused("two dictionaries are given at m1", fits, random_dictionary(model, "transcoder.1"))
    refused("it must read 24 and write 24", random_dictionary(tiny("gpt-j"), "mlp_out.1"))
    refused("must be a list of circuits.Dictionary, got a str", "mlp_out.1")
    refused("has parallel blocks", random_dictionary(tiny("neox"), "resid_mid.1"), on=tiny("neox"))
    refused("has a norm after its MLPs", random_dictionary(tiny("gemma2"), "blocks.1.mlp.hook_out"), on=tiny("gemma2"))
    refused(
        "has no MLP there",
        random_dictionary(tiny("native-attention-only"), "mlp_out.1"),
        on=tiny("native-attention-only"),
    )
    with pytest.raises(InputError, match="must be a list"):
        attribution_patching(model, pairs, dictionaries=fits)
    with pytest.raises(InputError, match=r"f:m1.0 to f:m1.8, e:m1"):
        attribution_patching(model, pairs, nodes=["f:m1.9"], dictionaries=[fits])
    with pytest.raises(InputError, match="without a dictionary at m0"):
        attribution_patching(model, pairs, nodes=["e:m0"], dictionaries=[fits])
    own = replace(fits, model=f"someone/{model.name.upper()}")
    assert attribution_patching(model, pairs, nodes=["e:m1"], dictionaries=[own]).nodes == ("e:m1",)


def test_the_middle_of_the_stream_is_decomposed_where_attention_writes():
    """`resid_mid` has no hook that changes the stream: what is patched is attention's write. All parts together are the whole."""
    for name in ("gpt2", "llama", "olmo2"):
        model, pairs = tiny(name), random_pairs(n=2)
        dictionary = random_dictionary(model, "resid_mid.1")
        parts = attribution_patching(model, pairs, nodes="features", dictionaries=[dictionary]).values.sum()
        earlier = attribution_patching(
            model, pairs, nodes="features", dictionaries=[random_dictionary(model, "resid_pre.1")]
        ).values.sum()
        attention = attribution_patching(
            model, pairs, nodes="features", dictionaries=[random_dictionary(model, "attn_out.1")]
        ).values.sum()
        gone = feature_metric(model, pairs, [], dictionaries=[dictionary])
        later = feature_metric(model, pairs, [], dictionaries=[random_dictionary(model, "resid_post.0"), dictionary])
        torch.testing.assert_close(
            gone, later, atol=atol(name), rtol=1e-4
        )  # the stream in the middle decides all that follows
        assert torch.isfinite(parts + earlier + attention)
