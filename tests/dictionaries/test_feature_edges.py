"""Edges between features: sums over parts are the edges of the whole, and single edges are those of naive autograd."""

import itertools
import re
from functools import partial

import pytest
import torch

import circuits
from circuits import InputError, edge_attribution, exact_edge_effects, exact_feature_edges, feature_edges
from tests.dictionaries.naive import activations, random_dictionary
from tests.tiny_models import atol, random_pairs, tiny

CASES = {
    "gpt2": [("attn_out.0", {}), ("transcoder.0", {"skip": True}), ("mlp_out.2", {"activation": "topk", "k": 3})],
    "llama": [("mlp_out.0", {"activation": "gated"}), ("transcoder.1", {"activation": "jumprelu"})],
    "neox": [("transcoder.0", {}), ("transcoder.2", {"skip": True})],
    "gemma2": [("mlp_out.1", {}), ("mlp_normalized.2->mlp_out.2", {"activation": "topk", "k": 3})],
    "native": [("mlp_out.0", {}), ("resid_mid.2->mlp_out.2", {"skip": True})],
}  # fmt: skip
STREAM_CASES = {
    "gpt2": [("hook_z.0", {}), ("attn_out.1", {"activation": "topk", "k": 3}), ("resid_mid.1", {}), ("resid_post.2", {})],
    "llama": [("resid_pre.1", {"activation": "jumprelu"}), ("hook_z.1", {}), ("attn_out.2", {"activation": "gated"})],
    "neox": [("attn_out.0", {}), ("resid_post.0", {}), ("hook_z.2", {})],
    "gemma2": [("hook_z.0", {}), ("resid_mid.1", {}), ("attn_out.2", {})],
    "native": [("resid_pre.1", {}), ("resid_pre.2", {"activation": "gated"}), ("hook_z.2", {}), ("mlp_out.2", {})],
}  # fmt: skip
"""Dictionaries of attention and of the stream."""


def names_of(dictionary):
    place = dictionary.site.place
    rest = [f"e:{place}", *([f"s:{place}"] if dictionary.skip is not None else [])]
    return [*rest, *(f"f:{place}.{i}" for i in range(dictionary.n_features))]


def stands_for(graph, place: str, reads: bool) -> list[str]:
    """The writers or readers of the graph that all parts of a dictionary stand for together; or the one of that name."""
    kind, layer = re.fullmatch(r"(resid_pre|resid_mid|resid_post|a|z)(\d)|.*", place).groups()
    if kind is None:
        return [place]
    layer = int(layer)
    if kind in ("a", "z"):
        heads = graph.head_writers(layer)
        readers = [r.name for r in graph.reader_nodes if r.layer == layer and r.part in ("q", "k", "v")]
        return readers if reads else list(graph.writer_names[heads.start : heads.stop])
    n = (
        graph.head_writers(layer).stop
        if kind == "resid_mid"
        else graph.n_writers_before_layer(layer + (kind == "resid_post"))
    )
    return [r.name for r in graph.reader_nodes if r.n_writers >= n] if reads else list(graph.writer_names[:n])


@pytest.mark.parametrize(("name", "gradient", "cases"), [
    *((name, "clean", CASES) for name in CASES), ("gpt2", "ig", CASES), ("llama", "ig", CASES), ("gpt2", "relp", CASES),
    ("llama", "relp", CASES), *((name, "clean", STREAM_CASES) for name in STREAM_CASES), ("llama", "ig", STREAM_CASES),
    ("gpt2", "relp", STREAM_CASES),
])  # fmt: skip
def test_parts_add_up_to_the_edges_of_the_whole(name, gradient, cases):
    """Summed over the parts that write, over the parts that read, and over both."""
    model, pairs = tiny(name), random_pairs(n=2, length=5, prefix=1)
    dictionaries = [random_dictionary(model, site, 5, i, **options) for i, (site, options) in enumerate(cases[name])]
    options = {"gradient": gradient, "steps": 2} if gradient == "ig" else {"gradient": gradient}
    whole = edge_attribution(
        model, pairs, **options, **({"check_sign": False} if gradient == "clean" else {})
    ).to_dict()
    nodes = ["input", "a0.h0", "a2.h1", *(node for one in dictionaries for node in names_of(one))]
    scores = feature_edges(model, pairs, nodes, dictionaries=dictionaries, **options)
    sums: dict[tuple[str, str], float] = {}
    for (source, target), value in zip(scores.edges, scores.values.tolist(), strict=True):
        ends = tuple(end.split(":")[-1].split(".")[0] if ":" in end else end for end in (source, target))
        sums[ends] = sums.get(ends, 0.0) + value
    close = max(atol(name), 1e-9)
    for (source, target), value in sums.items():
        ends = stands_for(model.graph, source, False), stands_for(model.graph, target, True)
        wanted = sum(whole.get(f"{u}->{r}", 0.0) for u in ends[0] for r in ends[1])
        assert value == pytest.approx(wanted, abs=close, rel=1e-4), (source, target)
    places = [one.site.place for one in dictionaries]
    for earlier, later in itertools.pairwise(places):
        assert (earlier, later) in sums
    assert (places[-1], "logits") in sums
    assert not any(place == other for place, other in sums)
    assert len(sums) > 8


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


def test_edges_of_the_stream_and_of_attention_are_those_of_naive_autograd():
    """f:resid_pre1 -> f:z1 through attention, and f:z1 -> f:resid_post1 through W_O; estimated, and exact."""
    model, pairs = tiny("gpt2"), random_pairs(n=2, length=5)
    before, mixed, after = (
        random_dictionary(model, f"{site}.1", 3, i) for i, site in enumerate(("resid_pre", "hook_z", "resid_post"))
    )
    dictionaries, bridge = [before, mixed, after], model.bridge
    names = [f"f:resid_pre1.{a}->f:z1.{b}" for a in range(3) for b in range(3)] + ["f:resid_pre1.0->e:z1"]
    names += [f"f:z1.{a}->f:resid_post1.{b}" for a in range(3) for b in range(3)] + ["f:z1.0->e:resid_post1"]
    scores = feature_edges(
        model, pairs, [node for one in dictionaries for node in names_of(one)], dictionaries=dictionaries
    )
    exact = exact_feature_edges(model, pairs, names, dictionaries=dictionaries)
    assert set(names) <= set(scores.names)
    weight = bridge.blocks[1].attn.W_O
    places = {"resid_pre1": "blocks.1.hook_in", "z1": "blocks.1.attn.hook_z", "resid_post1": "blocks.2.hook_in"}
    coders = {"resid_pre1": before, "z1": mixed, "resid_post1": after}
    for i in range(len(pairs)):

        def run(tokens, added=None, i=i):
            """The metric, and the values at the three places; `added`: to the value at some of them."""
            seen = {}

            def at(x, hook, place):
                x = x if place not in (added or {}) else x + added[place].reshape(x.shape)
                seen[place] = x
                return x

            hooks = [(point, partial(at, place=place)) for place, point in places.items()]
            logits = bridge.run_with_hooks(torch.tensor([tokens]), fwd_hooks=hooks, return_type="logits")[0, -1]
            return logits[pairs.answers[i][0]] - logits[pairs.distractors[i][0]], seen

        metric, clean = run(pairs.clean[i])
        gradients = dict(zip(places, torch.autograd.grad(metric, [clean[place] for place in places]), strict=True))
        other = run(pairs.corrupted[i])[1]
        for name in names:
            (u, a), (kind, v, b) = (
                name.partition("->")[0][2:].split("."),
                (name.partition("->")[2] + ".0").replace(".", ":").split(":")[:3],
            )
            a, b, target = int(a), int(b), coders[v]
            f = [activations(coders[u], x[u][0].detach().flatten(1))[a] for x in (clean, other)]
            row = coders[u].W_dec[a]
            if u == "z1":
                row = sum(part @ w for part, w in zip(row.reshape(weight.shape[:2]), weight, strict=True)).detach()
            change = (f[0] - f[1])[:, None] * row
            shift = torch.zeros_like(change, requires_grad=True)
            place = "resid_pre1" if v == "z1" else "resid_post1"
            read = run(pairs.clean[i], {place: shift})[1][v][0].flatten(1)
            features = torch.relu(read @ target.W_enc + target.b_enc)
            part = features[:, b, None] * target.W_dec[b] if kind == "f" else read - features @ target.W_dec
            wanted = torch.autograd.grad((part * gradients[v][0].flatten(1)).sum(), shift)[0]
            got = scores.per_prompt[scores.names.index(name), i]
            assert float(got) == pytest.approx(float((wanted * change).sum()), abs=1e-10), name
            read = run(pairs.clean[i], {place: -change})[1][v][0].flatten(1)
            features = torch.relu(read @ target.W_enc + target.b_enc)
            moved = features[:, b, None] * target.W_dec[b] if kind == "f" else read - features @ target.W_dec
            new = run(pairs.clean[i], {v: (moved - part).detach()})[0]
            got = exact.per_prompt[exact.names.index(name), i]
            assert float(got) == pytest.approx(float((metric - new).detach()), abs=1e-10), name


def test_exact_edges_into_transcoders_that_read_the_stream():
    """With an encoder of the stream before the norm, a shift of what the MLP sees reaches it too."""
    model, pairs = tiny("native"), random_pairs(n=2, length=5)
    coder = random_dictionary(model, "resid_mid.2->mlp_out.2", 4)
    parts = [f"input->{node}" for node in names_of(coder)]
    scores = exact_feature_edges(model, pairs, [*parts, "input->m2"], dictionaries=[coder])
    linear = feature_edges(model, pairs, ["input", *names_of(coder)], dictionaries=[coder]).to_dict()
    assert any(abs(scores[name]) > 1e-3 for name in parts if "->f:" in name)
    assert sum(linear[name] for name in parts) == pytest.approx(
        edge_attribution(model, pairs, gradient="clean", check_sign=False).to_dict()["input->m2"], abs=1e-9
    )


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
    with pytest.raises(InputError, match="must be a list of names"):
        feature_edges(model, pairs, "features", dictionaries=[dictionary])
