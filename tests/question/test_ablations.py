"""Every ablation against its definition, on the naive forward pass of a tiny GPT-2."""

import pytest
import torch

from circuits import (
    Ablation,
    Circuit,
    InputError,
    PromptPairs,
    attribution_patching,
    circuit_metric,
    edge_attribution,
)
from circuits.question.ablations import ABLATIONS, Gaussian, Mean, MeanPositional, Resample, get_ablation
from circuits.question.question import Question
from tests.naive_gpt2 import NaiveGPT2
from tests.tiny_models import random_hf_model, random_pairs, random_subset, tiny


def naive_metric(pairs, circuit, replacement_of):
    """The circuit's metric per prompt with replacements given by a function of the pair's number and its clean writers."""
    naive, kept, values = NaiveGPT2(random_hf_model("gpt2")), set(circuit.edges), []
    with torch.no_grad():
        clean = [naive.run(torch.tensor(tokens))[1] for tokens in pairs.clean]
        for i, pair in enumerate(pairs):
            logits, _ = naive.run(torch.tensor(pair.clean), kept, replacement_of(i, clean))
            values.append(float(logits[-1, pair.answers[0]] - logits[-1, pair.distractors[0]]))
    return values


def test_mean_is_the_mean_over_prompts_and_positions():
    model, pairs = tiny("gpt2"), random_pairs(n=4)
    circuit = random_subset(model, 0.5)

    def mean(i, clean):
        return {name: torch.stack([c[name] for c in clean]).mean((0, 1)).expand_as(clean[i][name]) for name in clean[i]}

    for batch_size in (1, 4):
        got = circuit_metric(model, pairs, circuit, ablation="mean", batch_size=batch_size)
        assert got.tolist() == pytest.approx(naive_metric(pairs, circuit, mean), abs=1e-9)


def test_positional_mean_is_the_mean_over_prompts_of_the_same_length():
    model, short, long = tiny("gpt2"), random_pairs(n=3, length=5), random_pairs(n=2, length=7, seed=1)
    pairs = PromptPairs.from_pairs([*short, *long], source="both")
    circuit = random_subset(model, 0.5)

    def mean(i, clean):
        same = [c for c in clean if len(c["input"]) == len(clean[i]["input"])]
        return {name: torch.stack([c[name] for c in same]).mean(0) for name in clean[i]}

    for batch_size in (1, 4):
        got = circuit_metric(model, pairs, circuit, ablation="mean_positional", batch_size=batch_size)
        assert got.tolist() == pytest.approx(naive_metric(pairs, circuit, mean), abs=1e-9)


@pytest.mark.parametrize("kind", [Mean, MeanPositional])
def test_means_can_be_taken_over_a_reference_set(kind):
    model, pairs, reference = tiny("gpt2"), random_pairs(n=2), random_pairs(n=6, seed=5)
    circuit = random_subset(model, 0.5)
    naive = NaiveGPT2(random_hf_model("gpt2"))
    with torch.no_grad():
        seen = [naive.run(torch.tensor(tokens))[1] for tokens in reference.clean]

    def mean(i, clean):
        stacked = {name: torch.stack([c[name] for c in seen]) for name in clean[i]}
        if kind is Mean:
            return {name: x.mean((0, 1)).expand_as(clean[i][name]) for name, x in stacked.items()}
        return {name: x.mean(0) for name, x in stacked.items()}

    got = circuit_metric(model, pairs, circuit, ablation=kind(reference))
    assert got.tolist() == pytest.approx(naive_metric(pairs, circuit, mean), abs=1e-9)
    assert "over tokens" in kind(reference).label


def test_resample_takes_another_prompts_clean_value():
    model, pairs = tiny("gpt2"), random_pairs(n=4)
    circuit = random_subset(model, 0.5)
    prepared = Resample(seed=3).prepared(model, pairs, 4)
    partner = [pairs.clean.index(tokens) for tokens in prepared.partners]
    assert all(partner[i] != i for i in range(4))
    got = circuit_metric(model, pairs, circuit, ablation=Resample(seed=3), batch_size=3)
    assert got.tolist() == pytest.approx(naive_metric(pairs, circuit, lambda i, clean: clean[partner[i]]), abs=1e-9)


def test_gaussian_noise_hits_the_differing_tokens_only_and_is_each_pairs_own():
    model = tiny("gpt2")
    pairs = random_pairs(n=3, prefix=3)
    values = {}
    for batch_size in (1, 3):
        question = Question.ask(model, pairs, None, Gaussian(seed=2), batch_size)
        for batch in question.batches():
            _, clean = question.clean_run(batch.suffix)
            noised = question.replacement(batch.suffix, clean)
            difference = noised.embedding - clean.embedding
            for row, index in enumerate(batch.suffix.batch.index.tolist()):
                differs = torch.tensor(pairs.clean[index]) != torch.tensor(pairs.corrupted[index])
                assert not difference[row][~differs].any()
                values.setdefault(index, []).append(difference[row][differs])
    for first, second in values.values():
        torch.testing.assert_close(first, second)
    everything = torch.cat([first.flatten() for first, _ in values.values()])
    sigma = 3 * float(model.bridge.W_E.detach().std())
    assert float(everything.std()) == pytest.approx(sigma, rel=0.2)


def test_all_edges_ablated_is_the_run_with_the_noise():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    noisy = circuit_metric(model, pairs, Circuit.empty(model.graph), ablation=Gaussian(seed=1))
    again = circuit_metric(model, pairs, Circuit.empty(model.graph), ablation=Gaussian(seed=1), batch_size=1)
    other = circuit_metric(model, pairs, Circuit.empty(model.graph), ablation=Gaussian(seed=2))
    torch.testing.assert_close(noisy, again)
    assert not torch.allclose(noisy, other)


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("model_name", ["gpt2", "llama", "gemma2", "native-attention-only"])
def test_no_ablation_does_nothing_and_nothing_ablated_is_the_model(name, model_name):
    model, pairs = tiny(model_name), random_pairs(n=4)
    full = circuit_metric(model, pairs, Circuit.full(model.graph), ablation=name)
    plain = circuit_metric(model, pairs, Circuit.full(model.graph))
    torch.testing.assert_close(full, plain, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(circuit_metric(model, pairs, Circuit.empty(model.graph), ablation=name), full)


def test_mean_ablation_is_not_zero_ablation():
    model, pairs = tiny("gpt2"), random_pairs(n=4)
    mean, zero = (circuit_metric(model, pairs, Circuit.empty(model.graph), ablation=name) for name in ("mean", "zero"))
    assert (mean - zero).abs().min() > 1e-3


@pytest.mark.parametrize(
    ("ablation", "message"),
    [
        (MeanPositional(), "at least 2"),
        (Resample(), "only one"),
        (Gaussian(tokens=("subject",)), "no role 'subject'"),
        ("means", "did you mean mean"),
    ],
)
def test_impossible_ablations_are_refused(ablation, message):
    with pytest.raises(InputError, match=message):
        Question.ask(tiny("gpt2"), random_pairs(n=1), None, ablation)


def test_asking_again_does_not_change_the_given_ablation():
    ablation = Mean()
    Question.ask(tiny("gpt2"), random_pairs(n=2), None, ablation)
    assert ablation.means is None
    assert get_ablation("mean") is not get_ablation("mean")


def test_an_ablation_is_made_by_its_name_and_its_options():
    reference = random_pairs(n=4, seed=5)
    for name in ABLATIONS:
        assert type(Ablation(name)) is ABLATIONS[name]
    assert Ablation("gaussian", tokens=("S",), scale=2.0, seed=3).label == Gaussian(("S",), 2.0, 3).label
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    circuit = random_subset(model, 0.5)
    by_name = circuit_metric(model, pairs, circuit, ablation=Ablation("mean", reference=reference))
    assert by_name.equal(circuit_metric(model, pairs, circuit, ablation=Mean(reference)))
    assert not by_name.equal(circuit_metric(model, pairs, circuit, ablation="mean"))


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (("means",), {}, "did you mean mean"),
        ((), {}, "one of interchange"),
        (("zero",), {"reference": None}, "zero does not take 'reference'; it takes no options"),
        (("mean",), {"seed": 1}, "mean does not take 'seed'; it takes reference"),
        (("mean",), {"reference": [[1, 2]]}, "mean: reference must be PromptPairs, not list"),
    ],
)
def test_ablations_that_do_not_exist_are_refused(given, options, message):
    with pytest.raises(InputError, match=message):
        Ablation(*given, **options)


def test_a_reference_that_does_not_fit_the_model_is_named():
    too_large = PromptPairs.from_tokens([[1, 10**6]], [[1, 2]], answers=[1])
    with pytest.raises(InputError, match="the reference of ablation mean: pair 0"):
        Question.ask(tiny("gpt2"), random_pairs(n=2), None, Mean(too_large))


def test_provenance_identifies_the_reference_by_its_contents():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    one, other = (edge_attribution(model, pairs, ablation=Mean(random_pairs(n=3, seed=seed))) for seed in (5, 6))
    assert one.provenance["ablation"] == other.provenance["ablation"]
    assert one.provenance["reference_sha256"] == random_pairs(n=3, seed=5).digest()
    assert one.provenance["reference_sha256"] != other.provenance["reference_sha256"]


def test_a_role_of_several_tokens_is_disturbed_and_scored_whole():
    model, pairs = tiny("gpt2"), random_pairs(n=3, length=6)
    tokens = (pairs.clean, pairs.corrupted, pairs.answers, pairs.distractors)
    whole = PromptPairs.from_tokens(*tokens, roles=[{"subject": [1, 3]}] * 3)
    apart = PromptPairs.from_tokens(*tokens, roles=[{"first": 1, "last": 2}] * 3)
    empty = Circuit.empty(model.graph)
    together = circuit_metric(model, whole, empty, ablation=Gaussian(("subject",)))
    assert torch.equal(together, circuit_metric(model, apart, empty, ablation=Gaussian(("first", "last"))))
    assert not torch.equal(together, circuit_metric(model, apart, empty, ablation=Gaussian(("first",))))
    spans = attribution_patching(model, whole, positions="roles")
    tokens = attribution_patching(model, apart, positions=["first", "last"])
    torch.testing.assert_close(spans.per_prompt[:, 0], tokens.per_prompt.sum(1), rtol=0, atol=1e-9)
