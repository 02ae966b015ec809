"""Refined edges against node-by-node models in which the receiving node is computed again, and against exact effects."""

import pytest
import torch

import circuits
from circuits import InputError, PromptPairs, edge_attribution, exact_edge_effects, information_flow, refine
from circuits.graph.places import Places
from circuits.methods import refine as refining
from tests.naive_edges import LeafGPT2, LeafLlama, edge_gradients
from tests.naive_llama import NaiveLlama
from tests.placed_pairs import placed_pairs, spans_of
from tests.tiny_models import FEW, atol, random_hf_model, random_pairs, tiny


class PlainLlama(LeafLlama):
    """Llama with leaves, and no rule."""

    head = NaiveLlama.head

    def norm(self, x, module):
        return module(x)

    def mlp(self, layer, x):
        return layer.mlp(layer.post_attention_layernorm(x))


def naive_node_effects(naive, graph, pair, edges, blocks, constants, spans=None):
    """Each edge's receiving nodes recomputed with it ablated, times the gradient at their outputs; `spans`: names of the tokens' spans."""
    with torch.no_grad():
        _, clean = naive.logits(torch.tensor(pair.clean), {})
        _, corrupted = naive.logits(torch.tensor(pair.corrupted), {})
    gradients = edge_gradients(naive, graph.edges, pair)
    behind = {}
    for edge, g in gradients.items():
        behind[edge.split("->")[0]] = behind.get(edge.split("->")[0], 0) + g
    result = {}
    for name in edges:
        edge, _, place = name.partition("@")
        source, _, query = place.partition("=>")
        here = torch.tensor([not source or span == source for span in spans or [""] * len(pair.clean)])[:, None]
        then = torch.tensor([not query or span == query for span in spans or [""] * len(pair.clean)])[:, None]
        w, r = graph.edge_index(edge)
        reader, writer = graph.reader_nodes[r], graph.writer_names[w]
        seen = constants[reader.layer + (reader.part == "mlp")] + sum(
            clean[name] for name in graph.writer_names[: reader.n_writers]
        )
        ablated = seen + (corrupted[writer] - clean[writer]) * here
        block, effect = blocks[reader.layer], 0.0
        for node in graph.nodes_fed_by(reader):
            with torch.no_grad():
                if reader.part == "mlp":
                    new = naive.mlp(block, ablated)
                else:
                    inputs = [ablated if reader.part == part else seen for part in "qkv"]
                    new = naive.head(block, int(node.split(".h")[1]), *inputs)
            effect += float(((clean[node] - new) * then * behind[node]).sum())
        result[name] = effect
    return result


def mean_of(naive, model, pairs, edges, blocks, constants):
    each = [naive_node_effects(naive, model.graph, pair, edges, blocks, constants) for pair in pairs]
    return {edge: sum(result[edge] for result in each) / len(each) for edge in edges}


def not_into_logits(model, step):
    return [edge for edge in model.graph.edges if not edge.endswith("logits")][::step]


def test_node_refinement_on_gpt2_is_every_receiving_node_computed_again():
    model, pairs, hf = tiny("gpt2"), random_pairs(n=2), random_hf_model("gpt2")
    biases = [block.attn.c_proj.bias.detach() for block in hf.transformer.h]
    constants = [sum(biases[:n], torch.zeros(24, dtype=torch.float64)) for n in range(4)]
    edges = not_into_logits(model, 5)
    wanted = mean_of(LeafGPT2(hf), model, pairs, edges, hf.transformer.h, constants)
    scores = edge_attribution(model, pairs, gradient="clean")
    got = refine(model, pairs, scores, top=model.graph.n_edges)
    assert {edge: got[edge] for edge in edges} == pytest.approx(wanted, abs=1e-9)
    assert {edge: scores[edge] for edge in edges} != pytest.approx(wanted, abs=1e-3)


def test_a_shared_key_or_value_counts_for_all_its_heads():
    model, pairs, hf = tiny("llama"), random_pairs(n=2), random_hf_model("llama")
    edges = [edge for edge in not_into_logits(model, 1) if ".kv" in edge][::4]
    wanted = mean_of(PlainLlama(hf, False), model, pairs, edges, hf.model.layers, [0] * 4)
    got = refine(model, pairs, edge_attribution(model, pairs), top=1000)
    assert {edge: got[edge] for edge in edges} == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("destinations", [False, True])
def test_over_places_the_edge_is_ablated_at_its_tokens_for_its_queries(destinations):
    model, pairs, hf = tiny("gpt2"), placed_pairs(n=2), random_hf_model("gpt2")
    biases = [block.attn.c_proj.bias.detach() for block in hf.transformer.h]
    constants = [sum(biases[:n], torch.zeros(24, dtype=torch.float64)) for n in range(4)]
    scores = edge_attribution(model, pairs, gradient="clean", positions="spans", destinations=destinations)
    got = refine(model, pairs, scores.over_places(), top=10**6)
    every = [edge for edge in got.graph.edges if "logits" not in edge]
    keys = [edge for edge in every if "=>end" in edge]
    edges = [*every[:: len(every) // 40], *keys[:: max(1, len(keys) // 20)]]
    each = [
        naive_node_effects(LeafGPT2(hf), model.graph, pair, edges, hf.transformer.h, constants, spans_of(pairs, i))
        for i, pair in enumerate(pairs)
    ]
    assert {edge: got[edge] for edge in edges} == pytest.approx(
        {edge: sum(result[edge] for result in each) / len(each) for edge in edges}, abs=1e-8
    )
    assert got.top(20).places == pairs.spans


@pytest.mark.parametrize("name", ["llama", "neox", "gemma2"])
@pytest.mark.parametrize("how", ["exact", "node"])
def test_refined_edges_at_places_are_exact_where_they_should_be(name, how):
    model, pairs = tiny(name), placed_pairs(n=2, prefix=1)
    scores = edge_attribution(model, pairs, positions="spans", destinations=True)
    got = refine(model, pairs, scores.over_places(), top=30, how=how, batch_size=1)
    refined = list(got.provenance["refined"])
    assert refined == [edge for edge, _, _ in scores.over_places().strongest(30)]
    exact = exact_edge_effects(model, pairs, refined, positions="spans", destinations=True).to_dict()
    exact_ones = [edge for edge in refined if how == "exact" or "->logits" in edge]
    assert {edge: got[edge] for edge in exact_ones} == pytest.approx(
        {edge: exact[edge] for edge in exact_ones}, rel=1e-4, abs=max(1e-5, atol(name))
    )
    assert refine(model, pairs, scores, top=3).placed is None


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("how", ["exact", "node"])
def test_refined_edges_are_exact_where_they_should_be_and_the_others_stay(name, how):
    model, pairs = tiny(name), random_pairs(n=3, prefix=2)
    scores = edge_attribution(model, pairs)
    got = refine(model, pairs, scores, top=25, how=how, batch_size=2)
    refined = list(got.provenance["refined"])
    assert refined == [edge for edge, _, _ in scores.strongest(25)]
    measured = exact_edge_effects(model, pairs, refined)
    exact, errors = measured.to_dict(), measured.per_prompt.std(1) / 3**0.5
    exact_ones = [edge for edge in refined if how == "exact" or edge.endswith("logits")]
    assert {edge: got[edge] for edge in exact_ones} == pytest.approx(
        {edge: exact[edge] for edge in exact_ones}, rel=1e-4, abs=max(1e-5, atol(name))
    )
    if how == "exact":
        stderr = [float(got.stderr[model.graph.edge_index(edge)]) for edge in measured.edges]
        assert stderr == pytest.approx(errors.tolist(), rel=1e-3, abs=max(1e-5, atol(name)))
    changed = model.graph.mask_of(refined)
    assert torch.equal(got.values[~changed], scores.values[~changed])
    assert got.per_prompt is not None
    kept = got.per_prompt.mean(0, dtype=torch.float64)
    torch.testing.assert_close(kept, got.values[model.graph.edge_mask], rtol=1e-5, atol=1e-5)


def test_where_all_is_linear_behind_the_node_node_refinement_is_exact():
    """Without norms and MLPs, nothing but the unembedding stands behind the last layer's heads."""
    model, pairs = tiny("native-attention-only"), random_pairs(n=2)
    got = refine(model, pairs, edge_attribution(model, pairs), top=model.graph.n_edges)
    last = [edge for edge in model.graph.edges if "->a2." in edge]
    assert {e: got[e] for e in last} == pytest.approx(exact_edge_effects(model, pairs, last).to_dict(), abs=1e-8)


@pytest.mark.parametrize("how", ["exact", "node"])
def test_refinement_does_not_depend_on_batch_size_or_order_and_is_zero_for_identical_prompts(how, monkeypatch):
    model, pairs = tiny("llama"), random_pairs(n=3)
    wanted = refine(model, pairs, edge_attribution(model, pairs), how=how, top=30).values
    monkeypatch.setattr(refining, "TOKENS_AT_ONCE", 14)
    other = pairs[[2, 0, 1]]
    got = refine(model, other, edge_attribution(model, other), how=how, top=30, batch_size=2).values
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    same = PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    assert not refine(model, same, edge_attribution(model, same), how=how, top=30).values.any()


def test_losses_are_signed_like_the_behaviour():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    gain, loss = (
        refine(model, pairs, edge_attribution(model, pairs, metric=metric), metric=metric, top=20).values
        for metric in ("log_probability", "cross_entropy")
    )
    torch.testing.assert_close(gain, loss)


def test_provenance_says_what_was_refined_and_files_keep_it(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    got = refine(model, pairs, edge_attribution(model, pairs, gradient="clean", positions="each"), top=3)
    assert got.provenance["method"] == "refine"
    assert got.provenance["of"] == {"method": "edge_attribution", "options": {"gradient": "clean"}}
    assert len(got.provenance["refined"]) == 3
    assert got.by_position is None
    got.save(tmp_path / "s.safetensors")
    again = circuits.EdgeScores.load(tmp_path / "s.safetensors")
    assert again.provenance["refined"] == got.provenance["refined"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"how": "half"}, "node, exact"),
        ({"top": -1}, "negative"),
        ({"metric": "probability"}, "metric"),
        ({"ablation": "zero"}, "ablation"),
        ({"pairs": random_pairs(n=2, seed=5)}, "pairs_sha256"),
        ({"pairs": random_pairs(n=1)}, "2 pairs, and 1 were given"),
        ({"model": tiny("llama")}, "another graph"),
        ({"scores": "flow"}, "metric"),
        ({"scores": "places"}, "the scores have the spans S, end"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, message):
    asked = {"model": tiny("gpt2"), "pairs": random_pairs(n=2), "scores": "eap"} | change
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    flow, places = (asked["scores"] == given for given in ("flow", "places"))
    asked["scores"] = information_flow(model, pairs) if flow else edge_attribution(model, pairs, gradient="clean")
    if places:
        asked["scores"] = asked["scores"].spread(Places(("S", "end")))
    with pytest.raises(InputError, match=message):
        refine(asked.pop("model"), asked.pop("pairs"), asked.pop("scores"), **asked)
