"""Path patching between places: the ablation of edges at places, and what must hold when all places are named."""

import pytest
import torch

from circuits import Circuit, InputError, PairsError, circuit_metrics, path_patching
from circuits.graph.places import over
from circuits.question.places import SpanTable
from tests.placed_pairs import placed_pairs
from tests.tiny_models import atol, tiny


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_with_frozen_mlps_it_is_the_ablation_of_the_edges_at_these_places(name):
    model, pairs = tiny(name), placed_pairs(n=2, prefix=1)
    graph, kv = over(model.graph, SpanTable(pairs).places(True)), "kv" if model.graph.grouped else "h"
    full = Circuit.full(graph)
    senders = ["input@S", "a0.h1@S", "a0.h1@end", "m0@S+", "a1.h0", "m1@S"]
    cases = (
        [f"a2.{kv}0<k>@S"],
        [f"a1.{kv}0<v>@S", f"a1.{kv}0<v>@S+", "a2.h1<q>", "m2@S", "logits"],
        [f"a2.{kv}0<k>@S=>end"],
        [
            f"a1.{kv}0<v>@S=>S+",
            f"a1.{kv}0<v>@S=>end",
            f"a1.{kv}0<k>@S+",
            f"a2.{kv}1<k>@S=>end",
            f"a2.{kv}1<v>@S+=>S+",
            "logits",
        ],
    )
    for receivers in cases:
        scores = path_patching(model, pairs, receivers, senders=senders)
        assert scores.nodes == tuple(senders)
        asked = [full]
        for sender in senders:
            writer, _, at = sender.partition("@")
            index = model.graph.writer_index(writer)
            gone = []
            for receiver in receivers:
                reader, _, place = receiver.partition("@")
                if index >= model.graph.reader_nodes[model.graph.reader_index(reader)].n_writers:
                    continue
                source, arrow, query = place.partition("=>")
                here = [span for span in pairs.spans if at in ("", span) and source in ("", span)]
                gone += [
                    f"{writer}->{reader}@{span}{arrow}{query}" for span in here if reader != "logits" or span == "end"
                ]
            asked.append(full - Circuit.from_edges(graph, gone) if gone else full)
        values = circuit_metrics(model, pairs, asked)
        torch.testing.assert_close(scores.per_prompt, values[0] - values[1:], rtol=1e-4, atol=max(1e-5, atol(name)))
        assert float(scores.per_prompt.abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
@pytest.mark.parametrize("inputs", ["shifted", "set"])
@pytest.mark.parametrize("mlps", ["frozen", "live"])
def test_all_places_together_are_the_node(name, inputs, mlps):
    model, pairs = tiny(name), placed_pairs(n=2)
    kv, options = "kv" if model.graph.grouped else "h", {"mlps": mlps, "inputs": inputs, "together": True}
    receivers, senders = [f"a2.{kv}0<k>", "m1"], ["a0.h1", "a1.h0"]
    plain = path_patching(model, pairs, receivers, senders=senders, **options)
    placed = path_patching(
        model, pairs, [f"{r}@{span}" for r in receivers for span in pairs.spans],
        senders=[f"{s}@{span}" for s in senders for span in pairs.spans], **options,
    )  # fmt: skip
    torch.testing.assert_close(placed.per_prompt, plain.per_prompt, rtol=1e-5, atol=atol(name))
    queries = path_patching(
        model, pairs, [f"a2.{kv}0<k>@{s}=>{q}" for i, s in enumerate(pairs.spans) for q in pairs.spans[i:]] + ["m1"],
        senders=senders, **options,
    )  # fmt: skip
    torch.testing.assert_close(queries.per_prompt, plain.per_prompt, rtol=1e-5, atol=atol(name))


def test_a_query_in_two_named_places_sees_what_is_received_for_either():
    """`last` is a role inside the span `end`."""
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    last = [{**roles, "last": 6} for roles in pairs.roles]
    both = type(pairs).from_tokens(pairs.clean, pairs.corrupted, pairs.answers, pairs.distractors, roles=last)
    senders = ["a0.h1", "m0"]
    wanted = path_patching(model, both, ["a2.h0<v>@S=>end", "a2.h0<v>@S+=>end"], senders=senders).per_prompt
    got = path_patching(model, both, ["a2.h0<v>@S=>last", "a2.h0<v>@S+=>end"], senders=senders).per_prompt
    assert float(wanted.abs().min()) > 1e-6
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def test_a_direct_path_stays_at_its_token():
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    apart = path_patching(model, pairs, ["a2.h0<v>@S+"], senders=["a0.h1@S", "m0@S"])
    assert float(apart.per_prompt.abs().max()) < 1e-12
    here = path_patching(model, pairs, ["a2.h0<v>@S"], senders=["a0.h1@S", "m0@S"], inputs="set")
    assert float(here.per_prompt.abs().min()) > 1e-6


def test_places_that_are_not_there_are_refused():
    model, pairs = tiny("gpt2"), placed_pairs(n=1)
    with pytest.raises(PairsError, match="S9"):
        path_patching(model, pairs, ["a2.h0<q>@S9"])
    with pytest.raises(PairsError, match="S9"):
        path_patching(model, pairs, ["logits"], senders=["a0.h0@S9"])
    with pytest.raises(PairsError, match="S9"):
        path_patching(model, pairs, ["a2.h0<v>@S=>S9"])
    with pytest.raises(InputError, match="which only keys and values have"):
        path_patching(model, pairs, ["a2.h0<q>@S=>end"])
    with pytest.raises(InputError, match="senders are writers"):
        path_patching(model, pairs, ["logits"], senders=["a0.h0<q>@S"])
