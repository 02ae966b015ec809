"""EAP and EAP-IG against naive autograd, published numbers, TransformerLens, and the identities they must satisfy."""

import json
from pathlib import Path

import pytest
import torch

import circuits
from circuits import Circuit, InputError, PromptPairs, circuit_metrics, edge_attribution
from circuits.engine.capture import capture_writes, stack
from circuits.engine.hooks import TokenBatch, run
from circuits.question.metrics import get_metric, targets_of
from tests.naive_gpt2 import NaiveGPT2
from tests.tiny_models import ALL, FEW, atol, random_hf_model, random_pairs, tiny

GOLDEN = Path(__file__).parents[1] / "golden" / "acdc_2l2h_kl"


@pytest.fixture(scope="module")
def golden():
    case = json.loads((GOLDEN / "case.json").read_text())
    peer = json.loads((GOLDEN / "peer_edges.json").read_text())
    model = circuits.load_model(GOLDEN / "model", dtype="float64")
    pairs = PromptPairs.from_tokens(case["clean"], case["ablated"], case["answer"], case["distractor"])
    return model, pairs, peer


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("eap", {"gradient": "clean"}),
        ("eap_ig_5_left", {"gradient": "ig", "steps": 5, "quadrature": "left"}),
        ("clean_corrupted", {"gradient": "clean-corrupted"}),
    ],
)
def test_scores_are_the_eap_ig_repositorys(golden, key, options):
    model, pairs, peer = golden
    scores = edge_attribution(model, pairs, **options).to_dict()
    assert scores == pytest.approx(peer[key], abs=1e-6)


def test_forty_edges_ablated_alone_have_the_exact_effects(golden):
    model, pairs, peer = golden
    wanted = peer["exact_edge_effect_40"]
    full = Circuit.full(model.graph)
    asked = [full, *(full - Circuit.from_edges(model.graph, [edge]) for edge in wanted)]
    values = circuit_metrics(model, pairs, asked).mean(1)
    effects = dict(zip(wanted, (values[0] - values[1:]).tolist(), strict=True))
    assert effects == pytest.approx(wanted, abs=1e-6)


def test_four_circuits_have_the_published_logit_differences(golden):
    model, pairs, peer = golden
    asked = [Circuit.from_edges(model.graph, entry["kept"]) for entry in peer["circuits"]]
    values = circuit_metrics(model, pairs, asked)
    for got, entry in zip(values, peer["circuits"], strict=True):
        assert got.tolist() == pytest.approx(entry["logit_diff"], abs=1e-6)


def naive_eap(name, pairs):
    """Every edge's score by autograd through the node-by-node GPT-2, with a zero leaf added to each reader's input."""
    naive = NaiveGPT2(random_hf_model(name))
    model = tiny(name)
    scores = []
    for pair in pairs:
        with torch.no_grad():
            _, clean = naive.run(torch.tensor(pair.clean))
            _, corrupted = naive.run(torch.tensor(pair.corrupted))
        leaves = {f"{w}->{r}": torch.zeros_like(clean["input"]).requires_grad_()
                  for w, r in (edge.split("->") for edge in model.graph.edges)}  # fmt: skip
        logits = naive_run_with_leaves(naive, torch.tensor(pair.clean), leaves)
        metric = logits[-1, pair.answers[0]] - logits[-1, pair.distractors[0]]
        gradients = torch.autograd.grad(metric, list(leaves.values()))
        scores.append([
            float(((clean[edge.split("->")[0]] - corrupted[edge.split("->")[0]]) * g).sum())
            for edge, g in zip(leaves, gradients, strict=True)
        ])  # fmt: skip
    mean = torch.tensor(scores, dtype=torch.float64).mean(0)
    return dict(zip(leaves, mean.tolist(), strict=True))


def naive_run_with_leaves(naive, tokens, leaves):
    transformer = naive.model.transformer
    writers = {"input": transformer.wte(tokens) + transformer.wpe(torch.arange(len(tokens)))}
    constant = torch.zeros_like(writers["input"])

    def seen_by(reader):
        return constant + sum(value + leaves[f"{writer}->{reader}"] for writer, value in writers.items())

    for layer, block in enumerate(transformer.h):
        writers |= {
            f"a{layer}.h{h}": naive.head(block, h, *(seen_by(f"a{layer}.h{h}<{part}>") for part in "qkv"))
            for h in range(naive.config.n_head)
        }
        constant = constant + block.attn.c_proj.bias
        writers[f"m{layer}"] = naive.mlp(block, seen_by(f"m{layer}"))
    return naive.model.lm_head(naive.norm(seen_by("logits"), transformer.ln_f))


def test_eap_is_a_leaf_on_every_edge_differentiated():
    pairs = random_pairs(n=3)
    got = edge_attribution(tiny("gpt2"), pairs, gradient="clean").to_dict()
    assert got == pytest.approx(naive_eap("gpt2", pairs), abs=1e-9)


def test_eap_is_transformerlens_attribution_patch():
    """Their edge mode takes gradients at the corrupted run, so the prompts are swapped; they return per position."""
    from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

    model, pairs = tiny("gpt2"), random_pairs(n=1)
    pair = next(iter(pairs))

    def metric(logits):
        return logits[0, -1, pair.answers[0]] - logits[0, -1, pair.distractors[0]]

    theirs = attribution_patch(
        model.bridge,
        torch.tensor([pair.corrupted]),
        torch.tensor([pair.clean]),
        metric,
        EdgeAttributionConfig(granularity="edge"),
    )
    summed = dict.fromkeys(model.graph.edges, 0.0)
    for (writer, reader), score in theirs.edge_scores.items():
        summed[f"{our_name(writer)}->{our_name(reader)}"] -= float(score)
    assert edge_attribution(model, pairs, gradient="clean").to_dict() == pytest.approx(summed, abs=1e-9)


def our_name(node):
    """The name of one of TransformerLens' nodes (of any position)."""
    if node.kind in ("embed", "logits"):
        return {"embed": "input", "logits": "logits"}[node.kind]
    if node.kind.startswith("mlp"):
        return f"m{node.layer}"
    part = "" if node.kind == "attn_head_out" else f"<{node.kind[0]}>"
    return f"a{node.layer}.h{node.head}{part}"


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("gradient", ["clean", "ig"])
def test_identical_prompts_score_exactly_zero(name, gradient):
    pairs = random_pairs()
    same = PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    assert not edge_attribution(tiny(name), same, gradient=gradient).values.any()


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("gradient", ["clean", "ig"])
def test_scores_do_not_depend_on_batch_size_order_or_duplication(name, gradient):
    model, pairs = tiny(name), random_pairs(n=3, prefix=2)
    # Whether the sign of input->m0 is right on these random weights is not asked here.
    reference = edge_attribution(model, pairs, gradient=gradient, batch_size=3, check_sign=False).values
    for other in (pairs, pairs[[1, 2, 0]], pairs[[0, 0, 1, 1, 2, 2]]):
        for batch_size in (1, 2):
            got = edge_attribution(model, other, gradient=gradient, batch_size=batch_size, check_sign=False).values
            torch.testing.assert_close(got, reference, rtol=1e-5, atol=max(1e-7, atol(name)))


@pytest.mark.parametrize("name", FEW)
def test_pairs_of_different_lengths_are_scored_as_each_length_alone(name):
    model, short, long = tiny(name), random_pairs(n=2, length=5), random_pairs(n=4, length=8, seed=1)
    both = PromptPairs.from_tokens(
        [*short.clean, *long.clean], [*short.corrupted, *long.corrupted],
        [*short.answers, *long.answers], [*short.distractors, *long.distractors],
    )  # fmt: skip
    mixed = edge_attribution(model, both, gradient="clean").values
    apart = [edge_attribution(model, pairs, gradient="clean").values for pairs in (short, long)]
    torch.testing.assert_close(mixed, (apart[0] * 2 + apart[1] * 4) / 6, rtol=1e-4, atol=atol(name))


@pytest.mark.parametrize("name", FEW)
def test_ig_with_one_step_and_the_right_rule_is_eap(name):
    model, pairs = tiny(name), random_pairs(n=3)
    one = edge_attribution(model, pairs, gradient="ig", steps=1, quadrature="right").values
    eap = edge_attribution(model, pairs, gradient="clean").values
    torch.testing.assert_close(one, eap, rtol=1e-5, atol=atol(name))


def test_integrated_out_edges_of_the_input_sum_to_the_total_effect():
    """Completeness: the path integral of the gradient along the embedding is metric(clean) - metric(corrupted)."""
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    full, empty = circuit_metrics(model, pairs, [Circuit.full(model.graph), Circuit.empty(model.graph)])
    scores = edge_attribution(model, pairs, gradient="ig", steps=100)
    total = float((full - empty).mean())
    assert float(scores.values[0].sum()) == pytest.approx(total, rel=2e-2)


@pytest.mark.parametrize("name", ALL)
def test_a_nodes_out_edges_sum_to_its_attribution_patching(name):
    """Identity 2: (clean - corrupted) · gradient at the node's write = the sum of EAP over its out-edges."""
    model, pairs = tiny(name), random_pairs(n=3)
    batch = next(iter(pairs.batches(3)))
    writes = {}
    for which in ("clean", "corrupted"):
        tokens = getattr(batch, which)
        _, captured = capture_writes(model.architecture, TokenBatch(tokens, batch.position))
        writes[which] = stack(model.architecture, captured, torch.float64).detach()
    gradients = {}

    def keep(key):
        def hook(x):
            gradients[key] = x if x.requires_grad else x.requires_grad_()
            return gradients[key]

        return hook

    hooks = [(model.architecture.blocks[0].resid_pre, keep("input"))]
    for block in model.architecture.blocks:
        hooks.append((block.attn_out, keep(f"a{block.layer}")))
        if block.mlp_out is not None:
            hooks.append((block.mlp_out, keep(f"m{block.layer}")))
    logits = run(model.architecture, TokenBatch(batch.clean, batch.position), hooks)
    metric = get_metric("logit_difference")(logits, targets_of(batch)).sum()
    result = dict(zip(gradients, torch.autograd.grad(metric, list(gradients.values())), strict=True))
    scores = edge_attribution(model, pairs, gradient="clean", check_sign=False).values.sum(1)
    for w, writer in enumerate(model.graph.writer_nodes):
        g = result[writer.name if writer.kind != "head" else f"a{writer.layer}"]
        difference = writes["clean"][:, w] - writes["corrupted"][:, w]
        wanted = float((difference * g).sum((1, 2)).mean().detach())
        assert float(scores[w]) == pytest.approx(wanted, abs=atol(name), rel=1e-4)


def test_standard_errors_are_those_of_the_scores_of_single_prompts():
    model, pairs = tiny("gpt2"), random_pairs(n=5)
    together = edge_attribution(model, pairs, gradient="clean")
    alone = torch.stack([edge_attribution(model, pairs[i : i + 1], gradient="clean").values for i in range(5)])
    torch.testing.assert_close(together.values, alone.mean(0))
    torch.testing.assert_close(together.stderr, alone.std(0) / 5**0.5, rtol=1e-6, atol=1e-9)


def test_effects_of_a_loss_are_signed_like_the_behaviour():
    """Cross entropy is log probability with the sign turned: both say that the same edges help."""
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    gain = edge_attribution(model, pairs, gradient="clean", metric="log_probability").values
    loss = edge_attribution(model, pairs, gradient="clean", metric="cross_entropy").values
    torch.testing.assert_close(gain, loss)


def test_zero_ablation_takes_the_whole_value_as_difference():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    other = PromptPairs.from_tokens(pairs.clean, random_pairs(n=2, seed=9).clean, pairs.answers, pairs.distractors)
    scores = [edge_attribution(model, p, gradient="clean", ablation="zero").values for p in (pairs, other)]
    torch.testing.assert_close(*scores)  # the corrupted prompts are not looked at
    assert scores[0].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "clean", "metric": "kl_divergence"}, "minimum"),
        ({"metric": "rank"}, "gradient"),
        ({"metric": "logit_diff"}, "did you mean logit_difference"),
        ({"ablation": "interchang"}, "did you mean interchange"),
        ({"steps": 0}, "at least 1"),
        ({"quadrature": "centre"}, "left, midpoint, right"),
        ({"gradient": "corrupt"}, "clean-corrupted, ig"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(options, message):
    with pytest.raises(InputError, match=message):
        edge_attribution(tiny("gpt2"), random_pairs(n=1), **options)


def test_kl_divergence_can_be_integrated():
    scores = edge_attribution(tiny("gpt2"), random_pairs(n=2), gradient="ig", metric="kl_divergence")
    assert scores.values.any()


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("gradient", ["clean", "ig"])
def test_effects_split_by_position_sum_to_the_whole(name, gradient):
    model, pairs = tiny(name), random_pairs(n=3, prefix=2)
    scores = edge_attribution(model, pairs, gradient=gradient, positions="each")
    assert scores.positions == tuple("0123456")
    torch.testing.assert_close(scores.by_position.sum(-1), scores.values, rtol=1e-4, atol=1e-6)
    assert not scores.by_position[..., :2].any()
    assert len(scores.to_dict()["input->logits"]) == 7


def test_an_edge_at_a_role_is_that_positions_part_of_it():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    with_roles = PromptPairs.from_tokens(
        pairs.clean, pairs.corrupted, pairs.answers, pairs.distractors, roles=[{"a": 2, "b": 5}, {"a": 4, "b": 1}]
    )
    scores = edge_attribution(model, with_roles, gradient="clean", positions=("b", "a"))
    each = [edge_attribution(model, pairs[[i]], gradient="clean", positions="each").by_position for i in range(2)]
    wanted = torch.stack([(each[0][..., 5] + each[1][..., 1]) / 2, (each[0][..., 2] + each[1][..., 4]) / 2], -1)
    torch.testing.assert_close(scores.by_position, wanted)


@pytest.mark.parametrize("gradient", ["clean", "ig", "conductance", "ig-activations"])
def test_effects_at_a_position_have_standard_errors_over_prompts(gradient):
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    options = {"gradient": gradient, "steps": 2, "positions": "each"}
    each = torch.stack([edge_attribution(model, pairs[[i]], **options).by_position for i in range(3)])
    scores = edge_attribution(model, pairs, batch_size=2, **options)
    torch.testing.assert_close(scores.by_position_stderr, each.std(0) / 3**0.5, rtol=1e-9, atol=1e-12)
    assert edge_attribution(model, pairs[[0]], **options).by_position_stderr[model.graph.edge_mask].isnan().all()


def test_the_gradient_at_corrupted_is_eap_from_the_other_side():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    swapped = PromptPairs.from_tokens(pairs.corrupted, pairs.clean, pairs.answers, pairs.distractors)
    there = edge_attribution(model, pairs, gradient="corrupted").values
    torch.testing.assert_close(there, -edge_attribution(model, swapped, gradient="clean").values)
    both = edge_attribution(model, pairs, gradient="clean-corrupted").values
    torch.testing.assert_close(both, (there + edge_attribution(model, pairs, gradient="clean").values) / 2)
