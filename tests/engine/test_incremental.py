"""Incremental logits against one full ablated forward pass, after any sequence of changes."""

import random
from dataclasses import replace

import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from circuits import InputError, PromptPairs
from circuits.engine.ablate import ablated_logits
from circuits.engine.hooks import inference_state
from circuits.engine.incremental import node_functions
from circuits.engine.incremental.attention_rules import alibi_slopes
from circuits.engine.incremental.layers import LayerState, Prepared, incremental_states
from circuits.engine.incremental.node_state import NodeState
from circuits.engine.mlp import mlp_formula
from circuits.engine.recorded_run import record_run
from circuits.graph.paths import live_nodes
from circuits.question.question import Question
from tests.tiny_models import ALL, FEW, atol, random_pairs, random_subset, tiny


def prepared(name, ablation="interchange", n=2, prefix=2, positions=None, tokens=None, pairs=None, batch_size=None):
    """A state with all edges kept, and a function that gives the ablated logits of a mask by full passes."""
    model, pairs = tiny(name), random_pairs(n=n, prefix=prefix) if pairs is None else pairs
    if positions is not None:
        pairs = type(pairs).from_tokens(
            pairs.clean, pairs.corrupted, [a[0] for a in pairs.answers], [d[0] for d in pairs.distractors], positions
        )
    question = Question.ask(model, pairs, "logit_difference", ablation, batch_size)
    batches = []
    for batch in question.batches():
        run = record_run(model.architecture, batch.suffix)
        batches.append(Prepared(batch.suffix, run, question.replacement(batch.suffix, run.writes)))
    exact = model.report.resume_exact
    (state,) = incremental_states(model.architecture, batches, tokens, exact)

    def full(mask):
        keep = torch.from_numpy(mask.copy())
        return torch.cat([
            ablated_logits(model.architecture, batch.suffix, batch.replacement, keep) for batch in batches
        ])  # fmt: skip

    return model, state, full


def close(got, wanted, name):
    # Models without norms have logits in the thousands.
    scale = max(1.0, float(wanted.abs().max()))
    assert float((got - wanted).abs().max()) <= scale * atol(name)


def random_changes(graph, keep, draw):
    """A few rows of switches: mostly removals of kept edges, sometimes anything."""
    edges = [tuple(edge) for edge in graph.edge_mask.nonzero().tolist()]
    chosen = draw.sample(edges, draw.choice([1, 3, 12, 40]))
    if draw.random() < 0.5:
        chosen = [edge for edge in chosen if keep[edge]] or chosen[:1]
    rows = draw.choice([1, 2, 4])
    return [chosen[row::rows] for row in range(rows)]


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize("name", FEW)
def test_any_sequence_of_changes_gives_the_ablated_logits(name, ablation):
    model, state, full = prepared(name, ablation)
    draw = random.Random(name + ablation)
    with inference_state(model.bridge), torch.no_grad():
        for _ in range(12):
            switches = random_changes(model.graph, state.keep, draw)
            trial, mask = state.trial(switches), state.keep.copy()
            row = draw.randrange(len(switches))
            for edges in switches[: row + 1]:
                for edge in edges:
                    mask[edge] ^= True
            close(trial.logits(slice(row, None))[0], full(mask), name)
            if draw.random() < 0.8:
                trial.accept(row)
                assert (state.keep == mask).all()
            close(state.logits(), full(state.keep), name)


@pytest.mark.parametrize("name", ALL)
def test_every_architecture_is_computed_node_by_node_and_exactly(name):
    model, state, full = prepared(name)
    assert state.by_node
    assert isinstance(state, NodeState)
    mask = random_subset(model, 0.7).mask
    with inference_state(model.bridge), torch.no_grad():
        state.reset(mask)
        close(state.logits(), full(mask.numpy()), name)
        edges = [(w, model.graph.n_readers - 1) for w in mask[:, -1].nonzero()[:2, 0].tolist()]
        state.switch(edges)
        close(state.logits(), full(state.keep), name)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_whole_layers_agree_with_single_nodes(name):
    model, nodes, full = prepared(name)
    pairs = random_pairs(n=2, prefix=2)
    question = Question.ask(model, pairs, "logit_difference")
    suffix = next(iter(question.batches())).suffix
    clean = question.clean_run(suffix)[1]
    layers = LayerState(model.architecture, suffix, question.replacement(suffix, clean))
    draw = random.Random(0)
    with inference_state(model.bridge), torch.no_grad():
        for _ in range(6):
            switches = random_changes(model.graph, nodes.keep, draw)
            one, other = nodes.trial(switches), layers.trial(switches)
            for row in range(len(switches)):
                close(one.logits(slice(row, row + 1)), other.logits(slice(row, row + 1)), name)
            one.accept(len(switches) - 1)
            other.accept(len(switches) - 1)
        close(layers.logits(), full(nodes.keep), name)


def test_dead_nodes_are_never_computed_and_nothing_in_front_of_a_change():
    model, state, _ = prepared("gpt2")
    graph = model.graph
    with inference_state(model.bridge), torch.no_grad():
        for seed in range(3):
            mask = random_subset(model, 0.08, seed).mask
            state.computed = [0] * graph.n_writers
            state.reset(mask)
            computed = {name for name, n in zip(graph.writers, state.computed, strict=True) if n}
            assert computed <= live_nodes(graph, mask)
            assert len(computed) < graph.n_writers / 2
        state.reset(graph.edge_mask)
        state.computed = [0] * graph.n_writers
        edge = graph.edge_index("a0.h1->a1.h2<q>")
        state.switch([edge])
        computed = {name for name, n in zip(graph.writers, state.computed, strict=True) if n}
        layer2 = {name for name in graph.writers if name.startswith(("a2.", "m2"))}
        assert computed == {"a1.h2", "m1"} | layer2


def test_only_the_answer_position_is_computed_where_no_key_or_value_reads_more():
    model, state, full = prepared("gpt2")
    graph = model.graph
    mask = graph.edge_mask.clone()
    for part in "kv":
        mask[:, graph.readers_of(2, part)] = False
    for head in range(graph.n_heads):  # layer 2's heads are dead, so that m1 is read by m2 and logits alone
        mask[graph.writer_index(f"a2.h{head}")] = False
    with inference_state(model.bridge), torch.no_grad():
        state.reset(mask)
        last = state.answers
        needs = dict(zip(graph.writers, state.need.tolist(), strict=True))
        assert needs["m2"] == needs["m1"] == needs["a1.h0"] == last
        assert needs["a0.h0"] == needs["m0"] == 0
        assert state.output(graph.writer_index("m1")).shape[1] == state.n_pairs
        close(state.logits(), full(state.keep), "gpt2")
        # Restoring what needs more widens what is kept.
        state.switch([graph.edge_index("m1->a2.h0<v>"), graph.edge_index("a2.h0->logits")])
        assert state.need[graph.writer_index("m1")] == 0
        close(state.logits(), full(state.keep), "gpt2")


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_answers_may_be_at_different_positions_and_only_some_tokens_asked_for(name):
    tokens = torch.tensor([5, 9, 31])
    model, state, full = prepared(name, n=3, positions=[6, 3, 5], tokens=tokens)
    with inference_state(model.bridge), torch.no_grad():
        for seed in range(2):
            mask = random_subset(model, 0.6, seed).mask
            state.reset(mask)
            close(state.logits(), full(mask.numpy())[:, tokens], name)


def uneven_pairs():
    """Pairs of several lengths that differ first at several places, some answered before their end."""
    parts = [random_pairs(n=2, length=length, seed=seed, prefix=prefix) for seed, (length, prefix) in enumerate(
        [(7, 2), (9, 6), (7, 0), (4, 3)]
    )]  # fmt: skip
    together = {field: [ids for part in parts for ids in getattr(part, field)] for field in ("clean", "corrupted")}
    ends = [[ids[0] for part in parts for ids in getattr(part, field)] for field in ("answers", "distractors")]
    position = [len(prompt) - 1 - (i % 3 == 1) for i, prompt in enumerate(together["clean"])]
    return PromptPairs.from_tokens(together["clean"], together["corrupted"], *ends, position)


UNEVEN = (
    "gpt2", "llama", "neox", "mistral", "native-attention-only", "gemma2", "gemma3", "olmo2", "gpt-neo", "gpt-j", "bloom", "mpt",
    "cohere",
)  # fmt: skip
"""One of each kind of positions and norms: learned, rotated by halves or neighbours, windows, ALiBi, norms over all heads."""


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize("name", UNEVEN)
def test_pairs_of_any_lengths_lie_in_one_line(name, ablation):
    pairs = uneven_pairs()
    model, state, full = prepared(name, ablation, pairs=pairs, batch_size=3)
    assert state.by_node
    shared = [min(pair.prefix, pair.position) if ablation == "interchange" else 0 for pair in pairs]
    assert state.dead == sum(pair.position + 1 - front for pair, front in zip(pairs, shared, strict=True))
    draw = random.Random(name)
    with inference_state(model.bridge), torch.no_grad():
        close(state.logits(), full(state.keep), name)
        for _ in range(5):
            state.switch([edge for row in random_changes(model.graph, state.keep, draw) for edge in row])
            close(state.logits(), full(state.keep), name)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_reset_leaves_no_trace_in_the_last_bit(name):
    model, state, _ = prepared(name)
    mask = random_subset(model, 0.5, 1).mask
    with inference_state(model.bridge), torch.no_grad():
        state.reset(mask)
        fresh = state.logits().clone()
        for seed in range(2):
            state.reset(random_subset(model, 0.4, seed).mask)
            state.switch([tuple(edge) for edge in model.graph.edge_mask.nonzero()[::7].tolist()])
        state.reset(mask)
        assert torch.equal(state.logits(), fresh)


def test_hooks_that_the_user_allowed_are_respected_by_computing_whole_layers(monkeypatch):
    model = tiny("gpt2")
    monkeypatch.setitem(vars(model), "allow_hooks", True)
    point = model.bridge.hook_dict["blocks.1.hook_mlp_out"]
    point.add_hook(lambda value, hook: value * 0.5)
    try:
        assert not prepared("gpt2")[1].by_node
    finally:
        point.remove_hooks()
    assert prepared("gpt2")[1].by_node


def test_an_edge_twice_in_one_trial_is_refused():
    model, state, _ = prepared("gpt2")
    with inference_state(model.bridge), pytest.raises(InputError, match="twice"):
        state.trial([[(0, 0)], [(0, 0)]])


@pytest.mark.parametrize("name", ["gemma2", "olmo2"])
def test_a_post_norm_couples_the_heads_of_a_layer(name):
    model, state, full = prepared(name)
    graph, layer1 = model.graph, model.graph.head_writers(1)
    with inference_state(model.bridge), torch.no_grad():
        before = [state.output(w).clone() for w in range(layer1.start, layer1.stop)]
        state.computed = [0] * graph.n_writers
        state.switch([graph.edge_index("m0->a1.h2<q>")])
        after = [state.output(w) for w in range(layer1.start, layer1.stop)]
        assert all(not torch.equal(new, old) for new, old in zip(after, before, strict=True))
        # One norm over all queries couples them too; otherwise only one head's attention is computed again.
        computed = [head for head in range(graph.n_heads) if state.computed[layer1.start + head]]
        assert computed == (list(range(graph.n_heads)) if name == "olmo2" else [2])
        close(state.logits(), full(state.keep), name)
        # Without out-edges of its own, a head still changes the scale of the others.
        mask = graph.edge_mask.clone()
        mask[layer1.start + 3] = False
        state.reset(mask)
        assert state.need[layer1.start + 3] == state.need[layer1.start]
        close(state.logits(), full(state.keep), name)
        state.switch([graph.edge_index("m0->a1.h3<q>"), graph.edge_index("m0->a1.h0<q>")])
        close(state.logits(), full(state.keep), name)


def test_a_rule_that_does_not_fit_leaves_whole_layers(monkeypatch):
    monkeypatch.setattr(node_functions, "variants", lambda rule, n_heads: [replace(rule, scale=2 * rule.scale)])
    assert not prepared("gpt2")[1].by_node


@pytest.mark.parametrize("n", [4, 6, 12, 16])
def test_the_slopes_of_alibi_are_hugging_faces(n):
    wanted = build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), n, torch.float32)[:, 0, 1]
    torch.testing.assert_close(alibi_slopes(n).float(), wanted)
    torch.testing.assert_close(alibi_slopes(n).float(), -build_mpt_alibi_tensor(n, 2)[:, 0, 0])


MODULES = {"opt", "bloom", "mixtral", "mpt"}
"""Architectures whose MLPs are called as modules."""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ALL)
def test_an_mlp_is_a_formula_of_its_own_weights_where_that_gives_what_the_module_gives(name, dtype):
    module = tiny(name, dtype).bridge.blocks[0]._modules.get("mlp")
    if module is None:
        return
    formula = mlp_formula(module)
    assert (formula is None) == (name in MODULES)
    if formula is not None:
        x = torch.randn(3, 5, len(formula.w_in), dtype=formula.w_in.dtype)
        with torch.no_grad():
            torch.testing.assert_close(formula(x.flatten(0, 1)), module(x).flatten(0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["opt", "bloom", "mpt"])
def test_an_mlp_that_cannot_be_called_alone_is_the_formula_of_a_recorded_run(name):
    model = tiny(name)
    question = Question.ask(model, random_pairs(n=2))
    with inference_state(model.bridge):
        run = record_run(model.architecture, next(iter(question.batches())).suffix)
    block = model.architecture.blocks[0]
    x, wanted = block.mlp_norm(run.mlp_in[0]).flatten(0, 1), run.writes.mlps[0].flatten(0, 1)
    formula = mlp_formula(block.module.mlp, (x, wanted))
    torch.testing.assert_close(formula(x), wanted, rtol=1e-6, atol=1e-6)
    assert mlp_formula(block.module.mlp, (x, wanted + 1)) is None


def test_an_mlp_of_another_kind_stays_a_module():
    class Squares(torch.nn.Module):
        W_in, W_out, b_in, b_out = torch.eye(4), torch.eye(4), None, None

        def forward(self, x):
            return x.square()

    assert mlp_formula(Squares()) is None
    assert mlp_formula(torch.nn.Identity()) is None
