"""A metric of the user's own that gives something else than one number per prompt is an error that names it."""

import numpy as np
import pytest
import torch

import circuits
from circuits import InputError, Metric, PromptPairs
from circuits.question.metric_values import check_function
from tests.public_calls import same
from tests.tiny_models import random_pairs, tiny


def right(logits, targets):
    return logits.gather(1, targets.answers)[:, 0]


def detached(logits, targets):
    return right(logits, targets).detach()


def from_numpy(logits, targets):
    return np.asarray(right(logits, targets).detach())


def straight_to_numpy(logits, targets):
    return logits.numpy()[:, 0]


def a_list(logits, targets):
    return right(logits, targets).tolist()


def a_float(logits, targets):
    return float(right(logits, targets).mean())


def nothing(logits, targets):
    right(logits, targets)


def one_argument(logits):
    return logits[:, 0]


def three_arguments(logits, targets, more):
    return logits[:, 0]


def averaged(logits, targets):
    return right(logits, targets).mean()


def whole_rows(logits, targets):
    return logits


def column(logits, targets):
    return right(logits, targets)[:, None]


def whole_numbers(logits, targets):
    return logits.argmax(-1)


def truths(logits, targets):
    return logits.argmax(-1) == targets.answers[:, 0]


def complex_numbers(logits, targets):
    return torch.complex(right(logits, targets), right(logits, targets))


def compared(logits, targets):
    return (right(logits, targets) > 0).to(logits.dtype)


def of_the_third(logits, targets, value=torch.nan):
    result = right(logits, targets)
    return torch.where(targets.index == 2, value * torch.ones_like(result), result)


def root_of_zero(logits, targets):
    result = right(logits, targets)
    return result + (result - result.detach()).abs().sqrt() * 0


def broken(logits, targets):
    return right(logits, targets).no_such_method()


def out_of_range(logits, targets):
    return logits[:, logits.shape[1]]


def in_place(logits, targets):
    logits -= logits.detach().amax(-1, keepdim=True)
    return right(logits, targets)


GRADIENT_METHODS = {
    "edge_attribution": lambda model, pairs, metric: circuits.edge_attribution(model, pairs, metric=metric),
    "edge_attribution ig": lambda model, pairs, metric: circuits.edge_attribution(
        model, pairs, metric=metric, gradient="ig", steps=2
    ),
    "attribution_patching": lambda model, pairs, metric: circuits.attribution_patching(model, pairs, metric=metric),
    "atp_star": lambda model, pairs, metric: circuits.atp_star(model, pairs, metric=metric),
    "neuron_conductance": lambda model, pairs, metric: circuits.neuron_conductance(model, pairs, metric=metric),
    "internal_influence": lambda model, pairs, metric: circuits.internal_influence(model, pairs, metric=metric),
    "gradient_times_parameter": lambda model, pairs, metric: circuits.gradient_times_parameter(
        model, pairs, metric=metric
    ),
    "edge_pruning": lambda model, pairs, metric: circuits.edge_pruning(model, pairs, 5, metric=metric, steps=2),
}
OTHERS = {
    "activation_patching": lambda model, pairs, metric: circuits.activation_patching(model, pairs, metric=metric),
    "coar": lambda model, pairs, metric: circuits.coar(model, pairs, samples=48, alpha=0.3, metric=metric),
    "exact_edge_effects": lambda model, pairs, metric: circuits.exact_edge_effects(
        model, pairs, ["input->logits"], metric=metric
    ),
    "acdc": lambda model, pairs, metric: circuits.acdc(model, pairs, 0.5, metric=metric),
    "faithfulness": lambda model, pairs, metric: (
        circuits.faithfulness(model, pairs, circuits.Circuit.full(model.graph), metric=metric).circuit
    ),
    "circuit_metric": lambda model, pairs, metric: circuits.circuit_metric(
        model, pairs, circuits.Circuit.full(model.graph), metric
    ),
    "path_patching": lambda model, pairs, metric: circuits.path_patching(model, pairs, ["logits"], metric=metric),
    "causal_mediation": lambda model, pairs, metric: circuits.causal_mediation(model, pairs, ["m0"], metric=metric),
}
NO_VALUES = {
    from_numpy: r"numpy\.ndarray", a_list: r"builtins\.list", a_float: r"(builtins\.float|failed: UserWarning)", nothing: "NoneType",
    one_argument: r"two arguments: one_argument\(logits\)", three_arguments: "two arguments", averaged: r"shape \(\)",
    whole_rows: r"shape \(4, 40\)", column: r"shape \(4, 1\)", whole_numbers: "int64", truths: "bool",
    complex_numbers: "complex", broken: "failed: AttributeError", out_of_range: "failed: IndexError",
    of_the_third: "is NaN for pair 2", in_place: "in place",
    straight_to_numpy: r"(failed: RuntimeError|numpy\.ndarray)",
}  # fmt: skip
NO_GRADIENT = {
    detached: "without a gradient",
    compared: "without a gradient",
}


def pairs():
    return random_pairs(n=4, length=5, seed=3)


@pytest.mark.parametrize("metric", [*NO_VALUES, *NO_GRADIENT], ids=lambda f: f.__name__)
@pytest.mark.parametrize("method", ["edge_attribution", "activation_patching", "acdc"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_no_metric_is_refused_by_name(method, metric, wrapped):
    work = {**GRADIENT_METHODS, **OTHERS}[method]
    given = Metric(metric.__name__, metric) if wrapped else metric
    if metric in NO_GRADIENT and method in OTHERS:
        assert work(tiny("gpt2"), pairs(), given) is not None
        return
    with pytest.raises(InputError, match=f"metric {metric.__name__}.*{(NO_VALUES | NO_GRADIENT)[metric]}") as refused:
        work(tiny("gpt2"), pairs(), given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("method", {**GRADIENT_METHODS, **OTHERS})
def test_every_method_names_the_metric_and_the_pair_that_is_nan(method):
    with pytest.raises(InputError, match="metric of_the_third is NaN for pair 2"):
        {**GRADIENT_METHODS, **OTHERS}[method](tiny("gpt2"), pairs(), of_the_third)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_every_gradient_method_refuses_a_metric_without_gradient(method):
    with pytest.raises(InputError, match="metric detached gave values without a gradient"):
        GRADIENT_METHODS[method](tiny("gpt2"), pairs(), detached)


@pytest.mark.parametrize("method", OTHERS)
def test_methods_without_gradients_use_a_metric_without_one(method):
    assert same(*(OTHERS[method](tiny("gpt2"), pairs(), metric) for metric in (detached, right)))


def test_a_gradient_that_is_nan_is_refused_with_the_pair():
    with pytest.raises(InputError, match="gradient of metric root_of_zero is NaN for pair 0"):
        circuits.edge_attribution(tiny("gpt2"), pairs(), metric=root_of_zero)


def made_anew(logits, targets):
    return torch.tensor(right(logits, targets).tolist(), requires_grad=True)


def a_parameter(logits, targets):
    return torch.nn.Parameter(torch.ones(len(logits)))


@pytest.mark.parametrize("metric", [made_anew, a_parameter], ids=lambda f: f.__name__)
@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_values_that_only_seem_to_have_a_gradient_are_refused(method, metric):
    with pytest.raises(InputError, match=f"{metric.__name__} gave values that do not depend on the logits"):
        GRADIENT_METHODS[method](tiny("gpt2"), random_pairs(n=2), metric)


@pytest.mark.parametrize("method", {**GRADIENT_METHODS, **OTHERS})
def test_an_infinite_value_is_refused_with_its_pair(method):
    with pytest.raises(InputError, match=r"of_the_third is infinite for pair 2"):
        {**GRADIENT_METHODS, **OTHERS}[method](
            tiny("gpt2"), random_pairs(n=4), Metric("of_the_third", lambda *given: of_the_third(*given, torch.inf))
        )


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("nested", lambda x: torch.nested.nested_tensor([x], layout=torch.jagged)),
        ("meta", lambda x: x.to("meta")),
        ("sparse", lambda x: x.to_sparse()),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_refused(kind, change):
    def strange(logits, targets):
        return change(right(logits, targets))

    with pytest.raises(InputError, match=f"strange gave a {kind} tensor"):
        circuits.activation_patching(tiny("gpt2"), random_pairs(n=2), metric=strange)


def test_pairs_of_mixed_lengths_are_counted_as_the_user_counts_them():
    mixed = PromptPairs.from_tokens(
        [[3, 4, 5, 6], [3, 4], [5, 6, 7], [8, 9]],
        [[3, 9, 5, 6], [3, 5], [5, 8, 7], [8, 7]],
        [3, 4, 5, 6],
        [20, 21, 22, 23],
    )
    for batch_size in (1, 2, 4):
        with pytest.raises(InputError, match="NaN for pair 2"):
            circuits.edge_attribution(tiny("gpt2"), mixed, metric=of_the_third, batch_size=batch_size)
    acdc = OTHERS["acdc"]
    with pytest.raises(InputError, match="NaN for pair 2"):
        acdc(tiny("gpt2"), mixed, of_the_third)


def test_a_metric_with_weights_of_its_own_works_everywhere():
    probe = torch.nn.Linear(40, 1).double()

    def probed(logits, targets):
        return probe(logits)[:, 0]

    model = tiny("gpt2")
    for work in (OTHERS["activation_patching"], OTHERS["coar"], GRADIENT_METHODS["edge_attribution"]):
        assert not work(model, pairs(), probed).per_prompt.requires_grad


def test_what_is_no_function_is_refused():
    with pytest.raises(InputError, match="metric empty: its function is a NoneType"):
        check_function("empty", None)


def by_id(logits, targets):
    return logits[:, 7]


def beyond(logits, targets):
    return logits[:, 30]


def normalised(logits, targets):
    return logits.log_softmax(-1).gather(1, targets.answers)[:, 0]


def fails_on_arbitrary_logits(logits, targets):
    if len(logits) < 3:
        raise ValueError("three prompts, please")
    return right(logits, targets)


@pytest.mark.parametrize("function", [by_id, beyond, normalised])
def test_a_metric_of_answers_only_that_reads_other_logits_is_refused(function):
    pairs = random_pairs(n=3)
    with pytest.raises(InputError, match=rf"metric {function.__name__} has answers_only=True, .*targets.answers"):
        circuits.edge_attribution(tiny("llama"), pairs, metric=Metric(function.__name__, function, answers_only=True))
    circuits.edge_attribution(tiny("llama"), pairs, metric=function)  # of all logits it is a metric


@pytest.mark.parametrize("function", [right, fails_on_arbitrary_logits])
def test_a_metric_of_answers_only_gives_what_all_logits_give(function):
    pairs = random_pairs(n=3)
    few = circuits.edge_attribution(tiny("llama"), pairs, metric=Metric("few", function, answers_only=True))
    every = circuits.edge_attribution(tiny("llama"), pairs, metric=function)
    assert torch.allclose(few.values, every.values, atol=1e-6)
