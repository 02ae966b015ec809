"""Answers of several tokens against naive twins.

The twin of a pair with answers of several tokens is a set of pairs with one token each: for every token of every answer, the prompt
with the answer's earlier tokens behind it. Log-probabilities add up over them, so with one answer a method's result is the sum of its
results on the twin; with several answers, exact effects combine by the metric's definition, and gradients by the chain rule.
"""

from dataclasses import replace
from functools import cache, partial

import pytest
import torch

import circuits
import circuits.methods.atp_star
import circuits.question.question
from circuits import Circuit, InputError, PromptPairs
from circuits.measure.mask_training import Objective
from circuits.question.ablations import Mean, get_ablation
from circuits.question.metrics import METRICS, targets_of
from circuits.question.question import Question
from tests.naive_acdc import naive_acdc
from tests.tiny_models import D_VOCAB, atol, random_pairs, random_subset, tiny

METRICS_OF_SEQUENCES = [name for name, metric in METRICS.items() if metric.sequences]
SMOOTH = ("log_probability", "probability", "log_probability_difference", "probability_difference", "cross_entropy")
FOUR = ("gpt2", "llama", "neox", "gemma2")
"""Plain, grouped, parallel, post-norm."""
ROLES = {"early": 2, "late": 4}


def prompts():
    """Two lengths, common prefixes of 0 to 4 tokens, and a pair whose prompts are the same."""
    groups = [(2, 5, 1), (1, 5, 0), (2, 7, 4)]
    several = [random_pairs(n, length, seed, prefix) for seed, (n, length, prefix) in enumerate(groups)]
    clean, corrupted = (
        [tokens for some in several for tokens in getattr(some, name)] for name in ("clean", "corrupted")
    )
    return [*clean, clean[0]], [*corrupted, clean[0]]


def one_answer(roles=ROLES):
    """One answer and one distractor each: of equal and of unequal length, single tokens too, with a common first token."""
    answers = [[(5, 6, 7)], [(8, 9)], [4], [(10, 11)], [(20, 5)], [(5, 6)]]
    distractors = [[(12, 13)], [(8, 14)], [(4, 5, 6)], [15], [(21, 6)], [7]]
    clean, corrupted = prompts()
    return PromptPairs.from_tokens(clean, corrupted, answers, distractors, roles=[roles] * len(clean))


def many_answers():
    """Several answers of different lengths, with common beginnings; a pair of single tokens is read before its last token."""
    answers = [[(5, 6, 7), (5, 8), 9], [4], [(20, 21), (22, 23), (20, 24, 25)], [(4, 4)], [(6, 5), 7], [(8, 9, 10, 11)]]
    distractors = [[(10, 11), 12], [5, 6], [(20, 30, 31), (22, 9)], [(5, 5), (4, 5), 6], [8, 9], [(8, 9, 12)]]
    clean, corrupted = prompts()
    positions = [len(tokens) - 1 - (i == 1) for i, tokens in enumerate(clean)]
    return PromptPairs.from_tokens(clean, corrupted, answers, distractors, positions, [ROLES] * len(clean))


def aligned_answers():
    """Prompts of unequal length: names of one to three tokens. One pair has equal lengths; one is read before its last token."""
    lengths = [(2, 1, 3), (3, 3, 1), (2, 2, 2), (2, 3, 2), (2, 1, 3)]
    clean, corrupted = [], []
    for i, (start, own, other) in enumerate(lengths):
        tokens = random_pairs(1, 12, 20 + i, 0).clean[0]
        begin, rest = tokens[:start], tokens[-3:]
        clean.append([*begin, *tokens[3 : 3 + own], *rest])
        corrupted.append([*begin, *tokens[6 : 6 + other], *rest])
    answers = [[(5, 6, 7)], [4], [(10, 11)], [(20, 5)], [(5, 6)]]
    distractors = [[(12, 13)], [5], [15], [(21, 6)], [7]]
    positions = [len(tokens) - 1 - (i == 1) for i, tokens in enumerate(clean)]
    roles = [{"early": start, "late": len(tokens) - 1} for (start, *_), tokens in zip(lengths, clean, strict=True)]
    pairs = PromptPairs.from_tokens(clean, corrupted, answers, distractors, positions, roles, align="diff")
    assert [len(alignment) for alignment in pairs.alignments] == [6, 9, 0, 8, 6]
    return pairs


def tokens_of(answer):
    return (answer,) if isinstance(answer, int) else answer


class Twin:
    """The pairs with one token each.

    Attributes:
        pairs: one for every token of every answer and distractor of every pair.
        places: for each of them (pair, side, number of the answer).
    """

    def __init__(self, pairs):
        columns, alignments, self.places = [], [], []
        for number, pair in enumerate(pairs):
            for side in ("answers", "distractors"):
                for which, answer in enumerate(getattr(pair, side)):
                    tokens = tokens_of(answer)
                    for i, token in enumerate(tokens):
                        behind = pair.clean + tokens[:i], pair.corrupted + tokens[:i]
                        columns.append((*behind, [token], [], pair.position + i, dict(pair.roles)))
                        ahead = range(len(pair.corrupted), len(pair.corrupted) + i)
                        alignments.append((*pair.alignment, *ahead) if pair.alignment else ())
                        self.places.append((number, side, which))
        listed = map(list, zip(*columns, strict=True))
        twins = PromptPairs.from_tokens(*listed, metric="log_probability", align="diff")
        self.pairs = replace(twins, alignments=tuple(alignments))

    def summed(self, values, sign=-1):
        """Sums over all tokens of a pair, with `sign` for distractors; values: [token, …]."""
        total = values.new_zeros(1 + self.places[-1][0], *values.shape[1:])
        for (pair, side, _), value in zip(self.places, values, strict=True):
            total[pair] += value if side == "answers" else sign * value
        return total

    def combined(self, metric, log_probabilities):
        """The metric by its definition, from each token's log-probability [token, …]."""
        answers = {}
        for place, value in zip(self.places, log_probabilities, strict=True):
            answers[place] = answers.get(place, 0) + value
        sides = {"answers": [], "distractors": []}
        for side, values in sides.items():
            for pair in range(1 + self.places[-1][0]):
                mine = [p.exp() for (number, where, _), p in answers.items() if (number, where) == (pair, side)]
                values.append(sum(mine))
        right, wrong = (torch.stack(values) for values in sides.values())
        return {
            "log_probability": lambda: right.log(),
            "probability": lambda: right,
            "cross_entropy": lambda: -right.log(),
            "probability_difference": lambda: right - wrong,
            "log_probability_difference": lambda: right.log() - wrong.log(),
        }[metric]()


def close(got, want, model_name):
    assert want.abs().max() > 1e-3
    torch.testing.assert_close(got, want, rtol=1e-3, atol=max(1e-8, 5 * atol(model_name)))


def naive_metrics(model, prompt, pair):
    """Every metric of one pair's answers after `prompt`, one full run of the model for each token."""

    @cache
    def after(text, tokens):
        with torch.no_grad():
            logits = model.bridge(torch.tensor([[*text[: pair.position + 1], *tokens]]), return_type="logits")
        return logits[0, -1].double()

    def log_p(answer):
        tokens = tokens_of(answer)
        return sum(after(prompt, tokens[:i]).log_softmax(-1)[token] for i, token in enumerate(tokens))

    def rank(answer):
        tokens = tokens_of(answer)
        return max(int((after(prompt, tokens[:i]) > after(prompt, tokens[:i])[t]).sum()) for i, t in enumerate(tokens))

    def divergence(tokens):
        clean, other = (after(text, tokens).log_softmax(-1) for text in (pair.clean, prompt))
        return float((clean.exp() * (clean - other)).sum())

    right, wrong = (torch.stack([log_p(answer) for answer in side]) for side in (pair.answers, pair.distractors))
    beginnings = {tokens_of(each)[:i] for each in pair.answers + pair.distractors for i in range(len(tokens_of(each)))}
    return {
        "log_probability": float(right.logsumexp(0)),
        "probability": float(right.exp().sum()),
        "cross_entropy": -float(right.logsumexp(0)),
        "probability_difference": float(right.exp().sum() - wrong.exp().sum()),
        "log_probability_difference": float(right.logsumexp(0) - wrong.logsumexp(0)),
        "rank": float(min(map(rank, pair.answers))),
        "accuracy": float(right.max() > wrong.max()),
        "kl_divergence": sum(map(divergence, beginnings)),
    }


@pytest.mark.parametrize("model_name", FOUR)
def test_the_metric_of_the_model_and_of_no_edges_is_a_naive_loop(model_name):
    model, pairs = tiny(model_name), many_answers()
    both = (pairs.clean, pairs.corrupted)
    want = [[naive_metrics(model, text, pair) for pair, text in zip(pairs, side, strict=True)] for side in both]
    ends = [Circuit.full(model.graph), Circuit.empty(model.graph)]
    for name in METRICS_OF_SEQUENCES:
        got = circuits.circuit_metrics(model, pairs, ends, metric=name, batch_size=4)
        for values, each in zip(got.tolist(), want, strict=True):
            wanted = [metrics[name] for metrics in each]
            assert values == pytest.approx(wanted, rel=1e-3, abs=max(1e-8, atol(model_name))), name


@pytest.mark.parametrize(
    ("model_name", "ablation"), list(zip(FOUR, ("interchange", "zero", "mean", "interchange"), strict=True))
)
def test_a_circuits_metric_combines_those_of_its_tokens(model_name, ablation):
    model, pairs = tiny(model_name), many_answers()
    twin, some = Twin(pairs), random_subset(model, 0.6)
    ablation = Mean(pairs) if ablation == "mean" else ablation
    log_p = circuits.circuit_metric(model, twin.pairs, some, "log_probability", ablation)
    for metric, batch_size in zip(SMOOTH, (1, 2, None, 3, None), strict=True):
        got = circuits.circuit_metric(model, pairs, some, metric, ablation, batch_size)
        close(got, twin.combined(metric, log_p), model_name)


def edges(scores):
    return scores.per_prompt


def nodes(scores):
    return scores.per_prompt.T


def nodes_at(scores):
    return scores.per_prompt.flatten(0, -2).T


GRADIENTS = {
    "clean": {"check_sign": False}, "corrupted": {}, "clean-corrupted": {}, "ig": {"steps": 2}, "relp": {}, "gim": {},
    "ig-activations": {"steps": 1}, "conductance": {"steps": 2, "quadrature": "left"},
}  # fmt: skip
SETS = {"ablation": "interchange", "nodes": "heads"}
METHODS = {
    **{f"eap {name}": (partial(circuits.edge_attribution, gradient=name, **options), edges) for name, options in GRADIENTS.items()},
    "eap under zero": (partial(circuits.edge_attribution, ablation="zero", steps=1), edges),
    "atp": (circuits.attribution_patching, nodes),
    "atp at roles": (partial(circuits.attribution_patching, positions="roles"), nodes_at),
    "denoising": (circuits.activation_patching, nodes),
    "noising at roles": (partial(circuits.activation_patching, direction="noising", positions="roles", nodes="heads"), nodes_at),
    "path patching": (partial(circuits.path_patching, receivers=["logits", "a1.h0<q>"], senders="heads"), nodes),
    "exact edges": (lambda m, p, **o: circuits.exact_edge_effects(m, p, m.graph.edges[::11], **o), nodes),
    "mediation": (lambda m, p, **o: circuits.causal_mediation(m, p, ["a0.h0", "a1.h1"], **o), lambda s: s.per_prompt["indirect"][:, None]),
    "coar": (partial(circuits.coar, samples=64, alpha=0.3, **SETS), nodes),
    "leave one out": (partial(circuits.leave_one_out, **SETS), nodes),
    "shapley": (partial(circuits.shapley, orders=2, **SETS), nodes),
    "banzhaf": (partial(circuits.banzhaf, samples=32, **SETS), nodes),
    "gradient times parameter": (circuits.gradient_times_parameter, nodes),
    "conductance of nodes": (partial(circuits.neuron_conductance, steps=1), nodes),
    "internal influence": (partial(circuits.internal_influence, steps=1), nodes),
}  # fmt: skip
CASES = [(method, FOUR[i % 4]) for i, method in enumerate(METHODS)]
CASES += [(method, name) for name in FOUR for method in ("eap clean", "denoising") if (method, name) not in CASES]


@pytest.mark.parametrize(("method", "model_name"), CASES)
def test_a_methods_result_is_the_sum_over_its_tokens(method, model_name):
    model, pairs, (ask, values) = tiny(model_name), one_answer(), METHODS[method]
    twin = Twin(pairs)
    want = twin.summed(values(ask(model, twin.pairs, metric="log_probability")))
    close(values(ask(model, pairs, metric="log_probability_difference", batch_size=4)), want, model_name)


ALIGNED = (
    "eap clean",
    "eap ig",
    "atp at roles",
    "denoising",
    "noising at roles",
    "path patching",
    "exact edges",
    "mediation",
    "coar",
)


@pytest.mark.parametrize(("method", "model_name"), [(method, FOUR[i % 4]) for i, method in enumerate(ALIGNED)])
def test_tokens_of_answers_behind_aligned_prompts_belong_together(method, model_name):
    model, pairs, (ask, values) = tiny(model_name), aligned_answers(), METHODS[method]
    twin = Twin(pairs)
    want = twin.summed(values(ask(model, twin.pairs, metric="log_probability")))
    close(values(ask(model, pairs, metric="log_probability_difference", batch_size=4)), want, model_name)


@pytest.mark.parametrize("model_name", FOUR)
def test_with_no_edges_the_answer_is_that_of_the_corrupted_prompt_of_another_length(model_name):
    model, pairs = tiny(model_name), aligned_answers()
    alone = PromptPairs.from_tokens(
        pairs.corrupted, None, pairs.answers, pairs.distractors, [pair.corrupted_position for pair in pairs]
    )
    want = circuits.circuit_metric(model, alone, Circuit.full(model.graph), "log_probability_difference", "zero")
    got = circuits.circuit_metric(model, pairs, Circuit.empty(model.graph), "log_probability_difference")
    torch.testing.assert_close(got, want, rtol=1e-4, atol=max(1e-8, atol(model_name)))
    some = random_subset(model, 0.6)
    twin = Twin(pairs)
    log_p = circuits.circuit_metric(model, twin.pairs, some, "log_probability")
    got = circuits.circuit_metric(model, pairs, some, "log_probability_difference")
    close(got, twin.combined("log_probability_difference", log_p), model_name)


def test_answers_of_several_tokens_need_the_last_corrupted_token_to_be_read():
    with pytest.raises(InputError, match=r"is aligned with token 2 of the corrupted prompt, not with its last, 3;"):
        PromptPairs.from_tokens([[1, 2, 3]], [[1, 4, 3, 5]], [[(5, 6)]], align="diff")


@pytest.mark.parametrize("model_name", ["gpt2", "llama"])
@pytest.mark.parametrize("positions", ["roles", False])
def test_atp_stars_signed_estimates_are_the_sum_over_tokens(model_name, positions, monkeypatch):
    """A number large enough makes every size positive, so that absolute values keep the sign."""
    large, whole = 1e4, circuits.methods.atp_star.at_positions
    monkeypatch.setattr(circuits.methods.atp_star, "at_positions", lambda *given: whole(*given) + large)
    model, pairs = tiny(model_name), one_answer()
    twin = Twin(pairs)
    ask = partial(circuits.atp_star, model, positions=positions)
    want = twin.summed(nodes_at(ask(twin.pairs, metric="log_probability")) - large)
    close(nodes_at(ask(pairs, metric="log_probability_difference")) - large, want, model_name)


def test_atp_star_takes_the_absolute_value_of_a_pairs_sum():
    model, pairs = tiny("gpt2"), many_answers()
    plain = circuits.atp_star(model, pairs, qk_fix=False, grad_drop=False, positions=False, metric="probability")
    atp = circuits.attribution_patching(model, pairs, nodes=list(plain.nodes), metric="probability")
    torch.testing.assert_close(plain.per_prompt, atp.per_prompt.abs())


EXACT = ("denoising", "noising at roles", "path patching", "exact edges")


@pytest.mark.parametrize("metric", ["log_probability", "probability_difference"])
@pytest.mark.parametrize(("method", "model_name"), list(zip(EXACT, FOUR, strict=True)))
def test_exact_effects_on_several_answers_combine_by_the_metrics_definition(method, model_name, metric):
    model, pairs, (ask, values) = tiny(model_name), many_answers(), METHODS[method]
    twin = Twin(pairs)
    denoising = method == "denoising"
    start = Circuit.empty(model.graph) if denoising else Circuit.full(model.graph)
    before = circuits.circuit_metric(model, twin.pairs, start, "log_probability")[:, None]
    moved = values(ask(model, twin.pairs, metric="log_probability")) * (1 if denoising else -1)
    want = twin.combined(metric, before + moved) - twin.combined(metric, before)
    close(values(ask(model, pairs, metric=metric)), want * (1 if denoising else -1), model_name)


@pytest.mark.parametrize("model_name", FOUR)
def test_a_gradient_on_several_answers_follows_the_chain_rule(model_name):
    """d log Σ p = Σ p/Σp d log p, for answers and distractors."""
    model, pairs = tiny(model_name), many_answers()
    twin = Twin(pairs)
    log_p = circuits.circuit_metric(model, twin.pairs, Circuit.full(model.graph), "log_probability").requires_grad_()
    metric = twin.combined("log_probability_difference", log_p)
    (weights,) = torch.autograd.grad(metric.sum(), log_p)
    ask = partial(circuits.edge_attribution, model, gradient="clean", check_sign=False)
    each = ask(twin.pairs, metric="log_probability").per_prompt.double()
    want = twin.summed(each * weights[:, None], sign=1)
    close(ask(pairs, metric="log_probability_difference").per_prompt.double(), want, model_name)


def test_conductance_into_the_logits_is_the_total_effect():
    model, pairs = tiny("llama"), many_answers()
    scores = circuits.edge_attribution(
        model, pairs, gradient="conductance", steps=24, metric="log_probability_difference"
    )
    into = [i for i, edge in enumerate(model.graph.edges) if edge.endswith("->logits")]
    clean, corrupted = circuits.circuit_metrics(
        model, pairs, [Circuit.full(model.graph), Circuit.empty(model.graph)], metric="log_probability_difference"
    )
    torch.testing.assert_close(scores.per_prompt[:, into].sum(1).double(), clean - corrupted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("model_name", "metric"), [("gpt2", "log_probability"), ("gemma2", "probability_difference"), ("llama", "kl_divergence")])  # fmt: skip
def test_acdc_is_the_naive_search(model_name, metric):
    model, pairs = tiny(model_name), many_answers()
    one_length = pairs[[i for i, tokens in enumerate(pairs.clean) if len(tokens) == 5]]
    threshold = 1e-4 if metric == "probability_difference" else 0.02
    result = circuits.acdc(model, one_length, threshold, metric=metric)
    kept, _, final = naive_acdc(model, one_length, threshold, metric)
    assert set(result.edges) == kept
    assert 0 < len(kept) < model.graph.n_edges
    assert result.provenance["search"]["final_loss"] == pytest.approx(final, abs=1e-5)


@pytest.mark.parametrize("model_name", ["gpt2", "llama", "gemma2"])
def test_acdcs_loss_is_the_circuits_metric_over_batches_of_all_shapes(model_name):
    model, pairs = tiny(model_name), many_answers()
    result = circuits.acdc(model, pairs, 0.05, metric="log_probability_difference", batch_size=2)
    metric = circuits.circuit_metric(model, pairs, result, "log_probability_difference")
    assert result.provenance["search"]["final_loss"] == pytest.approx(-float(metric.mean()), abs=1e-4)


def test_edge_prunings_objective_and_its_gradient_are_sums_over_tokens():
    model, pairs = tiny("gpt2"), one_answer()
    twin = Twin(pairs)
    torch.manual_seed(0)
    mask = torch.rand(model.graph.edge_mask.shape, dtype=torch.float64) * model.graph.edge_mask

    def under(pairs, metric):
        question = Question.ask(model, pairs, metric)
        leaf, values = mask.clone().requires_grad_(), torch.zeros(len(pairs), dtype=torch.float64)
        objective = Objective(question, absolute=False)
        values = torch.cat([objective.metric(part, leaf) for part in objective.parts])
        order = torch.cat([part.batch.index for part in objective.parts]).argsort()
        return values[order], leaf

    each, at_each = under(twin.pairs, "log_probability")
    total, at_total = under(pairs, "log_probability_difference")
    torch.testing.assert_close(total, twin.summed(each))
    (want,) = torch.autograd.grad(twin.summed(each).sum(), at_each)
    (got,) = torch.autograd.grad(total.sum(), at_total)
    torch.testing.assert_close(got, want)


def test_circuits_are_pruned_tested_refined_and_verified():
    model, pairs = tiny("gpt2"), many_answers()
    metric = "log_probability_difference"
    pruned = circuits.edge_pruning(model, pairs, 20, steps=3, metric="kl_divergence")
    tested = circuits.faithfulness(model, pairs, pruned, metric=metric, n_random=1)
    assert tested.circuit.tolist() == pytest.approx(
        circuits.circuit_metric(model, pairs, pruned, metric).tolist(), abs=1e-12
    )
    assert tested.answers.complete
    scores = circuits.edge_attribution(model, pairs, metric=metric)
    exact = circuits.refine(model, pairs, scores, top=3, how="exact", metric=metric)
    for edge in exact.provenance["refined"]:
        assert exact[edge] == pytest.approx(
            circuits.exact_edge_effects(model, pairs, [edge], metric=metric).to_dict()[edge]
        )


def test_refinement_through_the_receiving_node_is_the_sum_over_tokens():
    model, pairs = tiny("neox"), one_answer()
    twin = Twin(pairs)
    order = circuits.edge_attribution(model, pairs, metric="log_probability_difference")
    twins = circuits.edge_attribution(model, twin.pairs, metric="log_probability")
    got = circuits.refine(model, pairs, order, top=model.graph.n_edges, metric="log_probability_difference")
    want = circuits.refine(model, twin.pairs, twins, top=model.graph.n_edges, metric="log_probability")
    close(got.per_prompt, twin.summed(want.per_prompt), "neox")


@pytest.mark.parametrize("method", ["eap ig", "atp at roles", "denoising", "exact edges", "coar"])
@pytest.mark.parametrize("model_name", ["llama", "gemma2"])
def test_a_result_does_not_depend_on_the_prefix_cache(method, model_name, monkeypatch):
    model, pairs, (ask, values) = tiny(model_name), many_answers(), METHODS[method]
    assert Question.ask(model, pairs, "log_probability").shares_prefix
    cached = values(ask(model, pairs, metric="log_probability"))
    monkeypatch.setattr(circuits.question.question, "_shares_prefix", lambda model, ablation: False)
    close(cached, values(ask(model, pairs, metric="log_probability")), model_name)


def test_information_flow_looks_at_the_prompts_only():
    model, pairs = tiny("gpt2"), many_answers()
    torch.testing.assert_close(
        circuits.information_flow(model, pairs).values, circuits.information_flow(model, single(pairs)).values
    )


def single(pairs):
    """The same prompts with an arbitrary answer."""
    return PromptPairs.from_tokens(pairs.clean, pairs.corrupted, [3] * len(pairs))


def test_resampling_puts_the_same_answer_behind_another_prompt():
    model = tiny("gpt2")
    clean, corrupted = prompts()
    pairs = PromptPairs.from_tokens(clean[:2], corrupted[:2], [[(5, 6)], [(7, 8, 9)]])
    swapped = PromptPairs.from_tokens(clean[1::-1], corrupted[1::-1], [[(5, 6)], [(7, 8, 9)]])
    empty, full = Circuit.empty(model.graph), Circuit.full(model.graph)
    got = circuits.circuit_metric(model, pairs, empty, "log_probability", "resample")
    close(got, circuits.circuit_metric(model, swapped, full, "log_probability"), "gpt2")


def test_noise_is_the_same_in_all_rows_of_a_pair():
    model, pairs = tiny("gpt2"), many_answers()
    question = Question.ask(model, pairs, "log_probability", get_ablation("gaussian"))
    for batch in question.batches():
        tokens, ((_, noise),) = question.ablation.run(model, batch.suffix)
        added = noise(torch.zeros(*tokens.tokens.shape, model.bridge.cfg.d_model, dtype=model.dtype))
        for row, pair in enumerate(batch.suffix.batch.forced.pair.tolist()):
            first = batch.suffix.batch.forced.pair.tolist().index(pair)
            assert torch.equal(added[row], added[first])


def test_answers_are_ranked_by_their_worst_token():
    model, pairs = tiny("llama"), many_answers()
    tested = circuits.faithfulness(model, pairs, Circuit.full(model.graph), metric="log_probability", n_random=0)
    want = [1 + naive_metrics(model, pair.clean, pair)["rank"] for pair in pairs]
    assert tested.answers.ranks.tolist() == want
    with torch.no_grad():
        firsts = [int(model.bridge(torch.tensor([pair.clean]))[0, pair.position].argmax()) for pair in pairs]
    assert tested.answers.first.tolist() == firsts


def test_one_row_serves_answers_with_the_same_beginning():
    pairs = PromptPairs.from_tokens([[1, 2, 3]], [[1, 4, 3]], [[(5, 6, 7), (5, 8), 9]], [[(10, 11)]])
    (batch,) = pairs.batches(8)
    assert batch.clean.tolist() == [[1, 2, 3, 5, 6], [1, 2, 3, 10, 10]]
    assert batch.corrupted.tolist() == [[1, 4, 3, 5, 6], [1, 4, 3, 10, 10]]
    assert batch.position.tolist() == [2, 3, 4, 3]
    assert batch.forced.row.tolist() == [0, 0, 0, 1]
    assert targets_of(batch).forced is batch.forced
    assert batch.prefix == 1


def test_a_metric_of_single_tokens_is_refused_with_both_ways_out():
    pairs, wanted = (
        many_answers(),
        r"pair 0: an answer has several tokens, and {} takes one; .*log_probability.*first_token=True",
    )
    with pytest.raises(InputError, match=wanted.format("logit_difference")):
        circuits.edge_attribution(tiny("gpt2"), pairs)
    with pytest.raises(InputError, match=wanted.format("<lambda>")):
        circuits.edge_attribution(tiny("gpt2"), pairs, metric=lambda logits, targets: logits[:, 0])
    one_length, empty = pairs[[0, 1, 2]], Circuit.empty(tiny("gpt2").graph)
    with pytest.raises(InputError, match="mean_positional ablation has no mean at the positions of answers"):
        circuits.circuit_metric(tiny("gpt2"), one_length, empty, "probability", "mean_positional")


def test_a_metric_of_ones_own_takes_sequences_if_it_says_so():
    def best(logits, targets):
        right, wrong = targets.log_probabilities(logits)
        return right.amax(-1) - wrong.amax(-1)

    model, pairs = tiny("gpt2"), one_answer()
    own = circuits.Metric("best", best, unit="nats", sequences=True)
    got = circuits.edge_attribution(model, pairs, metric=own).per_prompt
    want = circuits.edge_attribution(model, pairs, metric="log_probability_difference").per_prompt
    torch.testing.assert_close(got, want)
    assert max(max(tokens_of(entry)) for each in pairs.answers for entry in each) < D_VOCAB


@pytest.mark.parametrize("destinations", [False, True])
def test_effects_at_places_sum_to_the_edges_effect(destinations):
    model, pairs = tiny("gpt2"), one_answer({"early": 2})
    ask = partial(circuits.edge_attribution, model, pairs, steps=1, metric="log_probability_difference")
    placed = ask(positions="spans", destinations=destinations)
    torch.testing.assert_close(placed.values, ask().values, rtol=1e-6, atol=1e-8)


def test_a_circuit_over_places_reads_all_tokens_of_the_answers():
    model, pairs = tiny("llama"), one_answer({"early": 2})
    metric = "log_probability_difference"
    placed = circuits.edge_attribution(model, pairs, positions="spans", steps=1, metric=metric).placed
    some = placed.top(placed.graph.n_edges)
    whole = circuits.circuit_metric(model, pairs, Circuit.full(model.graph), metric)
    close(circuits.circuit_metric(model, pairs, some, metric), whole, "llama")
    fewer = placed.top(placed.graph.n_edges // 2)
    single = torch.cat([circuits.circuit_metric(model, pairs[[i]], fewer, metric) for i in range(len(pairs))])
    close(circuits.circuit_metric(model, pairs, fewer, metric), single, "llama")


def test_methods_of_one_next_token_refuse():
    model, pairs = tiny("gpt2"), one_answer()
    for method in (circuits.direct_effects, circuits.logit_lens, circuits.self_repair, circuits.head_kinds):
        with pytest.raises(
            InputError, match="reads one next token of each prompt, and an answer has several; keep the first"
        ):
            method(model, pairs, **({} if method is circuits.head_kinds else {"metric": "log_probability"}), **({"nodes": "heads"} if method is circuits.self_repair else {}))  # fmt: skip
