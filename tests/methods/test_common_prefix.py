"""No result depends on whether positions in front of a pair's first difference are computed once or every time, and none on
the other pairs, whose prefixes may be shorter; internal influence, which counts those positions, is autograd's."""

from functools import partial

import pytest
import torch

import circuits
import circuits.question.question
from circuits import PromptPairs
from tests.tiny_models import atol, random_pairs, random_subset, tiny


def awkward_pairs():
    """Two lengths, prefixes of 0 to 5 tokens, answers that are not last, a duplicate and a pair whose prompts are the same."""
    groups = [(2, 5, 1), (1, 5, 0), (2, 8, 5), (1, 8, 2)]
    several = [random_pairs(n, length, seed, prefix) for seed, (n, length, prefix) in enumerate(groups)]
    columns = [
        [entry for some in several for entry in getattr(some, name)]
        for name in ("clean", "corrupted", "answers", "distractors")
    ]
    for column in columns:
        column.append(column[0])
    positions = [len(tokens) - 1 - (i % 2) for i, tokens in enumerate(columns[0])]
    columns = [[*column, column[0] if i == 1 else column[3]] for i, column in enumerate(columns)]
    columns[1][-1] = columns[0][-1]
    return PromptPairs.from_tokens(*columns, [*positions, len(columns[0][-1]) - 1])


def edges(scores):
    return scores.values


def nodes(scores):
    return scores.per_prompt


ATTRIBUTIONS = {
    gradient: (partial(circuits.edge_attribution, gradient=gradient, **options), edges)
    for gradient, options in {
        "clean": {"check_sign": False}, "corrupted": {}, "clean-corrupted": {}, "ig": {"steps": 3}, "relp": {}, "gim": {},
        "ig-activations": {"steps": 1}, "conductance": {"steps": 2, "quadrature": "left"},
    }.items()
}  # fmt: skip
NODES = "q+k+v+heads+input"
METHODS = ATTRIBUTIONS | {
    "relp, detached": (partial(circuits.edge_attribution, gradient="relp", attention="detached"), edges),
    "at positions": (
        partial(circuits.edge_attribution, gradient="ig", steps=2, positions="each"),
        lambda s: s.by_position,
    ),
    "atp": (partial(circuits.attribution_patching, nodes=NODES), nodes),
    "atp at positions": (partial(circuits.attribution_patching, nodes=NODES, positions="each"), nodes),
    "atp*": (circuits.atp_star, nodes),
    "atp* at all positions": (partial(circuits.atp_star, positions=False), nodes),
    "activation patching": (partial(circuits.activation_patching, nodes=NODES), nodes),
    "neuron conductance": (partial(circuits.neuron_conductance, ablation="interchange", steps=2), nodes),
    "internal influence": (partial(circuits.internal_influence, ablation="interchange", steps=2), nodes),
    "information flow": (circuits.information_flow, edges),
    "coar": (partial(circuits.coar, ablation="interchange", samples=32), nodes),
    "leave one out": (partial(circuits.leave_one_out, ablation="interchange"), nodes),
    "shapley": (partial(circuits.shapley, ablation="interchange", orders=2), nodes),
    "refine": (
        lambda m, p: circuits.refine(m, p, circuits.edge_attribution(m, p, gradient="ig", steps=2), top=20),
        edges,
    ),
    "exact edges": (
        lambda m, p: circuits.exact_edge_effects(m, p, m.graph.edges[::9]).to_dict(),
        lambda s: torch.tensor(list(s.values())),
    ),
    "path patching": (partial(circuits.path_patching, receivers=["a2.h1<q>"]), nodes),
    "circuit": (lambda m, p: circuits.circuit_metric(m, p, random_subset(m, 0.4)), torch.as_tensor),
}
AT_POSITIONS = ("at positions", "atp at positions", "atp*")


def one_length(pairs):
    """What methods take whose positions are those of all pairs."""
    return pairs[[i for i, tokens in enumerate(pairs.clean) if len(tokens) == 8]]


def asked(name, model, pairs, **options):
    method, values = METHODS[name]
    return values(method(model, one_length(pairs) if name in AT_POSITIONS else pairs, **options))


@pytest.mark.parametrize("model_name", ["llama", "gemma2"])
@pytest.mark.parametrize("name", METHODS)
def test_a_result_does_not_depend_on_the_prefix_cache(name, model_name, monkeypatch):
    model, pairs = tiny(model_name), awkward_pairs()
    assert circuits.question.question.Question.ask(model, pairs).shares_prefix
    cached = asked(name, model, pairs)
    monkeypatch.setattr(circuits.question.question, "_shares_prefix", lambda model, ablation: False)
    whole = asked(name, model, pairs)
    assert cached.abs().max() > 1e-3
    torch.testing.assert_close(cached, whole, rtol=1e-4, atol=max(1e-8, atol(model_name)))


@pytest.mark.parametrize("model_name", ["gpt2", "llama"])
def test_masks_are_trained_the_same_with_and_without_the_prefix_cache(model_name, monkeypatch):
    model, pairs = tiny(model_name), awkward_pairs()
    train = partial(circuits.edge_pruning, model, pairs, 20, steps=3, metric="logit_difference")
    cached = train().scores
    monkeypatch.setattr(circuits.question.question, "_shares_prefix", lambda model, ablation: False)
    whole = train().scores
    assert cached == pytest.approx(whole, rel=1e-3, nan_ok=True)


def influence(model, pair, nodes, steps):
    """Internal influence of one pair by its definition: whole prompts, one at a time, autograd."""
    clean, corrupted = (torch.tensor([tokens]) for tokens in (pair.clean, pair.corrupted))
    ends = []
    with torch.no_grad():
        for tokens in (clean, corrupted):
            model.bridge.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_in", lambda x, hook: ends.append(x))])
    places = {node: node[1:].partition(".h") for node in nodes}
    points = {f"blocks.{layer}.{'attn.hook_z' if head else 'hook_mlp_out'}" for layer, _, head in places.values()}
    total = dict.fromkeys(nodes, 0.0)
    for k in range(steps):
        kept = {}
        start = torch.lerp(ends[1], ends[0], (k + 0.5) / steps).requires_grad_()

        def keep(x, point, kept=kept):
            kept[point] = x.view_as(x)
            return kept[point]

        hooks = [(point, lambda x, hook, point=point, keep=keep: keep(x, point)) for point in sorted(points)]
        hooks.append(("blocks.0.hook_in", lambda x, hook, start=start: start))
        logits = model.bridge.run_with_hooks(clean, fwd_hooks=hooks)[0, pair.position]
        metric = logits[pair.answers[0]] - logits[pair.distractors[0]]
        result = dict(zip(kept, torch.autograd.grad(metric, list(kept.values())), strict=True))
        for node, (layer, _, head) in places.items():
            gradient = result[f"blocks.{layer}.{'attn.hook_z' if head else 'hook_mlp_out'}"]
            total[node] += float((gradient[:, :, int(head)] if head else gradient).sum()) / steps
    return total


@pytest.mark.parametrize("batch_size", [1, 3, None])
@pytest.mark.parametrize("model_name", ["gpt2", "llama", "neox", "gemma2"])
def test_internal_influence_counts_the_common_prefix(model_name, batch_size):
    model, pairs = tiny(model_name), awkward_pairs()
    got = circuits.internal_influence(model, pairs, ablation="interchange", steps=2, batch_size=batch_size)
    assert got.provenance["prefix_shared"] is False
    for i, pair in enumerate(pairs):
        wanted = influence(model, pair, got.nodes, 2)
        assert got.per_prompt[:, i].tolist() == pytest.approx(
            list(wanted.values()), rel=1e-4, abs=max(1e-8, atol(model_name))
        )
