"""Edges between features: sums over parts are the edges of the whole, and single edges are those of naive autograd."""

from functools import partial

import pytest
import torch

import circuits
from circuits import InputError, edge_attribution, exact_edge_effects, exact_feature_edges, feature_edges
from tests.dictionaries.naive import activations, random_dictionary
from tests.tiny_models import atol, random_pairs, tiny

CASES = {
    "gpt2": [("transcoder.0", {"skip": True}), ("mlp_out.2", {"activation": "topk", "k": 3}), ("attn_out.0", {})],
    "llama": [("mlp_out.0", {"activation": "gated"}), ("transcoder.1", {"activation": "jumprelu"})],
    "neox": [("transcoder.0", {}), ("transcoder.2", {"skip": True})],
    "gemma2": [("mlp_out.1", {}), ("mlp_normalized.2->mlp_out.2", {"activation": "topk", "k": 3})],
    "native": [("mlp_out.0", {}), ("resid_mid.2->mlp_out.2", {"skip": True})],
}  # fmt: skip


def names_of(dictionary):
    place = dictionary.site.place
    rest = [f"e:{place}", *([f"s:{place}"] if dictionary.skip is not None else [])]
    return [*rest, *(f"f:{place}.{i}" for i in range(dictionary.n_features))]


@pytest.mark.parametrize(("name", "gradient"), [
    *((name, "clean") for name in CASES), ("gpt2", "ig"), ("llama", "ig"), ("gpt2", "relp"), ("llama", "relp"),
])  # fmt: skip
def test_parts_add_up_to_the_edges_of_the_whole(name, gradient):
    """Summed over the parts that write, over the parts that read, and over both."""
    model, pairs = tiny(name), random_pairs(n=2, length=5, prefix=1)
    first, second, *more = [
        random_dictionary(model, site, 5, i, **options) for i, (site, options) in enumerate(CASES[name])
    ]
    options = {"gradient": gradient, "steps": 2} if gradient == "ig" else {"gradient": gradient}
    whole = edge_attribution(
        model, pairs, **options, **({"check_sign": False} if gradient == "clean" else {})
    ).to_dict()
    dictionaries = [first, second, *more]
    others = ["input", "a0.h0", "a2.h1"]
    nodes = [*others, *(node for one in dictionaries for node in names_of(one))]
    scores = feature_edges(model, pairs, nodes, dictionaries=dictionaries, **options)
    sums: dict[str, float] = {}
    for (source, target), value in zip(scores.edges, scores.values.tolist(), strict=True):
        ends = [end.split(":")[-1].split(".")[0] if ":" in end else end for end in (source, target)]
        sums["->".join(ends)] = sums.get("->".join(ends), 0.0) + value
    close = max(atol(name), 1e-9)
    compared = 0
    for edge, value in sums.items():
        if edge.startswith("a0->"):
            wanted = sum(whole[f"a0.h{h}{edge[2:]}"] for h in range(model.graph.n_heads))
        else:
            wanted = whole[edge]
        assert value == pytest.approx(wanted, abs=close, rel=1e-4), edge
        compared += 1
    places = [one.site.place for one in (first, second)]
    assert f"{places[0]}->{places[1]}" in sums
    assert f"{places[1]}->logits" in sums
    assert compared > 8


def test_single_edges_between_features_are_those_of_naive_autograd():
    model, pairs = tiny("gpt2"), random_pairs(n=2, length=5)
    source, target = random_dictionary(model, "mlp_out.0", 4, 1), random_dictionary(model, "transcoder.2", 4, 2)
    bridge = model.bridge
    dictionaries = [source, target]
    scores = feature_edges(model, pairs, [*names_of(source), *names_of(target)], dictionaries=dictionaries)
    exact = exact_feature_edges(
        model, pairs, ["f:m0.1->f:m2.3", "f:m0.2->f:m2.0", "f:m0.2->e:m2"], dictionaries=dictionaries
    )
    for i in range(len(pairs)):
        seen = {}

        def keep(x, hook, point, seen=seen):
            seen[point] = x if point.endswith("hook_mlp_out") else x.detach()
            return x

        points = ["blocks.0.hook_mlp_out", "blocks.2.ln2.hook_in", "blocks.2.hook_mlp_out"]
        hooks = [(point, partial(keep, point=point)) for point in points]

        def metric(logits, i=i):
            return logits[0, -1, pairs.answers[i][0]] - logits[0, -1, pairs.distractors[i][0]]

        bridge.run_with_hooks(torch.tensor([pairs.corrupted[i]]), fwd_hooks=hooks, return_type="logits")
        other = activations(source, seen["blocks.0.hook_mlp_out"][0].detach())
        own = metric(bridge.run_with_hooks(torch.tensor([pairs.clean[i]]), fwd_hooks=hooks, return_type="logits"))
        before = activations(source, seen["blocks.0.hook_mlp_out"][0].detach())
        g = torch.autograd.grad(own, seen["blocks.2.hook_mlp_out"])[0][0]

        def read(shift, seen=seen):
            x = bridge.blocks[2].ln2(seen["blocks.2.ln2.hook_in"] + shift)
            return torch.relu(x[0] @ target.W_enc + target.b_enc), bridge.blocks[2].mlp(x)[0]

        for a in range(4):
            change = (before[a] - other[a])[:, None] * source.W_dec[a]
            for b in range(4):
                shift = torch.zeros_like(change, requires_grad=True)
                value = (read(shift)[0][:, b] * (g @ target.W_dec[b])).sum()
                wanted = float((change * torch.autograd.grad(value, shift)[0]).sum())
                k = scores.names.index(f"f:m0.{a}->f:m2.{b}")
                assert float(scores.per_prompt[k, i]) == pytest.approx(wanted, abs=1e-10)
        for k, (u, v) in enumerate(exact.edges):
            change = (before[int(u[-1])] - other[int(u[-1])])[:, None] * source.W_dec[int(u[-1])]
            (f0, m0), (f1, m1) = read(0), read(-change)
            added = (
                (f1 - f0)[:, int(v[-1])][:, None] * target.W_dec[int(v[-1])]
                if v[0] == "f"
                else (m1 - f1 @ target.W_dec) - (m0 - f0 @ target.W_dec)
            )
            shifted = [("blocks.2.hook_mlp_out", lambda x, hook, added=added: x + added)]
            new = metric(bridge.run_with_hooks(torch.tensor([pairs.clean[i]]), fwd_hooks=shifted, return_type="logits"))
            assert float(exact.per_prompt[k, i]) == pytest.approx(float((own - new).detach()), abs=1e-10)


def test_without_dictionaries_they_are_the_methods_for_edges():
    model, pairs = tiny("llama"), random_pairs(n=2)
    names = ["m0->a1.h0<q>", "a0.h1->m2", "input->logits", "m1->a2.kv0<v>"]
    exact = exact_feature_edges(model, pairs, names)
    assert exact.names == tuple(names)
    whole = exact_edge_effects(model, pairs, edges=names).to_dict()
    for name in names:
        assert exact[name] == pytest.approx(whole[name], abs=atol("llama"), rel=1e-4)
    again = feature_edges(model, pairs, ["m0", "a1.h0", "m2"], ablation="mean", batch_size=1)
    plain = edge_attribution(model, pairs, gradient="clean", ablation="mean", check_sign=False).to_dict()
    for name, value in again.to_dict().items():
        assert value == pytest.approx(plain[name], abs=atol("llama"), rel=1e-4)


def test_a_table_of_edges_as_names_rows_and_a_graph():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    dictionary = random_dictionary(model, "mlp_out.1", 6)
    scores = circuits.attribution_patching(model, pairs, nodes="features+heads", dictionaries=[dictionary])
    strongest = [node for node, *_ in scores.strongest(8)]
    edges = feature_edges(model, pairs, strongest, dictionaries=[dictionary])
    assert edges[edges.names[0]] == pytest.approx(float(edges.values[0]))
    graph = edges.to_networkx(5)
    assert graph.number_of_edges() == 5
    assert {key for *_, key in graph.edges(keys=True)} <= {"q", "k", "v", "in"}
    assert edges.provenance["dictionaries"][0]["features"] == 6
    assert "FeatureEdges(" in repr(edges)
    assert len(edges.rows()) == len(edges)
    for bad, message in (
        ("f:m1.9->logits", "f:m1.0 to"),
        ("m2->f:m1.0", "comes after"),
        ("m0", "is not an edge"),
        ("m0->a9.h0<q>", "reads the residual stream"),
    ):
        with pytest.raises(InputError, match=message):
            exact_feature_edges(model, pairs, [bad], dictionaries=[dictionary])
    with pytest.raises(InputError, match="has no edges"):
        feature_edges(model, pairs, ["f:resid_pre1.0"], dictionaries=[random_dictionary(model, "resid_pre.1")])
    with pytest.raises(InputError, match="must be a list of names"):
        feature_edges(model, pairs, "features", dictionaries=[dictionary])
