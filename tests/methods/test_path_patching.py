"""Path patching against the ablation of edges, and against whole forward passes."""

import pytest
import torch

from circuits import Circuit, InputError, circuit_metrics, path_patching
from tests.tiny_models import FEW, atol, random_pairs, tiny

LINEAR = [name for name in FEW if name != "gemma2"]
"""Under a post-norm a head's write depends on its neighbours, so an edge and a frozen path are not the same there."""


@pytest.mark.parametrize("name", LINEAR)
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
    ("receivers", "options", "said"),
    [
        (["a9.h0<q>"], {}, "no reader"),
        ([], {}, "must be a list of readers"),
        (["logits"], {"senders": "q"}, "writers"),
        (["logits"], {"mlps": "cold"}, "mlps must be one of frozen, live"),
        (["logits"], {"ablation": "zero"}, "another run"),
    ],
)
def test_what_cannot_be_asked_is_refused(receivers, options, said):
    with pytest.raises(InputError, match=said):
        path_patching(tiny("gpt2"), random_pairs(n=1), receivers, **options)
