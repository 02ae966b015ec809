"""Every metric against one prompt at a time, in plain Python."""

import math
from functools import partial

import pytest
import torch

from circuits import InputError, Metric
from circuits.question.metrics import METRICS, Targets, get_metric


def example():
    generator = torch.Generator().manual_seed(0)
    logits, clean = (torch.randn(3, 11, generator=generator, dtype=torch.float64) for _ in range(2))
    answers = torch.tensor([[1, 2], [3, 0], [4, 5]])
    distractors = torch.tensor([[6, 0, 0], [7, 8, 9], [10, 6, 0]])
    answers_mask = torch.tensor([[True, True], [True, False], [True, True]])
    distractors_mask = torch.tensor([[True, False, False], [True, True, True], [True, True, False]])
    return logits, Targets(answers, answers_mask, distractors, distractors_mask, clean)


def softmax(row):
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def naive(name, row, right, wrong, clean):
    p = softmax(row)
    mean = lambda ids: sum(row[i] for i in ids) / len(ids)  # noqa: E731
    return {
        "logit_difference": lambda: mean(right) - mean(wrong),
        "probability": lambda: sum(p[i] for i in right),
        "log_probability": lambda: math.log(sum(p[i] for i in right)),
        "probability_difference": lambda: sum(p[i] for i in right) - sum(p[i] for i in wrong),
        "log_probability_difference": lambda: math.log(sum(p[i] for i in right) / sum(p[i] for i in wrong)),
        "kl_divergence": lambda: sum(c * math.log(c / q) for c, q in zip(softmax(clean), p, strict=True)),
        "cross_entropy": lambda: -math.log(sum(p[i] for i in right)),
        "rank": lambda: float(sum(x > max(row[i] for i in right) for x in row)),
        "accuracy": lambda: float(max(row[i] for i in right) > max(row[i] for i in wrong)),
    }[name]()


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_its_definition(name):
    logits, targets = example()
    got = METRICS[name](logits, targets).tolist()
    for i in range(3):
        right = targets.answers[i][targets.answers_mask[i]].tolist()
        wrong = targets.distractors[i][targets.distractors_mask[i]].tolist()
        wanted = naive(name, logits[i].tolist(), right, wrong, targets.clean_logits[i].tolist())
        assert got[i] == pytest.approx(wanted, abs=1e-12)


def test_kl_is_zero_with_zero_gradient_at_the_clean_logits_and_says_so():
    _, targets = example()
    logits = targets.clean_logits.clone().requires_grad_()
    value = METRICS["kl_divergence"](logits, targets)
    assert value.tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    assert torch.autograd.grad(value.sum(), logits)[0].abs().max() < 1e-12
    assert not METRICS["kl_divergence"].gradient_at_clean


def test_bfloat16_logits_are_widened_first():
    logits, targets = example()
    narrow = METRICS["log_probability"](logits.bfloat16(), targets)
    assert narrow.dtype == torch.float32


def test_own_functions_and_metrics_are_taken_as_they_are():
    def margin(logits, targets):
        return logits.max(-1).values

    logits, targets = example()
    assert get_metric(margin).name == "margin"
    torch.testing.assert_close(get_metric(margin)(logits, targets), logits.max(-1).values)
    loss = Metric("loss", margin, higher_is_more=False)
    assert get_metric(loss) is loss
    assert loss.sign == -1


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="kl_divergence"):
        get_metric("kl_div")


def test_a_metric_that_averages_over_the_batch_is_refused():
    logits, targets = example()
    with pytest.raises(InputError, match="one number per prompt"):
        get_metric(lambda logits, targets: logits.mean())(logits, targets)


def test_a_metric_that_is_a_partial_or_an_object_is_named_after_its_function_or_class():
    class Strength:
        def __call__(self, logits, targets):
            return logits[:, 0]

    def scaled(logits, targets, by):
        return by * logits[:, 0]

    assert get_metric(Strength()).name == "Strength"
    assert get_metric(partial(partial(scaled, by=2), by=3)).name == "scaled"
