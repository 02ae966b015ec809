"""Work shared between processes gives the same bits as in one."""

import pytest
import torch
from threadpoolctl import threadpool_limits

import circuits
import tasks
from circuits.errors import InputError
from circuits.measure.divided import ModelSource
from circuits.methods.exact_edges import exact_edge_effects
from circuits.stats import bootstrap
from circuits.stats.bootstrap import bootstrap_interval
from circuits.stats.linear_fit import fit_linear
from circuits.workers import ray
from circuits.workers.workers import in_units, torch_threads
from tests.tiny_models import tiny


class Backwards:
    """Workers of one process, who finish in the reverse order and take note of what they did."""

    def __init__(self, number=3):
        self.number, self.done = number, []

    def map(self, function, shared, units):
        for number, unit in reversed(list(enumerate(units))):
            self.done.append(unit)
            yield number, function(shared, unit)


@pytest.fixture(scope="module")
def model():
    return circuits.load_model("compiled/induction")


@pytest.fixture(scope="module")
def pairs(model):
    return tasks.load("compiled/induction").pairs(model, n=6, seed=0)


def _coar(model, pairs, **how):
    return circuits.coar(model, pairs, samples=80, alpha=0.3, batch_size=4, fit="ridge", **how).per_prompt


def _mean_coar(model, pairs, **how):
    return circuits.coar(
        model, pairs, samples=48, alpha=0.3, batch_size=4, fit="ridge", ablation="mean", **how
    ).per_prompt


def _leave_one_out(model, pairs, **how):
    return circuits.leave_one_out(model, pairs, batch_size=4, **how).per_prompt


def _exact(model, pairs, **how):
    return exact_edge_effects(model, pairs, batch_size=4, **how).per_prompt


def _patching(model, pairs, **how):
    return circuits.activation_patching(
        model, pairs, nodes="heads+mlps+q", positions="each", batch_size=4, **how
    ).per_prompt


def _windows(model, pairs, **how):
    return circuits.activation_patching(
        model, pairs, window=2, direction="noising", metric="kl_divergence", batch_size=4, **how
    ).per_prompt


METHODS = [_coar, _mean_coar, _leave_one_out, _exact, _patching, _windows]


@pytest.mark.filterwarnings("ignore::circuits.errors.AttributionWarning")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [1, 3])
def test_divided_work_gives_the_same_bits(method, number, model, pairs):
    workers = Backwards(number)
    assert torch.equal(method(model, pairs, workers=workers), method(model, pairs))
    assert len(workers.done) >= (1 if method is _leave_one_out else 2)


@pytest.mark.parametrize("method", [_coar, _exact, _patching])
@pytest.mark.filterwarnings("ignore::circuits.errors.AttributionWarning")
def test_what_a_store_has_is_not_measured_again(method, model, pairs, tmp_path):
    whole = method(model, pairs, store=tmp_path / "store")
    files = sorted((tmp_path / "store").glob("*batch*.safetensors"))
    files[0].unlink()
    workers = Backwards()
    assert torch.equal(method(model, pairs, store=tmp_path / "store", workers=workers), whole)
    assert len(workers.done) == 1


def test_bootstrap_in_parts(monkeypatch):
    monkeypatch.setattr(bootstrap, "_MEANS_AT_ONCE", 1000)
    per_prompt = torch.randn(57, 9, generator=torch.Generator().manual_seed(0))
    workers = Backwards()
    alone, shared = (bootstrap_interval(per_prompt, resamples=100, workers=who) for who in (None, workers))
    assert all(torch.equal(one, other) for one, other in zip(alone, shared, strict=True))
    assert len(workers.done) == 6


@pytest.mark.parametrize("fit", ["ridge", "lasso"])
def test_a_fit_does_not_depend_on_the_threads_that_the_environment_gives(fit):
    """Ray sets them to 1 in its workers; who starts a study in a shell has as many as there are processors."""
    draw = torch.Generator().manual_seed(0)
    kept = (torch.rand(320, 300, generator=draw) > 0.1).double()
    outcomes = kept @ torch.randn(300, 1, generator=draw).double() + torch.randn(320, 1, generator=draw).double()
    result = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"), torch_threads(1):
            result.append(fit_linear(kept, outcomes, fit).weights)
    assert torch.equal(*result)


def test_units_hold_everything_once():
    workers = Backwards(2)
    for n in (0, 1, 7, 8, 9, 100):
        units = in_units(list(range(n)), workers)
        assert [one for unit in units for one in unit] == list(range(n))
        assert len(units) <= 8


def test_a_model_given_as_an_object_cannot_be_loaded_elsewhere():
    with pytest.raises(InputError, match="is an object"):
        ModelSource.from_model(tiny("gpt2"))


def test_other_weights_elsewhere_are_refused(model):
    with pytest.raises(InputError, match="other weights in this worker"):
        ModelSource(model.name, weights_hash="0" * 64).load()


def test_the_process_that_asks_has_as_many_threads_as_without_workers(monkeypatch):
    from contextlib import nullcontext

    from circuits.cli.common import workers_on

    monkeypatch.setattr(ray, "RayWorkers", lambda *_, **__: nullcontext(Backwards()))
    for on in (None, "ray"):
        with torch_threads(2):
            with workers_on(on, None, None, 0.0, 1):
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 2


def test_workers_use_the_kind_of_device_that_the_model_is_on(model):
    assert model.loaded_by["device"] == "auto"
    assert ModelSource.from_model(model).device == model.device.type
