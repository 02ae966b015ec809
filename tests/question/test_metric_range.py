"""A range within rounding is not divided by: the size of rounding on several architectures and dtypes, and all shares of the range."""

import dataclasses
import json
import math

import pytest
import torch

import circuits
from circuits import Circuit, InputError, NodeScores
from circuits.evaluation.completeness import Completeness
from circuits.evaluation.faithfulness import Faithfulness, measure_circuits
from circuits.question.metric_range import MetricRange, computed_dtype, share_of_range
from circuits.question.metrics import METRICS
from circuits.question.question import Question
from circuits.stats.correlation import correlation
from circuits.stats.rounding import ROUNDING
from tests.tiny_models import random_pairs, random_subset, tiny

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
DIFFERENTIABLE = [name for name, metric in METRICS.items() if metric.differentiable]


def identical(n=6, seed=0):
    """Pairs whose corrupted prompt is the clean one."""
    pairs = random_pairs(n=n, seed=seed)
    return dataclasses.replace(pairs, corrupted=pairs.clean)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("gpt2", DTYPES[0]), ("gpt2", DTYPES[1]), ("llama", DTYPES[0]), ("neox", DTYPES[2]), ("gemma2", DTYPES[1])],
)
def test_identical_prompts_have_no_faithfulness_whatever_the_metric(name, dtype):
    model = tiny(name, dtype)
    circuit = circuits.random_circuit(model.graph, 20, torch.Generator().manual_seed(1))
    for metric in ("logit_difference", "kl_divergence", "log_probability"):
        result = circuits.faithfulness(model, identical(n=3), circuit, metric=metric, n_random=2)
        assert math.isnan(result.value), (metric, result.value)
        assert math.isnan(result.mean_of_ratios)
        assert math.isnan(result.random_value)
        assert result.undefined is not None
        assert "rounding" in result.undefined
        assert "undefined" in str(result)
        assert result.p_value == 1  # all tie, to rounding


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "neox"])
def test_above_rounding_shares_are_the_plain_ratio(name):
    for dtype in (torch.float64,):
        model, pairs = tiny(name, dtype), random_pairs(n=4)
        circuit = random_subset(model, 0.6)
        for metric in DIFFERENTIABLE:
            result = circuits.faithfulness(model, pairs, circuit, metric=metric, n_random=0)
            wanted = (result.circuit.mean() - result.ablated.mean()) / (result.clean.mean() - result.ablated.mean())
            assert result.undefined is None, metric
            assert result.value == float(wanted)
            ratios = (result.circuit - result.ablated) / (result.clean - result.ablated)
            assert result.mean_of_ratios == float(ratios.mean())


def test_what_counts_as_rounding_is_above_what_rounding_does_and_below_what_a_changed_token_does():
    """The oracle: every circuit of identical prompts has the model's own metric, so all differences are rounding."""
    for name, dtype in (
        ("gpt2", torch.float64),
        ("llama", torch.float64),
        ("gemma2", torch.float32),
        ("neox", DTYPES[2]),
    ):
        model = tiny(name, dtype)
        some = [circuits.random_circuit(model.graph, n, torch.Generator().manual_seed(n)) for n in (8, 30)]
        asked = [Circuit.full(model.graph), Circuit.empty(model.graph), *some]
        for metric in DIFFERENTIABLE:
            same = measure_circuits(Question.ask(model, identical(n=3), metric), asked)
            errors = (same.values - same.values[0]).abs().amax(0)
            assert bool((errors <= same.rounding).all()), (name, metric, errors, same.rounding)
            other = measure_circuits(Question.ask(model, random_pairs(n=3), metric), asked[:2])
            ranges = (other.values[0] - other.values[1]).abs()
            assert float(other.rounding.mean()) < 0.3 * float(ranges.mean()), (name, metric)


def test_a_small_range_is_defined_in_float64_and_undefined_in_float32():
    clean, ablated = torch.tensor([2.0, 3.0]).double(), torch.tensor([2.0, 3.0]).double() + 1e-7
    assert MetricRange.from_prompts(clean, ablated).undefined is None
    assert MetricRange.from_prompts(clean, ablated, origin={"dtype": "float32"}).undefined is not None
    assert (
        MetricRange.from_prompts(clean, ablated, origin={"dtype": "float64", "computed_in": "float32"}).undefined
        is not None
    )
    divergence = {"dtype": "float32", "metric": "kl_divergence"}
    assert (
        MetricRange.from_prompts(torch.zeros(2).double(), torch.full((2,), 3e-8).double(), origin=divergence).undefined
        is not None
    )
    assert (
        MetricRange.from_prompts(torch.zeros(2).double(), torch.full((2,), 3e-3).double(), origin=divergence).undefined
        is None
    )
    unknown = torch.full((2,), torch.nan).double()
    assert (
        MetricRange.from_prompts(unknown, unknown).undefined is None
    )  # nothing was measured, so nothing is said of it


def test_models_that_compute_norms_in_float32_are_known():
    assert computed_dtype(tiny("gpt2")) == torch.float64
    assert computed_dtype(tiny("llama")) == torch.float32
    assert computed_dtype(tiny("gpt2", torch.bfloat16)) == torch.bfloat16
    pairs = random_pairs(n=2)
    assert circuits.edge_attribution(tiny("llama"), pairs).provenance["computed_in"] == "float32"
    assert "computed_in" not in circuits.edge_attribution(tiny("gpt2"), pairs).provenance


def test_prompts_whose_range_is_rounding_are_left_out_of_the_mean_of_ratios():
    model, pairs = tiny("gpt2", torch.float32), random_pairs(n=4)
    mixed = dataclasses.replace(pairs, corrupted=(pairs.clean[0], *pairs.corrupted[1:]))
    circuit = random_subset(model, 0.7)
    result = circuits.faithfulness(model, mixed, circuit, n_random=0)
    rest = circuits.faithfulness(model, pairs[1:], circuit, n_random=0)
    assert result.mean_of_ratios == pytest.approx(rest.mean_of_ratios, rel=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_shares_of_a_range_within_rounding_are_nan_with_a_reason(name):
    model = tiny(name, torch.float32)
    circuit = circuits.random_circuit(model.graph, 20, torch.Generator().manual_seed(1))
    result: Completeness = circuits.completeness(model, identical(), circuit, subsets=3)
    assert math.isnan(result.value)
    assert math.isnan(result.incompleteness)
    assert result.undefined is not None
    assert circuits.completeness(model, random_pairs(n=3), circuit, subsets=0).undefined is None
    scores = circuits.edge_attribution(model, random_pairs(n=3))
    with pytest.raises(InputError, match="rounding"):
        circuits.faithfulness_curves(model, identical(), scores)
    patched = circuits.activation_patching(model, identical(), nodes=["m1", "a0.h0"])
    with pytest.raises(InputError, match="rounding"):
        patched.normalised()
    assert math.isnan(circuits.causal_mediation(model, identical(), ["m1"]).share)


def test_normalised_effects_are_of_the_dtype_they_were_computed_in():
    clean, corrupted = torch.tensor([1.0, 1.0]).double(), torch.tensor([1.0, 1.0]).double() - 3e-7
    effects = torch.tensor([[1e-7, 2e-7]]).double()
    wide = NodeScores(("m0",), effects, None, clean, corrupted, {"dtype": "float64"})
    assert wide.normalised().tolist() == pytest.approx([0.5], rel=1e-6)
    narrow = dataclasses.replace(wide, provenance={"dtype": "float32"})
    with pytest.raises(InputError, match="rounding"):
        narrow.normalised()
    bare = dataclasses.replace(wide, clean=None)
    with pytest.raises(InputError, match="cannot be normalised"):
        bare.normalised()


def test_idle_edges_are_all_of_them_where_every_effect_is_rounding():
    model = tiny("gpt2", torch.float32)
    circuit = circuits.random_circuit(model.graph, 12, torch.Generator().manual_seed(2))
    assert circuits.minimality(model, identical(), circuit).idle() == circuit.edges


def test_a_metric_that_does_not_vary_has_no_sobol_indices():
    ablated = torch.rand(8, 2, generator=torch.Generator().manual_seed(0)) < 0.5
    outcomes = torch.full((8, 3, 1), 0.1).double()
    outcomes[::2] += 1e-17
    outcomes[1::2, 1] *= 1 + 1e-15
    from circuits.methods.game_values import sobol_indices

    result = sobol_indices(("a", "b"), ablated, outcomes, 0.5)
    assert bool(result.total.isnan().all())


def test_a_column_that_is_constant_to_rounding_correlates_with_nothing():
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(30, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    flat = torch.full((30, 2), 0.1, dtype=torch.float64)  # its mean is not exactly 0.1
    for kind in ("pearson", "spearman"):
        assert bool(correlation(x, flat, kind).isnan().all())
        assert bool(correlation(flat, x, kind).isnan().all())
        assert bool(correlation(x, 3 + 1e-7 * noise, kind, rounding=ROUNDING[torch.float32]).isnan().all())
        assert not bool(correlation(x, 3 + 1e-7 * noise, kind).isnan().any())
    assert bool(correlation(x[:0], x[:0]).isnan().all())


def test_a_faithfulness_made_by_hand_judges_its_range_by_the_metric():
    flat = torch.ones(3).double()
    made = Faithfulness(math.nan, flat, flat + 1e-15, flat, flat[:0], 4, "probability", "interchange")
    assert made.undefined is not None
    assert math.isnan(made.mean_of_ratios)
    json.dumps(made.undefined)


def test_shares_are_nan_exactly_where_the_range_is_rounding():
    ranges = torch.tensor([0.0, 1e-9, 2e-9, -2e-9, torch.nan]).double()
    share = share_of_range(torch.tensor(1.0).double(), ranges, torch.zeros(5).double(), 1e-9)
    assert share.isnan().tolist() == [True, True, False, False, True]
    assert set(ROUNDING) == {torch.float64, torch.float32, torch.float16, torch.bfloat16}


def test_a_range_within_two_standard_errors_of_zero_is_reported_as_close_to_it():
    spread = torch.linspace(-1, 1, 9, dtype=torch.float64)
    clean = torch.full((9,), 1.0, dtype=torch.float64)
    stderr = float(spread.std() / 3)
    for shift, close in ((1.9, True), (2.1, False), (-1.9, True), (-2.1, False)):
        known = MetricRange.from_prompts(clean, clean - spread - shift * stderr)
        assert (known.near_zero is not None) == close
        assert known.undefined is None


def test_a_single_prompt_has_no_standard_error_and_is_not_reported_as_close_to_zero():
    assert MetricRange.from_prompts(torch.tensor([1.0]), torch.tensor([0.9])).near_zero is None
