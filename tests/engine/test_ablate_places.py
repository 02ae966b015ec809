"""Circuits over places against a naive pass, token by token, and against what must hold on any architecture."""

import pytest
import torch

import circuits
from circuits import Circuit, circuit_metric, circuit_metrics
from circuits.engine.prefix import prefix_cache
from circuits.graph.places import Places, over
from tests.naive_gpt2 import replacement_of
from tests.naive_places import NAIVE, logits_at_places
from tests.placed_pairs import placed_pairs, random_placed, spans_of
from tests.tiny_models import FEW, atol, random_hf_model, tiny

SEVERAL = (*FEW, "mistral", "gemma3", "olmo2", "mixtral", "native")


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("destinations", [False, True])
@pytest.mark.parametrize(("share", "ablation"), [(0.1, "interchange"), (0.5, "interchange"), (0.9, "zero")])
def test_any_circuit_over_places_gives_what_the_naive_pass_gives(name, destinations, share, ablation):
    model, naive = tiny(name), NAIVE[name](random_hf_model(name))
    pairs = placed_pairs(n=2)
    circuit = random_placed(model, pairs, share, destinations)
    got = circuit_metric(model, pairs, circuit, ablation=ablation)
    kept = set(circuit.edges)
    with torch.no_grad():
        for i, pair in enumerate(pairs):
            replacement = replacement_of(naive, pair, ablation)
            logits = logits_at_places(naive, torch.tensor(pair.clean), kept, replacement, spans_of(pairs, i))
            wanted = logits[pair.answers[0]] - logits[pair.distractors[0]]
            assert got[i] == pytest.approx(float(wanted), abs=atol(name))


@pytest.mark.parametrize("name", NAIVE)
def test_one_place_at_a_time_gives_what_the_naive_pass_gives(name):
    """Every span, and every pair of a span and the span of a query, ablated alone."""
    model, naive = tiny(name), NAIVE[name](random_hf_model(name))
    pairs = placed_pairs(n=1)
    graph = over(model.graph, Places(pairs.spans, destinations=True))
    labels = [place.label for place in (*graph.places.alone, *graph.places.pairs[::3])]
    kept = [{edge for edge in graph.edges if edge.partition("@")[2] != label} for label in labels]
    got = circuit_metrics(model, pairs, [Circuit.from_edges(graph, sorted(edges)) for edges in kept])[:, 0]
    clean, corrupted, spans = torch.tensor(pairs[0].clean), torch.tensor(pairs[0].corrupted), spans_of(pairs, 0)
    with torch.no_grad():
        for edges, value in zip(kept, got, strict=True):
            logits = logits_at_places(naive, clean, edges, naive.run(corrupted)[1], spans)
            assert value == pytest.approx(
                float(logits[pairs.answers[0][0]] - logits[pairs.distractors[0][0]]), abs=atol(name)
            )


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("destinations", [False, True])
def test_everything_kept_is_the_model_and_nothing_kept_the_corrupted_prompt_to_the_bit(name, destinations):
    model, pairs = tiny(name), placed_pairs()
    graph = over(model.graph, Places(pairs.spans, destinations, ("end",)))
    plain = [Circuit.full(model.graph), Circuit.empty(model.graph)]
    placed = [Circuit.full(graph), Circuit.empty(graph)]
    assert torch.equal(circuit_metrics(model, pairs, placed), circuit_metrics(model, pairs, plain))


@pytest.mark.parametrize("destinations", [False, True])
def test_a_mask_that_is_the_same_at_all_places_has_the_bits_of_one_without_places(destinations):
    model, pairs = tiny("llama"), placed_pairs()
    drawn = torch.rand(model.graph.edge_mask.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    circuit = Circuit(model.graph, drawn & model.graph.edge_mask)
    placed = circuit.over(Places(pairs.spans, destinations, ("end",)))
    assert placed.places == pairs.spans
    assert torch.equal(circuit_metric(model, pairs, placed), circuit_metric(model, pairs, circuit))


@pytest.mark.parametrize("name", SEVERAL)
def test_what_is_kept_from_a_token_on_is_a_prompt_whose_beginning_is_corrupted(name):
    """Keys and values before the token are the corrupted prompt's, everything after it is computed from them."""
    model, pairs = tiny(name), placed_pairs(n=4)
    graph = over(model.graph, Places(pairs.spans))
    for cut in (1, 2, 3):
        kept = [f"{edge}@{span}" for edge in model.graph.edges for span in pairs.spans[cut:]]
        got = circuit_metric(model, pairs, Circuit.from_edges(graph, kept))
        starts = [pairs.span_starts(i)[cut] for i in range(len(pairs))]
        mixed = circuits.PromptPairs.from_tokens(
            [p.corrupted[:s] + p.clean[s:] for p, s in zip(pairs, starts, strict=True)],
            pairs.corrupted, pairs.answers, pairs.distractors,
        )  # fmt: skip
        wanted = circuit_metric(model, mixed, Circuit.full(model.graph))
        torch.testing.assert_close(got, wanted, rtol=0, atol=atol(name))


@pytest.mark.parametrize("name", SEVERAL)
def test_keys_and_values_for_the_last_span_alone_are_a_cache_that_is_corrupted_behind_the_others(name):
    """Only queries of `end` see the corrupted keys and values of `S`: the model itself, from a cache with these exchanged."""
    model, pairs = tiny(name), placed_pairs(n=3)
    if not model.report.prefix_exact:
        assert name.startswith("native")
        return
    graph = over(model.graph, Places(pairs.spans, destinations=True))
    gone = {edge for edge in graph.edges if edge.endswith("@S=>end")}
    got = circuit_metric(model, pairs, Circuit.from_edges(graph, [edge for edge in graph.edges if edge not in gone]))
    for i, pair in enumerate(pairs):
        starts = pairs.span_starts(i)
        clean, corrupted = (
            prefix_cache(model.bridge, torch.tensor([t[: starts[3]]])) for t in (pair.clean, pair.corrupted)
        )
        for one, other in zip(clean.layers, corrupted.layers, strict=True):
            forgotten = starts[3] - one.keys.shape[2]  # by a sliding window
            span = slice(max(0, starts[1] - forgotten), max(0, starts[2] - forgotten))
            one.keys[:, :, span], one.values[:, :, span] = other.keys[:, :, span], other.values[:, :, span]
        with torch.no_grad():
            logits = model.bridge(torch.tensor([pair.clean[starts[3] :]]), past_key_values=clean, return_type="logits")[
                0, -1
            ]
        assert got[i] == pytest.approx(float(logits[pair.answers[0]] - logits[pair.distractors[0]]), abs=atol(name))


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("destinations", [False, True])
def test_a_cached_prefix_and_the_batch_size_change_nothing(name, destinations):
    model, pairs = tiny(name), placed_pairs(n=4, prefix=3)
    circuit = random_placed(model, pairs, 0.6, destinations)
    values = [circuit_metric(model, pairs, circuit, batch_size=size) for size in (4, 1)]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=atol(name))
    assert not torch.allclose(values[0], circuit_metric(model, pairs, circuit.without_places()), atol=1e-3)


def from_file(circuit, folder):
    circuit.to_json(folder / "circuit.json")
    return Circuit.from_json(folder / "circuit.json")


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (["m0->a1.h0<q>@S2"], "no place S2 here; the spans are start, S, S\\+, end"),
        (["m0->a1.h0<v>@S=>last"], "no place last here"),
        (
            Places(("start", "S", "end")),
            "the circuit has the spans start, S, end, and the prompts have start, S, S\\+, end",
        ),
        (Places(("start", "S+", "S", "end")), "give prompts with the spans of the circuit"),
        (["m0->a1.h0<q>@9"], "the circuit has places|no place 9 here"),
    ],
)
def test_a_place_in_a_circuit_file_that_the_pairs_do_not_have_is_refused(kept, message, tmp_path):
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    of_names = isinstance(kept, list)
    circuit = Circuit.from_edges(model.graph, kept) if of_names else Circuit.full(over(model.graph, kept))
    circuit = from_file(circuit, tmp_path)
    for function in (circuit_metric, circuits.faithfulness, circuits.minimality, circuits.completeness):
        with pytest.raises(circuits.InputError, match=message):
            function(model, pairs, circuit)


def test_a_circuit_over_spans_is_refused_where_the_pairs_have_none_that_are_alike(tmp_path):
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    circuit = from_file(Circuit.full(over(model.graph, Places(pairs.spans))), tmp_path)
    roles = [{"a": 1, "b": 3}, {"b": 1, "a": 3}]
    mixed = type(pairs).from_tokens(pairs.clean, pairs.corrupted, pairs.answers, pairs.distractors, roles=roles)
    with pytest.raises(circuits.InputError, match=r"the circuit has places .*, and the prompts do not: pair 1"):
        circuit_metric(model, mixed, circuit)
