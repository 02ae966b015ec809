"""Path patching against the ablation of edges, and against whole forward passes."""

import pytest
import torch

from circuits import Circuit, InputError, circuit_metrics, path_patching
from circuits.engine.hooks import TokenBatch, run
from circuits.question.metrics import get_metric, targets_of
from tests.tiny_models import FEW, atol, random_pairs, tiny

MANY = (*FEW, "olmo2", "gemma3")


@pytest.mark.parametrize("name", MANY)
def test_with_frozen_mlps_it_is_the_ablation_of_the_edges(name):
    model, pairs = tiny(name), random_pairs(n=3, prefix=2)
    last = model.graph.n_layers - 1
    kv = "kv" if model.graph.grouped else "h"
    readers = ["logits", f"a{last}.h1<q>", f"a{last}.{kv}0<k>", f"a{last}.{kv}0<v>"]
    readers += [f"m{last}"] if model.graph.mlps[last] else []
    full = Circuit.full(model.graph)
    for receivers in (readers, readers[:1], readers[1:3]):
        scores = path_patching(model, pairs, receivers, senders="heads+mlps+input")
        asked = [full]
        for sender in scores.nodes:
            index = model.graph.writer_index(sender)
            names = [
                f"{sender}->{r}" for r in receivers
                if index < model.graph.reader_nodes[model.graph.reader_index(r)].n_writers
            ]  # fmt: skip
            asked.append(full - Circuit.from_edges(model.graph, names))
        values = circuit_metrics(model, pairs, asked)
        torch.testing.assert_close(scores.per_prompt, values[0] - values[1:], rtol=1e-4, atol=max(1e-5, atol(name)))


def naive_writes(model, tokens, position):
    """What each writer adds to the residual stream, and the stream in front of each reader, by whole passes with TransformerLens' hooks."""
    stored, hooks = {}, []
    for block in model.architecture.blocks:
        for point in ("resid_pre", "resid_mid", "z", "mlp_out"):
            at = getattr(block, point)
            if at is not None:
                hooks.append((at, lambda x, key=(block.layer, point): stored.__setitem__(key, x.clone())))
    hooks.append((model.architecture.final, lambda x: stored.__setitem__("final", x.clone())))
    with torch.no_grad():
        run(model.architecture, TokenBatch(tokens, position), hooks)
    writes = {"input": stored[0, "resid_pre"]}
    for block in model.architecture.blocks:
        heads = block.head_writes(stored[block.layer, "z"])
        writes |= {f"a{block.layer}.h{h}": heads[:, :, h] for h in range(heads.shape[2])}
        if block.mlp_out is not None:
            writes[f"m{block.layer}"] = stored[block.layer, "mlp_out"]
    return writes


def naive_path_patching(model, pair, receivers, senders, inputs, metric="logit_difference"):
    """Frozen MLPs, one prompt: in both kinds the senders' change is summed by hand, and receivers are patched one hook each."""
    batch = next(iter(pair.batches(1)))
    graph, architecture = model.graph, model.architecture
    clean = naive_writes(model, batch.clean, batch.position)
    corrupted = naive_writes(model, batch.corrupted, batch.position)
    order = list(graph.writer_names)
    stream, current = {}, {}

    def note(block, point, x):
        if point == "z":
            heads = block.head_writes(x)
            current.update({f"a{block.layer}.h{h}": heads[:, :, h] for h in range(heads.shape[2])})
        else:
            current["input" if point == "resid_pre" else f"m{block.layer}"] = x

    def seen(reader, x):
        before = order[: reader.n_writers]
        if inputs == "shifted":
            return x + sum(corrupted[s] - current[s] for s in senders if s in before)
        constants = stream[reader.layer, reader.part == "mlp"] - sum(clean[w] for w in before)
        return constants + sum(corrupted[w] if w in senders else clean[w] for w in before)

    def patch_head(block, reader, x):
        value = x.clone()
        part = {"q": "q", "k": "k", "v": "v"}[reader.part]
        input_ = block.attn_norm(seen(reader, resid[block.layer, False]))
        value[:, :, reader.head] = input_ @ block.projection(part)[reader.head]
        bias = block.projection_bias(part)
        if bias is not None:
            value[:, :, reader.head] += bias.reshape(-1, value.shape[-1])[reader.head]
        return value

    resid = {}
    hooks = []
    for block in architecture.blocks:
        hooks.append((block.resid_pre, lambda x, key=(block.layer, False): resid.__setitem__(key, x)))
        if block.layer == 0:
            hooks.append((block.resid_pre, lambda x, block=block: note(block, "resid_pre", x)))
        if block.mlp_in is not None:
            mid = block.resid_mid or (block.resid_pre if block.parallel else block.mlp_in)
            hooks.append((mid, lambda x, key=(block.layer, True): resid.__setitem__(key, x)))
        hooks.append((block.z, lambda x, block=block: note(block, "z", x)))
        if block.mlp_out is not None:
            hooks.append((block.mlp_out, lambda x, block=block: note(block, "mlp_out", x)))
    patches = []
    for name in receivers:
        reader = graph.reader_nodes[graph.reader_index(name)]
        if name == "logits":
            patches.append((architecture.final, lambda x, reader=reader: seen(reader, x)))
        elif reader.part == "mlp":
            block = architecture.blocks[reader.layer]
            patches.append((
                block.mlp_in,
                lambda x, block=block, reader=reader: block.mlp_norm(seen(reader, resid[block.layer, not block.parallel])),
            ))  # fmt: skip
        else:
            block = architecture.blocks[reader.layer]
            at = getattr(block, reader.part)
            patches.append((at, lambda x, block=block, reader=reader: patch_head(block, reader, x)))
    get = get_metric(metric)
    with torch.no_grad():
        plain = run(architecture, TokenBatch(batch.clean, batch.position), [
            *hooks, (architecture.final, lambda x: resid.__setitem__((len(architecture.blocks), False), x)),
        ])  # fmt: skip
        stream.update({key: value.clone() for key, value in resid.items()})
        patched = run(architecture, TokenBatch(batch.clean, batch.position), [*hooks, *patches])
    targets = targets_of(batch)
    return float(get(plain, targets) - get(patched, targets))


@pytest.mark.parametrize("inputs", ["shifted", "set"])
@pytest.mark.parametrize("name", MANY)
def test_receivers_in_several_layers_see_what_the_definition_says(name, inputs):
    model, pairs = tiny(name), random_pairs(n=2, prefix=1)
    kv = "kv" if model.graph.grouped else "h"
    receivers = ["a1.h0<q>", f"a1.{kv}1<v>", "a2.h1<q>", f"a2.{kv}0<k>", "logits"]
    receivers += ["m1"] if model.graph.mlps[1] else []
    senders = ["a0.h1", "a1.h0", "a1.h2", "input"]
    options = {"senders": senders, "inputs": inputs}
    tolerance = {"rel": 1e-4, "abs": max(1e-6, atol(name))}
    for together in (False, True):
        result = path_patching(model, pairs, receivers, together=together, **options)
        for node, row in zip(result.nodes, result.per_prompt, strict=True):
            wanted = [
                naive_path_patching(model, pairs[i : i + 1], receivers, node.split("+"), inputs) for i in range(2)
            ]
            assert row.tolist() == pytest.approx(wanted, **tolerance)
    assert result.provenance["options"]["inputs"] == inputs


def test_the_two_kinds_differ_for_receivers_in_several_layers_and_agree_in_one():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    for receivers, same in ((["a1.h0<q>", "a1.h1<v>"], True), (["m1"], True), (["a1.h0<v>", "logits"], False)):
        shifted, set_ = (
            path_patching(model, pairs, receivers, senders="heads", inputs=inputs).per_prompt
            for inputs in ("shifted", "set")
        )
        assert torch.allclose(shifted, set_, atol=1e-9) == same


@pytest.mark.parametrize("name", MANY)
def test_senders_behind_a_receiver_are_ablated_edges_too(name):
    model, pairs = tiny(name), random_pairs(n=2)
    full, names = Circuit.full(model.graph), []
    senders, receivers = ["a0.h0", "a1.h1", "a2.h2"], ["a1.h1<q>", "a2.h2<q>", "logits"]
    for receiver in receivers:
        n = model.graph.reader_nodes[model.graph.reader_index(receiver)].n_writers
        names += [f"{s}->{receiver}" for s in senders if model.graph.writer_index(s) < n]
    result = path_patching(model, pairs, receivers, senders=senders, together=True)
    values = circuit_metrics(model, pairs, [full, full - Circuit.from_edges(model.graph, names)])
    torch.testing.assert_close(result.per_prompt[0], values[0] - values[1], rtol=1e-4, atol=max(1e-6, atol(name)))


@pytest.mark.parametrize("name", FEW)
def test_everything_to_the_logits_together_is_the_whole_corruption(name):
    model, pairs = tiny(name), random_pairs(n=2)
    scores = path_patching(model, pairs, ["logits"], senders="heads+mlps+input", together=True)
    torch.testing.assert_close(scores.per_prompt[0], scores.clean - scores.corrupted, rtol=1e-4, atol=1e-4)


def test_live_mlps_carry_paths_that_frozen_ones_do_not():
    """a0.h0 -> m0 -> logits counts for the receiver `logits` only if m0 is live."""
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    graph = model.graph
    live = path_patching(model, pairs, ["logits"], senders=["a2.h0"], mlps="live")
    full = Circuit.full(graph)
    through = full - Circuit.from_edges(graph, ["a2.h0->logits", "a2.h0->m2"])
    direct = full - Circuit.from_edges(graph, ["a2.h0->logits"])
    values = circuit_metrics(model, pairs, [full, through, direct])
    torch.testing.assert_close(live.per_prompt[0], values[0] - values[1])
    frozen = path_patching(model, pairs, ["logits"], senders=["a2.h0"], mlps="frozen")
    torch.testing.assert_close(frozen.per_prompt[0], values[0] - values[2])


@pytest.mark.parametrize(
    ("receivers", "options", "message"),
    [
        (["a9.h0<q>"], {}, "no reader"),
        ([], {}, "must be a list of readers"),
        (["logits"], {"senders": "q"}, "writers"),
        (["logits"], {"inputs": "moved"}, "inputs must be one of shifted, set"),
        (["logits"], {"mlps": "cold"}, "mlps must be one of frozen, live"),
        (["logits"], {"ablation": "zero"}, "another run"),
    ],
)
def test_what_cannot_be_asked_is_refused(receivers, options, message):
    with pytest.raises(InputError, match=message):
        path_patching(tiny("gpt2"), random_pairs(n=1), receivers, **options)
