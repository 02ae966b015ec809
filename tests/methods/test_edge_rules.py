"""RelP, IG over activations and conductance against node-by-node models, and the identities they must satisfy."""

import warnings

import pytest
import torch

import circuits
from circuits import (
    AttributionWarning,
    Circuit,
    InputError,
    Metric,
    ModelError,
    PromptPairs,
    circuit_metrics,
    edge_attribution,
)
from circuits.engine.relp_rules import relevance
from circuits.question.metrics import get_metric
from tests.clean_gradients import gradients_of
from tests.naive_edges import LeafGPT2, LeafLlama, RelevanceGPT2, edge_gradients, mean_products
from tests.tiny_models import FEW, atol, random_hf_model, random_pairs, tiny

NEW = ("ig-activations", "conductance", "relp")


def writers_of(naive, tokens, held=None):
    with torch.no_grad():
        return naive.logits(torch.tensor(tokens), {}, held)[1]


def differences(naive, pair):
    clean, corrupted = writers_of(naive, pair.clean), writers_of(naive, pair.corrupted)
    return {name: clean[name] - corrupted[name] for name in clean}


def test_relp_on_gpt2_is_its_rules_written_out():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    naive = RelevanceGPT2(random_hf_model("gpt2"))

    def terms(pair):
        yield differences(naive, pair), edge_gradients(naive, model.graph.edges, pair), None

    wanted = mean_products(model.graph.edges, pairs, terms)
    assert edge_attribution(model, pairs, gradient="relp").to_dict() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("attention", ["live", "detached"])
def test_relp_on_llama_is_its_rules_written_out(attention):
    model, pairs = tiny("llama"), random_pairs(n=2)
    naive = LeafLlama(random_hf_model("llama"), attention == "detached")

    def terms(pair):
        yield differences(naive, pair), edge_gradients(naive, model.graph.edges, pair), None

    wanted = mean_products(model.graph.edges, pairs, terms)
    got = edge_attribution(model, pairs, gradient="relp", attention=attention).to_dict()
    assert got == pytest.approx(wanted, abs=1e-5)
    to_queries = [value for edge, value in got.items() if edge.endswith(("<q>", "<k>"))]
    assert any(to_queries) == (attention == "live")


@pytest.mark.parametrize("name", FEW)
def test_the_rules_leave_the_forward_pass_and_the_model_as_they_are(name):
    model, batch = tiny(name), next(iter(random_pairs(n=2).batches(2)))

    plain = gradients_of(model, batch)
    with relevance(model.architecture, "live") as rules:
        ruled = gradients_of(model, batch, rules.hooks)
    torch.testing.assert_close(ruled.logits, plain.logits, rtol=1e-6, atol=1e-6)
    if model.graph.mlps[0]:
        assert not torch.allclose(ruled.q[1], plain.q[1], rtol=1e-2)
    again = gradients_of(model, batch)
    assert torch.equal(again.logits, plain.logits)
    assert torch.equal(again.q[1], plain.q[1])


@pytest.mark.parametrize(
    "name", ["llama", "mistral", "gemma", "qwen3", "olmo2", "phi3", "granite", "smollm3", "cohere"]
)
def test_relevance_is_conserved_where_there_are_no_biases(name):
    """With all rules on, a model without biases is linear in its embedding: what comes in at the embedding is the metric."""
    model, pairs = tiny(name), random_pairs(n=2)
    scores = edge_attribution(model, pairs, gradient="relp", attention="detached", ablation="zero")
    whole = circuit_metrics(model, pairs, [Circuit.full(model.graph)])
    assert float(scores.values[0].sum()) == pytest.approx(float(whole.mean()), rel=1e-4, abs=1e-4)


def test_relp_refuses_experts_by_name():
    with pytest.raises(ModelError, match="layer 0: its MLP is a MoEBridge"):
        edge_attribution(tiny("mixtral"), random_pairs(n=1), gradient="relp")


def test_relp_refuses_to_detach_a_pattern_that_the_model_does_not_let_it_touch():
    with pytest.raises(ModelError, match="attention='live'"):
        edge_attribution(tiny("opt"), random_pairs(n=1), gradient="relp", attention="detached")


def groups(graph):
    yield ["input"]
    for layer in range(graph.n_layers):
        yield [f"a{layer}.h{h}" for h in range(graph.n_heads)]
        if graph.mlps[layer]:
            yield [f"m{layer}"]


@pytest.mark.parametrize(("quadrature", "points"), [("right", (0.5, 1.0)), ("midpoint", (0.25, 0.75))])
def test_ig_over_activations_holds_one_layers_writers_between_both_runs(quadrature, points):
    model, pairs = tiny("gpt2"), random_pairs(n=1)
    naive = LeafGPT2(random_hf_model("gpt2"))

    def terms(pair):
        clean, corrupted = writers_of(naive, pair.clean), writers_of(naive, pair.corrupted)
        halves = {name: (clean[name] - corrupted[name]) / 2 for name in clean}
        for group in groups(model.graph):
            for alpha in points:
                held = {name: corrupted[name] + alpha * (clean[name] - corrupted[name]) for name in group}
                yield halves, edge_gradients(naive, model.graph.edges, pair, held), group

    wanted = mean_products(model.graph.edges, pairs, terms)
    got = edge_attribution(model, pairs, gradient="ig-activations", steps=2, quadrature=quadrature).to_dict()
    assert got == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "neox"])
def test_ig_over_activations_sums_to_the_exact_effect_of_the_writers_out_edges(name):
    model, pairs = tiny(name), random_pairs(n=2)
    scores = edge_attribution(model, pairs, gradient="ig-activations", steps=20)
    full = Circuit.full(model.graph)
    for group in list(groups(model.graph))[-3:]:
        out = Circuit.from_edges(model.graph, [e for e in model.graph.edges if e.split("->")[0] in group])
        with_it, without = circuit_metrics(model, pairs, [full, full - out]).mean(1).tolist()
        rows = [model.graph.writer_index(w) for w in group]
        assert float(scores.values[rows].sum()) == pytest.approx(with_it - without, rel=2e-2, abs=2e-3)


@pytest.mark.parametrize(("quadrature", "at"), [("left", 0.0), ("midpoint", 0.5), ("right", 1.0)])
def test_conductance_is_gradient_times_what_each_step_changes(quadrature, at):
    model, pairs, steps = tiny("gpt2"), random_pairs(n=1), 3
    naive = LeafGPT2(random_hf_model("gpt2"))

    def terms(pair):
        clean, corrupted = writers_of(naive, pair.clean)["input"], writers_of(naive, pair.corrupted)["input"]

        def held(alpha):
            return {"input": corrupted + alpha * (clean - corrupted)}

        for k in range(steps):
            before, after = (writers_of(naive, pair.clean, held(j / steps)) for j in (k, k + 1))
            change = {name: after[name] - before[name] for name in after}
            yield change, edge_gradients(naive, model.graph.edges, pair, held((k + at) / steps)), None

    wanted = mean_products(model.graph.edges, pairs, terms)
    got = edge_attribution(model, pairs, gradient="conductance", steps=steps, quadrature=quadrature).to_dict()
    assert got == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_conductance_into_the_logits_and_out_of_the_input_is_the_total_effect(name):
    model, pairs = tiny(name), random_pairs(n=2)
    full, empty = (
        circuit_metrics(model, pairs, [Circuit.full(model.graph), Circuit.empty(model.graph)]).mean(1).tolist()
    )
    scores = edge_attribution(model, pairs, gradient="conductance", steps=40).values
    assert float(scores[:, -1].sum()) == pytest.approx(full - empty, rel=2e-2)
    assert float(scores[0].sum()) == pytest.approx(full - empty, rel=2e-2)


def test_conductance_sums_exactly_where_the_metric_is_linear_in_what_the_logits_see():
    """Without norms the logits are linear in the writers, so that every quadrature telescopes to rounding."""
    model, pairs = tiny("native-attention-only"), random_pairs(n=2)
    full, empty = (
        circuit_metrics(model, pairs, [Circuit.full(model.graph), Circuit.empty(model.graph)]).mean(1).tolist()
    )
    scores = edge_attribution(model, pairs, gradient="conductance", steps=3).values
    assert float(scores[:, -1].sum()) == pytest.approx(full - empty, abs=1e-7)


def test_with_one_step_conductance_is_ig_under_interchange():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    one, ig = (edge_attribution(model, pairs, gradient=g, steps=1).values for g in ("conductance", "ig"))
    torch.testing.assert_close(one, ig)


@pytest.mark.parametrize("gradient", NEW)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_identical_prompts_score_exactly_zero(name, gradient):
    pairs = random_pairs(n=2)
    same = PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    assert not edge_attribution(tiny(name), same, gradient=gradient, steps=2).values.any()


@pytest.mark.parametrize("gradient", NEW)
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_scores_do_not_depend_on_batch_size_order_or_duplication(name, gradient):
    model, pairs = tiny(name), random_pairs(n=3, prefix=2)
    reference = edge_attribution(model, pairs, gradient=gradient, steps=2, batch_size=3).values
    for other, size in ((pairs[[2, 0, 1]], 2), (pairs[[0, 0, 1, 1, 2, 2]], 4)):
        got = edge_attribution(model, other, gradient=gradient, steps=2, batch_size=size).values
        torch.testing.assert_close(got, reference, rtol=1e-5, atol=max(1e-7, atol(name)))


@pytest.mark.parametrize("gradient", NEW)
def test_effects_split_by_position_sum_to_the_whole(gradient):
    scores = edge_attribution(tiny("llama"), random_pairs(n=2, prefix=2), gradient=gradient, steps=2, positions="each")
    assert scores.by_position is not None
    torch.testing.assert_close(scores.by_position.sum(-1), scores.values, rtol=1e-4, atol=1e-6)
    assert scores.values.any()


def test_options_that_belong_to_no_rule_are_refused_and_those_that_count_are_recorded():
    model, pairs = tiny("gpt2"), random_pairs(n=1)
    with pytest.raises(InputError, match="live, detached"):
        edge_attribution(model, pairs, gradient="relp", attention="dead")
    with pytest.raises(InputError, match="minimum"):
        edge_attribution(model, pairs, gradient="relp", metric="kl_divergence")
    relp = edge_attribution(model, pairs, gradient="relp")
    assert relp.provenance["options"] == {"gradient": "relp", "attention": "live"}
    conductance = edge_attribution(model, pairs, gradient="conductance", steps=2)
    assert conductance.provenance["options"] == {"gradient": "conductance", "steps": 2, "quadrature": "midpoint"}


def misleading_metric(slope):
    """Has its top near the clean run, and there a small slope: any large change lowers it, whatever the gradient says."""

    def function(logits, targets):
        change = get_metric("logit_difference")(logits, targets) - get_metric("logit_difference")(
            targets.clean_logits, targets
        )
        return slope * change - (1e6 * change.square()).tanh()

    return Metric("top", function, needs_clean_logits=True)


def question_that_misleads_eap():
    model, pairs = tiny("gpt2"), random_pairs(n=4)
    metric = misleading_metric(1e-3)
    score = edge_attribution(model, pairs, gradient="clean", metric=metric, check_sign=False)["input->m0"]
    return model, pairs, metric if score < 0 else misleading_metric(-1e-3)


def test_eap_warns_where_the_first_mlps_edge_has_the_wrong_sign():
    model, pairs, metric = question_that_misleads_eap()
    with pytest.warns(AttributionWarning, match=r"input->m0 -.* effect of \+.* on 4 prompts"):
        scores = edge_attribution(model, pairs, gradient="clean", metric=metric)
    exact = circuits.exact_edge_effects(model, pairs, ["input->m0"], metric=metric).to_dict()["input->m0"]
    assert scores["input->m0"] < 0 < exact


def test_the_sign_check_is_silent_where_it_has_nothing_to_say_or_is_not_asked():
    model, pairs, metric = question_that_misleads_eap()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edge_attribution(model, pairs, gradient="clean", metric=metric, check_sign=False)
        edge_attribution(model, pairs[[0]], gradient="clean", metric=metric)  # one prompt: no error to compare with
        edge_attribution(model, pairs, gradient="relp", metric=metric)
        edge_attribution(model, pairs, gradient="clean")  # the signs agree
        edge_attribution(tiny("native-attention-only"), pairs, gradient="clean", metric=metric)  # no MLP


@pytest.mark.real_model
def test_eap_warns_on_smollm2_and_ioi(smollm2):
    import tasks

    with pytest.warns(AttributionWarning, match=r"effect of \+1\d\."):
        edge_attribution(smollm2, tasks.load("ioi").pairs(smollm2, n=8, seed=0), gradient="clean")
