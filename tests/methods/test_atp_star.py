"""AtP* against its slow definition: one patched softmax a node and position, one backward pass a dropped layer."""

from dataclasses import replace

import pytest
import torch
from transformer_lens import TransformerBridge, TransformerBridgeConfig

import circuits
from circuits import InputError, ModelError, PairsError, PromptPairs, activation_patching, atp_star
from circuits import attribution_patching as atp
from circuits.engine import attention
from circuits.engine.attention import heads_apart
from circuits.engine.hooks import TokenBatch, inference_state, run
from circuits.engine.qk_fix import key_fix
from circuits.graph.nodes import select_sites
from circuits.question.metrics import get_metric, targets_of
from tests.tiny_models import FEW, atol, random_pairs, tiny

QK = "q+k"
ODD = ("qwen3", "mistral", "olmo2", "gpt-neo", "bloom", "codegen", "falcon")
"""Norms of queries (also over all heads), windows, biases, several kinds of attention code."""
FIXES = [(True, True), (True, False), (False, True)]


class Naive:
    """One prompt, without a cached prefix: gradients by whole backward passes, patched attention by whole passes."""

    def __init__(self, model, pair) -> None:
        self.model, self.batch = model, next(iter(pair.batches(1)))
        self.L = model.graph.n_layers
        self.seen = {}

    def once(self, key, make):
        if key not in self.seen:
            self.seen[key] = make()
        return self.seen[key]

    def point(self, layer, name):
        return getattr(self.model.architecture.blocks[layer], name)

    def run(self, tokens, hooks):
        return run(self.model.architecture, TokenBatch(tokens, self.batch.position), hooks)

    def value(self, tokens, point, hooks=()):
        result = []
        with torch.no_grad():
            self.run(tokens, [*hooks, (point, result.append)])
        return result[0]

    def gradient(self, point, dropped):
        """∂metric/∂value at a hook point; what `dropped` writes into the stream lets no gradient through."""
        leaf, stream = [], []

        def add_zero(x):
            leaf.append(torch.zeros_like(x, requires_grad=True))
            return x + leaf[0]

        hooks = [(self.point(0, "resid_pre"), lambda x: x.detach().requires_grad_()), (point, add_zero)]
        if dropped is not None:
            last = dropped + 1 == self.L
            after = self.model.architecture.final if last else self.point(dropped + 1, "resid_pre")
            hooks.append((self.point(dropped, "resid_pre"), stream.append))
            hooks.insert(1, (after, lambda x: stream[0] + (x - stream[0]).detach()))
        with torch.enable_grad():
            metric = get_metric("logit_difference")(self.run(self.batch.clean, hooks), targets_of(self.batch))
            (result,) = torch.autograd.grad(metric.sum(), leaf, allow_unused=True)
        return torch.zeros_like(leaf[0]) if result is None else result

    def effect(self, site, position, qk_fix, dropped):
        at = slice(None) if position is None else slice(position, position + 1)
        clean, corrupted = (
            self.once((side, site.layer, site.point), lambda side=side: self.value(getattr(self.batch, side), self.point(site.layer, site.point)))
            for side in ("clean", "corrupted")
        )  # fmt: skip
        if not (qk_fix and site.point in ("q", "k")):
            point = self.point(site.layer, site.point)
            product = (clean - corrupted) * self.once((point, dropped), lambda: self.gradient(point, dropped))
            product = product[:, at] if site.index is None else product[:, at, site.index]
            return float(product.sum())

        def patch(x):
            x = x.clone()
            x[:, at, site.index] = corrupted[:, at, site.index]
            return x

        # The pattern where its hook is part of the computation, else the heads' outputs, which are linear in it.
        block = self.model.architecture.blocks[site.layer]
        live = type(block.attention).__name__ != "AttentionBridge" or "native" in self.model.name
        point = block.attention.hook_pattern if live else block.z
        patched = self.once(
            (site, position), lambda: self.value(self.batch.clean, point, [(self.point(site.layer, site.point), patch)])
        )
        before = self.once(("clean", point), lambda: self.value(self.batch.clean, point))
        return float(((before - patched) * self.once((point, dropped), lambda: self.gradient(point, dropped))).sum())

    def contribution(self, site, position, qk_fix, grad_drop):
        if not grad_drop:
            return abs(self.effect(site, position, qk_fix, None))
        own = None if site.point == "resid_pre" else site.layer
        layers = [layer for layer in range(self.L) if layer != own]
        return sum(abs(self.effect(site, position, qk_fix, layer)) for layer in layers) / len(layers)


def compare_with_naive(name, pairs, positions, qk_fix, grad_drop, n_nodes, seed=0):
    model = tiny(name)
    groups = ["q+k+v+heads+input", "mlps"] if any(model.graph.mlps) else ["q+k+v+heads+input"]
    scores = atp_star(model, pairs, nodes="+".join(groups), positions=positions, qk_fix=qk_fix, grad_drop=grad_drop)
    sites = select_sites(model.graph, scores.nodes)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(sites), generator=generator)[:n_nodes].tolist()
    # Always the input, and one query and one key of the middle layer.
    chosen.append(scores.nodes.index("input"))
    chosen += [next(i for i, site in enumerate(sites) if (site.point, site.layer) == (p, 1)) for p in ("q", "k")]
    size = float(scores.contributions.max())
    with inference_state(model.bridge):
        for p in range(len(pairs)):
            naive = Naive(model, pairs[[p]])
            for i in chosen:
                for position in (4, 6) if positions else (None,):
                    result = scores.per_prompt[i, position, p] if positions else scores.per_prompt[i, p]
                    wanted = naive.contribution(sites[i], position, qk_fix, grad_drop)
                    assert float(result) == pytest.approx(wanted, abs=atol(name) * max(1, size), rel=1e-4), sites[
                        i
                    ].name


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("positions", [True, False])
def test_each_fix_is_its_definition(name, positions):
    for seed, (qk_fix, grad_drop) in enumerate(FIXES):
        compare_with_naive(name, random_pairs(n=2, prefix=2), positions, qk_fix, grad_drop, 3, seed)


@pytest.mark.parametrize("name", ODD)
def test_the_fixes_are_their_definition_also_in_unusual_attention(name):
    for positions in (True, False):
        compare_with_naive(name, random_pairs(n=1, prefix=2), positions, True, False, 2)


def test_a_prefix_longer_than_the_window_of_attention():
    compare_with_naive("mistral", random_pairs(n=1, length=9, prefix=4), True, True, False, 2)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_the_fast_key_fix_is_one_softmax_a_position(dtype, rtol, spread):
    """Also in rows so saturated that 1 - pattern is lost, beside a cached prefix, and where one key is seen."""
    torch.manual_seed(0)
    batch, head, query, prefix, d = 2, 3, 6, 2, 4
    visible = torch.ones(query, query + prefix).tril(prefix).bool()
    visible[0, 1:] = False
    visible[0, 0], visible[0, 2] = False, True  # a row that sees the first key of the suffix only
    scores, patched = (spread * torch.randn(batch, head, query, query + prefix) for _ in range(2))
    patched[..., :prefix] = scores[..., :prefix]
    scores[0, 0, 1, 3] = patched[0, 0, 2, 4] = 90.0
    values, g = torch.randn(batch, head, query + prefix, d), torch.randn(batch, query, head, d)
    low = torch.finfo(dtype).min
    args = [x.to(dtype).masked_fill(~visible, low) for x in (scores, patched)]
    result = key_fix(*args, values.to(dtype), head, query).effects(g.to(dtype))
    wide = [x.double().masked_fill(~visible, -torch.inf) for x in (scores, patched)]
    pattern, values, g = wide[0].softmax(-1), values.double(), g.double()
    at_pattern = torch.einsum("bihd,bhjd->bhij", g, values)
    for j in range(query):
        one = wide[0].clone()
        one[..., prefix + j] = wide[1][..., prefix + j]
        wanted = ((pattern - one.softmax(-1)) * at_pattern).sum((2, 3))
        torch.testing.assert_close(result[:, j].double(), wanted, rtol=rtol, atol=rtol * float(at_pattern.abs().max()))


def one_layer(n_heads=3, factor=1.0):
    config = TransformerBridgeConfig(
        d_model=12, d_head=4, n_layers=1, n_ctx=16, n_heads=n_heads, d_vocab=40, act_fn="relu", normalization_type=None,
        attn_only=True, seed=0,
    )  # fmt: skip
    bridge = TransformerBridge.boot_native(config).double()
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.mul_(8)
        for name, parameter in bridge.original_model.named_parameters():
            if ".q." in name:
                parameter.mul_(factor)
    return circuits.load_model(bridge)


@pytest.mark.parametrize("positions", [True, False])
def test_where_all_behind_the_pattern_is_linear_the_qk_fix_is_exact_patching(positions):
    model, pairs = one_layer(), random_pairs(n=3)
    axis = "each" if positions else None
    exact = activation_patching(model, pairs, nodes=QK, direction="noising", positions=axis).contributions
    fixed = atp_star(model, pairs, nodes=QK, positions=positions)
    torch.testing.assert_close(fixed.contributions, exact, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(atp(model, pairs, nodes=QK, positions=axis).contributions, exact, rtol=0.05)


def test_saturated_attention_hides_queries_and_keys_from_atp_but_not_from_the_fix():
    model, pairs = one_layer(factor=2), random_pairs(n=3)
    exact = activation_patching(model, pairs, nodes=QK, direction="noising").contributions
    missed = atp(model, pairs, nodes=QK).contributions
    result = atp_star(model, pairs, nodes=QK, positions=False).contributions
    for part in ("q", "k"):
        sites = enumerate(select_sites(model.graph, QK))
        rows = [i for i, site in sites if site.point == part and exact[i] > 0.1 * exact.max()]
        worst = max(rows, key=lambda i: float(exact[i] / missed[i]))
        assert exact[worst] > 100 * missed[worst]
        assert float(result[worst]) == pytest.approx(float(exact[worst]), rel=1e-9)


def cancelling_model():
    """m0 writes +1 (clean token) or -1 (corrupted) along a direction that the answer reads; m1 subtracts its positive part.

    At the clean run the two paths cancel exactly, behind a ReLU that the corrupted value switches off."""
    config = TransformerBridgeConfig(
        d_model=4, d_head=2, n_layers=2, n_ctx=8, n_heads=1, d_vocab=6, d_mlp=2, act_fn="relu", normalization_type=None,
        seed=0,
    )  # fmt: skip
    bridge = TransformerBridge.boot_native(config).double()
    weights = {n.replace("._original_component", ""): p for n, p in bridge.original_model.named_parameters()}
    with torch.no_grad():
        for parameter in weights.values():
            parameter.zero_()
        weights["tok_embed.weight"][3, 0], weights["tok_embed.weight"][4, 0] = 1, -1
        weights["layers.0.mlp.fc_in.weight"][:, 0] = torch.tensor([1.0, -1.0])
        weights["layers.0.mlp.fc_out.weight"][1] = torch.tensor([1.0, -1.0])
        weights["layers.1.mlp.fc_in.weight"][0, 1] = 1
        weights["layers.1.mlp.fc_out.weight"][1, 0] = -1
        weights["head.weight"][1, 1] = 1
        weights["tok_embed.weight"][:, 2] = weights["head.weight"][5, 2] = 1  # so that no logits are all zero
    return circuits.load_model(bridge)


def test_grad_drop_finds_a_node_whose_direct_and_indirect_effects_cancel():
    model, pairs = cancelling_model(), PromptPairs.from_tokens([[5, 3]], [[5, 4]], [1], [2])
    exact = activation_patching(model, pairs, nodes=["m0"], direction="noising").contributions
    assert exact.tolist() == pytest.approx([1.0])
    assert atp(model, pairs, nodes=["m0"]).contributions.tolist() == pytest.approx([0.0])
    assert atp_star(model, pairs, nodes=["m0"], positions=False).contributions.tolist() == pytest.approx([2.0])


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("positions", [True, False])
def test_without_fixes_it_is_atp(name, positions):
    model, pairs = tiny(name), random_pairs(n=3, prefix=2)
    nothing = atp_star(model, pairs, qk_fix=False, grad_drop=False, positions=positions)
    plain = atp(model, pairs, nodes=nothing.nodes, positions="each" if positions else None)
    torch.testing.assert_close(nothing.values, plain.contributions, rtol=1e-6, atol=atol(name))
    assert nothing.positions == plain.positions


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "native-attention-only"])
def test_batches_order_and_duplicates_do_not_matter_and_identical_prompts_score_zero(name):
    model, pairs = tiny(name), random_pairs(n=4, prefix=1)
    scores = atp_star(model, pairs)
    tolerance = {"rtol": 1e-6, "atol": max(1e-6, atol(name))}
    torch.testing.assert_close(atp_star(model, pairs, batch_size=1).per_prompt, scores.per_prompt, **tolerance)
    order = [2, 0, 3, 1, 0]
    mixed = PromptPairs.from_tokens(*([side[i] for i in order] for side in (pairs.clean, pairs.corrupted, pairs.answers, pairs.distractors)))  # fmt: skip
    torch.testing.assert_close(atp_star(model, mixed).per_prompt, scores.per_prompt[..., order], **tolerance)
    same = PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    for positions in (True, False):
        assert not atp_star(model, same, positions=positions).per_prompt.any()
    assert not scores.per_prompt[:, 0].any()


def test_names_sizes_and_what_is_kept_of_the_question():
    model, pairs = tiny("llama"), random_pairs(n=2)
    scores = atp_star(model, pairs, metric="cross_entropy")
    assert {"a0.h1<q>", "a0.kv0<k>", "a0.kv1<v>", "a0.h1", "m0"} <= set(scores.nodes)
    assert bool((scores.per_prompt >= 0).all())
    assert scores.to_dict()["m0"] == pytest.approx(scores.contributions[scores.nodes.index("m0")].tolist())
    options = scores.provenance["options"]
    assert (options["qk_fix"], options["grad_drop"], options["signed"]) == (True, True, False)


def test_roles_are_positions_taken_alone():
    model = tiny("gpt2")
    plain = random_pairs(n=2)
    pairs = PromptPairs.from_tokens(
        plain.clean, plain.corrupted, [3, 4], [30, 31], roles=[{"subject": 2, "end": 6}, {"subject": 4, "end": 6}]
    )
    each, roles = (atp_star(model, pairs, positions=p) for p in (True, "roles"))
    wanted = torch.stack([each.per_prompt[:, [2, 6], 0], each.per_prompt[:, [4, 6], 1]], dim=-1)
    torch.testing.assert_close(roles.per_prompt, wanted)
    with pytest.raises(PairsError, match="no role 'verb'"):
        atp_star(model, pairs, positions=["verb"])


def count_blocks(model, work):
    """How many blocks the model ran, and how many of their outputs a gradient passed through."""
    forward, backward = [], []

    def seen(module, args, output):
        forward.append(1)
        tensor = output[0] if isinstance(output, tuple) else output
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: backward.append(1))

    handles = [block.module.register_forward_hook(seen) for block in model.architecture.blocks]
    try:
        work()
    finally:
        for handle in handles:
            handle.remove()
    return len(forward), len(backward)


def test_the_qk_fix_costs_two_passes_and_grad_drop_half_a_backward_pass_a_layer():
    model, pairs = replace(tiny("gpt2"), allow_hooks=True), random_pairs(n=2)
    L = model.graph.n_layers
    atp_star(model, pairs)  # the check that heads do not touch each other is made once a model
    for qk_fix, grad_drop in [(False, False), *FIXES]:
        forward, backward = count_blocks(
            model, lambda q=qk_fix, g=grad_drop: atp_star(model, pairs, qk_fix=q, grad_drop=g)
        )
        assert forward == L * (4 if qk_fix else 2)
        assert backward == L + (L * (L - 1) // 2 if grad_drop else 0)


def test_only_a_norm_over_all_heads_ties_them_together():
    for name in ("gpt2", "llama", "qwen3", "stablelm", "olmo2"):
        model = tiny(name)
        assert heads_apart(model.architecture) is (name != "olmo2")


def test_attention_that_cannot_be_recomputed_is_refused_by_layer(monkeypatch):
    model, pairs = tiny("gpt2"), random_pairs(n=1)
    monkeypatch.setattr(attention, "SOFTMAX", ())
    with pytest.raises(ModelError, match="layer 0: no softmax over attention scores"):
        atp_star(model, pairs)
    atp_star(model, pairs, positions=False)
    monkeypatch.setattr(attention, "SOFTMAX", (torch.matmul,))
    with pytest.raises(ModelError, match="layer 0: its scores"):
        atp_star(model, pairs)


def test_questions_it_cannot_answer_are_refused():
    model, pairs = tiny("gpt2"), random_pairs(n=1)
    with pytest.raises(InputError, match="another run"):
        atp_star(model, pairs, ablation="zero")
    with pytest.raises(InputError, match="gradient"):
        atp_star(model, pairs, metric="kl_divergence")
    with pytest.raises(InputError, match=r"no node 'a9\.h9'"):
        atp_star(model, pairs, nodes=["a9.h9"])
    unequal = PromptPairs.from_tokens([[3, 4], [3, 4, 5]], [[3, 5], [3, 4, 6]], [6, 6], [7, 7])
    with pytest.raises(PairsError, match="equal length"):
        atp_star(model, unequal)
    assert atp_star(model, unequal, positions=False).n_prompts == 2
