"""Information flow against a loop over positions and writers of the node-by-node GPT-2."""

import pytest
import torch

from circuits import InputError, PromptPairs, information_flow
from tests.naive_gpt2 import NaiveGPT2
from tests.placed_pairs import placed_pairs, spans_of
from tests.tiny_models import FEW, random_hf_model, random_pairs, tiny


def naive_shares(graph, tokens, spans=None):
    """One prompt's shares: {edge: mean over positions}, or the part of it at each span."""
    model = random_hf_model("gpt2")
    with torch.no_grad():
        _, writers = NaiveGPT2(model).run(torch.tensor(tokens))
    places = [""] if spans is None else [f"@{span}" for span in dict.fromkeys(spans)]
    result = {f"{edge}{place}": 0.0 for edge in graph.edges for place in places}
    for reader in graph.reader_nodes:
        names = graph.writer_names[: reader.n_writers]
        biases = [block.attn.c_proj.bias.detach() for block in model.transformer.h]
        # An MLP sees its own layer's attention, bias included.
        constant = sum(biases[: reader.layer + (reader.part == "mlp")], torch.zeros(24, dtype=torch.float64))
        for pos in range(len(tokens)):
            x = constant + sum(writers[name][pos] for name in names)
            near = {n: max(0.0, float(x.abs().sum() - (x - writers[n][pos]).abs().sum())) for n in names}
            for name in names:
                place = "" if spans is None else f"@{spans[pos]}"
                result[f"{name}->{reader.name}{place}"] += near[name] / sum(near.values()) / len(tokens)
    return result


def test_shares_are_a_loop_over_positions_and_writers():
    model, pairs = tiny("gpt2"), random_pairs(n=2, length=4, prefix=2)
    wanted = [naive_shares(model.graph, tokens) for tokens in pairs.clean]
    mean = {edge: (wanted[0][edge] + wanted[1][edge]) / 2 for edge in wanted[0]}
    assert information_flow(model, pairs).to_dict() == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize("name", FEW)
def test_a_readers_shares_sum_to_one_and_its_first_writer_has_all_of_it_where_it_is_alone(name):
    model = tiny(name)
    scores = information_flow(model, random_pairs(n=2))
    assert float(scores.values.min()) >= 0
    torch.testing.assert_close(scores.values.sum(0), torch.ones(model.graph.n_readers, dtype=torch.float64))
    assert scores["input->" + model.graph.readers[0]] == pytest.approx(1)


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_neither_the_corrupted_prompts_nor_batches_nor_order_matter(name):
    model, pairs = tiny(name), random_pairs(n=3)
    wanted = information_flow(model, pairs, batch_size=3)
    others = PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    for other in (others, pairs[[2, 0, 1]], pairs[[0, 0, 1, 1, 2, 2]]):
        got = information_flow(model, other, batch_size=2)
        torch.testing.assert_close(got.values, wanted.values, rtol=1e-5, atol=1e-6)
    assert wanted.provenance["metric"] is None
    assert wanted.provenance["unit"] == "share of the reader's input"


@pytest.mark.parametrize("option", [{"metric": "logit_difference"}, {"ablation": "zero"}])
def test_a_metric_or_an_ablation_is_refused(option):
    with pytest.raises(InputError, match="clean prompts' residual stream only"):
        information_flow(tiny("gpt2"), random_pairs(n=1), **option)


def test_shares_at_spans_are_parts_of_the_mean_over_positions():
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    scores = information_flow(model, pairs, positions="spans")
    wanted = [naive_shares(model.graph, pairs.clean[i], spans_of(pairs, i)) for i in range(2)]
    mean = {edge: (wanted[0][edge] + wanted[1][edge]) / 2 for edge in scores.over_places().graph.edges}
    assert scores.to_dict(places=True) == pytest.approx(mean, abs=1e-9)
    assert torch.equal(scores.values, information_flow(model, pairs).values)
    for edge in ("input->a1.h0<q>", "m1->m2"):
        assert scores[edge] == pytest.approx(sum(scores[f"{edge}@{span}"] for span in pairs.spans))
    circuit = scores.top(40, fill=True, places=True)
    assert circuit.places == pairs.spans
    with pytest.raises(InputError, match="'spans' or 'each'"):
        information_flow(model, pairs, positions="roles")
    with pytest.raises(InputError, match="destinations=True needs positions"):
        information_flow(model, pairs, destinations=True)


def naive_attention(tokens, layer, h):
    """One head's pattern, and a loop over what each query reads."""
    model, naive = random_hf_model("gpt2"), NaiveGPT2(random_hf_model("gpt2"))
    with torch.no_grad():
        _, writers = naive.run(torch.tensor(tokens))
        biases = sum((block.attn.c_proj.bias for block in model.transformer.h[:layer]), torch.zeros(24))
        before = ["input", *(name for name in writers if name != "input" and int(name[1:].split(".")[0]) < layer)]
        x = naive.norm(biases + sum(writers[name] for name in before), model.transformer.h[layer].ln_1)
        attention, width = model.transformer.h[layer].attn.c_attn, naive.d_head
        q, k = (
            x @ attention.weight[:, lo : lo + width] + attention.bias[lo : lo + width]
            for lo in (h * width, 24 + h * width)
        )
        pattern = torch.zeros(len(tokens), len(tokens), dtype=torch.float64)
        for t in range(len(tokens)):
            weights = [float((q[t] @ k[s] / width**0.5).exp()) for s in range(t + 1)]
            pattern[t, : t + 1] = torch.tensor(weights) / sum(weights)
    return pattern


def test_for_keys_and_values_shares_are_divided_by_the_attention_that_queries_pay():
    model, pairs = tiny("gpt2"), placed_pairs(n=2)
    scores = information_flow(model, pairs, positions="spans", destinations=True)
    for layer, h, writer in ((1, 0, "m0"), (2, 1, "a0.h1")):
        wanted = dict.fromkeys(((s, q) for i, s in enumerate(pairs.spans) for q in pairs.spans[i:]), 0.0)
        for i, tokens in enumerate(pairs.clean):
            spans, pattern = spans_of(pairs, i), naive_attention(tokens, layer, h)
            here = naive_shares(model.graph, tokens, [str(n) for n in range(len(tokens))])
            for t, source in enumerate(spans):
                share = here[f"{writer}->a{layer}.h{h}<v>@{t}"]
                for query, span in enumerate(spans):
                    if query >= t:
                        wanted[source, span] += share * float(pattern[query, t] / pattern[:, t].sum()) / len(pairs)
        for part in "kv":
            got = {place: scores[f"{writer}->a{layer}.h{h}<{part}>@{'=>'.join(place)}"] for place in wanted}
            assert got == pytest.approx(wanted, abs=1e-7)  # the model's softmax has float32


@pytest.mark.parametrize("name", FEW)
def test_destinations_sum_to_the_share_at_the_place(name):
    model, pairs = tiny(name), placed_pairs(n=2)
    placed = information_flow(model, pairs, positions="spans")
    scores = information_flow(model, pairs, positions="spans", destinations=True)
    torch.testing.assert_close(scores.values, placed.values)
    for edge, share in placed.to_dict(places=True).items():
        assert scores[edge] == pytest.approx(share, abs=1e-6)
    circuit = scores.top(40, fill=True, places=True)
    assert circuit.graph.places.destinations
